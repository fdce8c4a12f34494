"""Trains vocabularies: the same text gives the same bytes on any run and any number of cores.

The libraries alone do not promise that. Measured: `tokenizers` 0.23 numbers the inner letters ("##a") by the order of a
randomly seeded hash table, and since equal counts are decided by these numbers, both the order and the set of the
pieces change from run to run; `sentencepiece` 0.2.3 adds up in floating point per thread, so scores, and with four
threads the set of the pieces, depend on the number of threads. Hence `train_wordpiece` numbers all letters itself, and
`train_sentencepiece` uses one thread. Both first count words, so memory grows with the distinct words, not the text
(SentencePiece takes what stands between white space as a word, which in Chinese is a sentence).
"""

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sentencepiece
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, trainers

from bert_jax.text import bpe, fairseq_sentencepiece
from bert_jax.text.bpe import ByteLevelBpe
from bert_jax.text.fairseq_sentencepiece import FairseqSentencePiece
from bert_jax.text.sentencepiece import SentencePiece
from bert_jax.text.tokenizer import SPECIALS, Tokenizer
from bert_jax.text.wordpiece import MAX_WORD, STAND_IN, BasicTokenizer, WordPiece

COVERAGE = 0.9995  # share of all characters that the alphabet covers: the default of sentencepiece
ASCII = frozenset(map(chr, range(33, 127)))  # kept if it occurs at all: rare in an encyclopedia, "!" is not in a review
DISTINCT_AT_ONCE = 1 << 18  # words as written that are held before they are normalised and merged
REPEATS_AT_ONCE = 10_000  # of one word, in one string handed to the library


def train_wordpiece(
    texts: Iterable[str], vocab_size: int, lowercase: bool = True, coverage: float = COVERAGE, min_frequency: int = 2
) -> WordPiece:
    """A WordPiece vocabulary of exactly `vocab_size` pieces for the texts.

    The released vocabularies came from a trainer that was never published; this one, as everyone's since, joins the
    most frequent pair of pieces again and again (byte-pair encoding, Sennrich et al. 2016, arXiv:1508.07909).

    Ids: [PAD] [UNK] [CLS] [SEP] [MASK] are 0 to 4; then the pieces by how often BERT's greedy matching uses them in the
    texts, most frequent first, equal ones by code points. So an id is a frequency rank, as it roughly is in the
    released vocabularies, and the order depends on the text alone.

    texts: read once; a generator will do.
    lowercase: lower the text and strip its accents (an "uncased" vocabulary).
    coverage: share of the characters of the text that the alphabet must cover, rarest left out first, but ASCII never;
      a word with a character outside becomes [UNK]. Every letter of the alphabet is a piece both at the start of a
      word and inside one, so any word over the alphabet can be written, seen or not.
    min_frequency: a pair seen fewer times is not joined.

    Raises ValueError for a text without words, a vocabulary too small for the alphabet, or one larger than the text
    can fill.
    """
    return wordpiece_of_counts(count_words(texts, lowercase), vocab_size, lowercase, coverage, min_frequency)


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, lowercase: bool = True, coverage: float = COVERAGE
) -> SentencePiece:
    """A SentencePiece unigram model (Kudo 2018, arXiv:1804.10959) of exactly `vocab_size` pieces for the texts.

    [PAD] [UNK] [CLS] [SEP] [MASK] are ids 0 to 4; the others follow in the library's order, likeliest first.
    texts: read once; a generator will do. lowercase: fold case (accents stay), on top of the library's usual NFKC.
    coverage: as in `train_wordpiece`; a rarer character becomes [UNK].

    Raises ValueError for a text without words or a `vocab_size` that does not fit the text.
    """
    return sentencepiece_of_counts(count_spaced(texts), vocab_size, lowercase, coverage)


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    prefix_space: bool = True,
    min_frequency: int = 2,
    specials: Sequence[str] = bpe.SPECIALS,
) -> ByteLevelBpe:
    """A byte-level BPE vocabulary (Sennrich et al. 2016, arXiv:1508.07909, over bytes) of exactly `vocab_size` pieces.

    <s> <pad> </s> <unk> are ids 0 to 3 and <mask> is the last, as in RoBERTa; between them are the 256 bytes, and then
    the pieces in the order in which they were joined. Capitals and accents are kept. With the `specials`
    (bpe.END_OF_TEXT,) it is GPT-2's, whose bytes have the ids from 0 on.

    texts: read once; a generator will do. White space teaches nothing but the space before a word.
    prefix_space: read every text as if it began with a space: a corpus is encoded sentence by sentence, and their first
      words would be written otherwise than the same words elsewhere.
    min_frequency: a pair seen fewer times is not joined.

    Raises ValueError for a text without words or a `vocab_size` that does not fit the text.
    """
    return bpe_of_counts(count_spaced(texts), vocab_size, prefix_space, min_frequency, specials)


