"""LAMB against a transcription in numpy, on the original's variables: one a layer, query, key and value apart."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.training.lamb import VARIANTS, Lamb, lamb

# path -> (shape, decayed). Of the stacked ones the first axis is the layer; J of query, key and value is the third from
# the end.
NAMES = {
    ("embeddings", "words", "table"): ((7, 4), True),
    ("embeddings", "norm", "scale"): ((4,), False),
    ("layers", "attention", "qkv", "kernel"): ((2, 4, 3, 2, 2), True),
    ("layers", "attention", "qkv", "bias"): ((2, 3, 2, 2), False),
    ("layers", "attention", "out", "kernel"): ((2, 2, 2, 4), True),
    ("layers", "attention_norm", "scale"): ((2, 4), False),
    ("pooler", "kernel"): ((4, 4), True),
    ("mlm", "output_bias"): ((7,), False),
    ("mlm", "unused"): ((3,), True),
}
ZERO_GRADIENT, ZERO_WEIGHT = ("mlm", "unused"), ("mlm", "output_bias")


def nest(leaves):
    tree = {}
    for path, leaf in leaves.items():
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = jnp.asarray(leaf)
    return tree


def flat(tree):
    return {tuple(k.key for k in path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def gradients_of(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    made = {path: rng.normal(size=shape).astype(np.float32) * scale for path, (shape, _) in NAMES.items()}
    # Variables of very different sizes and gradients, so that a ratio that mixes two of them shows.
    made["layers", "attention", "qkv", "kernel"] *= np.float32([1, 5, 25])[:, None, None]
    made["layers", "attention", "out", "kernel"][1] *= 40
    return made


def start():
    made = gradients_of(0)
    made["layers", "attention", "qkv", "bias"][1, 2] = 0  # one variable of a stack without a norm
    return made | {ZERO_WEIGHT: np.zeros(7, np.float32)}


GRADIENTS = [gradients_of(seed) | {ZERO_GRADIENT: np.zeros(3, np.float32)} for seed in range(1, 7)]


def variables(leaves):
    """(path, layer, query/key/value) -> array, as the original stores them."""
    found = {}
    for path, leaf in leaves.items():
        layers = enumerate(leaf) if path[0] == "layers" else [(None, leaf)]
        for layer, own in layers:
            if "qkv" in path:
                for j in range(3):
                    found[path, layer, j] = np.asarray(own[..., j, :, :], np.float64)
            else:
                found[path, layer, None] = np.asarray(own, np.float64)
    return found


def reference(o, gradients, rate):
    """Algorithm 2 of the paper in float64, an original variable at a time, with the options of `Lamb`."""
    x = variables(start())
    m, v, history = dict.fromkeys(x, 0.0), dict.fromkeys(x, 0.0), []
    for t, leaves in enumerate(gradients):
        g = variables(leaves)
        norm = np.sqrt(sum((one**2).sum() for one in g.values()))
        scale = 1 / norm if o.normalise else 1.0 if o.clip_norm is None else min(1.0, o.clip_norm / norm)
        for k in x:
            m[k] = o.b1 * m[k] + (1 - o.b1) * g[k] * scale
            v[k] = o.b2 * v[k] + (1 - o.b2) * (g[k] * scale) ** 2
            c1, c2 = (1 - o.b1 ** (t + 1), 1 - o.b2 ** (t + 1)) if o.bias_correction else (1, 1)
            u = m[k] / c1 / (np.sqrt(v[k] / c2) + o.eps)
            decays = NAMES[k[0]][1]
            u = u + o.weight_decay * x[k] * (o.decay_all or decays)
            size, length = np.linalg.norm(x[k]), np.linalg.norm(u)
            adapts = (o.adapt_all or decays) and size > 0 and length > 0
            x[k] = x[k] - rate(t) * (size / length if adapts else 1.0) * u
        history.append(dict(x))
    return history


def train(o, steps, gradients):
    transform = o.build(steps)
    params = nest(start())
    state = transform.init(params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = transform.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    history = []
    for gradient in gradients:
        params, state = step(params, state, nest(gradient))
        history.append(flat(params))
    return history


def rate_of(o, steps):
    warmup = o.warmup
    return lambda t: o.learning_rate * (t / warmup if t < warmup else (1 - t / steps) ** o.decay_power)


def assert_same(got, wanted):
    for step, (leaves, want) in enumerate(zip(got, wanted, strict=True)):
        for key, value in variables(leaves).items():
            np.testing.assert_allclose(value, want[key], rtol=1e-5, atol=1e-6, err_msg=f"{key} after step {step}")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scale", [1.0, 1e-3], ids=["large", "small"])
def test_each_variant_equals_numpy(variant, scale):
    """Six updates of each source's algorithm on unstacked variables, with gradients whose global norm is far over and
    far under 1; norms and biases are exceptions where they are meant to be, and zero norms have the ratio 1."""
    o = lamb(variant, learning_rate=0.05, warmup=2, weight_decay=0.1)
    gradients = [{path: g * np.float32(scale) for path, g in leaves.items()} for leaves in GRADIENTS]
    assert_same(train(o, 10, gradients), reference(o, gradients, rate_of(o, 10)))


def test_the_variants_differ():
    """Each of the four is another algorithm on the same gradients: no option is without effect."""
    ends = {
        variant: train(lamb(variant, learning_rate=0.05, warmup=1, decay_power=1.0), 10, GRADIENTS[:3])[-1]
        for variant in VARIANTS
    }
    names = list(VARIANTS)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert any(np.abs(ends[a][k] - ends[b][k]).max() > 1e-4 for k in NAMES), (a, b)


def test_optax_takes_one_norm_of_a_stack():
    """Why it is not `optax.lamb`: with a variable a leaf both agree; over a stack of layers optax has one ratio."""
    o = lamb("paper", learning_rate=0.05, warmup=0, weight_decay=0.1)
    rate = o.schedule(10)
    theirs = optax.lamb(rate, o.b1, o.b2, o.eps, weight_decay=o.weight_decay)
    alone, stacked = ("pooler", "kernel"), ("layers", "attention", "out", "kernel")
    ours = train(o, 10, GRADIENTS[:1])[0]
    params = nest(start())
    updates, _ = theirs.update(nest(GRADIENTS[0]), theirs.init(params), params)
    there = flat(optax.apply_updates(params, updates))
    np.testing.assert_allclose(ours[alone], there[alone], rtol=1e-5)
    assert np.abs(ours[stacked] - there[stacked]).max() > 1e-2


def test_runs_together_have_ratios_of_their_own():
    """Under vmap, as several seeds are trained, each run's update is what it is alone."""
    transform = Lamb(learning_rate=0.05, warmup=0).build(10)
    runs = [nest(start()), nest({path: 3 * leaf for path, leaf in start().items()})]
    gradients = [nest(GRADIENTS[0]), nest(GRADIENTS[1])]

    def step(params, gradient):
        return transform.update(gradient, transform.init(params), params)[0]

    together = jax.vmap(step)(*(jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) for trees in (runs, gradients)))
    for i in range(2):
        alone = step(runs[i], gradients[i])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6, atol=1e-7), together, alone)


