"""The optimizers and schedules, against transcriptions in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.training.lamb import Lamb
from bert_jax.training.optim import AdamW, BertAdam, decayed, warmup_linear, warmup_steps

NAMES = {  # path -> (shape, decayed)
    ("embeddings", "words", "table"): ((7, 4), True),
    ("embeddings", "norm", "scale"): ((4,), False),
    ("embeddings", "norm", "bias"): ((4,), False),
    ("layers", "attention", "qkv", "kernel"): ((2, 4, 3, 2, 2), True),
    ("layers", "attention", "qkv", "bias"): ((2, 3, 2, 2), False),
    ("layers", "attention_norm", "scale"): ((2, 4), False),
    ("pooler", "kernel"): ((4, 4), True),
    ("mlm", "output_bias"): ((7,), False),
    ("LayerNorm_0", "scale"): ((4,), False),
}


def nest(leaves):
    tree = {}
    for path, leaf in leaves.items():
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = leaf
    return tree


def flat(tree):
    return {tuple(k.key for k in path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def random_leaves(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=shape).astype(np.float32) * scale for path, (shape, _) in NAMES.items()}


def train(optimizer, total_steps, gradients):
    """Parameters after each update of `optimizer`, as jax makes them, and the last optimizer state."""
    transform = optimizer.build(total_steps)
    params = nest({k: jnp.asarray(v) for k, v in random_leaves(0).items()})
    state = transform.init(params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = transform.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    history = []
    for gradient in gradients:
        params, state = step(params, state, nest(gradient))
        history.append(flat(params))
    return history, state


def reference(o, total_steps, gradients, rate, *, correct, decay_all):
    """The same in float64 numpy: global-norm clip, Adam, decay added to the update, all times the learning rate."""
    p = {k: v.astype(np.float64) for k, v in random_leaves(0).items()}
    m, v, history = dict.fromkeys(p, 0.0), dict.fromkeys(p, 0.0), []
    for t, gradient in enumerate(gradients):
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradient.values()))
        clip = 1.0 if o.clip_norm is None else min(1.0, o.clip_norm / norm)
        for k, g in gradient.items():
            m[k] = o.b1 * m[k] + (1 - o.b1) * g * clip
            v[k] = o.b2 * v[k] + (1 - o.b2) * (g * clip) ** 2
            c1, c2 = (1 - o.b1 ** (t + 1), 1 - o.b2 ** (t + 1)) if correct else (1, 1)
            update = m[k] / c1 / (np.sqrt(v[k] / c2) + o.eps)
            update += o.weight_decay * p[k] * (decay_all or NAMES[k][1])
            p[k] = p[k] - rate(t, total_steps) * update
        history.append(dict(p))
    return history


def original_rate(peak, warmup):
    def rate(step, total):  # optimization.py:32-54
        learning_rate = peak * (1 - min(step, total) / total)
        is_warmup = float(step < warmup)
        return (1 - is_warmup) * learning_rate + is_warmup * (peak * step / max(warmup, 1))

    return rate


def standard_rate(peak, warmup):
    return lambda step, total: peak * (step / warmup if step < warmup else 1 - (step - warmup) / (total - warmup))


def assert_same(got, wanted):
    for step, (g, w) in enumerate(zip(got, wanted, strict=True)):
        for name in w:
            np.testing.assert_allclose(g[name], w[name], rtol=3e-6, atol=3e-6, err_msg=f"{name} after step {step}")


# Gradients with global norm about 11, far over the limit of 1, or about 0.011, far under it.
LARGE = [random_leaves(seed) for seed in range(1, 8)]
SMALL = [random_leaves(seed, scale=1e-3) for seed in range(1, 8)]


@pytest.mark.parametrize("gradients", [LARGE, SMALL, LARGE[:3] + SMALL[3:]], ids=["clipped", "free", "mixed"])
@pytest.mark.parametrize("correct", [False, True], ids=["original", "bias_correction"])
def test_bert_adam_equals_numpy(gradients, correct):
    """Seven updates equal the original's formulas, with clipping at work and idle, in any mixture of leaves."""
    o = BertAdam(learning_rate=0.03, warmup=3, weight_decay=0.1, bias_correction=correct)
    got, _ = train(o, 10, gradients)
    assert_same(got, reference(o, 10, gradients, original_rate(0.03, 3), correct=correct, decay_all=False))


