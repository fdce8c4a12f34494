"""Prediction on text: what the methods of `pretrained.Pretrained` of the same names do.

One string in gives one result, a list gives a list in the same order; a tuple is one input of two parts. A text that is
longer than the model takes is an error, never cut (`answer` reads it in windows). The first call compiles, for each
length of a batch that occurs (`forward`); calls after it do not. It also puts the weights on the device, where they
stay as long as the opened model.
"""

import weakref
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
import scipy  # its parts are imported when they are first used: together they take a second

from bert_jax.data.spans import MAX_ANSWER_LENGTH, STRIDE, joined, span_scores, windows
from bert_jax.inference import forward
from bert_jax.inference.inputs import (
    BadInput,
    Opened,
    beginning,
    check_opened,
    cut,
    encode,
    fitting,
    head_of,
    items_of,
    lacks_segments,
    tokens_of,
    words_of,
)
from bert_jax.learners.multitask import Multitask
from bert_jax.nn.dot import compute_dtype
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag
from bert_jax.text.tokenizer import Encoding, Tokenizer

MASK = "[MASK]"
# Masks of a text that are predicted in one row; a text with more of them is read again for each further such number.
MASKS_OF_A_ROW = 4


class Filling(NamedTuple):
    """A token for a mask: the piece, its probability, and the text with the piece in the place of this one mask."""

    token: str
    probability: float
    text: str


class Classified(NamedTuple):
    """The likeliest class, and the probability of each."""

    label: str
    probabilities: dict[str, float]


class Labelled(NamedTuple):
    """The labels that are more likely than not, the likeliest first, and the probability of each by itself."""

    labels: list[str]
    probabilities: dict[str, float]


class Tagged(NamedTuple):
    """A word, its likeliest class, that one's probability, and its characters [start, end) of a string's words."""

    word: str
    label: str
    probability: float
    start: int | None
    end: int | None


class Answer(NamedTuple):
    """Characters [start, end) of a context; the empty text at 0 says that it has no answer.

    score: the sum of the logits of its first and last token; of [CLS] as both, for no answer.
    probability: softmax of the score over all spans of the context that are short enough, and no answer if asked for.
    """

    text: str
    score: float
    probability: float
    start: int
    end: int


def embed(opened: Opened, texts: Any, pooling: str = "mean", layer: int = -1, normalise: bool = False) -> np.ndarray:
    """A vector of each text.

    Args:
        texts: a string, or a list of strings.
        pooling: "mean" over all tokens of the text with [CLS] and [SEP]; "cls", the state of [CLS]; or "pooled", what
            the pooler makes of it.
        layer: whose hidden states: 0 the embeddings, 1 the first layer; -1 the last.
        normalise: to length 1.

    Returns float32 [n, D], or [D] of one string.
    Raises TypeError or ValueError for bad input, a missing tokenizer or pooler, a layer that is not there.
    """
    items = items_of(texts, str)
    check_opened(opened)
    encoder = opened.model.encoder
    if pooling not in get_args(forward.Pooling):
        raise ValueError(f"pooling {pooling!r} is none of {', '.join(get_args(forward.Pooling))}")
    if not -encoder.num_layers - 1 <= layer <= encoder.num_layers:
        raise ValueError(f"layer {layer}: there are 0, the embeddings, to {encoder.num_layers}")
    layer = int(layer) % (encoder.num_layers + 1)
    if pooling == "pooled" and not getattr(encoder, "pooler", False):
        raise ValueError("pooling 'pooled' needs a pooler, which this model does not have: take 'mean' or 'cls'")
    if pooling == "pooled" and layer != encoder.num_layers:
        raise ValueError(f"the pooler reads the last layer, {encoder.num_layers}, and not {layer}")
    rows = _run(opened, forward.vectors, (pooling, layer, bool(normalise)), encode(opened, items))
    found = np.stack(rows) if rows else np.zeros((0, encoder.width), np.float32)
    return found[0] if isinstance(texts, str) else found