def count_words(texts: Iterable[str], lowercase: bool) -> Counter[str]:
    """How often each word of BERT's basic tokenization occurs; words too long for WordPiece are left out."""
    basic = BasicTokenizer(lowercase)
    words: Counter[str] = Counter()

    def normalise(written: Counter[str]) -> None:
        for chunk, count in written.items():
            for word in basic.words(chunk):
                if len(word) <= MAX_WORD:
                    words[word] += count
        written.clear()

    # Normalising each distinct chunk once is many times faster than normalising the text; words never cross a space.
    written: Counter[str] = Counter()
    for text in texts:
        written.update(text.replace("\n", " ").replace("\t", " ").split(" "))
        if len(written) > DISTINCT_AT_ONCE:
            normalise(written)
    normalise(written)
    return words


def count_spaced(texts: Iterable[str]) -> Counter[str]:
    """How often each string between white space occurs."""
    words: Counter[str] = Counter()
    for text in texts:
        words.update(text.split())
    return words


def wordpiece_of_counts(
    words: Mapping[str, int], vocab_size: int, lowercase: bool, coverage: float = COVERAGE, min_frequency: int = 2
) -> WordPiece:
    """`train_wordpiece` for words already counted by `count_words` with the same `lowercase`."""
    alphabet = _alphabet(words, coverage)
    letters = _letters(alphabet, lowercase)
    smallest = len(SPECIALS) + len(letters)
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size is {vocab_size}, but {len(SPECIALS)} special tokens and the {len(alphabet)} characters that "
            f"cover {coverage:.4%} of the text take {smallest}: raise vocab_size or lower the coverage"
        )
    # A word with a character outside the alphabet is [UNK] as a whole: it must not teach any pieces.
    words = {word: words[word] for word in sorted(words) if alphabet.issuperset(word)}
    pieces = _join_pairs(words, letters, vocab_size - len(SPECIALS), min_frequency)
    found = len(SPECIALS) + len(pieces)
    if found < vocab_size:
        raise ValueError(
            f"the text has only {found} pieces (pairs seen {min_frequency} times or more), fewer than "
            f"vocab_size={vocab_size}: ask for at most {found}, or give more text"
        )
    used = _uses(words, pieces)
    return WordPiece([*SPECIALS, *sorted(pieces, key=lambda piece: (-used[piece], piece))], lowercase)


def _alphabet(words: Mapping[str, int], coverage: float) -> set[str]:
    """The fewest characters that cover the share `coverage` of the text, equals by code points; and all its ASCII."""
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage is {coverage}, expected a share of the characters: above 0, at most 1")
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for char in word:
            counts[char] += count
    del counts[STAND_IN]
    if not counts:
        raise ValueError("the text has no words to train on")
    ranked = sorted(counts, key=lambda char: (-counts[char], char))
    covered = np.cumsum([counts[char] for char in ranked])
    return set(ranked[: int(np.searchsorted(covered, coverage * covered[-1])) + 1]) | (ASCII & set(ranked))


def _letters(alphabet: set[str], lowercase: bool) -> list[str]:
    """The pieces of one character: each as the start of a word and, where words can go on with it, inside one."""
    basic = BasicTokenizer(lowercase)
    inner = [char for char in sorted(alphabet) if len(basic.words(f"a{char}a")) == 1]
    return [*sorted(alphabet), *(f"##{char}" for char in inner)]


def _join_pairs(words: Mapping[str, int], letters: list[str], size: int, min_frequency: int) -> list[str]:
    """The letters and the pieces joined from them, `size` in all or as many as there are."""
    library = Library(models.WordPiece(unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        show_progress=False,
        special_tokens=letters,  # gives each letter a fixed number: the library decides equal counts by the numbers
    )
    library.train_from_iterator(_repeated(words), trainer)
    return sorted({*library.get_vocab(), *letters})


def _repeated(words: Mapping[str, int]) -> Iterator[str]:
    """Each word as often as it occurs: the library takes text, not counts."""
    for word, count in words.items():
        for done in range(0, count, REPEATS_AT_ONCE):
            yield f"{word} " * min(REPEATS_AT_ONCE, count - done)


def _uses(words: Mapping[str, int], pieces: list[str]) -> Counter[str]:
    """How often WordPiece's greedy matching uses each piece on the words."""
    ids = {piece: i for i, piece in enumerate(["[UNK]", *pieces])}
    library = Library(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD))
    used = np.zeros(len(ids), np.int64)
    for encoding, count in zip(library.encode_batch_fast(list(words)), words.values(), strict=True):
        np.add.at(used, encoding.ids, count)
    return Counter({piece: int(used[i]) for piece, i in ids.items()})


