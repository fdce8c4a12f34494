"""Adam's moments in half the memory: what is stored, how it is rounded, and that training does not notice."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.lamb import Lamb
from bert_jax.training.moments import round_stochastically, scale_by_adam
from bert_jax.training.optim import AdamW, BertAdam
from bert_jax.training.sharding import MeshShape, optimizer_shardings


def words(*numbers):
    return [jnp.uint32(number) for number in numbers]


def test_rounding_goes_to_the_neighbours_and_is_exact_on_average():
    """Each value becomes one of the two bfloat16 around it, the upper one as often as the remainder says."""
    ulp = 2.0**-7  # of bfloat16 between 1 and 2
    for share in (0.0, 0.125, 0.5, 0.9):
        x = jnp.full((200, 100), 1 + share * ulp, jnp.float32)
        rounded = np.asarray(round_stochastically(x, *words(3, 4)), np.float32)
        assert set(np.unique(rounded)) <= {np.float32(1), np.float32(1 + ulp)}
        assert (rounded > 1).mean() == pytest.approx(share, abs=4 * np.sqrt(0.25 / 20_000))
    representable = jnp.asarray([0.0, -0.0, 1.5, -3.0, 1e-30, np.inf, -np.inf], jnp.bfloat16)
    again = round_stochastically(representable.astype(jnp.float32), *words(1, 2))
    np.testing.assert_array_equal(np.asarray(again, np.float32), np.asarray(representable, np.float32))
    assert np.isnan(float(round_stochastically(jnp.float32(np.nan), *words(1, 2))))


def test_rounding_of_negative_numbers_is_symmetric():
    """-x rounds away from 0 as often as x does."""
    x = jnp.full(20_000, -(1 + 0.25 * 2.0**-7), jnp.float32)
    rounded = np.asarray(round_stochastically(x, *words(5, 6)), np.float32)
    assert rounded.mean() == pytest.approx(float(x[0]), abs=4 * 2.0**-7 * np.sqrt(0.25 / 20_000))


def second_moment(dtype, round_to_nearest=False, steps=3000, size=4000):
    """The mean of nu after its gradient has fallen from 1 to 0.1, as a share of what it should be, and the relative
    deviation of its elements."""
    adam = scale_by_adam(0.9, 0.999, 1e-6, bias_correction=False, dtype=dtype)
    state = adam.init(jnp.zeros(size))
    state = state._replace(nu=jnp.ones(size, state.nu.dtype))

    def step(state, _):
        _, state = adam.update(jnp.full(size, 0.1), state)
        return state, None

    def nearest(state, _):
        nu = 0.999 * state.nu.astype(jnp.float32) + 0.001 * 0.01
        return state._replace(nu=nu.astype(jnp.bfloat16)), None

    state, _ = jax.lax.scan(nearest if round_to_nearest else step, state, length=steps)
    nu, wanted = np.asarray(state.nu, np.float64), 0.01 + 0.99 * 0.999**steps
    return nu.mean() / wanted, nu.std() / wanted


def test_the_second_moment_follows_a_gradient_that_falls():
    """A thousandth less is below bfloat16's resolution: rounded to the nearest, nu stays where it was (17 times too
    large after 3,000 steps). Rounded stochastically it falls as float32's does, with a spread of about a tenth; of
    that half is left in the root that Adam divides by."""
    assert second_moment("float32")[0] == pytest.approx(1, rel=1e-3)
    assert second_moment("bfloat16", round_to_nearest=True)[0] > 10
    mean, spread = second_moment("bfloat16")
    assert mean == pytest.approx(1, abs=0.01)
    assert 0.01 < spread < 0.15


@pytest.mark.parametrize("optimizer", [BertAdam, AdamW, Lamb])
def test_bfloat16_is_what_is_stored_and_no_more(optimizer):
    """Both moments are bfloat16, half of float32's bytes; updates and the count are as before, and the first update,
    whose moments are not yet rounded, is the same to the bit."""
    params = {"layers": {"kernel": jnp.full((2, 8, 8), 0.5)}, "bias": jnp.zeros(8)}
    gradients = jax.tree.map(lambda leaf: jnp.linspace(0.1, 1, leaf.size).reshape(leaf.shape), params)
    updates, bytes_stored = {}, {}
    for dtype in ("float32", "bfloat16"):
        transform = optimizer(warmup=0, moments_dtype=dtype).build(10)
        state = transform.init(params)
        updates[dtype], after = jax.jit(transform.update)(gradients, state, params)
        assert {leaf.dtype for leaf in jax.tree.leaves(updates[dtype])} == {jnp.dtype("float32")}
        assert jax.tree.map(lambda leaf: leaf.dtype, state) == jax.tree.map(lambda leaf: leaf.dtype, after)
        moments = [leaf for leaf in jax.tree.leaves(after) if leaf.ndim]
        assert {leaf.dtype for leaf in moments} == {jnp.dtype(dtype)}
        bytes_stored[dtype] = sum(leaf.nbytes for leaf in moments)
    jax.tree.map(np.testing.assert_array_equal, updates["float32"], updates["bfloat16"])
    assert bytes_stored["bfloat16"] * 2 == bytes_stored["float32"]


def losses(dtype, steps=300):
    """A regression by a small network with BertAdam: the loss of every step."""
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (256, 16))
    y = jnp.tanh(x @ jax.random.normal(keys[1], (16, 4)))
    params = {"a": 0.3 * jax.random.normal(keys[2], (16, 32)), "b": 0.3 * jax.random.normal(keys[3], (32, 4))}
    transform = BertAdam(learning_rate=1e-2, warmup=0.1, b2=0.999, moments_dtype=dtype).build(steps)

    def loss(params, rows):
        return jnp.mean((jnp.tanh(x[rows] @ params["a"]) @ params["b"] - y[rows]) ** 2)

    def step(carry, i):
        params, state = carry
        rows = (i * 32 + jnp.arange(32)) % 256
        value, gradients = jax.value_and_grad(loss)(params, rows)
        updates, state = transform.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), value

    return np.asarray(jax.lax.scan(step, (params, transform.init(params)), jnp.arange(steps))[1])


def test_training_does_not_notice():
    """The loss of a small network falls as with float32's moments, and ends within 5 % of it."""
    exact, rounded = losses("float32"), losses("bfloat16")
    assert exact[-20:].mean() < 0.1 * exact[:5].mean()
    assert rounded[-20:].mean() == pytest.approx(exact[-20:].mean(), rel=0.05)
    assert not np.array_equal(exact, rounded)


