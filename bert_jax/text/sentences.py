"""Paragraphs to sentences, through `sentencex`."""

import sentencex


def split_sentences(paragraph: str, language: str = "en") -> list[str]:
    """The sentences of a paragraph in reading order, white space around them removed; none for a blank paragraph.

    language: an ISO 639-1 code, which chooses the abbreviations and end marks; one that `sentencex` does not know gets
      its general rules.
    """
    return [stripped for sentence in sentencex.segment(language, paragraph) if (stripped := sentence.strip())]