def fill_mask(opened: Opened, texts: Any, top_k: int = 5) -> list:
    """The likeliest tokens for each [MASK].

    Args:
        texts: a string, or a list of strings, each with [MASK] in it at least once; all masks of a text are hidden
            from the model at the same time.
        top_k: tokens for each mask.

    Returns for each text a list with, for each mask, a list of `Filling`, the likeliest first.
    Raises TypeError or ValueError for bad input, a text without [MASK], a missing tokenizer or head.
    """
    items = items_of(texts, str)
    head = head_of(opened, Mlm, "fill_mask")
    tokenizer = opened.tokenizer
    if not 1 <= top_k <= tokenizer.vocab_size:
        raise ValueError(f"top_k {top_k}: 1 to {tokenizer.vocab_size}, the size of the vocabulary")
    encodings, which, places = [], [], []
    for i, text in enumerate(items):
        parts = [tokens_of(opened, i, part).ids for part in text.split(MASK)]
        if len(parts) == 1:
            raise BadInput(i, f"there is no {MASK} in {beginning(text)}")
        ids = np.concatenate([parts[0], *(np.append(tokenizer.mask_id, part) for part in parts[1:])])
        masks = np.cumsum([len(part) + 1 for part in parts[:-1]])  # [CLS] comes before them
        encodings.append(fitting(opened, i, joined(tokenizer, ids), text))
        for start in range(0, len(masks), MASKS_OF_A_ROW):
            which.append(i)
            places.append(masks[start : start + MASKS_OF_A_ROW])
    positions = np.zeros((len(places), MASKS_OF_A_ROW), np.int32)
    for row, masks in enumerate(places):
        positions[row, : len(masks)] = masks
    statics = (head, tokenizer.vocab_size, int(top_k))
    found: list[list[list[Filling]]] = [[] for _ in items]
    rows = _run(opened, forward.likeliest, statics, encodings, np.array(which, np.int64), positions)
    for i, masks, (shares, ids) in zip(which, places, rows, strict=True):
        for mask in range(len(masks)):
            number = len(found[i])  # of the mask in its text
            candidates = zip(ids[mask].tolist(), shares[mask].tolist(), strict=True)
            found[i].append([_filling(tokenizer, items[i], number, *candidate) for candidate in candidates])
    return found[0] if isinstance(texts, str) else found


def classify(opened: Opened, texts: Any) -> Any:
    """The class of each text, or of each pair of texts.

    Args:
        texts: a string or a pair (a, b), or a list of strings and pairs.

    Returns `Classified`, or a list of them; classes without names are LABEL_0, LABEL_1, ...
    Raises TypeError or ValueError for bad input, a missing tokenizer or head.
    """
    items = items_of(texts, str, tuple)
    head = head_of(opened, Classify, "classify")
    labels = _labels(opened.model.objectives[head])
    found = []
    for row in _run(opened, forward.logits, (head,), encode(opened, items)):
        shares = scipy.special.softmax(row)
        found.append(Classified(labels[shares.argmax()], dict(zip(labels, shares.tolist(), strict=True))))
    return found if isinstance(texts, list) else found[0]


def multilabel(opened: Opened, texts: Any) -> Any:
    """The labels that apply to each text, or each pair of texts: any number of them.

    Arguments, names and errors are those of `classify`. Returns `Labelled`, or a list of them.
    """
    items = items_of(texts, str, tuple)
    head = head_of(opened, MultiLabel, "multilabel")
    labels = _labels(opened.model.objectives[head])
    found = []
    for row in _run(opened, forward.logits, (head,), encode(opened, items)):
        order = np.argsort(-row, kind="stable")
        likely = [labels[i] for i in order if row[i] >= 0]
        found.append(Labelled(likely, dict(zip(labels, scipy.special.expit(row).tolist(), strict=True))))
    return found if isinstance(texts, list) else found[0]


def regress(opened: Opened, texts: Any) -> Any:
    """The number that the model gives each text, or each pair of texts: a float, or a list of them.

    Arguments and errors are those of `classify`.
    """
    items = items_of(texts, str, tuple)
    head = head_of(opened, Regress, "regress")
    found = [float(row[0]) for row in _run(opened, forward.logits, (head,), encode(opened, items))]
    return found if isinstance(texts, list) else found[0]


