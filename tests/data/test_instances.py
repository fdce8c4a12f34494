import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import chisquare

from bert_jax.data.instances import (
    Instance,
    RecordPacker,
    document_instances,
    document_random,
    random_segment,
    truncate_pair,
)
from bert_jax.data.store import TokenStore


def stored(*documents: Sequence[int], dtype: str = "<u2") -> TokenStore:
    """Documents given by the lengths of their sentences; the tokens are 0, 1, 2 ... so that each is its position."""
    sentences = np.cumsum([0, *(length for document in documents for length in document)])
    return TokenStore(
        np.arange(sentences[-1], dtype=dtype), sentences, np.cumsum([0, *(len(document) for document in documents)])
    )


def built(
    store: TokenStore, document: int, seed: int = 0, max_seq_length: int = 128, short_seq_prob: float = 0.0, **options
) -> list[Instance]:
    rng = document_random(seed, "train", 0, document)
    options |= {"max_seq_length": max_seq_length, "short_seq_prob": short_seq_prob}
    return list(document_instances(store, document, rng, **options))


class Scripted(random.Random):
    """Draws given by hand: numbers for random(), and for randint() the value with the bounds it must be asked with."""

    def __init__(self, *draws: float | tuple[int, int, int]):
        super().__init__()
        self.draws = list(draws)

    def random(self) -> float:
        return self.draws.pop(0)

    def randint(self, a: int, b: int) -> int:
        low, high, value = self.draws.pop(0)
        assert (low, high) == (a, b)
        return value


def test_pairs_in_order_or_swapped_by_hand():
    """The draws of ALBERT's code: there is none for a random next, which a chunk of one sentence has nevertheless, and
    two segments are swapped before they are cut."""
    store = stored([4, 3, 5, 2, 9, 12], [6, 1, 7])  # sentences at 0-4-7-12-14-23-35, of document 1 from 35
    rng = Scripted(
        0.5,  # not short: the target is 13 - 3 = 10 tokens
        (1, 2, 1),  # the chunk is 4 + 3 + 5: A is its first sentence
        0.4,  # swapped
        *[0.2, 0.9],  # the 8 tokens of A, which were those of B, lose one in front and one at the back
        (1, 1, 1),  # the chunk is 2 + 9
        0.6,  # not swapped
        0.2,  # B loses its first token
        *[(0, 1, 1), (0, 2, 1)],  # the chunk is 12 alone: another document, from its second sentence on
        *[0.7, 0.7, 0.7],  # A 12 + B 1 > 10
    )
    found = list(document_instances(store, 0, rng, max_seq_length=13, short_seq_prob=0.1, pairs="order"))
    assert [tuple(map(int, instance)) for instance in found] == [
        (5, 11, 0, 4, 0, 0, 1, 0, 1),
        (12, 14, 15, 23, 0, 0, 1, 0, 0),
        (23, 32, 41, 42, 1, 0, 1, 0, 0),
    ]
    assert not rng.draws
    pack = RecordPacker(store, 100, 101)
    assert [np.frombuffer(pack(instance), "<u2")[0] for instance in found] == [1, 0, 1]


def test_half_of_the_pairs_are_swapped():
    """Of those that are two consecutive segments; both segments are of the text, and beside each other."""
    store, swapped = stored([4] * 9, [3] * 5), []
    for seed in range(1500):
        for instance in built(store, 0, seed, max_seq_length=23, pairs="order"):
            if not instance.random_next:
                a, b = instance[:2], instance[2:4]
                first, second = (b, a) if instance.swapped else (a, b)
                assert first[1] == second[0] and second[1] <= 36
                swapped.append(instance.swapped)
    assert len(swapped) >= 1500 and chisquare(np.bincount(swapped)).pvalue > 1e-3


