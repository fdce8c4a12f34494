"""Tagged sentences as rows: every word is scored once, at its first token, however the sentences lie in rows."""

import numpy as np
import pytest

from bert_jax.data.conll import Sentence
from bert_jax.data.word_rows import WordRows
from bert_jax.text.wordpiece import WordPiece

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", *(f"##{letter}" for letter in "abcdefghij")]
TOKENIZER = WordPiece(PIECES)
NUMBERS = {"O": 0, "X": 1, "Y": 2}


def sentences_of(*texts, marked=False):
    """Sentences of word/TAG, all in one document if it is marked, else each in its own."""
    document, found = [], []
    for text in texts:
        pairs = [word.split("/") for word in text.split(" ")]
        own = document if marked else []
        words, tags = [word for word, _ in pairs], [tag for _, tag in pairs]
        found.append(Sentence({"words": words, "tags": tags}, "here", document=own))
        own.append(found[-1])
    return found


def shown(rows):
    """The tokens of each row, those that are scored with the number of their tag."""
    read = rows.read(np.arange(len(rows)))
    lines = []
    for tokens, tags, length in zip(read["tokens"], read["tags"], read["lengths"], strict=True):
        assert (tags[length:] == -1).all() and (tokens[length:] == 0).all()
        pieces = TOKENIZER.tokens(tokens[:length])
        lines.append(" ".join(f"{p}/{t}" if t >= 0 else p for p, t in zip(pieces, tags, strict=False)))
    return lines


def test_the_first_token_of_each_word():
    """Has the tag (Devlin et al. 2018, section 5.3); a word of which nothing is left is [UNK] and has one, too."""
    rows = WordRows(sentences_of("abc/X \u200b/Y d/O", "e/Y"), NUMBERS, TOKENIZER, 9)
    assert shown(rows) == ["[CLS] a/1 ##b ##c [UNK]/2 d/0 [SEP]", "[CLS] e/2 [SEP]"]
    assert rows.split == 0 and rows.targets["tags"].dtype == np.int32


def test_long_sentences_are_dealt_out():
    """Between words, each row as full as it gets; a word that no row would hold is cut, and scored."""
    rows = WordRows(sentences_of("ab/X c/O de/Y fgh/X i/O", "a/X", "abcdefgh/Y a/O"), NUMBERS, TOKENIZER, 5)
    assert shown(rows) == [
        "[CLS] a/1 ##b c/0 [SEP]",
        "[CLS] d/2 ##e [SEP]",
        "[CLS] f/1 ##g ##h [SEP]",
        "[CLS] i/0 [SEP]",
        "[CLS] a/1 [SEP]",
        "[CLS] a/2 ##b ##c [SEP]",
        "[CLS] a/0 [SEP]",
    ]
    assert rows.split == 2 and len(rows) == 7
    with pytest.raises(ValueError, match="max_length is 2, but"):
        WordRows(sentences_of("a/X"), NUMBERS, TOKENIZER, 2)


def test_document_context():
    """Words around the sentence fill the row, one on each side in turn, then from the side that has more; whole words;
    never of another document; the parts of a sentence that does not fit are each other's context."""
    first = sentences_of("a/X b/O", "c/Y", "de/X f/O g/O h/O i/O", marked=True)
    rows = WordRows([*first, *sentences_of("j/Y")], NUMBERS, TOKENIZER, 7, document_context=True)
    assert shown(rows) == [
        "[CLS] a/1 b/0 c d ##e [SEP]",
        "[CLS] a b c/2 d ##e [SEP]",
        "[CLS] d/1 ##e f/0 g/0 h/0 [SEP]",
        "[CLS] f g h i/0 [SEP]",  # de, of two tokens, does not fit
        "[CLS] j/2 [SEP]",
    ]
    assert rows.split == 1
    without = WordRows(first, NUMBERS, TOKENIZER, 7)
    assert shown(without) == [
        "[CLS] a/1 b/0 [SEP]", "[CLS] c/2 [SEP]", "[CLS] d/1 ##e f/0 g/0 h/0 [SEP]", "[CLS] i/0 [SEP]"
    ]  # fmt: skip


@pytest.mark.parametrize("document_context", [False, True])
@pytest.mark.parametrize("max_length", [3, 5, 8, 64])
def test_every_word_is_scored_once(max_length, document_context):
    """In order, with its own tag, at its own token: whatever the rows, `of_sentences` gives the words back."""
    rng = np.random.default_rng(max_length)

    def tagged():
        return "".join(rng.choice(list("abcdefghij"), rng.integers(1, 4))) + "/" + rng.choice(["O", "X", "Y"])

    texts = [" ".join(tagged() for _ in range(n)) for n in rng.integers(1, 12, 20)]
    sentences = sentences_of(*texts[:10], marked=True) + sentences_of(*texts[10:], marked=True)
    order = rng.permutation(20)[:15]  # as a limit draws them
    rows = WordRows([sentences[i] for i in order], NUMBERS, TOKENIZER, max_length, document_context)
    tokens = rows.read(np.arange(len(rows)))["tokens"]
    for i, tags, ids in zip(order, rows.of_sentences(rows.targets["tags"]), rows.of_sentences(tokens), strict=True):
        assert tags.tolist() == [NUMBERS[tag] for tag in sentences[i].tags]
        assert TOKENIZER.tokens(ids) == [word[0] for word in sentences[i].words]


def test_a_document_is_read_as_often_as_it_is_there():
    """And not once for each of its sentences: a file with one mark at its beginning is one document of thousands."""
    reads = []

    class Document(list):
        def __iter__(self):
            reads.append(self)
            return super().__iter__()

    document = Document()
    sentences = [Sentence({"words": ["a"], "tags": ["X"]}, "here", document=document) for _ in range(50)]
    document += sentences
    rows = WordRows(sentences, NUMBERS, TOKENIZER, 5, document_context=True)
    assert shown(rows)[:2] == ["[CLS] a/1 a a [SEP]", "[CLS] a a/1 a [SEP]"] and len(rows) == 50
    assert len(reads) < 10


def test_the_wordpieces_of_words_are_those_of_their_text():
    """Where words are what the tokenizer takes for words, a row is the encoding of the text."""
    row = WordRows(sentences_of("ab/X c/O de/Y"), NUMBERS, TOKENIZER, 9).read(np.array([0]))
    wanted = TOKENIZER.encode_pair("ab c de", max_length=9)
    assert row["tokens"][0, : len(wanted.ids)].tolist() == wanted.ids.tolist()
    assert row["lengths"].tolist() == [7] and not row["segments"].any()
