"""Which pieces continue a word that somebody else found: spaces, or a segmenter."""

# ruff: noqa: RUF001 (full-width punctuation)

import numpy as np
import pytest

from bert_jax.text import segmentation
from bert_jax.text.segmentation import check, segmented
from bert_jax.text.sentencepiece import SentencePiece
from bert_jax.text.tokenizer import SPECIALS, load
from bert_jax.text.training import train_sentencepiece
from bert_jax.text.wordpiece import WordPiece


@pytest.fixture(scope="module")
def tokenizer():
    return WordPiece([*SPECIALS, *"使用语言模型来预测下一个词，。", "bert", "play", "##ing", "3", "##d"])


def words_of(tokenizer, ids, continues):
    """The words, pieces joined by "+"."""
    found = []
    for piece, inside in zip(tokenizer.tokens(ids), continues, strict=True):
        if inside:
            found[-1] += f"+{piece}"
        else:
            found.append(piece)
    return found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("使用 语言 模型 来 预测", ["使+用", "语+言", "模+型", "来", "预+测"]),
        (" 使用\t语言模型　来，", ["使+用", "语+言+模+型", "来+，"]),
        ("BERT 语言 playing 3D模型 。", ["bert", "语+言", "play+##ing", "3+##d+模+型", "。"]),
        ("𰻝语言 语 x", ["[UNK]+语+言", "语", "[UNK]"]),
        ("", []),
        (" \u3000", []),
    ],
)
def test_between_spaces(tokenizer, text, words):
    """What stands between white space is a word: its first piece begins it, all others continue it; the ids are those
    of the text without a segmenter."""
    ids, continues = segmented(tokenizer, text, "spaces")
    assert words_of(tokenizer, ids, continues) == words
    np.testing.assert_array_equal(ids, tokenizer.encode_batch([text])[0])
    assert continues.dtype == bool and not tokenizer.continues[5:20].any()  # nothing of the tokenizer's was changed


def test_a_segmenter_of_characters(tokenizer, monkeypatch):
    """The words that it cuts a text into; a piece "##..." continues its word even where it cuts that in two."""
    words = ["使用", "语言", "模型", "play", "ing", " ", "词"]
    monkeypatch.setattr(segmentation, "_jieba", lambda: lambda text: words)
    ids, continues = segmented(tokenizer, "".join(words), "jieba")
    assert words_of(tokenizer, ids, continues) == ["使+用", "语+言", "模+型", "play+##ing", "词"]
    monkeypatch.setattr(segmentation, "_jieba", lambda: str.split)
    with pytest.raises(ValueError, match="the segmenter changes the text '语 言'"):
        segmented(tokenizer, "语 言", "jieba")


def test_pieces_with_the_space_before_them():
    """SentencePiece's pieces begin with it: the word is that of their first character that is none."""
    tokenizer = train_sentencepiece(["low lower lowest new newest"] * 9, vocab_size=19, coverage=1.0)
    assert type(tokenizer) is SentencePiece
    text = "lower  newest"
    ids, continues = segmented(tokenizer, text, "spaces")
    begins = [i for i, inside in enumerate(continues) if not inside]
    assert begins[0] == 0 and len(begins) == 2 and tokenizer.tokens(ids)[begins[1]].startswith("▁")


def test_jieba(tokenizer):
    """The package itself, where it is installed."""
    pytest.importorskip("jieba", exc_type=ImportError)
    ids, continues = segmented(tokenizer, "使用语言模型来预测下一个词。", "jieba")
    found = words_of(tokenizer, ids, continues)
    assert found[:2] == ["使+用", "语+言"] and "预+测" in found and found[-1] == "。"
    assert "".join(found).replace("+", "") == "使用语言模型来预测下一个词。"


def test_who_is_not_there(monkeypatch):
    """An unknown segmenter, and one that is not installed: said before any text is read."""
    with pytest.raises(ValueError, match="segmenter 'ltp': must be one of none, spaces, jieba"):
        check("ltp")
    monkeypatch.setattr(segmentation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"segmenter jieba needs .* pip install 'bert_jax\[chinese\]'"):
        check("jieba")
    check("spaces")


def test_released_vocabularies(shared_data):
    """Of the Chinese and the multilingual vocabulary each ideograph is a piece, and none of them continues a word of
    itself; of a segmented text they do."""
    for name in ("chinese", "multilingual-cased"):
        tokenizer = load(shared_data / f"vocab/bert-base-{name}")
        ids, continues = segmented(tokenizer, "使用 语言 模型", "spaces")
        assert tokenizer.tokens(ids) == [*"使用语言模型"] and not tokenizer.continues[ids].any()
        assert continues.tolist() == [False, True] * 3
        assert tokenizer.continues.any()  # ##ing
