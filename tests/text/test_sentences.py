"""Sentence splitting: what the corpus relies on."""

import lzma
from itertools import islice

import pytest

from bert_jax.text.sentences import split_sentences

CASES = [
    ("en", "Dr. Smith went to Washington, D.C. on Jan. 5th. He left!", 2),
    ("en", 'She saw Fig. 3 (cf. Sec. 2).  "Why?" he asked.', 2),
    ("en", "no full stop", 1),
    ("zh", "今天天气很好。我们去公园吧！好吗？", 3),  # noqa: RUF001
]


@pytest.mark.parametrize(("language", "paragraph", "count"), CASES)
def test_sentences(language, paragraph, count):
    """Abbreviations do not end a sentence, Chinese marks do; the parts are stripped and make up the paragraph."""
    sentences = split_sentences(paragraph, language)
    assert len(sentences) == count
    assert all(sentence == sentence.strip() for sentence in sentences)
    assert "".join(sentences).replace(" ", "") == paragraph.replace(" ", "")


@pytest.mark.parametrize("paragraph", ["", " ", "\n\t\u3000 "])
def test_blank_paragraphs_have_no_sentences(paragraph):
    """No empty sentence ever reaches the corpus."""
    assert split_sentences(paragraph) == []


def test_paragraph_breaks_leave_no_blank_sentences():
    """Blank lines within a text neither become a sentence nor cling to one."""
    assert split_sentences("One sentence here. \n\n\n Another sentence there.\n") == [
        "One sentence here.",
        "Another sentence there.",
    ]


def test_nothing_is_lost_on_real_text(shared_data):
    """The sentences of real paragraphs hold all of their characters but the white space around."""
    with lzma.open(shared_data / "enwiki/valid.wikiextractor.xz", "rt", encoding="utf-8") as lines:
        paragraphs = list(islice(lines, 500))
    for paragraph in paragraphs:
        assert "".join("".join(split_sentences(paragraph)).split()) == "".join(paragraph.split())
