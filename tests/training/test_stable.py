"""StableAdamW against a transcription in numpy, and the trapezoid at points computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.training.optim import AdamW
from bert_jax.training.stable import StableAdamW

# path -> (shape, decayed); the first axis of the stacked one is the layer.
NAMES = {
    ("embeddings", "words", "table"): ((7, 4), True),
    ("layers", "attention", "qkv", "kernel"): ((2, 4, 3, 2, 2), True),
    ("layers", "attention_norm", "scale"): ((2, 4), False),
    ("last_norm", "scale"): ((4,), False),
    ("unused",): ((3,), True),
}


def nest(leaves):
    tree = {}
    for path, leaf in leaves.items():
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = jnp.asarray(leaf)
    return tree


def random(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    made = {path: rng.normal(size=shape).astype(np.float32) * np.float32(scale) for path, (shape, _) in NAMES.items()}
    made["layers", "attention", "qkv", "kernel"][1] *= 10  # one layer of the two
    return made


# Small gradients, and then a burst: there the steps are shortened.
GRADIENTS = [random(seed, scale) | {("unused",): np.zeros(3, np.float32)} for seed, scale in enumerate([1, 1, 30, 0.1])]


def train(o, steps=10):
    transform = o.build(steps)
    params = nest(random(9))
    state, history = transform.init(params), []
    for gradient in GRADIENTS:
        updates, state = jax.jit(transform.update)(nest(gradient), state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


def reference(o):
    """Algorithm 2 of Wortsman et al. in float64, a variable at a time."""
    x = {}
    for path, leaf in random(9).items():
        x |= {(path, n): own.astype(np.float64) for n, own in enumerate(leaf if path[0] == "layers" else [leaf])}
    v, u, history, sizes = dict.fromkeys(x, 0.0), dict.fromkeys(x, 0.0), [], []
    for t, leaves in enumerate(GRADIENTS, 1):
        for path, n in x:
            g = (leaves[path][n] if path[0] == "layers" else leaves[path]).astype(np.float64)
            # the debiased decays of the algorithm
            b1, b2 = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in (o.b1, o.b2))
            v[path, n] = b1 * v[path, n] + (1 - b1) * g
            u[path, n] = b2 * u[path, n] + (1 - b2) * g**2
            size = np.sqrt(np.mean(g**2 / np.maximum(u[path, n], o.eps**2)))
            sizes.append(size)
            rate = o.learning_rate / max(1.0, size)
            x[path, n] = x[path, n] * (1 - rate * o.weight_decay * NAMES[path][1])
            x[path, n] = x[path, n] - rate * v[path, n] / (np.sqrt(u[path, n]) + o.eps)
        history.append(dict(x))
    assert max(sizes) > 1.5 and min(sizes) < 0.9  # both sides of 1 are there
    return history


def test_it_equals_numpy():
    """Four updates with a burst of large gradients, of stacked layers each alone, with decay, and with a gradient of
    zeros; without the clipping of updates, it would be another algorithm."""
    o = StableAdamW(learning_rate=0.05, warmup=0, weight_decay=0.1)
    for found, wanted in zip(train(o), reference(o), strict=True):
        for (path, n), value in wanted.items():
            leaf = found
            for key in path:
                leaf = leaf[key]
            np.testing.assert_allclose(leaf[n] if path[0] == "layers" else leaf, value, rtol=1e-5, atol=1e-6)
    adamw = AdamW(learning_rate=0.05, warmup=0, weight_decay=0.1, b2=o.b2, eps=o.eps, decay_all=False, clip_norm=None)
    ours, plain = (made[2]["last_norm"]["scale"] for made in (train(o), train(adamw, 10**9)))
    assert np.abs(ours - plain).max() > 1e-3


def test_runs_together():
    """Under vmap, as several seeds are trained, each run's update is what it is alone."""
    transform = StableAdamW(learning_rate=0.05, warmup=0).build(10)
    runs, gradients = [nest(random(9)), nest(random(8))], [nest(GRADIENTS[0]), nest(GRADIENTS[2])]

    def step(params, gradient):
        return transform.update(gradient, transform.init(params), params)[0]

    together = jax.vmap(step)(*(jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) for trees in (runs, gradients)))
    for i in range(2):
        alone = step(runs[i], gradients[i])
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6, atol=1e-7), together, alone)


@pytest.mark.parametrize(
    ("fields", "points"),
    [
        ({"warmup": 10}, {0: 0.0, 5: 1.0, 10: 2.0, 11: 2.0, 99: 2.0, 100: 2.0}),
        ({"warmup": 0.1, "decay": 0.4, "decay_shape": "linear"}, {9: 1.8, 60: 2.0, 70: 1.5, 99: 0.05, 100: 0.0}),
        ({"warmup": 0, "decay": 100}, {0: 2.0, 25: 1.0, 64: 0.4, 100: 0.0, 120: 0.0}),
        ({"warmup": 0, "decay": 50, "schedule_start": 60, "schedule_steps": 200}, {0: 2.0, 90: 2.0, 140: 0.0}),
    ],
)
def test_the_trapezoid(fields, points):
    """Up, constant, and down by the chosen shape, at points computed by hand; as a part of a longer schedule, too."""
    rate = StableAdamW(learning_rate=2.0, **fields).schedule(100)
    for step, wanted in points.items():
        assert float(rate(step)) == pytest.approx(wanted, abs=1e-6), step


def test_what_cannot_be_meant():
    """Refused with the field's name."""
    with pytest.raises(ValueError, match=r"StableAdamW\.decay must be .* got 1.5"):
        StableAdamW(decay=1.5)
    with pytest.raises(ValueError, match=r"StableAdamW\.b2 must be"):
        StableAdamW(b2=1.0)
    with pytest.raises(ValueError, match="warm-up of 60 steps and decay of 50 are more than the 100"):
        StableAdamW(warmup=60, decay=50).schedule(100)
