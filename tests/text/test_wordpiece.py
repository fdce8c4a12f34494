"""WordPiece gives the original's tokens: golden cases, and its rules written down once more as the reference."""

# ruff: noqa: RUF001 (the letters of many scripts look alike)

import lzma
import random
import unicodedata
from itertools import islice

import numpy as np
import pytest

from bert_jax.text.tokenizer import load
from bert_jax.text.wordpiece import WordPiece

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "un ##aff ##able ##affable runn ##ing the cafe resume i σ ##ς ##σ ο ##ο ##δ a b ##b ##a ab 北 京 x ##x".split()
MARKS = [*"$^`~+<=>|.,!?-()[]{}\"'", "“", "”", "…", "。", "，", "¿", "—"]
LETTERS = [*"ABÉcé", "##A", "##B", "##é", "É", "ß", "ı", "한", "ᄒ", "##ᅡ", "##ᆫ", "😀", "mask", "MASK", "cls"]
VOCABULARY = list(dict.fromkeys(SPECIALS + WORDS + MARKS + LETTERS))


@pytest.fixture(scope="module")
def uncased():
    return WordPiece(VOCABULARY, lowercase=True)


@pytest.fixture(scope="module")
def cased():
    return WordPiece(VOCABULARY, lowercase=False)


def pieces(tokenizer, text):
    return tokenizer.tokens(tokenizer.encode(text).ids)


# --- the reference: tokenization.py's rules, written down once more without any library ---


def is_space(char):
    return char in " \t\n\r" or unicodedata.category(char) == "Zs"


