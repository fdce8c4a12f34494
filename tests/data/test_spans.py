"""Windows of a context and the scores of its spans, beside the same written out as loops."""

import numpy as np
import pytest

from bert_jax.data.spans import covering_tokens, most_context, span_scores, windows
from bert_jax.text.wordpiece import WordPiece

TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"])
CLS, SEP = TOKENIZER.cls_id, TOKENIZER.sep_id


def test_windows():
    """As many tokens as fit, the stride apart, the last one shorter; every one with the whole question."""
    found = windows(TOKENIZER, np.array([5]), np.arange(6, 15), max_length=8, stride=3)
    assert [(start, encoding.ids.tolist()) for start, encoding in found] == [
        (0, [CLS, 5, SEP, 6, 7, 8, 9, SEP]),
        (3, [CLS, 5, SEP, 9, 10, 11, 12, SEP]),
        (6, [CLS, 5, SEP, 12, 13, 14, SEP]),
    ]
    assert found[2][1].segments.tolist() == [0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("tokens", [1, 4, 5, 8, 9, 30])
@pytest.mark.parametrize("stride", [1, 3, 4, 9])
def test_windows_hold_every_token(tokens, stride):
    """A stride that is longer than a window is shortened to it; no window lies within another."""
    found = windows(TOKENIZER, np.array([5]), np.arange(tokens), max_length=8, stride=stride)
    ends = [start + len(encoding.ids) - 4 for start, encoding in found]
    covered = {i for (start, _), end in zip(found, ends, strict=True) for i in range(start, end)}
    assert covered == set(range(tokens))
    assert ends[-1] == tokens and ends == sorted(set(ends))


def test_the_tokens_of_an_answer():
    """All that have one of its characters: white space beside it is none, a part of a token counts."""
    offsets = TOKENIZER.encode("a bc  d.e").offsets
    assert offsets.tolist() == [[0, 1], [2, 4], [6, 7], [7, 8], [8, 9]]
    for start, end, wanted in [
        (0, 1, (0, 0)),
        (2, 4, (1, 1)),
        (2, 3, (1, 1)),
        (3, 7, (1, 2)),
        (1, 6, (1, 1)),
        (6, 9, (2, 4)),
        (4, 6, None),
    ]:
        assert covering_tokens(offsets, start, end) == wanted


def test_most_context():
    """Windows of 0-5, 2-7 and 4-8: each token where fewer tokens are on neither side; a tie goes to the longer window,
    then to the earlier."""
    found = most_context(np.array([0, 2, 4]), np.array([6, 6, 5]))
    assert found.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    # Of token 4 there are (4, 1), (2, 3), (0, 4) tokens beside it; of token 6 (4, 1) and (2, 2).
    assert most_context(np.array([0]), np.array([3])).tolist() == [0, 0, 0]


@pytest.mark.parametrize("max_context", [False, True])
@pytest.mark.parametrize("longest", [1, 3, 50])
def test_span_scores(longest, max_context):
    """Every span that is short enough and in a window, from the window that counts or with its best score."""
    rng = np.random.default_rng(longest)
    starts, counts, tokens = np.array([0, 3, 6, 9]), np.array([6, 6, 6, 4]), 13
    logits = [rng.normal(size=(count, 2)).astype(np.float32) for count in counts]
    wanted = {}
    for window, (start, count) in enumerate(zip(starts, counts, strict=True)):
        for i in range(start, start + count):
            # The original's rule for one token, in full.
            holding = [w for w in range(4) if starts[w] <= i < starts[w] + counts[w]]
            context = [min(i - starts[w], starts[w] + counts[w] - 1 - i) + 0.01 * counts[w] for w in holding]
            if max_context and holding[int(np.argmax(context))] != window:
                continue
            for j in range(i, min(start + count, i + longest)):
                score = logits[window][i - start, 0] + logits[window][j - start, 1]
                wanted[i, j - i] = max(score, wanted.get((i, j - i), -np.inf))
    found = span_scores(starts, logits, longest, max_context)
    assert found.shape == (tokens, min(longest, tokens))
    assert {(int(i), int(n)): found[i, n] for i, n in zip(*np.isfinite(found).nonzero(), strict=True)} == wanted
