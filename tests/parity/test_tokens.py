"""Tokenization equals that of `transformers`, on real text and on awkward text, but for four differences by design."""

# ruff: noqa: RUF001 (the letters of many scripts look alike)

import lzma
from itertools import islice

import pytest
import transformers

from bert_jax.text.tokenizer import load
from bert_jax.text.wordpiece import WordPiece

VOCABULARIES = {"uncased": True, "cased": False, "chinese": True, "multilingual-cased": False}
# Half English, half Chinese.
TEXTS = {"enwiki/valid.wikiextractor.xz": 5000, "chinese/zhwiki.wikiextractor.xz": 5000}
AWKWARD = [
    "",
    " \t\n\u3000",
    "CAFÉ re\u0301sume\u0301 naïve Ångström ﬁancé İstanbul ß ẞ ı",
    "北京abc漢字、「かな」カタガ。한국어 \u3400\U00020000\uf900",
    "a\x00b\x01c\x7fd\x85e\u200bf\u200dg\u00adh\ufeffi\ufffdj",
    "tab\tline\nreturn\r\nspaces\u00a0\u2003\u3000\u2028\u2029end",
    "😀 👩\u200d🚀 ❤\ufe0f 🇩🇪 👍🏽 a😀b",
    "don't $5.00 50% a_b a-b #tag @you x=y+z^2 ~ `code` <b>|\\/",
    "“quoted” ‘single’ … — – ¿qué? «là» ، ؟ ।",
    "x" * 100,
    "[unused1] [ MASK ] [mask] ##ing ## [",
    "http://example.org/a?b=c&d=%20 mail@example.org 192.168.0.1 1,000,000.50",
    "\u0301\u0308 a\u0323\u0301 हिन्दी عَرَبِي עִבְרִית ไทย",
    "e\u0301" * 50,
    "\u0378\ufdd0\U000e0001",
]


@pytest.fixture(params=VOCABULARIES)
def both(request, shared_data):
    folder = shared_data / f"vocab/bert-base-{request.param}"
    lowercase = VOCABULARIES[request.param]
    theirs = transformers.BertTokenizerFast.from_pretrained(folder, do_lower_case=lowercase)
    return WordPiece(folder / "vocab.txt", lowercase), theirs


def assert_same(ours, theirs, texts):
    expected = theirs(texts, add_special_tokens=False)["input_ids"]
    for text, ids, wanted in zip(texts, ours.encode_batch(texts), expected, strict=True):
        assert ours.tokens(ids) == theirs.convert_ids_to_tokens(wanted), repr(text[:200])
        assert ids.tolist() == wanted


def test_real_lines(both, shared_data):
    """10,000 lines of Wikipedia, with each of the released vocabularies, in its own language or not."""
    lines = []
    for file, count in TEXTS.items():
        with lzma.open(shared_data / file, "rt", encoding="utf-8") as text:
            lines += islice((line for line in text if line.strip() and not line.startswith(("<doc", "</doc"))), count)
    assert len(lines) == 10_000
    assert_same(*both, lines)


def test_awkward_text(both):
    """Accents, ideographs, control characters, all kinds of space, emoji, marks, long words, bracketed words."""
    assert_same(*both, AWKWARD)


def test_every_character(shared_data):
    """Every code point of the first four planes, alone and inside of a word, but surrogates and private use."""
    folder = shared_data / "vocab/bert-base-uncased"
    ours, theirs = WordPiece(folder / "vocab.txt"), transformers.BertTokenizerFast.from_pretrained(folder)
    points = [*range(0xD800), *range(0xF900, 0x40000)]
    assert_same(
        ours, theirs, [" ".join(f"a{chr(i)}b {chr(i)}" for i in points[n : n + 64]) for n in range(0, len(points), 64)]
    )


def test_pairs(both, tmp_path):
    """With special tokens and segments: `[CLS] a [SEP] b [SEP]`; also through the files that we save."""
    ours, _ = both
    ours.save(tmp_path)
    assert load(tmp_path).fingerprint == ours.fingerprint
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for a in AWKWARD:
        for b in (None, "A second text, 第二。"):
            found, expected = ours.encode_pair(a, b, max_length=512), theirs(a, b)
            assert found.ids.tolist() == expected["input_ids"]
            assert found.segments.tolist() == expected["token_type_ids"]


# Where the original (tokenization.py) and transformers part, the original is followed.
DIFFERENCES = {
    "the names of special tokens are plain text: no text can smuggle one in": (
        "[MASK] a",
        ["[", "mask", "]", "a"],
        ["[MASK]", "a"],
    ),
    "words of up to 200 characters have pieces, not of up to 100": ("q" * 101, None, ["[UNK]"]),
    "a capital sigma at the end of a word is ς": ("ΣΑΣ", ["σ", "##α", "##ς"], ["σ", "##α", "##σ"]),
    "a private-use character makes its word unknown and is not dropped": ("a\ue000b", ["[UNK]"], ["ab"]),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_differences_by_design(shared_data, difference):
    """All that is known to differ."""
    text, wanted, expected = DIFFERENCES[difference]
    folder = shared_data / "vocab/bert-base-uncased"
    ours, theirs = WordPiece(folder / "vocab.txt"), transformers.BertTokenizerFast.from_pretrained(folder)
    found = ours.tokens(ours.encode(text).ids)
    assert found == wanted if wanted else len(found) > 1
    assert theirs.tokenize(text) == expected
