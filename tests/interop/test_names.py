"""The table of parameters: every tensor under its right name with its axes in order, to the bit in both directions."""

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
import pytest

from bert_jax.interop import names
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag
from tests.interop.random_models import random_model

HEADS = {
    "none": {},
    "pretraining": {"mlm": Mlm(), "nsp": Nsp()},
    "masked LM": {"mlm": Mlm()},
    "masked LM, untied": {"mlm": Mlm(tied=False)},
    "next sentence": {"nsp": Nsp()},
    "texts": {"classify": Classify(5)},
    "tokens": {"tag": Tag(5)},
    "spans": {"span": Span()},
    "choice": {"choice": Choice(4)},
}
WITHOUT_POOLER = ("none", "masked LM", "masked LM, untied", "tokens", "spans")
CASES = [
    (heads, pooler, style)
    for heads in HEADS
    for pooler in (True, False)
    for style in ("huggingface", "google")
    if (pooler or heads in WITHOUT_POOLER) and (heads != "masked LM, untied" or style == "huggingface")
]

# Of a model of one layer for pre-training, as `state_dict()` of BertForPreTraining lists them (V 67, L 17, S 2, D 36,
# F 52), its decoder untied.
HUGGINGFACE = {
    "bert.embeddings.word_embeddings.weight": (67, 36),
    "bert.embeddings.position_embeddings.weight": (17, 36),
    "bert.embeddings.token_type_embeddings.weight": (2, 36),
    "bert.embeddings.LayerNorm.weight": (36,),
    "bert.embeddings.LayerNorm.bias": (36,),
    "bert.encoder.layer.0.attention.self.query.weight": (36, 36),
    "bert.encoder.layer.0.attention.self.query.bias": (36,),
    "bert.encoder.layer.0.attention.self.key.weight": (36, 36),
    "bert.encoder.layer.0.attention.self.key.bias": (36,),
    "bert.encoder.layer.0.attention.self.value.weight": (36, 36),
    "bert.encoder.layer.0.attention.self.value.bias": (36,),
    "bert.encoder.layer.0.attention.output.dense.weight": (36, 36),
    "bert.encoder.layer.0.attention.output.dense.bias": (36,),
    "bert.encoder.layer.0.attention.output.LayerNorm.weight": (36,),
    "bert.encoder.layer.0.attention.output.LayerNorm.bias": (36,),
    "bert.encoder.layer.0.intermediate.dense.weight": (52, 36),
    "bert.encoder.layer.0.intermediate.dense.bias": (52,),
    "bert.encoder.layer.0.output.dense.weight": (36, 52),
    "bert.encoder.layer.0.output.dense.bias": (36,),
    "bert.encoder.layer.0.output.LayerNorm.weight": (36,),
    "bert.encoder.layer.0.output.LayerNorm.bias": (36,),
    "bert.pooler.dense.weight": (36, 36),
    "bert.pooler.dense.bias": (36,),
    "cls.predictions.transform.dense.weight": (36, 36),
    "cls.predictions.transform.dense.bias": (36,),
    "cls.predictions.transform.LayerNorm.weight": (36,),
    "cls.predictions.transform.LayerNorm.bias": (36,),
    "cls.predictions.bias": (67,),
    "cls.predictions.decoder.weight": (67, 36),
    "cls.seq_relationship.weight": (2, 36),
    "cls.seq_relationship.bias": (2,),
}


def opened(params, model, style):
    return names.from_params(params, model.encoder, model.objectives, style)


@pytest.mark.parametrize(("heads", "pooler", "style"), CASES)
def test_there_and_back(heads, pooler, style):
    """Parameters -> tensors elsewhere -> parameters changes no bit, and no tensor is left over."""
    p = random_model(HEADS[heads], pooler=pooler)
    state = opened(p.params, p.model, style)
    assert all(value.dtype == np.float32 and value.flags.c_contiguous for value in state.values())
    again, unused = names.to_params(state, p.model.encoder, p.model.objectives, style)
    assert unused == []
    assert jax.tree.structure(again) == jax.tree.structure(p.params)
    jax.tree.map(np.testing.assert_array_equal, again, p.params)


def test_names_and_shapes_of_huggingface():
    """The tensors are those that PyTorch's class has, by name and shape."""
    p = random_model({"mlm": Mlm(tied=False), "nsp": Nsp()}, num_layers=1)
    state = opened(p.params, p.model, "huggingface")
    assert {name: value.shape for name, value in state.items()} == HUGGINGFACE