def is_dropped(char):
    return char in "\0\ufffd" or (char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf"))


def is_mark(char):
    ascii_symbol = 33 <= ord(char) < 127 and not char.isalnum()
    return ascii_symbol or unicodedata.category(char).startswith("P")


def is_ideograph(char):
    # fmt: off
    blocks = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
              (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]
    # fmt: on
    return any(first <= ord(char) <= last for first, last in blocks)


def reference_words(text, lowercase):
    text = "".join(" " if is_space(char) else char for char in text if not is_dropped(char))
    text = "".join(f" {char} " if is_ideograph(char) else char for char in text)
    words = []
    for word in text.split():
        if lowercase:
            word = unicodedata.normalize("NFD", word.lower())
            word = "".join(char for char in word if unicodedata.category(char) != "Mn")
        words += "".join(f" {char} " if is_mark(char) else char for char in word).split()
    return words


def reference_pieces(word, vocabulary):
    found, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = (end for end in range(len(word), start, -1) if prefix + word[start:end] in vocabulary)
        end = next(ends, None)
        if end is None or len(word) > 200:
            return ["[UNK]"]
        found.append(prefix + word[start:end])
        start = end
    return found


def reference(text, vocabulary, lowercase):
    return [piece for word in reference_words(text, lowercase) for piece in reference_pieces(word, vocabulary)]


# --- golden cases ---

UNCASED = {
    "greedy longest match": ("unaffable", ["un", "##affable"]),
    "one unmatched piece makes the whole word unknown": ("unaffablez running", ["[UNK]", "runn", "##ing"]),
    "case and accents, composed and combining": ("CAFÉ re\u0301sume\u0301", ["cafe", "resume"]),
    "lower case comes before the accents go": ("\u0130", ["i"]),
    "dotless i is a letter of its own": ("ı", ["ı"]),
    "capital sigma ends a word as ς": ("ΟΔΟΣ ΣΟ", ["ο", "##δ", "##ο", "##ς", "σ", "##ο"]),
    "Hangul falls apart into jamo": ("한", ["ᄒ", "##ᅡ", "##ᆫ"]),
    "ideographs stand alone": ("a北京b", ["a", "北", "京", "b"]),
    "ASCII symbols are punctuation": ("a$^`~+<=>|b", ["a", *"$^`~+<=>|", "b"]),
    "Unicode punctuation": ("“a…”¿b—。，", ["“", "a", "…", "”", "¿", "b", "—", "。", "，"]),
    "control characters vanish, also inside a word": ("a\x00b a\u200bb a\xadb a\x7fb a\x85b", ["ab"] * 5),
    "the replacement character vanishes": ("a\ufffdb \ufffd", ["ab"]),
    "all white space separates": ("a\tb\nb\rb\u00a0b\u3000b\u2009b", ["a", "b", "b", "b", "b", "b", "b"]),
    "line and paragraph separator": ("a\u2028b\u2029b", ["a", "b", "b"]),
    "an emoji in the vocabulary, one outside, one with a joiner": ("😀 🚀 😀\u200d😀", ["😀", "[UNK]", "[UNK]"]),
    "variation selectors are accents": ("😀\ufe0f", ["😀"]),
    "private use makes the word unknown": ("a\ue000 \U000f0001b \U00100001", ["[UNK]", "[UNK]", "[UNK]"]),
    "a word of 200 characters": ("x" * 200, ["x"] + ["##x"] * 199),
    "a word of 201 characters": ("x" * 201 + " a", ["[UNK]", "a"]),
    "accents do not count for the length": ("x\u0301" * 200, ["x"] + ["##x"] * 199),
    "special tokens are plain text": ("[MASK] [CLS]", ["[", "mask", "]", "[", "cls", "]"]),
    "empty": ("", []),
    "blank": (" \t\n\u3000\x00", []),
}
CASED = {
    "case and accents stay": ("É é e", ["É", "é", "[UNK]"]),
    "composed and combining differ": ("e\u0301 é", ["[UNK]", "é"]),
    "capitals": ("AB ab", ["A", "##B", "ab"]),
    "Hangul stays whole": ("한", ["한"]),
    "special tokens are plain text": ("[MASK]", ["[", "MASK", "]"]),
}


@pytest.mark.parametrize("case", UNCASED)
def test_uncased_golden(uncased, case):
    """Each rule of the original's uncased tokenization, by hand."""
    text, expected = UNCASED[case]
    assert pieces(uncased, text) == expected
    assert reference(text, set(VOCABULARY), True) == expected


@pytest.mark.parametrize("case", CASED)
def test_cased_golden(cased, case):
    """Each rule of the original's cased tokenization, by hand."""
    text, expected = CASED[case]
    assert pieces(cased, text) == expected
    assert reference(text, set(VOCABULARY), False) == expected


# --- against the reference ---

ALPHABET = [
    *"abcxyzABCXYZ019 \t\n\r.,;$^`'\"#[]-_",
    *"éÉüÜñçßẞıİœÆøØåÅ",
    *"ΑΣΟΔασςοδ",
    *"жЖйЙёЁ",
    *"אבשּ",
    *"عربيةً",
    *"हिन्दी",
    *"한국어가",
    *"カタガひら",
    *"北京漢字",
    *"\u0301\u0308\u0323\u20dd\ufe0f",
    *"\u00a0\u3000\u2003\u2028\u2029\u200b\u200d\u00ad\ufeff\x00\x01\x1f\x7f\x85\ufffd",
    *"\ue000\uf8ff\U000f0000\U0010fffd\u0378\ufdd0",
    *"😀👩🚀©™½²ﬁǅ",
    *"“”…¿«»。、「」—",
    *"\u3400\U00020000\uf900\U0002f800",
]


@pytest.mark.parametrize("lowercase", [True, False])
def test_equals_the_reference_on_random_strings(lowercase):
    """Whatever the mixture of characters, the tokens are the original's."""
    rng = random.Random(0)
    normal = {char for word in reference_words(" ".join(ALPHABET), lowercase) for char in word}
    kept = [char for char in sorted(normal) if rng.random() < 0.8 and unicodedata.category(char) != "Co"]
    vocabulary = [*SPECIALS, *kept, *(f"##{char}" for char in kept), "ab", "##bc", "##σς", "οδ"]
    tokenizer = WordPiece(vocabulary, lowercase)
    texts = ["".join(rng.choices(ALPHABET, k=rng.randint(0, 40))) for _ in range(3000)]
    encoded = tokenizer.encode_batch(texts)
    for text, ids in zip(texts, encoded, strict=True):
        expected = reference(text, set(vocabulary), lowercase)
        assert tokenizer.tokens(ids) == expected, ascii(text)
        np.testing.assert_array_equal(tokenizer.encode(text).ids, ids)


REAL = [
    ("bert-base-uncased", True, "enwiki/valid.wikiextractor.xz"),
    ("bert-base-cased", False, "enwiki/valid.wikiextractor.xz"),
    ("bert-base-chinese", True, "chinese/zhwiki.wikiextractor.xz"),
    ("bert-base-multilingual-cased", False, "chinese/zhwiki.wikiextractor.xz"),
]


@pytest.mark.parametrize(("name", "lowercase", "file"), REAL)
def test_equals_the_reference_on_real_text(shared_data, name, lowercase, file):
    """The released vocabularies on real lines of English and Chinese."""
    tokenizer = load(shared_data / "vocab" / name)
    assert tokenizer.lowercase == lowercase
    vocabulary = set(tokenizer.pieces) - {""}
    with lzma.open(shared_data / file, "rt", encoding="utf-8") as lines:
        texts = list(islice(lines, 100, 500))
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert tokenizer.tokens(ids) == reference(text, vocabulary, lowercase)


# --- offsets, batches, decoding ---


@pytest.mark.parametrize("lowercase", [True, False])
def test_offsets_point_at_the_text(lowercase):
    """The characters from start to end of a token's offsets are the ones it was made of, in characters, not bytes."""
    tokenizer = WordPiece(VOCABULARY, lowercase)
    text = "  Running café, 😀a北京b\tun\x00affable É한!"
    encoding = tokenizer.encode(text)
    assert encoding.offsets.dtype == np.int32
    assert encoding.offsets.shape == (len(encoding.ids), 2)
    for piece, (start, end) in zip(tokenizer.tokens(encoding.ids), encoding.offsets, strict=True):
        normal = reference_words(text[start:end], lowercase)
        if piece == "[UNK]":
            assert reference(text[start:end], set(VOCABULARY), lowercase) == ["[UNK]"]
        elif piece.removeprefix("##") not in "한":  # the jamo of one syllable share its place
            assert normal == [piece.removeprefix("##")]
        else:
            assert text[start:end] == "한"


def test_offsets_survive_replaced_characters(uncased):
    """Characters that are replaced before the library sees them do not shift the offsets."""
    encoding = uncased.encode("\ue000 ΟΔΟΣ \U000f0001 a")
    assert uncased.tokens(encoding.ids) == ["[UNK]", "ο", "##δ", "##ο", "##ς", "[UNK]", "a"]
    assert encoding.offsets.tolist() == [[0, 1], [2, 3], [3, 4], [4, 5], [5, 6], [7, 8], [9, 10]]


def test_batch_equals_one_by_one(uncased):
    """The fast path gives the ids of `encode`, as int32, for empty texts too."""
    texts = ["unaffable", "", "a北京b", "\ue000"]
    for text, ids in zip(texts, uncased.encode_batch(texts), strict=True):
        assert ids.dtype == np.int32
        np.testing.assert_array_equal(ids, uncased.encode(text).ids)
    assert uncased.encode_batch([]) == []


def test_continues_marks_inner_pieces(uncased):
    """Whole-word masking relies on `continues`."""
    ids = uncased.encode("unaffable ab").ids
    assert uncased.continues[ids].tolist() == [False, True, False]
    assert not uncased.continues[: len(SPECIALS)].any()


def test_decode(uncased):
    """Inner pieces join their word; special tokens go, but an unknown word stays visible."""
    encoding = uncased.encode_pair("unaffable zzz, cafe", "running", max_length=20)
    assert uncased.decode([*encoding.ids.tolist(), uncased.pad_id, uncased.mask_id]) == "unaffable [UNK] , cafe running"
    assert uncased.decode([]) == ""


def test_ids_outside_the_vocabulary(uncased):
    """A wrong id is named, a negative one too, which would silently index from the end."""
    for wrong in (-1, len(VOCABULARY)):
        with pytest.raises(ValueError, match=f"id {wrong} is outside the vocabulary of {len(VOCABULARY)}"):
            uncased.tokens([0, wrong])


def test_lone_surrogate(uncased):
    """Half a character is refused with its place."""
    with pytest.raises(ValueError, match="surrogate U\\+D83D at character 2"):
        uncased.encode("ab\ud83d")
    with pytest.raises(ValueError, match="surrogate"):
        uncased.encode_batch(["a", "\ude00"])


# --- vocabularies ---


def test_blank_lines_keep_their_ids(tmp_path):
    """A line of white space, as in the released Chinese vocabulary, shifts no id, also after saving."""
    file = tmp_path / "vocab.txt"
    file.write_bytes("\r\n".join([*SPECIALS, "\u2028", "a ", "", "b"]).encode())
    tokenizer = WordPiece(file)
    assert tokenizer.vocab_size == 9
    assert tokenizer.encode("a b").ids.tolist() == [6, 8]
    tokenizer.save(tmp_path / "saved")
    assert load(tmp_path / "saved").pieces == tokenizer.pieces == (*SPECIALS, "", "a", "", "b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"[PAD]\n[UNK]\n\xe9t\xe9\n", "not UTF-8: bad byte at offset 12"),
        (b"[PAD]\n[UNK]\n[SEP]\na\n", r"\(4 pieces\) lacks the special tokens \[CLS\] \[MASK\]"),
        ("\n".join([*SPECIALS, "a", "b", "a"]).encode(), "repeats the piece 'a': entries 6 and 8"),
    ],
)
def test_bad_vocabulary(tmp_path, content, message):
    """A vocabulary that would silently give wrong ids is refused, and the file is named."""
    file = tmp_path / "vocab.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        WordPiece(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(("between", "unknown"), [(SPECIALS, "[UNK]"), ([], "<unk>")])