@pytest.mark.parametrize("decay_all", [True, False])
def test_adamw_equals_numpy(decay_all):
    """AdamW is bias-corrected, with a schedule that decays from the end of the warm-up."""
    o = AdamW(learning_rate=0.03, warmup=3, weight_decay=0.1, decay_all=decay_all)
    got, _ = train(o, 10, LARGE)
    assert_same(got, reference(o, 10, LARGE, standard_rate(0.03, 3), correct=True, decay_all=decay_all))


def test_adamw_is_optaxs():
    """Updates and the names of the state are those of `optax.adamw` (a checkpoint of either is one of the other)."""
    o = AdamW(learning_rate=0.03, warmup=3, weight_decay=0.1, clip_norm=None)
    ours = o.build(10)
    theirs = optax.chain(optax.identity(), optax.adamw(o.schedule(10), o.b1, o.b2, o.eps, weight_decay=0.1))
    params = nest({k: jnp.asarray(v) for k, v in random_leaves(0).items()})
    states = [ours.init(params), theirs.init(params)]
    for gradient in LARGE[:3]:
        (mine, states[0]), (other, states[1]) = (
            transform.update(nest(gradient), state, params)
            for transform, state in zip((ours, theirs), states, strict=True)
        )
        jax.tree.map(np.testing.assert_array_equal, mine, other)
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


@pytest.mark.parametrize("optimizer", [BertAdam, AdamW])
def test_clip_none_does_not_clip(optimizer):
    """clip_norm None leaves a large gradient as it is."""
    o = optimizer(learning_rate=0.03, warmup=0, clip_norm=None, weight_decay=0.0)
    rate, adamw = (standard_rate, True) if optimizer is AdamW else (original_rate, False)
    got, _ = train(o, 10, LARGE)
    assert_same(got, reference(o, 10, LARGE, rate(0.03, 0), correct=adamw, decay_all=adamw))


@pytest.mark.parametrize("optimizer", [BertAdam, AdamW])
def test_first_update_changes_nothing(optimizer):
    """The schedule sees the count of updates made before: the first has learning rate 0, moments fill already."""
    got, state = train(optimizer(learning_rate=1.0, warmup=5), 10, LARGE[:1])
    assert all((got[0][name] == leaf).all() for name, leaf in random_leaves(0).items())
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(state))


def test_clipping_compares_the_norm_with_the_limit():
    """A gradient of norm 0.9 .. 1.1 around the limit 1: the norm decides, not its square, nor each leaf alone."""
    for norm, limit, factor in [(0.9, 1.0, 1.0), (1.1, 1.0, 1 / 1.1), (0.6, 0.5, 0.5 / 0.6), (3.0, 4.0, 1.0)]:
        gradient = {"a": jnp.full(4, norm / np.sqrt(8)), "b": jnp.full((2, 2), norm / np.sqrt(8))}
        transform = BertAdam(clip_norm=limit, warmup=0).build(10)
        _, state = transform.update(gradient, transform.init(gradient), gradient)
        first_moment = next(s for s in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(s)).mu["a"]
        np.testing.assert_allclose(first_moment / 0.1, gradient["a"] * factor, rtol=1e-6)


def is_adam(state):
    return isinstance(state, optax.ScaleByAdamState)


def test_decayed_by_name():
    """Norms and biases are spared, wherever the word stands in the path; tables and the pooler's kernel decay."""
    assert flat(decayed(nest(dict.fromkeys(NAMES, 0)))) == {k: decays for k, (_, decays) in NAMES.items()}


@pytest.mark.parametrize("optimizer", [BertAdam(bias_correction=False), BertAdam(bias_correction=True), AdamW()])
def test_state_is_float32(optimizer):
    """Moments are float32 and counters int32, before and after an update, and jit compiles the update once."""
    transform = optimizer.build(10)
    params = nest({k: jnp.asarray(v) for k, v in random_leaves(0).items()})
    state = transform.init(params)
    _, after = jax.jit(transform.update)(nest(LARGE[0]), state, params)
    for tree in (state, after):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32"), jnp.dtype("int32")}
    assert jax.tree.structure(state) == jax.tree.structure(after)


