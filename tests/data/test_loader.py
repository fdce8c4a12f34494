"""Batches: a pure function of seed and step, every example once an epoch, and once an evaluation."""

import numpy as np
import pytest

from bert_jax.data.corpus import Corpus
from bert_jax.data.loader import EvaluationBatches, TrainingBatches, stream


class Numbers:
    """A source whose examples are their indices."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def read(self, indices):
        return {"example": np.asarray(indices, np.uint32), "square": np.asarray(indices, np.int32) ** 2}


def examples(batches, steps):
    return np.concatenate([batches[step]["example"] for step in steps])


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name, strict=True)


def test_a_batch_is_a_function_of_seed_and_step():
    """Neither the order of asking nor what was asked before changes a batch: continuing needs the step alone."""
    batches, again = TrainingBatches(Numbers(50), 8, seed=3), TrainingBatches(Numbers(50), 8, seed=3)
    forward = [batches[step] for step in range(20)]
    for step in reversed(range(20)):
        assert_same(again[step], forward[step])
    assert forward[0]["weight"].dtype == np.float32 and (forward[0]["weight"] == 1).all()
    other = TrainingBatches(Numbers(50), 8, seed=4)
    assert (examples(other, range(5)) != examples(batches, range(5))).any()


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_every_example_once_an_epoch(seed):
    """Epochs follow one another without a seam, each a complete and another permutation."""
    batches = TrainingBatches(Numbers(30), 8, seed)
    epochs = examples(batches, range(15)).reshape(4, 30)  # 15 batches of 8 are 4 epochs of 30
    assert (np.sort(epochs, axis=1) == np.arange(30)).all()
    for i in range(4):
        assert (epochs[i] != np.arange(30)).any()
        assert all((epochs[i] != epochs[j]).any() for j in range(i))


def test_a_source_smaller_than_a_batch():
    """Several epochs in one batch."""
    batch = TrainingBatches(Numbers(3), 8, seed=0)[0]
    assert np.bincount(batch["example"]).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_the_rows_of_processes_make_up_the_global_batch():
    """Any number of processes sees the same run."""
    whole = TrainingBatches(Numbers(50), 8, seed=3)
    parts = [TrainingBatches(Numbers(50), 8, 3, slice(start, start + 2)) for start in range(0, 8, 2)]
    for step in (0, 7, 100):
        wanted = whole[step]
        got = [part[step] for part in parts]
        assert_same({name: np.concatenate([rows[name] for rows in got]) for name in wanted}, wanted)


def test_the_stream_equals_indexing(tiny_corpus):
    """Read ahead in threads, in order, from any step; of a real corpus, whose readers the threads share."""
    batches = TrainingBatches(Corpus(tiny_corpus), 16, seed=0)
    streamed = list(stream(batches.__getitem__, 5, 65))
    assert len(streamed) == 60
    for step, batch in enumerate(streamed, 5):
        assert_same(batch, batches[step])
    assert list(stream(batches.__getitem__, 7, 7)) == []


def test_an_error_in_the_source_reaches_the_loop():
    """It is raised from the stream, not lost in a thread."""

    class Broken(Numbers):
        def read(self, indices):
            raise ValueError("record 7 is damaged")

    with pytest.raises(ValueError, match="record 7 is damaged"):
        next(stream(TrainingBatches(Broken(10), 2, 0).__getitem__, 0, 3))


def test_no_examples():
    """Said before the first batch."""
    with pytest.raises(ValueError, match="no training examples"):
        TrainingBatches(Numbers(0), 2, 0)


@pytest.mark.parametrize(("size", "weights"), [(10, [4, 4, 2]), (8, [4, 4]), (3, [3])])
def test_an_evaluation_counts_every_example_once(size, weights):
    """In order; every batch has the same rows, and those that fill up the last one weigh nothing."""
    batches = list(EvaluationBatches(Numbers(size), 4))
    assert [batch["weight"].sum() for batch in batches] == weights
    assert all(len(batch[name]) == 4 for batch in batches for name in ("example", "square", "weight"))
    assert {batch["weight"].dtype.name for batch in batches} == {"float32"}
    counted = np.concatenate([batch["example"][batch["weight"] > 0] for batch in batches])
    assert counted.tolist() == list(range(size))