def test_special_tokens_of_mpnet(tmp_path, between, unknown):
    """Where fairseq's are all there, they are the special tokens, but for the unknown one, and pairs have two
    separators and no segments; where one of them is not, the vocabulary is BERT's, or none."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *between, "a", "b", "<mask>"]
    tokenizer = WordPiece(pieces)
    ids = tokenizer.cls_id, tokenizer.pad_id, tokenizer.sep_id, tokenizer.unk_id, tokenizer.mask_id
    assert ids == (0, 1, 2, pieces.index(unknown), len(pieces) - 1)
    pair = tokenizer.encode_pair("a c", "b", max_length=9)
    assert tokenizer.tokens(pair.ids) == ["<s>", "a", unknown, "</s>", "</s>", "b", "</s>"]
    assert not pair.segments.any() and tokenizer.decode(pair.ids) == f"a {unknown} b"
    tokenizer.save(tmp_path)
    assert load(tmp_path).fingerprint == tokenizer.fingerprint and load(tmp_path).separators == 2
    without = [piece for piece in pieces if piece != "<mask>"]
    if between:
        assert (WordPiece(without).mask_id, WordPiece(without).separators) == (without.index("[MASK]"), 1)
    else:
        with pytest.raises(ValueError, match=r"lacks the special tokens \[PAD\] \[UNK\]"):
            WordPiece(without)


def test_bad_vocabulary_list(tmp_path):
    """The same for pieces given as a list, and a missing file is named."""
    with pytest.raises(ValueError, match="lacks the special tokens"):
        WordPiece([])
    with pytest.raises(ValueError, match=r"entry 6.*line break"):
        WordPiece([*SPECIALS, "a\nb"])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        WordPiece(tmp_path / "nowhere.txt")