def test_moments_are_float32_for_bfloat16_gradients():
    """BertAdam's moments stay float32 if parameters and gradients are not."""
    params = {"kernel": jnp.ones(3, jnp.bfloat16)}
    transform = BertAdam().build(10)
    _, state = transform.update(params, transform.init(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}


DEPTHS = {"embeddings": 0, "layers": np.array([1, 2]), "pooler": 3, "mlm": 3, "LayerNorm_0": 3}


def by_depth(path, shape):
    """The layer of each element of a leaf of NAMES, which has two layers."""
    depth = np.asarray(DEPTHS[path[0]])
    return np.broadcast_to(depth.reshape(-1, *(1,) * (len(shape) - 1)) if depth.ndim else depth, shape)


@pytest.mark.parametrize("kind", [BertAdam, AdamW])
def test_the_rate_falls_from_layer_to_layer(kind):
    """The update of a parameter is that of the same optimizer times a power of the decay: 3 for the embeddings, 2 and 1
    for the two layers, none for pooler, heads and what is outside of the encoder. Weight decay included."""
    gradients = [random_leaves(seed, 0.01) for seed in (1, 2)]
    (_, plain), _ = train(kind(warmup=1), 10, gradients)
    (_, scaled), _ = train(kind(warmup=1, layer_decay=0.5), 10, gradients)
    start = random_leaves(0)
    for path, value in plain.items():
        wanted = (value - start[path]) * 0.5 ** (3 - by_depth(path, value.shape))
        np.testing.assert_allclose(scaled[path] - start[path], wanted, rtol=0, atol=2e-7)


@pytest.mark.parametrize("kind", [BertAdam, AdamW])
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_frozen_layers_do_not_move(kind, frozen):
    """Not by weight decay either; the others are clipped by their own norm alone."""
    gradients = [random_leaves(seed) for seed in (1, 2)]
    silent = [{k: v * (by_depth(k, v.shape) > frozen) for k, v in gradient.items()} for gradient in gradients]
    (_, found), _ = train(kind(warmup=1, frozen_layers=frozen), 10, gradients)
    (_, wanted), _ = train(kind(warmup=1), 10, silent)
    start = random_leaves(0)
    for path, value in found.items():
        still = by_depth(path, value.shape) <= frozen
        np.testing.assert_array_equal(value[still], start[path][still])
        np.testing.assert_allclose(value[~still], wanted[path][~still], rtol=0, atol=1e-7)
    assert any((value != start[path]).any() for path, value in found.items())


def test_a_head_alone_is_never_frozen():
    """All that the optimizer sees where the encoder is only read, whose layers are then frozen in any case."""
    optimizer = BertAdam(warmup=0, frozen_layers=2).build(10)
    params = {"objectives_tag": {"output": {"kernel": jnp.ones((2, 3))}}}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert (np.abs(updates["objectives_tag"]["output"]["kernel"]) > 0).all()


def test_schedule_at_hand_computed_points():
    """Linear from 0, the peak never quite reached, a downward jump of warmup/total of it, and 0 at the end."""
    rate = warmup_linear(1e-4, 10_000, 1_000_000)
    points = {0: 0.0, 1: 1e-8, 5_000: 5e-5, 9_999: 9.999e-5, 10_000: 9.9e-5, 10_001: 9.89999e-5, 500_000: 5e-5,
              999_999: 1e-10, 1_000_000: 0.0, 2_000_000: 0.0}  # fmt: skip
    for step, wanted in points.items():
        # 1 - step/total is rounded in float32, as in the original: half a unit of 1 times the peak.
        assert float(rate(step)) == pytest.approx(wanted, rel=1e-6, abs=6e-8 * 1e-4), step
    assert float(rate(9_999)) > float(rate(10_000))


@pytest.mark.parametrize(("warmup", "total"), [(0, 7), (1, 7), (3, 7), (6, 7), (100, 1000)])
def test_schedule_equals_transcription(warmup, total):
    """The learning rate equals the original's at every step, traced or not, and AdamW's has no jump."""
    steps = np.arange(total + 3)
    wanted = [original_rate(3e-5, warmup)(t, total) for t in steps]
    rate = BertAdam(learning_rate=3e-5, warmup=warmup).schedule(total)
    np.testing.assert_allclose(jax.jit(jax.vmap(rate))(steps), wanted, rtol=2e-5, atol=1e-11)
    np.testing.assert_allclose([rate(int(t)) for t in steps], wanted, rtol=2e-5, atol=1e-11)
    rate = AdamW(learning_rate=3e-5, warmup=warmup).schedule(total)
    wanted = [standard_rate(3e-5, warmup)(t, total) for t in range(total + 1)]
    np.testing.assert_allclose([rate(t) for t in range(total + 1)], wanted, rtol=2e-5, atol=1e-11)


@pytest.mark.parametrize("optimizer", [BertAdam, AdamW, Lamb])
def test_a_part_of_a_schedule(optimizer):
    """Two runs of 6 and 4 steps in one schedule of 10 have its learning rates, warm-up counted over the whole; a run
    that would outlast its schedule is refused."""
    whole = optimizer(warmup=0.3).schedule(10)
    parts = [optimizer(warmup=0.3, schedule_steps=10), optimizer(warmup=0.3, schedule_start=6, schedule_steps=10)]
    rates = [float(part.schedule(n)(step)) for part, n in zip(parts, (6, 4), strict=True) for step in range(n)]
    assert rates == [float(whole(step)) for step in range(10)]
    params = {"kernel": jnp.ones(3)}
    built = parts[1].build(4)
    updates, _ = built.update(params, built.init(params), params)
    alone = optimizer(warmup=0, learning_rate=float(whole(6)), schedule_steps=10**6).build(4)
    wanted, _ = alone.update(params, alone.init(params), params)
    np.testing.assert_allclose(updates["kernel"], wanted["kernel"], rtol=1e-5)
    with pytest.raises(ValueError, match=r"schedule_steps 10 end before the run does: .* schedule_start 6 and has 5"):
        parts[1].schedule(5)
    with pytest.raises(ValueError, match="schedule_start must be 0 or more"):
        optimizer(schedule_start=-1)


def test_warmup_is_steps_or_a_fraction():
    """An integer counts steps, a fraction is a share of the run rounded down (run_classifier.py:845)."""
    assert warmup_steps(10_000, 1_000_000) == 10_000
    assert warmup_steps(0.1, 999) == 99
    assert warmup_steps(0, 5) == warmup_steps(0.0, 5) == warmup_steps(0.1, 9) == 0
    assert warmup_steps(1, 5) == 1


@pytest.mark.parametrize("optimizer", [BertAdam, AdamW])
@pytest.mark.parametrize(
    "field",
    [{"learning_rate": 0.0}, {"learning_rate": -1e-4}, {"learning_rate": float("nan")}, {"warmup": -1},
     {"warmup": 1.0}, {"warmup": -0.1}, {"b1": 1.0}, {"b2": -0.1}, {"eps": 0.0}, {"weight_decay": -0.01},
     {"clip_norm": 0.0}, {"clip_norm": -1.0}, {"layer_decay": 0.0}, {"layer_decay": 1.1}, {"frozen_layers": -1}],
    ids=str,
)  # fmt: skip
def test_values_out_of_range(optimizer, field):
    """A number that cannot be meant is refused with the field's name, at construction."""
    with pytest.raises(ValueError, match=f"{optimizer.__name__}.{next(iter(field))} must be"):
        optimizer(**field)


@pytest.mark.parametrize("optimizer", [BertAdam, AdamW])
def test_warmup_longer_than_the_run(optimizer):
    """A warm-up that leaves no step is refused before anything is built."""
    with pytest.raises(ValueError, match="warm-up of 10000 steps leaves nothing of 400 steps"):
        optimizer(warmup=10_000).build(400)
    with pytest.raises(ValueError, match="total_steps must be at least 1"):
        optimizer(warmup=0).build(0)
