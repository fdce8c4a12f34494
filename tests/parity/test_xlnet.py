"""XLNet: random weights compute what PyTorch's do: of one stream and of two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bert_jax.interop import names
from bert_jax.objectives.plm import Plm
from bert_jax.pretrained import load
from tests.interop.random_models import FAMILY, family_model
from tests.parity.pytorch import gradients, opened, ours, tensors, theirs, with_own_scale
from tests.parity.test_numbers import HEADS, assert_parity

# Of each, fields that differ from the defaults, and whether the decoder is tied.
CONFIGURATIONS = {
    "as released": ({"activation": "gelu"}, True),
    "other": ({"vocab_size": 96, "width": 32, "num_heads": 4, "activation": "relu", "norm_epsilon": 1e-3}, False),
    "original": ({}, True),
}
FINE_TUNING = [name for name in FAMILY["xlnet"][2] if "For" in name]


def batch_of(model, length, padded=True):
    """Four rows, whole and padded, of up to five segments."""
    rng = np.random.default_rng(length)
    lengths = np.array([length, max(1, length * 2 // 3), length, max(1, length // 3)], np.int32)
    lengths = lengths if padded else np.full_like(lengths, length)
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    tokens = np.where(mask, rng.integers(0, model.encoder.vocab_size, mask.shape), 5).astype(np.int32)
    segments = np.sort(rng.integers(0, 5, mask.shape, np.int32), axis=1)
    return {"tokens": tokens, "segments": segments, "lengths": lengths}


def inputs_of(batch, left):
    """Their inputs, padded on the left or on the right."""
    mask = (np.arange(batch["tokens"].shape[1]) < batch["lengths"][:, None]).astype(np.int32)
    inputs = {"input_ids": batch["tokens"], "token_type_ids": batch["segments"], "attention_mask": mask}
    return {name: moved(x, batch["lengths"]) for name, x in inputs.items()} if left else inputs


def moved(rows, lengths):
    """Each row with its padding on the left."""
    return np.stack([np.roll(row, row.shape[0] - n, axis=0) for row, n in zip(rows, lengths, strict=True)])


def without_padding(outputs, inputs):
    mask = inputs["attention_mask"]
    return {name: x * mask[..., None] if x.ndim == 3 else x for name, x in outputs.items()}


@pytest.mark.parametrize("name", FINE_TUNING)
def test_heads(compare, tmp_path, name):
    """Hidden states, logits, loss and all gradients, of rows that theirs pad on the left, so that the last column is
    the last token, which the heads over texts read. Of spans rows are whole: the softmax is over padding, too, which in
    theirs sees itself."""
    p = family_model("xlnet", name, activation="gelu")
    p.save(tmp_path / "saved")
    batch = batch_of(p.model, 17, padded="QuestionAnswering" not in name)
    inputs = inputs_of(batch, True)
    own = f"Bert{name[name.index('For') :]}".removesuffix("Simple")
    if HEADS[own] is None:
        tags = np.random.default_rng(0).integers(0, 3, (4, 17))
        tags[np.arange(17) >= batch["lengths"][:, None]] = -100
        labels, wanted = {"tags": tags}, {"labels": moved(tags, batch["lengths"])}
    else:
        labels, wanted = HEADS[own]
    labels = jax.tree.map(lambda array: array.astype(np.int32), labels) | {"weight": np.ones(4, np.float32)}
    found = ours(p.model, p.params, batch | labels)
    given = inputs
    if choice := name.endswith("MultipleChoice"):
        given = {key: value.reshape(2, 2, 17) for key, value in inputs.items()}
    expected = theirs(opened(tmp_path / "saved", name), given, wanted, "logits")
    if choice:
        expected[0]["logits"] = expected[0]["logits"].reshape(-1)
    outputs = {key: moved(x, batch["lengths"]) if x.shape[1:2] == (17,) else x for key, x in found[0].items()}
    pair = ((without_padding(outputs, inputs), *rest) for outputs, *rest in ((outputs, *found[1:]), expected))
    assert_parity(compare, *pair)


def corrupted(p, batch, length):
    """The batch with an order, of tokens of which 3 and 4 are [CLS] and [SEP]; more than a sixth is predicted, and so
    there are rows that are filled up."""
    plm = Plm(max_predictions=max(2, length // 3), rate=0.3).for_vocabulary(p.model.encoder.vocab_size, (3, 4, 6))
    keys = jax.random.split(jax.random.key(length), 4)
    return plm.corrupt(keys, jax.tree.map(jnp.asarray, batch | {"weight": np.ones(4, np.float32)}))


def permutation(batch):
    """Their arguments: what each token does not see (data_utils.py, `_local_perm`, written out), where predictions
    are, and of which tokens."""
    order, asked = np.asarray(batch["order"]), np.asarray(batch["asked"])
    weights, length = np.asarray(batch["plm_weights"]) > 0, order.shape[1]
    mapping = (asked[:, :, None] == np.arange(length)) & weights[..., None]
    predicted = mapping.any(axis=1)
    rank = order - 1  # -1 of what is given
    own = np.where(predicted, rank, rank + 1)
    hidden = (own[:, :, None] <= rank[:, None, :]) & (order > 0)[:, None, :]
    labels = np.where(weights, np.asarray(batch["plm_labels"]), -100)
    return {"perm_mask": hidden.astype(np.float32), "target_mapping": mapping.astype(np.float32)}, labels


@pytest.mark.parametrize(
    ("configuration", "length"),
    [("as released", 17), ("as released", 512), ("other", 17), ("other", 128), ("original", 17)],
)
def test_pretraining(compare, tmp_path, configuration, length):
    """Both streams after the last layer, logits, loss and all gradients of predictions in a random order, with padding;
    saved, it opens as it was."""
    fields, tied = CONFIGURATIONS[configuration]
    p = family_model("xlnet", "XLNetLMHeadModel", **{"max_length": 512} | fields)
    if not tied:
        p.model.objectives["plm"] = Plm(tied=False)
        shape = p.model.encoder.vocab_size, p.model.encoder.width
        p.params["objectives_plm"]["decoder"] = np.random.default_rng(1).normal(0, 0.2, shape).astype(np.float32)
    p.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.model.objectives == p.model.objectives and again.model.encoder == p.model.encoder
    batch = corrupted(p, batch_of(p.model, length), length)
    model = p.model.clone(encoder=p.model.encoder.clone(dtype="float32"))
    params = jax.tree.map(jnp.asarray, p.params)

    def loss(params):
        return model.loss_of(model.apply({"params": params}, batch))

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    gradient = names.from_params(gradient, model.encoder, model.objectives, "huggingface")
    encoded = jax.jit(model.encoder.apply)({"params": params["encoder"]}, batch)
    theirs = opened(tmp_path / "saved", "XLNetLMHeadModel")
    arguments, labels = permutation(batch)
    inputs = tensors(inputs_of(jax.tree.map(np.asarray, batch), False))
    arguments = {name: torch.tensor(x) for name, x in arguments.items()} | tensors({"labels": labels})
    expected = theirs(**inputs, **arguments, output_hidden_states=True)
    expected.loss.backward()
    real = inputs["attention_mask"].numpy()[..., None]
    content, query = (states.detach().numpy() for states in expected.hidden_states[-2:])
    compare("hidden", np.asarray(encoded.hidden) * real, content * real)
    weights = np.asarray(batch["plm_weights"])[..., None]
    compare("hidden", np.asarray(encoded.intermediates["asked"]) * weights, query * weights)
    compare("loss", float(value), expected.loss.item())
    compare("gradients", with_own_scale(gradient), with_own_scale(gradients(theirs)))


@pytest.mark.parametrize("length", (1, 17, 128, 512))
def test_without_an_order(compare, tmp_path, length):
    """Hidden states and logits of all tokens in sight of each other, with padding, and segments that are not given."""
    p = family_model("xlnet", "XLNetLMHeadModel", max_length=512, activation="gelu")
    p.save(tmp_path / "saved")
    batch = batch_of(p.model, length)
    inputs = inputs_of(batch, False)
    mask = inputs["attention_mask"][..., None]
    with torch.no_grad():
        del inputs["token_type_ids"]
        expected = opened(tmp_path / "saved", "XLNetLMHeadModel")(**tensors(inputs), output_hidden_states=True)
    found = p(batch["tokens"], np.zeros_like(batch["tokens"]), inputs["attention_mask"])
    compare("hidden", found["hidden"] * mask, expected.hidden_states[-1].numpy() * mask)
    compare("lm_logits", found["lm_logits"] * mask, expected.logits.numpy() * mask)


@pytest.mark.parametrize(("length", "chunk", "memory"), [(17, 6, 4), (512, 128, 128), (48, 16, 40)])
def test_memory(compare, tmp_path, length, chunk, memory):
    """Rows in chunks are what theirs computes chunk after chunk with the memory that it returned (`mems`): hidden
    states of one stream; then both streams, loss and all gradients of predictions in a random order of each chunk, with
    segments and padding."""
    p = family_model("xlnet", "XLNetLMHeadModel", max_length=512)
    p.save(tmp_path / "saved")
    model = p.model.clone(encoder=p.model.encoder.clone(dtype="float32", chunk=chunk, memory=memory))
    params = jax.tree.map(jnp.asarray, p.params)
    plain = batch_of(model, length)
    plm = Plm(max_predictions=max(2, chunk // 3), rate=0.3, chunk=chunk)
    model = model.clone(objectives={"plm": plm.for_vocabulary(model.encoder.vocab_size, (3, 4, 6))})
    keys = jax.random.split(jax.random.key(length), 4)
    weighted = jax.tree.map(jnp.asarray, plain | {"weight": np.ones(4, np.float32)})
    batch = jax.tree.map(np.asarray, model.objectives["plm"].corrupt(keys, weighted))

    theirs = opened(tmp_path / "saved", "XLNetLMHeadModel")
    theirs.transformer.mem_len = memory
    mems = {False: None, True: None}  # of one stream and of two
    real = (np.arange(length) < plain["lengths"][:, None])[..., None]
    alone = jax.jit(model.encoder.apply)({"params": params["encoder"]}, jax.tree.map(jnp.asarray, plain)).hidden
    encoded = jax.jit(model.encoder.apply)({"params": params["encoder"]}, jax.tree.map(jnp.asarray, batch))
    places = plm.max_predictions
    total, count = 0.0, batch["plm_weights"].sum()
    for i, start in enumerate(range(0, length, chunk)):
        columns, asked = slice(start, min(start + chunk, length)), slice(i * places, (i + 1) * places)
        part = {name: batch[name][:, columns] for name in ("tokens", "segments", "order")}
        part |= {name: batch[name][:, asked] for name in ("plm_labels", "plm_weights")}
        part["asked"] = batch["asked"][:, asked] - start
        mask = real[:, columns, 0].astype(np.int32)
        inputs = {"input_ids": part["tokens"], "token_type_ids": part["segments"], "attention_mask": mask}
        arguments, labels = permutation(part)
        for two in (False, True):
            own = tensors(inputs) | ({name: torch.tensor(x) for name, x in arguments.items()} if two else {})
            found = theirs(**own, mems=mems[two], use_mems=True, output_hidden_states=True)
            mems[two] = found.mems
            states = [states.detach().numpy() for states in found.hidden_states]
            content = (encoded.hidden if two else alone)[:, columns] * mask[..., None]
            compare("hidden", content, states[-2 if two else -1] * mask[..., None])
            if not two:
                continue
            weights = part["plm_weights"][..., None]
            compare("hidden", encoded.intermediates["asked"][:, asked] * weights, states[-1] * weights)
            logits, labels = found.logits.flatten(0, 1), torch.tensor(labels.astype(np.int64)).flatten()
            total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / float(count)
    total.backward()

    def loss(params):
        return model.loss_of(model.apply({"params": params}, jax.tree.map(jnp.asarray, batch)))

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    gradient = names.from_params(gradient, model.encoder, model.objectives, "huggingface")
    compare("loss", float(value), total.item())
    compare("gradients", with_own_scale(gradient), with_own_scale(gradients(theirs)))
