"""Pre-training instances: pairs of segments, for next sentence prediction built as BERT's original builds them.

The rules and their order are those of google-research/bert `create_pretraining_data.py`, whose lines are cited. Masking
is not done here: it happens on the device, in the MLM objective. An instance is a pair of slices of the token store, so
that no token is copied before the record is written.
"""

import random
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from bert_jax.data.store import TokenStore

SPECIAL_TOKENS = 3  # [CLS] A [SEP] B [SEP], create_pretraining_data.py:230
SHORTEST_SEQUENCE = SPECIAL_TOKENS + 2  # one token in each segment: the smallest length for which the draws exist
RANDOM_DOCUMENT_DRAWS = 10  # create_pretraining_data.py:279
# What the label of a pair says. next: whether B is from elsewhere. order: whether A and B, consecutive, were swapped
# (Lan et al. 2019, arXiv 1909.11942, section 3.1; google-research/albert `create_pretraining_data.py`).
Pairs = Literal["next", "order"]
HEADER_BYTES = 4  # of a record: uint16 pair label, uint16 length of segment A with its [CLS] and [SEP]


class Instance(NamedTuple):
    """Segment A is `tokens[a_start:a_stop]` of the store, segment B `tokens[b_start:b_stop]`."""

    a_start: int
    a_stop: int
    b_start: int
    b_stop: int
    random_next: bool  # B is not what follows A: label 1 (create_pretraining_data.py:130)
    same_document: bool  # the random B was drawn from A's own document after all
    truncated: bool  # tokens were dropped to fit the maximum length
    short: bool  # the target length of the document was drawn short
    swapped: bool = False  # A is what follows B: label 1, too


def document_random(seed: int, split: str, repeat: int, document: int) -> random.Random:
    """The random draws of one document in one repeat: no other document, order or process changes them."""
    return random.Random(f"{seed}/{split}/{repeat}/{document}")


def document_instances(
    store: TokenStore,
    document: int,
    rng: random.Random,
    *,
    max_seq_length: int,
    short_seq_prob: float,
    pairs: Pairs = "next",
) -> Iterator[Instance]:
    """The instances of one document, in the order of its text (create_pretraining_data.py:223-339).

    Args:
      store: the split's documents; the random segments come from them too.
      document: index of the document in the store.
      rng: its draws, in the original's order without those for masking.
      max_seq_length: tokens of a sequence with its three special tokens, at least 5.
      short_seq_prob: chance that the whole document is cut to a shorter target length.
      pairs: what the label says. For `order`, as in ALBERT's code, half of the pairs are swapped; a chunk of one
        sentence, which has no second segment, still gets a random one, and label 1.
    """
    max_tokens = max_seq_length - SPECIAL_TOKENS
    target, short = max_tokens, False
    if rng.random() < short_seq_prob:  # once a document, not once an instance: 239-241
        target, short = rng.randint(2, max_tokens), True

    first, last = store.documents[document : document + 2].tolist()
    bounds = store.sentences[first : last + 1].tolist()  # sentence i of the document is bounds[i] to bounds[i + 1]
    count = last - first
    start = 0  # first sentence of the chunk
    while start < count:
        # Whole sentences until the target is reached or the document ends: 252-258.
        stop = start + 1
        while stop < count and bounds[stop] - bounds[start] < target:
            stop += 1
        # A takes at least one of them and leaves at least one, where there are two: 259-263.
        split = start + (rng.randint(1, stop - start - 1) if stop - start >= 2 else 1)
        a_start, a_stop = bounds[start], bounds[split]
        same_document = False
        # A chunk of one sentence always gets a random next, so that more than half of all pairs do: 271.
        random_next = stop - start == 1 or (pairs == "next" and rng.random() < 0.5)
        swapped = not random_next and pairs == "order" and rng.random() < 0.5
        if random_next:
            b_start, b_stop, same_document = random_segment(store, document, target - (a_stop - a_start), rng)
            start = split  # the sentences that B would have had are put back: 290-293
        else:
            b_start, b_stop = a_stop, bounds[stop]
            start = stop
        if swapped:
            a_start, a_stop, b_start, b_stop = b_start, b_stop, a_start, a_stop
        truncated = (a_stop - a_start) + (b_stop - b_start) > max_tokens
        if truncated:
            a_start, a_stop, b_start, b_stop = truncate_pair(a_start, a_stop, b_start, b_stop, max_tokens, rng)
        yield Instance(a_start, a_stop, b_start, b_stop, random_next, same_document, truncated, short, swapped)


def random_segment(store: TokenStore, document: int, target: int, rng: random.Random) -> tuple[int, int, bool]:
    """A random stretch of whole sentences of, if possible, another document (create_pretraining_data.py:277-289).

    Args:
      store: where to draw from.
      document: the document to avoid; ten draws are made, and the last one counts even if it is this one.
      target: tokens wanted; may be 0 or less, and then one sentence is taken.
      rng: random draws.

    Returns:
      (start, stop) in `store.tokens`, and whether it is the document to avoid.
    """
    for _ in range(RANDOM_DOCUMENT_DRAWS):
        other = rng.randint(0, len(store.documents) - 2)
        if other != document:
            break
    first, last = store.documents[other : other + 2].tolist()
    begin = stop = first + rng.randint(0, last - first - 1)
    start = int(store.sentences[begin])
    while stop < last:
        stop += 1
        if store.sentences[stop] - start >= target:
            break
    return start, int(store.sentences[stop]), other == document


def truncate_pair(
    a_start: int, a_stop: int, b_start: int, b_stop: int, max_tokens: int, rng: random.Random
) -> tuple[int, int, int, int]:
    """Drops tokens until both segments together have `max_tokens` (create_pretraining_data.py:418-433).

    One at a time from the longer segment, from B where they are equal; its first or its last token with equal chance.
    Fine-tuning truncates otherwise, always at the end: that is the tokenizer's `encode_pair`.
    """
    a, b, draw = a_stop - a_start, b_stop - b_start, rng.random
    for _ in range(a + b - max_tokens):
        if a > b:
            a -= 1
            a_start += draw() < 0.5
        else:
            b -= 1
            b_start += draw() < 0.5
    return a_start, a_start + a, b_start, b_start + b


class RecordPacker:
    """Turns instances of one store into records: uint16 [pair label, length of A with its [CLS] and [SEP]], then ids.

    Args:
      store: where the instances' tokens are.
      cls_id, sep_id: ids of the special tokens.
    """

    def __init__(self, store: TokenStore, cls_id: int, sep_id: int) -> None:
        self._dtype = store.tokens.dtype
        self._tokens = memoryview(store.tokens).cast("B")
        self._cls = np.array([cls_id], self._dtype).tobytes()
        self._sep = np.array([sep_id], self._dtype).tobytes()

    def __call__(self, instance: Instance) -> bytes:
        """`[CLS] A [SEP] B [SEP]` behind its header (create_pretraining_data.py:304-319)."""
        size = self._dtype.itemsize
        header = int(instance.random_next or instance.swapped) | (instance.a_stop - instance.a_start + 2) << 16
        a = self._tokens[instance.a_start * size : instance.a_stop * size]
        b = self._tokens[instance.b_start * size : instance.b_stop * size]
        return b"".join((header.to_bytes(HEADER_BYTES, "little"), self._cls, a, self._sep, b, self._sep))