def test_a_checkpoint_carries_them(tmp_path):
    """Saved and restored to the bit, as bfloat16; an optimizer with float32's refuses them with both dtypes."""
    params = {"kernel": jnp.full((4, 4), 0.5)}
    transform = BertAdam(moments_dtype="bfloat16", warmup=0).build(10)
    _, state = transform.update({"kernel": jnp.linspace(0.1, 1, 16).reshape(4, 4)}, transform.init(params), params)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, {"opt_state": state})
        restored = checkpoints.restore({"opt_state": jax.tree.map(jnp.zeros_like, state)}, 1)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), restored, {"opt_state": state})
        other = BertAdam(warmup=0).build(10).init(params)
        with pytest.raises(ValueError, match=r"bfloat16 .* in the checkpoint, float32"):
            checkpoints.restore({"opt_state": other}, 1)


@pytest.mark.parametrize("optimizer", [BertAdam, AdamW, Lamb])
def test_on_a_mesh_they_lie_with_their_parameters_and_are_the_same(optimizer):
    """Split like the parameters, across which LAMB's norms go; the bits of the rounding are those of one device."""
    transform = optimizer(warmup=0, clip_norm=None, moments_dtype="bfloat16").build(10)
    params = {"layers": {"kernel": jnp.linspace(-1, 1, 2 * 8 * 6).reshape(2, 8, 6)}, "bias": jnp.linspace(0, 1, 8)}
    gradients = [jax.tree.map(lambda leaf, i=i: jnp.cos(leaf * 7 + i), params) for i in range(3)]
    mesh = MeshShape(data=2, fsdp=4).build()
    split = {"layers": {"kernel": NamedSharding(mesh, PartitionSpec(None, "fsdp"))},
             "bias": NamedSharding(mesh, PartitionSpec("fsdp"))}  # fmt: skip

    def run(params, gradients, shardings=None):
        update = jax.jit(transform.update, out_shardings=shardings and (split, shardings))
        state, made = jax.jit(transform.init, out_shardings=shardings)(params), []
        for gradient in gradients:
            updates, state = update(gradient, state, params)
            made.append(updates)
        return made, state

    made, state = run(params, gradients)
    shardings = optimizer_shardings(transform, params, split, mesh)
    there, placed = run(jax.device_put(params, split), [jax.device_put(g, split) for g in gradients], shardings)
    for wanted, leaf in zip(jax.tree.leaves(state), jax.tree.leaves(placed), strict=True):
        np.testing.assert_array_equal(np.asarray(leaf, np.float32), np.asarray(wanted, np.float32))
    moments = [leaf for leaf in jax.tree.leaves(placed) if leaf.ndim == 3]
    assert len(moments) == 2 and all(leaf.sharding.spec == PartitionSpec(None, "fsdp") for leaf in moments)
    for wanted, updates in zip(made, there, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=2e-6, atol=1e-8), wanted, updates)
