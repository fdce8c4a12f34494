"""Replaced-token detection: the loss and what is counted, against arithmetic by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.models.encoded import Encoded
from bert_jax.objectives.rtd import Rtd

LOGITS = np.array([[2.0, -1.0, 0.5, 9.0], [-3.0, 1.0, -0.5, -9.0]], np.float32)
REPLACED = np.array([[1, 0, 0, 0], [0, 1, 1, 1]], bool)
REAL = np.array([[1, 1, 1, 0], [1, 1, 1, 0]], bool)


def metrics_of(batch, logits=LOGITS):
    """Of an encoder whose hidden state is the logit: a head that hands it on."""
    head = Rtd(activation="relu")
    encoded = Encoded(jnp.stack([logits, -logits], axis=-1), None, jnp.zeros((3, 2)), {})
    params = {
        "hidden": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)},
        "output": {"kernel": jnp.array([[1.0], [-1.0]]), "bias": jnp.zeros(1)},
    }
    return jax.jit(lambda batch: head.apply({"params": params}, encoded, batch, False))(
        jax.tree.map(jnp.asarray, {"replaced": REPLACED, "weight": np.ones(2, np.float32)} | batch)
    )


@pytest.mark.parametrize("batch", [{"lengths": np.array([3, 3])}, {"sequence_ids": REAL.astype(np.int32)}])
def test_by_hand(batch):
    """Cross-entropy of two classes and shares, over the tokens but not over padding, right-padded or by ids."""
    found = metrics_of(batch)
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    losses = -np.log(np.where(REPLACED, p, 1 - p))[REAL]
    np.testing.assert_allclose(found["loss"].total, losses.sum(), rtol=1e-6)
    # Called replaced: 2.0 rightly, 0.5 wrongly, 1.0 rightly; missed: -0.5.
    expected = {"accuracy": 4, "replaced": 3, "called": 3, "found": 2}
    assert {name: float(found[name].total) for name in expected} == expected
    assert {float(mean.count) for mean in found.values()} == {6.0}


def test_rows_that_fill_up_the_batch():
    """A row of weight 0 counts nothing, whatever is in it; without lengths every token counts."""
    logits = LOGITS.copy()
    logits[1] = np.nan
    found = metrics_of({"weight": np.array([1.0, 0.0], np.float32)}, logits)
    assert float(found["accuracy"].count) == 4 and float(found["accuracy"].total) == 2
    assert np.isfinite(found["loss"].total)


def test_the_head():
    """A layer with its activation, and one number for each token."""
    states = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 6)), jnp.float32)
    encoded = Encoded(states, None, jnp.zeros((2, 6)), {})
    variables = nn.unbox(Rtd("relu").init(jax.random.key(0), encoded, method="outputs"))
    params = jax.tree.map(lambda leaf: leaf + 0.3, variables["params"])
    found = Rtd("relu").apply({"params": params}, encoded, method="outputs")["rtd_logits"]
    hidden = np.maximum(states @ params["hidden"]["kernel"] + params["hidden"]["bias"], 0)
    np.testing.assert_allclose(
        found, (hidden @ params["output"]["kernel"] + params["output"]["bias"])[..., 0], rtol=1e-5
    )