def test_a_document_worked_through_by_hand():
    """The order of the original's draws and what each decides, from the first to the last (223-339)."""
    store = stored([4, 3, 5, 2], [6, 1, 7])  # sentences of document 0 at 0-4-7-12-14, of document 1 at 14-20-21-28
    rng = Scripted(
        0.5,  # not short: the target is 13 - 3 = 10 tokens
        (1, 2, 1),  # the chunk is 4 + 3 + 5 >= 10: A is its first sentence
        0.1,  # random next
        *[(0, 1, 0), (0, 1, 0), (0, 1, 1)],  # the third draw is another document
        (0, 2, 1),  # from its second sentence on: 1 + 7 tokens, as 10 - 4 are wanted
        *[0.2, 0.9],  # A 4 + B 8 > 10: two tokens go from B, one in front, one at the back
        (1, 2, 2),  # sentences 1 and 2 were put back: the chunk is 3 + 5 + 2, A is 3 + 5
        0.5,  # real next
    )
    instances = list(document_instances(store, 0, rng, max_seq_length=13, short_seq_prob=0.1))
    assert instances == [
        Instance(0, 4, 21, 27, random_next=True, same_document=False, truncated=True, short=False),
        Instance(4, 12, 12, 14, random_next=False, same_document=False, truncated=False, short=False),
    ]
    assert not rng.draws


def test_pairs_fit_with_their_three_special_tokens():
    """A and B together have at most max_seq_length - 3 tokens, and neither is empty (230, 301-302)."""
    generator = random.Random(0)
    store = stored(*([generator.randint(1, 60) for _ in range(30)] for _ in range(20)))
    for document in range(20):
        for a_start, a_stop, b_start, b_stop, *_ in built(store, document, max_seq_length=32, short_seq_prob=0.5):
            assert a_stop > a_start and b_stop > b_start
            assert a_stop - a_start + b_stop - b_start <= 29


def test_short_target_is_drawn_once_a_document_from_2_to_the_maximum():
    """All chunks of a document share one target length, uniform with both ends included (239-241)."""
    store, targets = stored([1] * 60, [1] * 60), Counter()
    for seed in range(2000):
        instances = built(store, 0, seed, max_seq_length=9, short_seq_prob=1.0)
        real = {i.b_stop - i.a_start for i in instances if not i.random_next and i.b_stop < 60}
        assert len(real) == 1 and all(instance.short for instance in instances)
        targets.update(real)
    assert sorted(targets) == [2, 3, 4, 5, 6]
    assert chisquare(list(targets.values())).pvalue > 1e-3


def test_share_of_short_documents_is_the_probability():
    """short_seq_prob is a chance per document (239)."""
    store = stored([1] * 20, [1] * 20)
    short = sum(built(store, 0, seed, 16, 0.1)[0].short for seed in range(4000))
    assert chisquare([short, 4000 - short], [400, 3600]).pvalue > 1e-3


def test_chunks_are_whole_sentences_until_the_target_and_a_any_but_the_last():
    """A ends after the first to the last but one sentence of the chunk, all equally likely (252-266)."""
    store, ends = stored([2, 2, 2, 2, 2], [1]), Counter()
    for seed in range(3000):
        first = built(store, 0, seed, max_seq_length=3 + 10)[0]  # 10 tokens are reached with the fifth sentence
        assert first.random_next or first.b_stop == 10
        ends[first.a_stop] += 1
    assert sorted(ends) == [2, 4, 6, 8]
    assert chisquare(list(ends.values())).pvalue > 1e-3


def test_half_of_the_pairs_are_random_and_all_of_single_sentences():
    """A fair coin where there are two sentences, always random where there is one (271)."""
    store = stored([5, 5], [20], [1])
    labels = [built(store, 0, seed, max_seq_length=13)[0].random_next for seed in range(4000)]
    assert chisquare([sum(labels), 4000 - sum(labels)]).pvalue > 1e-3
    assert all(instance.random_next for seed in range(50) for instance in built(store, 1, seed, max_seq_length=13))


