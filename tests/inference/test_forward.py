"""Rows of any length in batches of a few shapes."""

import numpy as np
import pytest

from bert_jax.inference import forward
from bert_jax.text.tokenizer import Encoding


def encoding(*ids):
    return Encoding(np.array(ids, np.int32), np.zeros((len(ids), 2), np.int32), np.arange(len(ids), dtype=np.int32) % 2)


def test_rows_of_a_batch(monkeypatch):
    """Of about as many tokens whatever their length, and more where there is an accelerator; at least one row."""
    assert [forward.batch_rows(length) for length in (16, 24, 512, 768)] == [32, 21, 1, 1]
    monkeypatch.setattr(forward.jax, "default_backend", lambda: "gpu")
    assert forward.batch_rows(512) == 32


def test_batches(monkeypatch):
    """Each length has one shape, rows come back in their order, filler rows are left out, padding is zero."""
    monkeypatch.setattr(forward, "CPU_TOKENS", 48)
    encodings = [encoding(*range(1, n + 1)) for n in (3, 20, 16, 17, 2, 24, 5, 1)]
    seen = []

    def step(batch):
        seen.append(batch["tokens"].shape)
        assert sorted(batch) == ["lengths", "positions_wanted", "segments", "tokens"]
        real = np.arange(batch["tokens"].shape[1]) < batch["lengths"][:, None]
        assert (batch["lengths"] >= 1).all() and (batch["tokens"][~real] == 0).all()
        assert (batch["segments"] == real * (np.arange(batch["tokens"].shape[1]) % 2)).all()
        return batch["tokens"].sum(axis=1), np.stack([batch["lengths"], batch["positions_wanted"][:, 0]], axis=1)

    which = np.array([0, 1, 2, 3, 4, 5, 6, 7, 0])
    positions = np.arange(9, dtype=np.int32)[:, None]
    found = forward.run(step, encodings, 24, which, positions)
    assert [(int(total), pair.tolist()) for total, pair in found] == [
        (n * (n + 1) // 2, [n, i]) for i, n in enumerate((3, 20, 16, 17, 2, 24, 5, 1, 3))
    ]
    assert seen == [(2, 24), (2, 24), (3, 16), (3, 16)]
    assert forward.run(step, [], 24) == []


def test_lengths_between_where_there_is_work_for_them(monkeypatch):
    """Many rows are padded to finer lengths, few are not; a batch is filled with shorter rows; and never longer than
    the model takes."""
    monkeypatch.setattr(forward, "CPU_TOKENS", 80)

    def shapes(counts, longest=40):
        rows = [encoding(*range(1, n + 1)) for n, count in counts.items() for _ in range(count)]
        seen = []
        found = forward.run(lambda batch: seen.append(batch["tokens"].shape) or batch["lengths"], rows, longest)
        assert [int(n) for n in found] == [len(row.ids) for row in rows]
        return seen

    assert shapes({38: 3, 20: 3}) == [(2, 40), (2, 40), (3, 24)]
    assert shapes({38: 3, 35: 13, 20: 3}) == [(2, 40)] * 2 + [(2, 36)] * 6 + [(3, 24)]
    assert shapes({3: 20, 5: 20}) == [(13, 6)] * 2 + [(20, 4)]


def test_rows_of_one_array():
    """A step that returns an array gives arrays; without `which` each encoding is a row."""
    found = forward.run(lambda batch: batch["tokens"][:, :2], [encoding(7, 8, 9), encoding(1)], 16)
    assert [row.tolist() for row in found] == [[7, 8], [1, 0]]


def test_what_a_step_raises_comes_through():
    """Nothing is swallowed."""
    with pytest.raises(ZeroDivisionError):
        forward.run(lambda batch: 1 / 0, [encoding(1)], 16)