def test_nvidias_schedule_at_hand_computed_points():
    """Phase 1: up to 6e-3 over 28.43 % of 7,038 steps, then with the root of what is left; the jump is part of it."""
    o = lamb("nvidia")
    rate = o.schedule(7038)
    warmup = int(7038 * 0.2843)
    assert warmup == 2000
    points = {0: 0.0, 1000: 3e-3, 1999: 6e-3 * 1999 / 2000, 2000: 6e-3 * (1 - 2000 / 7038) ** 0.5,
              5000: 6e-3 * (1 - 5000 / 7038) ** 0.5, 7037: 6e-3 * (1 / 7038) ** 0.5, 7038: 0.0}  # fmt: skip
    for step, wanted in points.items():
        assert float(rate(step)) == pytest.approx(wanted, rel=1e-4), step


def test_fields_out_of_range():
    """What cannot be meant is refused with the field's name; so is a clipping that would do nothing."""
    with pytest.raises(ValueError, match=r"Lamb\.decay_power must be a positive number"):
        Lamb(decay_power=0.0)
    with pytest.raises(ValueError, match=r"Lamb\.b1 must be"):
        Lamb(b1=1.0)
    with pytest.raises(ValueError, match="takes the place of clipping: set clip_norm to None"):
        Lamb(normalise=True)
