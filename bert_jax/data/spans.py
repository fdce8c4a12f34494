"""Spans of a context: the windows it is read in, the tokens that an answer covers, and the score of every span."""

import numpy as np

from bert_jax.text.tokenizer import Encoding, Tokenizer

# Tokens of an answer at most, and between the starts of two windows (run_squad.py:85-88, 128-131).
MAX_ANSWER_LENGTH, STRIDE = 30, 128


def joined(tokenizer: Tokenizer, *parts: np.ndarray) -> Encoding:
    """One text or a pair of ids, as `tokenizer.join` has them; the offsets are not kept."""
    return tokenizer.join(*(Encoding(ids, np.zeros((len(ids), 2), np.int32), np.zeros_like(ids)) for ids in parts))


def windows(
    tokenizer: Tokenizer, question: np.ndarray, context: np.ndarray, max_length: int, stride: int
) -> list[tuple[int, Encoding]]:
    """(first token, `[CLS] question [SEP] part of the context [SEP]`) of each window of a context.

    As many tokens as fit are read, `stride` tokens apart, up to the first window that reaches the end
    (run_squad.py:350-364). A question that leaves no room for a token is the caller's error.

    Raises ValueError for a tokenizer without [CLS], which is where a question without answer points to.
    """
    if not tokenizer.framed:
        raise ValueError("spans need a tokenizer that puts [CLS] and [SEP] around a text, which GPT-2's does not")
    room = max_length - len(question) - tokenizer.special_tokens(2)
    starts = [0]
    while starts[-1] + room < len(context):
        starts.append(starts[-1] + min(room, stride))
    return [(start, joined(tokenizer, question, context[start : start + room])) for start in starts]


def covering_tokens(offsets: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """First and last of the tokens that have a character of [start, end); None if there is none.

    Args:
        offsets: int32 [T, 2] characters of the tokens of the text.
    """
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], end, side="left")) - 1
    return (first, last) if first <= last else None


def most_context(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """For each token of a context the window in which it has most context: int [T].

    That is the smaller of the numbers of tokens beside it, then the longer window, then the earlier one
    (run_squad.py:513-547).

    Args:
        starts, counts: int [W] first token of each window and its number of tokens of the context.
    """
    tokens = np.arange(starts[-1] + counts[-1])
    left, right = tokens - starts[:, None], (starts + counts)[:, None] - 1 - tokens
    context = np.minimum(left, right)
    return np.where(context >= 0, context + 0.01 * counts[:, None], -1).argmax(axis=0)


def span_scores(starts: np.ndarray, logits: list[np.ndarray], longest: int, max_context: bool) -> np.ndarray:
    """`scores[i, n]`, float32 [T, longest]: the logits of first and last of the n + 1 tokens from i on, added up.

    -inf where no window holds the span; the best of its scores where several do. No span is left out, where the
    original looks at those between the 20 best first and the 20 best last tokens of a window (run_squad.py:787-817).

    Args:
        starts: int [W] first token of each window.
        logits: of each window float [M, 2] start and end of its tokens of the context.
        longest: tokens of a span, at most.
        max_context: take a span from the window only in which its first token has most context (run_squad.py:799-800).
    """
    counts = np.array([len(window) for window in logits])
    width = min(longest, int(starts[-1] + counts[-1]))
    scores = np.full((starts[-1] + counts[-1], width), -np.inf, np.float32)
    owner = most_context(starts, counts) if max_context else None
    for number, (start, count, window) in enumerate(zip(starts, counts, logits, strict=True)):
        first = window[:, 0]
        if owner is not None:
            first = np.where(owner[start : start + count] == number, first, -np.inf)
        last = np.concatenate([window[:, 1], np.full(width - 1, -np.inf, np.float32)])
        part = scores[start : start + count]
        np.maximum(part, first[:, None] + np.lib.stride_tricks.sliding_window_view(last, width), out=part)
    return scores
