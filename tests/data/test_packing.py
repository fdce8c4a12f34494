"""Plans of packed batches: every token has one place, sequences stay whole, little is wasted, and shapes are few."""

import numpy as np
import pytest

from bert_jax.data.packing import Layout, best_fit, padded_length, plan, row_count


def test_padded_lengths():
    """Powers of two and half as much again, up to the longest; at most a third of a row is padding, or 15 tokens."""
    lengths = range(1, 513)
    padded = [padded_length(length, 512) for length in lengths]
    assert sorted(set(padded)) == [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    assert all(length <= to and to - length <= max(15, to / 3) for length, to in zip(lengths, padded, strict=True))
    assert [padded_length(length, 40) for length in (5, 24, 33, 40)] == [16, 24, 40, 40]
    assert padded_length(7, 10) == 10


def test_row_counts():
    """Less than an eighth of the rows is empty, of up to 16 none; a batch of 256 rows has 48 counts at most."""
    counts = {rows: row_count(rows) for rows in range(1, 257)}
    assert all(rows <= to and 8 * (to - rows) < to for rows, to in counts.items())
    assert all(counts[rows] == rows for rows in range(1, 17))
    assert len(set(counts.values())) == 48 and counts[17] == 18 and counts[129] == 144
    assert all(row_count(to) == to for to in counts.values())


def random_lengths(seed):
    """(lengths [B], columns, width, groups): few and many, short and long, of one kind and of two, with empty ones."""
    rng = np.random.default_rng(seed)
    groups, width = int(rng.choice([1, 2, 3, 8])), int(rng.choice([8, 31, 96, 512]))
    rows = groups * int(rng.integers(1, 33))
    longest = int(rng.integers(1, width + 1))
    lengths = rng.integers(rng.choice([0, 1, longest]), longest + 1, rows)
    if rng.random() < 0.3:
        lengths[rng.random(rows) < 0.5] = width
    return lengths.astype(np.int32), width + int(rng.choice([0, 5])), width, groups


@pytest.mark.parametrize("seed", range(60))
def test_every_token_has_one_place(seed):
    """Each token of each sequence stands once, in the group of its part of the batch, in one row with its sequence,
    next to the one before it; all other places hold nothing. Never more rows than sequences have, up to rounding."""
    lengths, columns, width, groups = random_lengths(seed)
    packing = plan(lengths, columns, width, groups)
    rows = packing.shape[1]
    assert packing.shape == (groups, rows, width) and packing.dtype == np.int32 and row_count(rows) == rows
    parts = lengths.reshape(groups, -1)
    most = max(max(-(-part.sum() // width), 1) for part in parts)
    assert most <= rows <= row_count(parts.shape[1])
    for own, part in zip(packing, parts, strict=True):
        wanted = [b * columns + place for b, length in enumerate(part) for place in range(length)]
        assert sorted(own[own >= 0].tolist()) == wanted
        row, column = np.nonzero(own >= 0)
        place = {token: (r, c) for token, r, c in zip(own[row, column].tolist(), row, column, strict=True)}
        for b, length in enumerate(part):
            r, c = place[b * columns] if length else (0, 0)
            assert [place[b * columns + i] for i in range(length)] == [(r, c + i) for i in range(length)]


def test_best_fit_by_hand():
    """The longest first, into the fullest row that takes it: 5 3 | 4 4 fill two rows of 8; 2 and 1 open a third."""
    rows, columns, count = best_fit(np.array([2, 4, 5, 0, 4, 3, 1]), 8)
    assert count == 3
    assert [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)] == [
        (2, 0), (1, 0), (0, 0), (0, 0), (1, 4), (0, 5), (2, 2)
    ]  # fmt: skip


@pytest.mark.parametrize(("rows", "width", "least", "shapes"), [(32, 64, 0.8, 8), (256, 128, 0.9, 8)])
def test_little_is_wasted_in_few_shapes(rows, width, least, shapes):
    """Of 200 batches of sequences a quarter as long as the width, on average."""
    rng = np.random.default_rng(0)
    used, places, seen = 0, 0, set()
    for _ in range(200):
        lengths = np.minimum(rng.geometric(4 / width, rows) + 2, width)
        packing = plan(lengths, width, width)
        used, places = used + lengths.sum(), places + packing.size
        seen.add(packing.shape)
    assert used / places > least and len(seen) <= shapes


# ---- layouts of whole batches ----------------------------------------------------------------------------------------

WIDTH = 64


def batch_of(lengths, weight=1.0, width=WIDTH):
    """With labels that happen to have as many columns as there are tokens."""
    lengths, rng = np.array(lengths, np.int32), np.random.default_rng(0)
    real = np.arange(width) < lengths[:, None]
    return {
        "tokens": np.where(real, rng.integers(1, 9, real.shape), 0).astype(np.int32),
        "segments": np.zeros(real.shape, np.int32),
        "tags": np.where(real, 1, -1).astype(np.int32),
        "targets": rng.random(real.shape, np.float32),
        "lengths": lengths,
        "weight": np.broadcast_to(np.float32(weight), lengths.shape),
    }


def test_trimmed():
    """To the next of few widths; of several batches together to that of them all. What is no token is not cut."""
    short, long = batch_of([3, 20, 7]), batch_of([40, 2, 1])
    (alone,) = Layout("trimmed", WIDTH)([short])
    assert {name: alone[name].shape[1] for name in ("tokens", "segments", "tags")} == dict.fromkeys(
        ("tokens", "segments", "tags"), 24
    )
    np.testing.assert_array_equal(alone["tokens"], short["tokens"][:, :24])
    np.testing.assert_array_equal(alone["targets"], short["targets"])
    together = Layout("trimmed", WIDTH)([short, long])
    assert [batch["tokens"].shape[1] for batch in together] == [48, 48]
    assert Layout("full", WIDTH)([short])[0].keys() == short.keys()
    assert Layout("full", WIDTH)([short])[0]["tokens"].shape == (3, WIDTH)


def test_packed():
    """The batch keeps its rows, cut to the width of the packed ones, and gains the plan."""
    lengths = [3, 20, 7, 40, 2, 1, 9, 30]
    (batch,) = Layout("packed", 48, groups=2)([batch_of(lengths)])
    assert batch["tokens"].shape == (8, 48) and batch["targets"].shape == (8, WIDTH)
    np.testing.assert_array_equal(batch["packing"], plan(np.array(lengths), 48, 48, 2))


def test_batches_that_are_computed_together_have_one_shape():
    """As many rows as the longest of the plans; the others have empty ones, and keep their places."""
    short, long = batch_of([8] * 8), batch_of([40] * 4 + [8] * 4)
    layout = Layout("packed", WIDTH)
    alone, together = [layout([batch])[0]["packing"] for batch in (short, long)], layout([short, long])
    assert [own.shape[1] for own in alone] == [1, 4]
    for own, batch in zip(alone, together, strict=True):
        assert batch["packing"].shape == (1, 4, WIDTH)
        np.testing.assert_array_equal(batch["packing"][:, : own.shape[1]], own)
        assert (batch["packing"][:, own.shape[1] :] == -1).all()


def test_what_packing_does_not_help_is_trimmed():
    """Long rows, or one row for each device, where packed ones have no fewer places; for all that are together."""
    for batch, groups in ((batch_of([60] * 4), 1), (batch_of([9, 9, 9, 9]), 4)):
        (found,) = Layout("packed", WIDTH, groups)([batch])
        assert "packing" not in found
        assert found["tokens"].shape == Layout("trimmed", WIDTH)([batch])[0]["tokens"].shape
    assert all("packing" not in batch for batch in Layout("packed", WIDTH)([batch_of([60] * 4), batch_of([9] * 4)]))


def test_filler_rows_are_not_packed():
    """A row of weight 0 has no place."""
    lengths = np.array([20, 20, 20, 20])
    (batch,) = Layout("packed", WIDTH)([batch_of(lengths, weight=[1, 1, 0, 0])])
    np.testing.assert_array_equal(batch["packing"], plan(np.array([20, 20, 0, 0]), WIDTH, WIDTH))


def test_the_width_is_that_of_the_longest_row_of_the_source():
    """Where the source knows its lengths; else of the longest that it may have."""

    class Source:
        max_length = 128

    assert Layout.of(Source(), "packed", 2) == Layout("packed", 128, 2)
    Source.lengths = np.array([5, 33, 7])
    assert Layout.of(Source(), "packed").width == 48
