"""ELECTRA's encoder: the sizes of the paper, the projection, and embeddings that are another's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.interop import names
from bert_jax.models.electra import SIZES, Electra, electra, generator_of
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.rtd import Rtd
from bert_jax.pretrained import Pretrained
from bert_jax.training.optim import depths
from tests.interop.random_models import random_model

SMALL = {"num_layers": 2, "width": 12, "num_heads": 2, "mlp_width": 16, "max_length": 6, "scan": True}
TINY = Electra(vocab_size=20, embedding_width=8, **SMALL)
BATCH = {"tokens": jnp.arange(12).reshape(2, 6), "segments": jnp.asarray([[0] * 6, [0, 0, 1, 1, 1, 1]])}


def params_of(encoder):
    return nn.unbox(jax.jit(encoder.init)(jax.random.key(0), BATCH)["params"])


def encoded(encoder, params):
    return jax.jit(encoder.apply)({"params": params}, BATCH)


def test_sizes():
    """Those of the paper's table 6, and of the generators (run_pretraining.py, `get_generator_config`)."""
    small = electra("small")
    assert small == Electra() and (small.num_heads, small.mlp_width) == (4, 1024)
    assert electra("base", dropout=0.0).embedding_width == 768 and electra("large").num_layers == 24
    generators = {size: generator_of(electra(size), SIZES[size][3]) for size in SIZES}
    assert {size: (own.width, own.num_heads, own.mlp_width) for size, own in generators.items()} == {
        "small": (64, 1, 256),
        "base": (256, 4, 1024),
        "large": (256, 4, 1024),
    }
    for size, own in generators.items():
        assert (own.num_layers, own.embedding_width) == (electra(size).num_layers, electra(size).embedding_width)


@pytest.mark.parametrize("share", [0.001, 193 / 256])
def test_no_generator(share):
    """Of no width, or of one that its heads do not divide."""
    with pytest.raises(ValueError, match=r"a generator of .* heads must divide it"):
        generator_of(Electra(), share)


def test_the_projection():
    """Between embeddings and layers, where the widths differ, and only there; it is a part of the embeddings for a
    learning rate that falls from layer to layer."""
    params = params_of(TINY)
    found = encoded(TINY, params)
    assert found.table.shape == (20, 8) and found.hidden.shape == (2, 6, 12) and found.pooled is None
    changed = params | {"embeddings_project": jax.tree.map(jnp.zeros_like, params["embeddings_project"])}
    nothing = encoded(TINY, changed).intermediates["embeddings"]
    np.testing.assert_array_equal(nothing, np.zeros((2, 6, 12)))
    assert "embeddings_project" not in params_of(TINY.clone(embedding_width=12))
    depth, top = depths({"encoder": params})
    assert top == 3 and jax.tree.leaves(depth["encoder"]["embeddings_project"]) == [0, 0]


def test_embeddings_of_another():
    """They are what it reads in place of its own, of which it then has none."""

    class Both(nn.Module):
        first: Electra
        second: Electra

        def __call__(self, batch):
            return self.first(batch).hidden, self.second(batch, False, self.first.embeddings).hidden

    other = TINY.clone(width=4, num_heads=1, mlp_width=8)
    both = Both(TINY, other)
    params = params_of(both)
    assert set(params["first"]) == {"embeddings", "embeddings_project", "layers"}
    assert set(params["second"]) == {"embeddings_project", "layers"}
    found = encoded(both, params)
    alone = params["second"] | {"embeddings": params["first"]["embeddings"]}
    np.testing.assert_allclose(found[0], encoded(TINY, params["first"]).hidden, atol=1e-6)
    np.testing.assert_allclose(found[1], encoded(other, alone).hidden, atol=1e-6)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"rtd": Rtd("relu")}, "activation is 'gelu' in the encoder and 'relu' in the head 'rtd'"),
        ({"classify": Classify(3, hidden="tanh")}, "'classify' .* has no counterpart"),
    ],
)
def test_what_cannot_be_saved(tmp_path, heads, message):
    """What their classes have not, is an error and leaves no folder."""
    model = random_model({}, kind=Electra, scan=True).model.clone(objectives=heads)
    init = jax.jit(lambda batch: model.init(jax.random.key(0), batch, method="outputs")["params"])
    params = nn.unbox(init({"tokens": jnp.ones((1, 2), int)}))
    with pytest.raises(ValueError, match=message):
        Pretrained(model, params, None).save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_every_parameter_has_a_name():
    """With a projection and without."""
    for encoder in (TINY, TINY.clone(embedding_width=12)):
        params = {"encoder": params_of(encoder)}
        found = names.to_params(names.from_params(params, encoder, {}, "huggingface"), encoder, {}, "huggingface")[0]
        assert jax.tree.structure(found) == jax.tree.structure(params)