def tag(opened: Opened, texts: Any) -> list:
    """The class of each word, that of its first piece (Devlin et al. 2018, section 5.3).

    Args:
        texts: a string or a tuple of words; or a list of strings and of tuples or lists of words. The words of a string
            are those of the tokenizer: punctuation stands for itself. A word of which the tokenizer leaves nothing
            (an empty one, a control character) is read as [UNK].

    Returns for each text a list of `Tagged`, with offsets for strings.
    Raises TypeError or ValueError for bad input, a missing tokenizer or head.
    """
    items = items_of(texts, str, tuple, list)
    head = head_of(opened, Tag, "tag")
    labels = _labels(opened.model.objectives[head])
    read = [words_of(opened, i, item) for i, item in enumerate(items)]
    rows = _run(opened, forward.logits, (head,), [encoding for encoding, _, _ in read])
    found = []
    for (_, firsts, words), row in zip(read, rows, strict=True):
        shares = scipy.special.softmax(row[firsts], axis=-1)
        best = shares.argmax(axis=-1)
        found.append(
            [
                Tagged(word, labels[label], float(share[label]), start, end)
                for (word, start, end), label, share in zip(words, best, shares, strict=True)
            ]
        )
    return found if isinstance(texts, list) else found[0]


def answer(
    opened: Opened,
    questions: Any,
    contexts: Any,
    top_k: int = 1,
    max_answer_length: int = MAX_ANSWER_LENGTH,
    stride: int = STRIDE,
    no_answer_threshold: float | None = None,
) -> list:
    """The spans of a context that best answer a question.

    A context that does not fit beside its question is read in windows as run_squad.py:246-263 makes them; a span that
    several windows hold has the best of its scores there (the original asks the window in which its first token has the
    most context).

    Args:
        questions, contexts: two strings, or two lists of the same length.
        top_k: answers to a question, if there are as many spans.
        max_answer_length: tokens of an answer, at most.
        stride: tokens between the starts of two windows.
        no_answer_threshold: begin with "no answer" where its score, the lowest of the windows, is above that of the
            best span by more than this (run_squad.py:905-912), as a model of SQuAD 2.0 wants; without, never.

    Returns for each question a list of `Answer`, the best first; never a part of the question.
    Raises TypeError or ValueError for bad input, a question that leaves no room, a missing tokenizer or head.
    """
    asked, given = items_of(questions, str), items_of(contexts, str)
    if isinstance(questions, str) != isinstance(contexts, str) or len(asked) != len(given):
        raise ValueError("give one question and one context, or two lists of the same length")
    for name, value in {"top_k": top_k, "max_answer_length": max_answer_length, "stride": stride}.items():
        if value < 1:
            raise ValueError(f"{name} {value}: must be at least 1")
    head = head_of(opened, Span, "answer")
    longest = opened.model.encoder.max_length
    texts, begins = [], []  # tokens of each context, and where they begin in a window
    parts, which = [], []  # (first token, encoding) and text of each window
    for i, (question, context) in enumerate(zip(asked, given, strict=True)):
        before, text = tokens_of(opened, i, question).ids, tokens_of(opened, i, context)
        around = len(before) + opened.tokenizer.special_tokens(2)
        if longest - around < 1:
            reason = f"the question has {len(before)} tokens, which leaves no room for a context: the model takes"
            raise BadInput(i, f"{reason} {longest} with [CLS] and two [SEP]")
        if not len(text.ids):
            raise BadInput(i, f"there is nothing to answer from in the context {beginning(context)}")
        if lacks_segments(opened):
            raise BadInput(i, "a question with its context needs two segment types, and this model has one")
        texts.append(text)
        begins.append(around - 1)
        own = windows(opened.tokenizer, before, text.ids, longest, stride)
        parts += own
        which += [i] * len(own)
    rows = _run(opened, forward.logits, (head,), [encoding for _, encoding in parts])
    bounds, found = np.searchsorted(which, np.arange(len(texts) + 1)), []
    for i, (text, context, begin) in enumerate(zip(texts, given, begins, strict=True)):
        own = range(bounds[i], bounds[i + 1])
        starts = np.array([parts[row][0] for row in own])
        logits = [rows[row][begin : len(parts[row][1].ids) - 1] for row in own]
        table = span_scores(starts, logits, max_answer_length, max_context=False)
        null = None if no_answer_threshold is None else min(float(rows[row][0].sum()) for row in own)
        found.append(_best_spans(table, text, context, top_k, null, no_answer_threshold))
    return found[0] if isinstance(questions, str) else found