def test_axes():
    """PyTorch's rows are our columns; head h of query, key and value are the rows h * K to h * K + K."""
    p = random_model({"mlm": Mlm(), "nsp": Nsp()})
    state = opened(p.params, p.model, "huggingface")
    attention = p.params["encoder"]["layers"]["attention"]
    n, d, h, k = 1, 5, 2, 7
    row = h * 12 + k
    for j, part in enumerate(("query", "key", "value")):
        own = f"bert.encoder.layer.{n}.attention.self.{part}"
        assert state[f"{own}.weight"][row, d] == attention["qkv"]["kernel"][n, d, j, h, k]
        assert state[f"{own}.bias"][row] == attention["qkv"]["bias"][n, j, h, k]
    out = state[f"bert.encoder.layer.{n}.attention.output.dense.weight"]
    assert out[d, row] == attention["out"]["kernel"][n, h, k, d]
    narrow = state[f"bert.encoder.layer.{n}.output.dense.weight"]
    assert narrow[d, 40] == p.params["encoder"]["layers"]["mlp"]["narrow"]["kernel"][n, d, 40]
    nsp = state["cls.seq_relationship.weight"]
    assert nsp[1, d] == p.params["objectives_nsp"]["output"]["kernel"][d, 1]


def test_axes_of_google():
    """TensorFlow's dense kernels are [in, out], but its classifiers [out, in] (run_classifier.py:596-600)."""
    p = random_model({"mlm": Mlm(), "nsp": Nsp()})
    state = opened(p.params, p.model, "google")
    layers = p.params["encoder"]["layers"]
    assert (
        state["bert/encoder/layer_1/attention/self/key/kernel"][5, 31]
        == (layers["attention"]["qkv"]["kernel"][1, 5, 1, 2, 7])
    )
    assert (
        state["bert/encoder/layer_1/attention/output/dense/kernel"][31, 5]
        == (layers["attention"]["out"]["kernel"][1, 2, 7, 5])
    )
    assert state["bert/encoder/layer_1/output/dense/kernel"][40, 5] == layers["mlp"]["narrow"]["kernel"][1, 5, 40]
    assert state["cls/seq_relationship/output_weights"][1, 5] == p.params["objectives_nsp"]["output"]["kernel"][5, 1]
    assert state["bert/embeddings/LayerNorm/gamma"][3] == p.params["encoder"]["embeddings"]["norm"]["scale"][3]


def test_all_faults_in_one_error():
    """Whatever is missing, misshapen or of a wrong type is listed by name, all of it at once."""
    p = random_model({"mlm": Mlm()})
    state = opened(p.params, p.model, "huggingface")
    del state["bert.encoder.layer.1.attention.self.key.bias"], state["cls.predictions.bias"]
    state["bert.pooler.dense.weight"] = np.zeros((36, 35), np.float32)
    state["bert.embeddings.LayerNorm.weight"] = np.ones(36, np.int8)
    with pytest.raises(ValueError, match="do not fit the configuration") as error:
        names.to_params(state, p.model.encoder, p.model.objectives, "huggingface")
    assert set(str(error.value).split("\n  ")[1:]) == {
        "bert.encoder.layer.1.attention.self.key.bias is missing, wanted (36,)",
        "cls.predictions.bias is missing, wanted (67,)",
        "bert.pooler.dense.weight has shape (36, 35), wanted (36, 36)",
        "bert.embeddings.LayerNorm.weight has dtype int8, wanted floating point",
    }


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_any_floating_point(dtype):
    """Parameters are float32 here, whatever precision the tensors have; nothing else happens to them."""
    p = random_model({})
    state = {name: value.astype(dtype) for name, value in opened(p.params, p.model, "huggingface").items()}
    params, _ = names.to_params(state, p.model.encoder, p.model.objectives, "huggingface")
    found = opened(params, p.model, "huggingface")
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value.astype(np.float32))
        assert found[name].dtype == np.float32


def test_what_nothing_takes_is_returned():
    """Tensors that belong to no parameter are named, not forgotten."""
    p = random_model({})
    state = opened(p.params, p.model, "huggingface") | {"cls.predictions.bias": np.zeros(67), "a": np.zeros(1)}
    _, unused = names.to_params(state, p.model.encoder, {}, "huggingface")
    assert unused == ["a", "cls.predictions.bias"]


def test_what_has_no_name_elsewhere():
    """A head of one's own, and an untied decoder in Google's layout, are errors that name them."""

    class Own(nn.Module):
        pass

    p = random_model({"mlm": Mlm(tied=False)})
    with pytest.raises(ValueError, match=r"objectives_mlm/decoder .* has no name in a google checkpoint"):
        opened(p.params, p.model, "google")
    with pytest.raises(ValueError, match=r"objective 'mine' \(Own\) has no counterpart"):
        names.from_params(p.params, p.model.encoder, {"mine": Own()}, "huggingface")


def test_layout_is_the_whole_table():
    """What documentation and conversion print lists every parameter once."""
    p = random_model({"mlm": Mlm(), "nsp": Nsp()})
    paths = {"/".join(key.key for key in path) for path, _ in jax.tree_util.tree_flatten_with_path(p.params)[0]}
    rows = list(names.layout(p.model.encoder, p.model.objectives, "huggingface"))
    assert sorted(path for _, _, path, _ in rows) == sorted(paths)
    assert ("bert.embeddings.word_embeddings.weight", "VD", "encoder/embeddings/words/table", "VD") in rows
