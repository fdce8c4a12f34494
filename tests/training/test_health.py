"""Runs that learned nothing are named, and no others."""

import math

import pytest

from bert_jax.training.health import degenerate, is_loss

BASELINES = {"mlm/loss": 3.0, "mlm/accuracy": 0.2, "nsp/loss": 0.69, "nsp/accuracy": 0.5}


def test_a_head_that_is_not_there_is_not_judged():
    """A corpus knows baselines of next sentences, also for a run of masked words alone."""
    assert degenerate({"valid/mlm/loss": 2.0, "valid/mlm/accuracy": 0.4}, {"valid": BASELINES}) is None
    both = {"valid/mlm/accuracy": 0.4, "valid/nsp/accuracy": 0.5}
    assert degenerate(both, {"valid": BASELINES}) == (
        "valid/nsp is no better than without looking at the input: nsp/accuracy 0.5000"
    )


@pytest.mark.parametrize(
    ("metrics", "named"),
    [
        ({"a/h/accuracy": 0.6, "b/h/accuracy": 0.6}, None),
        ({"a/h/accuracy": 0.6, "b/h/accuracy": 0.3}, "b/h"),
        ({"a/h/accuracy": math.nan, "b/h/accuracy": 0.6}, "a/h"),
        ({"a/h/accuracy": 0.5, "b/h/accuracy": 0.6}, "a/h"),
    ],
)
def test_several_held_out_sets(metrics, named):
    """Each against its own baseline; as good is no better, and neither is what is no number."""
    found = degenerate(metrics, {"a": {"h/accuracy": 0.5}, "b": {"h/accuracy": 0.4}})
    assert found is None if named is None else found.startswith(f"{named} is no better")


def test_losses_count_only_alone():
    """A good loss does not excuse answers no better than one class; where there is only a loss, it counts."""
    both = {"h/accuracy": 0.5, "h/loss": 1.0}
    assert degenerate({"v/h/accuracy": 0.5, "v/h/loss": 0.5}, {"v": both}) is not None
    assert degenerate({"v/h/loss": 0.5}, {"v": {"h/loss": 1.0}}) is None
    assert degenerate({"v/h/loss": 1.0}, {"v": {"h/loss": 1.0}}) is not None


def test_of_which_metrics_less_is_better():
    """By the last component of their names."""
    assert all(map(is_loss, ("valid/mlm/loss", "loss", "a/b/mse", "perplexity")))
    assert not any(map(is_loss, ("valid/loss/accuracy", "a/f1")))