def test_random_segment_starts_anywhere_in_another_document_and_reaches_the_target():
    """Documents and start sentences are uniform; whole sentences follow up to the target or the document's end."""
    store, found = stored([3], [2, 3, 4], [1, 1, 1]), Counter()
    rng = random.Random(0)
    for _ in range(6000):
        start, stop, same = random_segment(store, 0, 4, rng)
        assert not same
        found[start, stop] += 1
    assert set(found) == {(3, 8), (5, 12), (8, 12), (12, 15), (13, 15), (14, 15)}
    assert chisquare(list(found.values())).pvalue > 1e-3
    assert random_segment(store, 0, -2, Scripted((0, 2, 1), (0, 2, 0))) == (3, 5, False)  # at least one sentence


def test_tenth_draw_counts_even_if_it_is_the_same_document():
    """Ten draws avoid the own document; the only document of a corpus serves itself (279-282)."""
    unlucky = Scripted(*[(0, 1, 0)] * 10, (0, 1, 1))
    assert random_segment(stored([1, 2], [3]), 0, 5, unlucky) == (1, 3, True)
    assert all(i.same_document for i in built(stored([4] * 9), 0, max_seq_length=11) if i.random_next)


def test_unused_sentences_are_put_back():
    """Where nothing is cut, A and the real B together are the whole document, in order and once (290-293)."""
    store, randoms = stored([1] * 200, [1] * 50), 0  # sentences of one token fit exactly
    for seed in range(20):
        position = 0
        for instance in built(store, 0, seed, max_seq_length=24):
            assert not instance.truncated and instance.a_start == position
            randoms += instance.random_next
            position = instance.a_stop if instance.random_next else instance.b_stop
        assert position == 200
    assert randoms > 100


def test_truncation_takes_from_the_longer_and_from_b_when_equal():
    """One token at a time, from the front or the back by the coin (418-433)."""
    assert truncate_pair(0, 6, 10, 13, 7, Scripted(0.4, 0.6)) == (1, 5, 10, 13)
    assert truncate_pair(0, 4, 10, 14, 5, Scripted(0.6, 0.4, 0.4)) == (1, 4, 11, 13)
    assert truncate_pair(0, 4, 10, 14, 7, Scripted(0.4)) == (0, 4, 11, 14)
    assert truncate_pair(0, 4, 10, 14, 8, Scripted()) == (0, 4, 10, 14)


def test_front_and_back_are_cut_equally_often():
    """Each dropped token has its own fair coin."""
    rng = random.Random(0)
    front = Counter(truncate_pair(0, 9, 20, 22, 8, rng)[0] for _ in range(4000))  # 3 tokens go from A
    assert chisquare([front[n] for n in range(4)], [500, 1500, 1500, 500]).pvalue > 1e-3


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_record_is_label_first_length_and_ids(dtype):
    """[CLS] A [SEP] B [SEP] behind uint16 label (1 = random next) and uint16 tokens of segment 0 (304-319, 130)."""
    pack = RecordPacker(stored([5, 5], dtype=dtype), cls_id=101, sep_id=102)
    record = pack(Instance(1, 3, 6, 9, random_next=True, same_document=False, truncated=False, short=False))
    assert np.frombuffer(record[:4], "<u2").tolist() == [1, 4]
    assert np.frombuffer(record[4:], dtype).tolist() == [101, 1, 2, 102, 6, 7, 8, 102]
    real = pack(Instance(0, 1, 1, 2, random_next=False, same_document=False, truncated=False, short=False))
    assert np.frombuffer(real[:4], "<u2").tolist() == [0, 3]


def test_draws_depend_on_seed_split_repeat_and_document_alone():
    """The same four give the same draws, and each of them changes the draws."""
    draws = {
        key: document_random(*key).random()
        for key in [(1, "train", 0, 0), (2, "train", 0, 0), (1, "valid", 0, 0), (1, "train", 1, 0), (1, "train", 0, 1)]
    }
    assert len(set(draws.values())) == 5
    assert all(document_random(*key).random() == draw for key, draw in draws.items())