def sentencepiece_of_counts(
    words: Mapping[str, int], vocab_size: int, lowercase: bool, coverage: float = COVERAGE
) -> SentencePiece:
    """`train_sentencepiece` for words already counted by `count_spaced`."""
    special_tokens = {
        "pad_id": 0,
        "unk_id": 1,
        "bos_id": -1,  # none: BERT has no sentence marks
        "eos_id": -1,
        "pad_piece": SPECIALS[0],
        "unk_piece": SPECIALS[1],
        "control_symbols": list(SPECIALS[2:]),
    }
    return SentencePiece(_unigram(words, vocab_size, lowercase, coverage, special_tokens))


def fairseq_sentencepiece_of_counts(
    words: Mapping[str, int], vocab_size: int, coverage: float = COVERAGE
) -> FairseqSentencePiece:
    """The same with XLM-R's ids (`text.fairseq_sentencepiece`); capitals are kept."""
    ours = len(fairseq_sentencepiece.SPECIALS) - len(fairseq_sentencepiece.FIRST_THERE)  # <pad> and <mask>
    try:
        return FairseqSentencePiece(_unigram(words, vocab_size - ours, False, coverage, {}))
    except ValueError as error:
        raise ValueError(f"vocab_size {vocab_size}, of which <pad> and <mask> are not in the model: {error}") from error


def _unigram(
    words: Mapping[str, int], vocab_size: int, lowercase: bool, coverage: float, special_tokens: Mapping[str, Any]
) -> bytes:
    """The file of a model; `special_tokens` are options of the library, its own by default."""
    if not words:
        raise ValueError("the text has no words to train on")
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage is {coverage}, expected a share of the characters: above 0, at most 1")
    characters = set().union(*(word.lower() if lowercase else word for word in words))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(f"{word}\t{words[word]}" for word in sorted(words)),
            input_format="tsv",  # word and count: pieces never cross white space, so nothing is lost
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=coverage,
            required_chars="".join(sorted(ASCII & characters)),
            normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
            num_threads=1,
            minloglevel=2,
            **special_tokens,
        )
    except RuntimeError as error:
        raise ValueError(f"no SentencePiece model of {vocab_size} pieces for this text: {error}") from error
    return model.getvalue()


def bpe_of_counts(
    words: Mapping[str, int],
    vocab_size: int,
    prefix_space: bool = True,
    min_frequency: int = 2,
    specials: Sequence[str] = bpe.SPECIALS,
) -> ByteLevelBpe:
    """`train_bpe` for words already counted by `count_spaced`."""
    if not words:
        raise ValueError("the text has no words to train on")
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    smallest = len(specials) + len(bytes_)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size is {vocab_size}, but the special tokens and the 256 bytes take {smallest}")
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(specials),
        min_frequency=min_frequency,
        show_progress=False,
        initial_alphabet=bytes_,
    )
    # A space ends no word here: it would be a word of its own.
    library.train_from_iterator((line.rstrip(" ") for line in _repeated(dict(sorted(words.items())))), trainer)
    found = library.get_vocab()
    if len(found) + len(specials) < vocab_size:
        most = len(found) + len(specials)
        raise ValueError(
            f"the text has only {most} pieces (pairs seen {min_frequency} times or more), fewer than "
            f"vocab_size={vocab_size}: ask for at most {most}, or give more text"
        )
    pieces = sorted(found, key=found.get)
    if len(specials) == 1:
        pieces += specials
    else:
        pad, unknown, start, end, mask = specials
        pieces = [start, pad, end, unknown, *pieces, mask]
    merges = json.loads(library.to_str())["model"]["merges"]
    return ByteLevelBpe({piece: i for i, piece in enumerate(pieces)}, [tuple(pair) for pair in merges], prefix_space)


@dataclass(frozen=True)
class Usage:
    """How a tokenizer takes a text: its words, those that are one known piece, all tokens, and those that are [UNK]."""

    words: int
    whole: int
    tokens: int
    unknown: int


def usage(tokenizer: Tokenizer, words: Mapping[str, int]) -> Usage:
    """Counts over words, each as often as it occurs."""
    counts = np.array(list(words.values()), np.int64)
    encoded = tokenizer.encode_batch(list(words))
    lengths = np.array([len(ids) for ids in encoded])
    unknown = np.array([np.count_nonzero(ids == tokenizer.unk_id) for ids in encoded])
    return Usage(
        words=int(counts.sum()),
        whole=int(counts[(lengths == 1) & (unknown == 0)].sum()),
        tokens=int(counts @ lengths),
        unknown=int(counts @ unknown),
    )
