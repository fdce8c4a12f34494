"""One encoder under several objectives: the sum of their losses, and whose random bits are whose."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.nn.losses import Mean
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp

V, B, L = 40, 6, 12
SPECIAL = (2, 3, 4)
ENCODER = Bert(vocab_size=V, num_layers=1, width=8, num_heads=2, mlp_width=8, max_length=L, scan=True)
# Half of the tokens become random ones, so that two corruptions are hardly ever the same.
MLM = Mlm(6, rate=0.5, mask_share=0.0, random_share=1.0, vocab_size=V, special_ids=SPECIAL)
LEARNER = Multitask(ENCODER, {"mlm": MLM, "nsp": Nsp()})
KEY = jax.random.key(0)


def batch_of(rows=B, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "tokens": jnp.asarray(rng.integers(5, V, (rows, L)), jnp.int32).at[:, 0].set(2),
        "segments": jnp.zeros((rows, L), jnp.int32),
        "lengths": jnp.asarray(rng.integers(4, L + 1, rows), jnp.int32),
        "example": jnp.asarray(rng.permutation(1000)[:rows], jnp.uint32),
        "weight": jnp.ones(rows, jnp.float32),
        "pair_label": jnp.asarray(rng.integers(0, 2, rows), jnp.int32),
        "label": jnp.asarray(rng.integers(0, 3, rows), jnp.int32),
    }


corrupt = jax.jit(LEARNER.corrupt)


def drawn(learner, batch):
    """Random parameters of the right shapes."""
    rng = np.random.default_rng(0)
    shapes = nn.unbox(jax.eval_shape(lambda: learner.init(KEY, batch, False)))["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


def assert_same(a, b):
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# ---- metrics and loss ----------------------------------------------------------------------------------------------


def test_the_loss_is_the_weighted_sum_of_mean_losses():
    """Each divided by its own count; weights are 1 unless given (run_pretraining.py:148)."""
    metrics = {
        "mlm/loss": Mean(jnp.float32(12), jnp.float32(4)),
        "mlm/accuracy": Mean(jnp.float32(100), jnp.float32(1)),
        "nsp/loss": Mean(jnp.float32(5), jnp.float32(10)),
    }
    assert LEARNER.loss_of(metrics) == 3.5
    assert LEARNER.clone(weights={"mlm": 2.0}).loss_of(metrics) == 6.5
    assert LEARNER.clone(weights={"nsp": 0.0}).loss_of(metrics) == 3


def test_metrics_and_parameters_have_the_names_of_their_objectives():
    """Each objective gives what it gives alone on the encoder's output, under its prefix."""
    batch = corrupt(KEY, 0, batch_of())
    params = drawn(LEARNER, batch)
    assert set(params) == {"encoder", "objectives_mlm", "objectives_nsp"}

    @jax.jit
    def run(params):
        encoded = ENCODER.apply({"params": params["encoder"]}, batch)
        mlm = MLM.apply({"params": params["objectives_mlm"]}, encoded, batch, False)
        nsp = Nsp().apply({"params": params["objectives_nsp"]}, encoded, batch, False)
        return LEARNER.apply({"params": params}, batch), mlm, nsp

    metrics, mlm, nsp = run(params)
    assert set(metrics) == {"mlm/loss", "mlm/accuracy", "nsp/loss", "nsp/accuracy"}
    for name, own in (("mlm", mlm), ("nsp", nsp)):
        for metric, mean in own.items():
            np.testing.assert_allclose(metrics[f"{name}/{metric}"], mean, rtol=1e-6)


def test_predictions_come_from_the_objectives_that_predict():
    """Under their prefix, without labels; the others are left out."""
    learner = Multitask(ENCODER, {"nsp": Nsp(), "classify": Classify(3)})
    batch = batch_of()
    unlabelled = {name: batch[name] for name in ("tokens", "segments", "lengths")}
    predict = lambda params: learner.apply({"params": params}, unlabelled, method="predict")  # noqa: E731
    predictions = jax.eval_shape(predict, drawn(learner, batch))
    assert set(predictions) == {"classify/probabilities"}
    assert predictions["classify/probabilities"].shape == (B, 3)


# ---- vocabulary ----------------------------------------------------------------------------------------------------


def test_vocabulary_is_filled_in_where_it_is_left_open():
    """In the encoder and in the objectives that need it; the names and numbers of all else stay."""
    learner = Multitask(ENCODER.clone(vocab_size=0), {"mlm": MLM.clone(vocab_size=0, special_ids=()), "nsp": Nsp()})
    filled = learner.for_vocabulary(V, SPECIAL)
    assert filled.encoder == ENCODER
    assert filled.objectives["mlm"] == MLM
    assert list(filled.objectives) == ["mlm", "nsp"]
    assert LEARNER.for_vocabulary(V, SPECIAL).encoder == ENCODER


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (LEARNER.clone(encoder=ENCODER.clone(vocab_size=V + 1)), rf"encoder has vocab_size {V + 1}.*has {V} pieces"),
        (LEARNER.clone(objectives={"mlm": MLM.clone(vocab_size=7)}), rf"Mlm has vocab_size 7.*tokenizer has {V}"),
        (LEARNER.clone(objectives={"mlm": MLM.clone(special_ids=(0, 1, 2))}), "special_ids"),
    ],
)
def test_another_vocabulary_is_refused(learner, message):
    """A part that was made for another tokenizer is named, with both numbers."""
    with pytest.raises(ValueError, match=message):
        learner.for_vocabulary(V, SPECIAL)


# ---- random bits ---------------------------------------------------------------------------------------------------


def test_corruption_depends_on_the_example_and_not_on_its_place():
    """Another order, and other rows beside it: the same masks; so neither the batch size nor the devices matter."""
    batch = batch_of()
    whole, order = corrupt(KEY, 3, batch), np.array([4, 1])
    assert_same(
        corrupt(KEY, 3, {name: value[order] for name, value in batch.items()}),
        {name: value[order] for name, value in whole.items()},
    )


def test_corruption_changes_with_seed_step_and_example():
    """Rows of one text: two keys, two steps and six examples give 24 different corruptions."""
    batch = {name: jnp.repeat(value[:1], B, axis=0) for name, value in batch_of().items()}
    batch |= {"example": jnp.arange(B, dtype=jnp.uint32), "lengths": jnp.full(B, L)}
    results = [corrupt(jax.random.key(seed), step, batch)["tokens"] for seed in range(2) for step in range(2)]
    assert len({row.tobytes() for row in np.concatenate(results)}) == 24


def test_static_masks_stay():
    """As the original's prepared data: a corruption of its own for each example, the same at every step (that of step
    0 of dynamic masks)."""
    static, batch = LEARNER.clone(objectives={"mlm": MLM.clone(static=True)}), batch_of()
    at_7 = jax.jit(static.corrupt)(KEY, 7, batch)
    assert_same(at_7, corrupt(KEY, 0, batch))
    assert np.any(at_7["mlm_positions"] != corrupt(KEY, 7, batch)["mlm_positions"])


def test_objectives_without_corruption_leave_the_batch_alone():
    """Fine-tuning sees its tokens as they are."""
    batch = batch_of()
    assert_same(Multitask(ENCODER, {"classify": Classify(3)}).corrupt(KEY, 0, batch), batch)