def pseudo_log_likelihood(opened: Opened, texts: Any, normalise: bool = False) -> Any:
    """How likely a text is (Salazar et al. 2020, arXiv 1910.14659, equation 2).

    The sum of the log probabilities, in nats, of all its tokens but [CLS] and [SEP], each while it alone is masked: a
    text of n tokens is read n times.

    Args:
        texts: a string, or a list of strings.
        normalise: divide by the number of these tokens; exp of its negative mean is the pseudo-perplexity.

    Returns a float, or a list of them.
    Raises TypeError or ValueError for bad input, a text without tokens, a missing tokenizer or head.
    """
    items = items_of(texts, str)
    head = head_of(opened, Mlm, "pseudo_log_likelihood")
    encodings = encode(opened, items)
    counts = [len(encoding.ids) - 2 for encoding in encodings]
    for i, count in enumerate(counts):
        if not count:
            raise BadInput(i, f"there are no tokens in {beginning(items[i])}")
    which = np.repeat(np.arange(len(items)), counts)
    positions = np.concatenate([np.arange(1, count + 1, dtype=np.int32) for count in counts] or [np.zeros(0, np.int32)])
    statics = (head, opened.tokenizer.mask_id)
    rows = _run(opened, forward.masked_log_probability, statics, encodings, which, positions[:, None])
    sums = np.bincount(which, np.array(rows, np.float64), len(items))
    found = (sums / counts if normalise else sums).tolist()
    return found[0] if isinstance(texts, str) else found


# ---- rows to results -------------------------------------------------------------------------------------------------


def _run(opened: Opened, step: Any, statics: tuple, encodings: list[Encoding], *rest: Any) -> list:
    """`forward.run` of one of its functions."""
    if not encodings:
        return []
    model, params = placed(opened)
    return forward.run(
        lambda batch: step(model, params, batch, *statics),
        encodings,
        model.encoder.max_length,
        *rest,
        full_of=None if getattr(model.encoder, "ignores_padding", True) else opened.tokenizer.pad_id,
    )


# The model of each opened one as a hashable, and its weights on the device.
_PLACED: weakref.WeakKeyDictionary[Opened, tuple[Multitask, dict[str, Any]]] = weakref.WeakKeyDictionary()


def placed(opened: Opened) -> tuple[Multitask, dict[str, Any]]:
    """The model and its weights, on the device since the first call."""
    if opened not in _PLACED:
        _PLACED[opened] = _placed(opened)
    return _PLACED[opened]


def _placed(opened: Opened) -> tuple[Multitask, dict[str, Any]]:
    """The kernels of the encoder in the dtype of its dots, which would otherwise round them in every call: nothing else
    reads them."""
    dtype = compute_dtype(opened.model.encoder.dtype)

    def place(path: tuple, leaf: Any) -> jax.Array:
        kernel = path[-1].key == "kernel"
        return jax.device_put(leaf.astype(dtype) if kernel else leaf)

    params = dict(opened.params)
    params["encoder"] = jax.tree_util.tree_map_with_path(place, params["encoder"])
    return opened.model.frozen(), jax.device_put(params)


def _labels(head: Any) -> tuple[str, ...]:
    return head.labels or tuple(f"LABEL_{i}" for i in range(head.num_classes))


def _filling(tokenizer: Tokenizer, text: str, number: int, token: int, probability: float) -> Filling:
    parts = text.split(MASK)
    before, after = MASK.join(parts[: number + 1]), MASK.join(parts[number + 1 :])
    piece = tokenizer.pieces[token]
    plain = tokenizer.decode([token]).removeprefix("##") or piece  # a special token decodes to nothing
    before = before.rstrip() if tokenizer.continues[token] else before
    return Filling(piece, probability, before + plain + after)


def _best_spans(
    table: np.ndarray, tokens: Encoding, context: str, top_k: int, null: float | None, threshold: float | None
) -> list[Answer]:
    """The best spans of `span_scores`; before them "no answer", which has the score `null`, if that is high enough."""
    shares, found = scipy.special.softmax(table if null is None else np.append(table, np.float32(null))), []
    if null is not None and null - table.max() > threshold:
        found.append(Answer("", null, float(shares[-1]), 0, 0))
    for best in np.argsort(-table, axis=None, kind="stable")[: top_k - len(found)]:
        first, more = np.unravel_index(best, table.shape)
        if np.isfinite(table[first, more]):
            start, end = int(tokens.offsets[first, 0]), int(tokens.offsets[first + more, 1])
            text, start, end = cut(context, start, end)
            found.append(Answer(text, float(table[first, more]), float(shares.flat[best]), start, end))
    return found
