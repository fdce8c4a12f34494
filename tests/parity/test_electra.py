"""ELECTRA: the discriminator's head, and generator and discriminator together, compute what PyTorch's do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bert_jax.interop import names
from bert_jax.learners.electra import GeneratorDiscriminator, drawn
from bert_jax.models.electra import Electra
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.rtd import Rtd
from bert_jax.pretrained import Pretrained
from tests.interop.random_models import TINY, family_model
from tests.parity.pytorch import gradients, opened, ours, tensors, theirs, with_own_scale
from tests.parity.test_numbers import assert_parity, batches_of, pretraining_labels


def without_padding(outputs, mask):
    """Padding has hidden states there, too, of no meaning."""
    return {name: x * mask.reshape(mask.shape + (1,) * (x.ndim - 2)) for name, x in outputs.items()}


@pytest.mark.parametrize("length", [1, 17, 128])
@pytest.mark.parametrize("fields", [{}, {"embedding_width": 36, "activation": "relu", "norm_epsilon": 1e-5}])
def test_replaced_token_detection(compare, tmp_path, fields, length):
    """Hidden states, logits, loss and all gradients of `ElectraForPreTraining`, with padding and segments; with a
    projection and without."""
    p = family_model("electra", "ElectraForPreTraining", max_length=128, **fields)
    p.model.objectives["rtd"] = Rtd(activation=p.model.encoder.activation)
    assert ("embeddings_project" in p.params["encoder"]) == (not fields)
    p.save(tmp_path / "saved")
    batch, inputs = batches_of(p.model, length)
    replaced = np.random.default_rng(1).random(batch["tokens"].shape) < 0.2
    found = ours(p.model, p.params, batch | {"replaced": replaced, "weight": np.ones(4, np.float32)})
    model = opened(tmp_path / "saved", "ElectraForPreTraining")
    expected = theirs(model, inputs, {"labels": replaced}, "rtd_logits")
    mask = inputs["attention_mask"]
    assert_parity(compare, *((without_padding(outputs, mask), *rest) for outputs, *rest in (found, expected)))


def test_both_together(compare, tmp_path):
    """The learner's loss and gradients are those of two models of theirs, written out: the generator's masked LM plus
    50 times the detection of what it has drawn; the gradient of the embeddings is the sum of both."""
    fields = {name: value for name, value in TINY.items() if name != "segment_types"} | {"width": 64, "num_heads": 4}
    encoder = Electra(**fields, embedding_width=20)
    learner = GeneratorDiscriminator(encoder, {"mlm": Mlm(activation="gelu"), "rtd": Rtd()}, generator_size=0.5)
    batch, inputs = batches_of(learner, 17)
    labels, wanted = pretraining_labels(learner, batch, batch["lengths"])
    originals = np.where(wanted["labels"] >= 0, wanted["labels"], batch["tokens"]).astype(np.int32)
    draws = np.random.default_rng(2).integers(0, 2**32, (4, 2), np.uint32)
    batch |= labels | {"originals": originals, "draws": draws, "weight": np.ones(4, np.float32)}
    batch = jax.tree.map(jnp.asarray, batch)
    rng = np.random.default_rng(3)

    def draw(path, leaf):
        return jnp.asarray(rng.normal(path[-1].key == "scale", 0.2, leaf.shape), jnp.float32)

    shapes = nn.unbox(jax.eval_shape(learner.init, jax.random.key(0), batch)["params"])
    params = jax.tree_util.tree_map_with_path(draw, shapes)

    @jax.jit
    def compute(params):
        return jax.value_and_grad(lambda params: learner.loss_of(learner.apply({"params": params}, batch)))(params)

    loss, gradient = compute(params)
    models = []
    for model, own in (learner.generator_alone(params), (learner.as_multitask(), params)):
        kind = "ElectraForMaskedLM" if "mlm" in model.objectives else "ElectraForPreTraining"
        Pretrained(model, own, None).save(tmp_path / kind)
        models.append(opened(tmp_path / kind, kind))
    generator, discriminator = models
    masked = generator(**tensors(inputs), **tensors(wanted))
    places = batch["mlm_positions"][..., None]
    tokens = drawn(jnp.take_along_axis(jnp.asarray(masked.logits.detach().numpy()), places, axis=1), batch["draws"])
    shown = originals.copy()
    for row, column in np.argwhere(np.asarray(batch["mlm_weights"])):
        shown[row, batch["mlm_positions"][row, column]] = tokens[row, column]
    given = tensors(inputs | {"input_ids": shown})
    expected = masked.loss + 50 * discriminator(**given, labels=torch.tensor(shown != originals)).loss
    expected.backward()
    compare("loss", float(loss), expected.item())
    # Ours has the gradient of the embeddings once, which is to be the sum of the two of theirs.
    found, wanted = {}, {}
    parts = learner.generator_alone(gradient), (learner.as_multitask(), gradient)
    for kind, (part, own), model in zip("gd", parts, models, strict=True):
        own = names.from_params(own, part.encoder, part.objectives, "huggingface")
        found |= {f"{kind} {name}": x for name, x in own.items()}
        wanted |= {f"{kind} {name}": x for name, x in gradients(model).items()}
    shared = [name.removeprefix("g ") for name in found if name.startswith("g electra.embeddings.")]
    assert len(shared) == 5
    for name in shared:
        wanted[f"g {name}"] = wanted[f"d {name}"] = wanted[f"g {name}"] + wanted[f"d {name}"]
    compare("gradients", with_own_scale(found), with_own_scale(wanted))
