"""Sentences of tagged words as rows of tokens, in which each word is scored once, at its first token."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bert_jax.data.conll import Sentence
from bert_jax.data.features import Features
from bert_jax.data.spans import joined
from bert_jax.text.tokenizer import Tokenizer
from bert_jax.text.words import word_pieces

NOT_SCORED = -1


class WordRows(Features):
    """The rows of sentences, in their order; one that does not fit is dealt out over several.

    The target `tags` [n, L] has the number of its tag at the first token of each scored word (Devlin et al. 2018,
    section 5.3), -1 at all others: read row by row, these are the words of all sentences in order.

    Args:
        sentences: without faults.
        numbers: of the tags.
        tokenizer, max_length: as the encoder wants them.
        document_context: fill the rows with the words around the sentence, as many on both sides as there are; they are
            not scored.

    Attributes:
        sentences: as given.
        split: sentences that are dealt out over several rows.
    """

    def __init__(
        self,
        sentences: Sequence[Sentence],
        numbers: Mapping[str, int],
        tokenizer: Tokenizer,
        max_length: int,
        document_context: bool = False,
    ):
        room = max_length - tokenizer.special_tokens(1)
        if room < 1:
            raise ValueError(f"max_length is {max_length}, but [CLS] and [SEP] alone take 2 tokens")
        self.sentences, self.split = list(sentences), 0
        pieces = _pieces(self.sentences, tokenizer, room, document_context)
        # By document: its words, their sizes, where sentences begin.
        around: dict[int, tuple[list[np.ndarray], list[int], dict[int, int]]] = {}
        encodings, tags = [], []
        for sentence in self.sentences:
            if document_context:
                key = id(sentence.document)
                if key not in around:
                    around[key] = _flat(sentence.document, pieces)
                words, sizes, begins = around[key]
            else:
                words, sizes, begins = _flat([sentence], pieces)
            begin, end = begins[id(sentence)], begins[id(sentence)] + len(sentence.words)
            spans = list(_spans(sizes, begin, end, room))
            self.split += len(spans) > 1
            for start, stop in spans:
                first, last = _widened(sizes, start, stop, room) if document_context else (start, stop)
                encoding = joined(tokenizer, np.concatenate(words[first:last]))
                row = np.full(max_length, NOT_SCORED, np.int32)
                places = int(tokenizer.framed) + np.cumsum([0, *sizes[first:last]])
                own = sentence.tags[start - begin : stop - begin]
                row[places[start - first : stop - first]] = [numbers[tag] for tag in own]
                encodings.append(encoding)
                tags.append(row)
        super().__init__(encodings, {"tags": np.array(tags, np.int32)}, tokenizer, max_length)

    def of_sentences(self, values: np.ndarray) -> Iterator[np.ndarray]:
        """What `values` [n, L] has for the words of each sentence."""
        ends = np.cumsum([len(sentence.words) for sentence in self.sentences])
        yield from np.split(values[self.targets["tags"] != NOT_SCORED], ends[:-1])


def _pieces(
    sentences: list[Sentence], tokenizer: Tokenizer, room: int, document_context: bool
) -> dict[str, np.ndarray]:
    """The ids of each word that there is; a word that no row would hold is cut."""
    if document_context:  # each document once: many sentences share theirs
        documents = {id(sentence.document): sentence.document for sentence in sentences}
        sentences = [sentence for document in documents.values() for sentence in document]
    words = list(dict.fromkeys(word for sentence in sentences for word in sentence.words))
    return {word: ids[:room] for word, ids in zip(words, word_pieces(tokenizer, words), strict=True)}


def _flat(
    document: Sequence[Sentence], pieces: Mapping[str, np.ndarray]
) -> tuple[list[np.ndarray], list[int], dict[int, int]]:
    words, begins = [], {}
    for sentence in document:
        begins[id(sentence)] = len(words)
        words += [pieces[word] for word in sentence.words]
    return words, [len(ids) for ids in words], begins


def _spans(sizes: Sequence[int], begin: int, end: int, room: int) -> Iterator[tuple[int, int]]:
    """The words from `begin` to `end` in order, as many together as fit."""
    start, used = begin, 0
    for i in range(begin, end):
        if used + sizes[i] > room:
            yield start, i
            start, used = i, 0
        used += sizes[i]
    yield start, end


def _widened(sizes: Sequence[int], start: int, stop: int, room: int) -> tuple[int, int]:
    """A span with the words around it that still fit: one on each side in turn, then on the side that has any."""
    used, grown = sum(sizes[start:stop]), True
    while grown:
        grown = False
        if start > 0 and used + sizes[start - 1] <= room:
            start, grown = start - 1, True
            used += sizes[start]
        if stop < len(sizes) and used + sizes[stop] <= room:
            used, grown = used + sizes[stop], True
            stop += 1
    return start, stop
