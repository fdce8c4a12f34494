"""The original's layout: the names and shapes that its code looks up, to the bit there and back."""

import dataclasses
import json
import os
import re
import sys

import jax
import numpy as np
import pytest

from bert_jax.interop import google, names
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag
from bert_jax.pretrained import load
from tests.interop.random_models import random_model

# The variables that modeling.py and run_pretraining.py make for one layer (V 67, L 17, S 2, D 36, F 52), as
# `tf.train.list_variables` lists them; those of the optimizer are left out.
VARIABLES = {
    "bert/embeddings/word_embeddings": [67, 36],
    "bert/embeddings/token_type_embeddings": [2, 36],
    "bert/embeddings/position_embeddings": [17, 36],
    "bert/embeddings/LayerNorm/beta": [36],
    "bert/embeddings/LayerNorm/gamma": [36],
    "bert/encoder/layer_0/attention/self/query/kernel": [36, 36],
    "bert/encoder/layer_0/attention/self/query/bias": [36],
    "bert/encoder/layer_0/attention/self/key/kernel": [36, 36],
    "bert/encoder/layer_0/attention/self/key/bias": [36],
    "bert/encoder/layer_0/attention/self/value/kernel": [36, 36],
    "bert/encoder/layer_0/attention/self/value/bias": [36],
    "bert/encoder/layer_0/attention/output/dense/kernel": [36, 36],
    "bert/encoder/layer_0/attention/output/dense/bias": [36],
    "bert/encoder/layer_0/attention/output/LayerNorm/beta": [36],
    "bert/encoder/layer_0/attention/output/LayerNorm/gamma": [36],
    "bert/encoder/layer_0/intermediate/dense/kernel": [36, 52],
    "bert/encoder/layer_0/intermediate/dense/bias": [52],
    "bert/encoder/layer_0/output/dense/kernel": [52, 36],
    "bert/encoder/layer_0/output/dense/bias": [36],
    "bert/encoder/layer_0/output/LayerNorm/beta": [36],
    "bert/encoder/layer_0/output/LayerNorm/gamma": [36],
    "bert/pooler/dense/kernel": [36, 36],
    "bert/pooler/dense/bias": [36],
    "cls/predictions/transform/dense/kernel": [36, 36],
    "cls/predictions/transform/dense/bias": [36],
    "cls/predictions/transform/LayerNorm/beta": [36],
    "cls/predictions/transform/LayerNorm/gamma": [36],
    "cls/predictions/output_bias": [67],
    "cls/seq_relationship/output_weights": [2, 36],
    "cls/seq_relationship/output_bias": [2],
}
PRETRAINING = {"mlm": Mlm(), "nsp": Nsp()}


@pytest.fixture(scope="module")
def tensorflow():
    """TensorFlow, quiet."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return pytest.importorskip("tensorflow", reason="TF1 checkpoints need the extra bert_jax[tensorflow]")


@pytest.fixture
def saved(tensorflow, tmp_path):
    """A pre-trained model of one layer, and the folder it was written to."""
    p = random_model(PRETRAINING, num_layers=1)
    p.save(tmp_path / "model", format="google")
    return p, tmp_path / "model"


def variables(tensorflow, folder):
    reader = tensorflow.train.load_checkpoint(str(folder / google.CHECKPOINT))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def rewrite(tensorflow, folder, state):
    """Replaces the checkpoint of a folder."""
    tensorflow.raw_ops.SaveV2(
        prefix=str(folder / google.CHECKPOINT),
        tensor_names=list(state),
        shape_and_slices=[""] * len(state),
        tensors=[tensorflow.constant(value) for value in state.values()],
    )


def test_variables_of_the_original(tensorflow, saved):
    """Every variable that the original's graph has is there under its name, with its shape, and no other."""
    _, folder = saved
    found = tensorflow.train.list_variables(str(folder / google.CHECKPOINT))
    assert dict(found) == VARIABLES


def test_config_of_the_original(saved):
    """Its configuration has the eleven fields of modeling.py:33-44, and no more."""
    _, folder = saved
    assert json.loads((folder / "bert_config.json").read_text()) == {
        "vocab_size": 67,
        "hidden_size": 36,
        "num_hidden_layers": 1,
        "num_attention_heads": 3,
        "intermediate_size": 52,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 17,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
    }


@pytest.mark.parametrize(
    ("heads", "overrides"),
    [
        (PRETRAINING, {}),
        (PRETRAINING, {"activation": "relu", "segment_types": 16, "dropout": 0.2, "init_stddev": 0.05}),
        ({}, {"pooler": False}),
        ({"span": Span()}, {}),
        ({"classify": Classify(5)}, {}),
    ],
)
def test_there_and_back(tensorflow, tmp_path, heads, overrides):
    """What is written is opened again as the same model, to the bit."""
    p = random_model(heads, **overrides)
    p.save(tmp_path / "model", format="google")
    again = load(tmp_path / "model")
    assert again.model.encoder == p.model.encoder and again.model.objectives.keys() == p.model.objectives.keys()
    assert "mlm" not in heads or again.model.objectives["mlm"].activation == p.model.encoder.activation
    assert jax.tree.structure(again.params) == jax.tree.structure(p.params)
    jax.tree.map(np.testing.assert_array_equal, again.params, p.params)
    assert ("there is no pooler" in " ".join(again.notes)) == ("pooler" in overrides)
    assert ("there is no head" in " ".join(again.notes)) == (not heads)


def test_optimizer_is_passed_over(tensorflow, saved):
    """What the optimizer kept is ignored; a tensor that nothing explains is named."""
    p, folder = saved
    state = variables(tensorflow, folder)
    slots = {f"{name}/adam_{slot}": np.zeros(1, np.float32) for name in state for slot in "mv"}
    rewrite(tensorflow, folder, state | slots | {"global_step": np.int64(7), "bert/extra": np.zeros(3, np.float32)})
    again = load(folder)
    assert again.notes == ("tensor bert/extra (3,) is not used",)
    jax.tree.map(np.testing.assert_array_equal, again.params, p.params)


def test_several_data_files(tensorflow, saved):
    """A checkpoint in two data files is opened; without one of them it is an incomplete download."""
    p, folder = saved
    state, parts = variables(tensorflow, folder), [str(folder / "part0"), str(folder / "part1")]
    for path in folder.glob("bert_model.ckpt*"):
        path.unlink()
    for number, prefix in enumerate(parts):
        names = list(state)[number::2]
        tensorflow.raw_ops.SaveV2(
            prefix=prefix,
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tensorflow.constant(state[name]) for name in names],
        )
    target = str(folder / "model.ckpt-100")  # as the original's training calls them
    tensorflow.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=target)
    jax.tree.map(np.testing.assert_array_equal, load(folder).params, p.params)
    (folder / "model.ckpt-100.data-00001-of-00002").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model.ckpt-100.data-00001-of-00002"):
        load(folder)


def test_cut_off_or_flipped(tensorflow, saved):
    """Cut off anywhere, or with a flipped bit, the checkpoint is refused by name, or it is the same as before."""
    p, folder = saved
    rng = np.random.default_rng(0)

    def refused():
        try:
            again = google.read(folder)
        except ValueError as error:
            assert f"{folder / google.CHECKPOINT}.* is cut off or damaged" in str(error)
            return True
        jax.tree.map(np.testing.assert_array_equal, again.params, p.params)
        return False

    for name in ("bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"):
        content = (folder / name).read_bytes()
        for length in rng.choice(len(content), 20, replace=False):
            (folder / name).write_bytes(content[:length])
            assert refused()
        count = 0
        for bit in rng.choice(8 * len(content), 40, replace=False):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            (folder / name).write_bytes(flipped)
            count += refused()
        assert count > 30
        (folder / name).write_bytes(content)
    assert not refused()


def test_tensors_that_do_not_fit(tensorflow, saved):
    """Missing and misshapen tensors, and values that are not finite, are listed by name with the file."""
    _, folder = saved
    state = variables(tensorflow, folder)
    del state["bert/encoder/layer_0/attention/self/key/bias"]
    state["bert/pooler/dense/bias"] = np.zeros(35, np.float32)
    state["bert/embeddings/LayerNorm/gamma"] = np.full(36, np.nan, np.float32)
    rewrite(tensorflow, folder, state)
    with pytest.raises(ValueError, match=re.escape(str(folder / google.CHECKPOINT))) as error:
        load(folder)
    assert set(str(error.value).split("\n  ")[1:]) == {
        "bert/encoder/layer_0/attention/self/key/bias is missing, wanted (36,)",
        "bert/pooler/dense/bias has shape (35,), wanted (36,)",
        "bert/embeddings/LayerNorm/gamma holds 36 values that are not finite",
    }


def test_configurations(tensorflow, saved):
    """What bert_config.json leaves out and what the original's code does not look at."""
    _, folder = saved
    file = folder / "bert_config.json"
    config = json.loads(file.read_text())

    def read(changes):
        changed = {name: value for name, value in (config | changes).items() if value != "leave out"}
        file.write_text(json.dumps(changed))
        return load(folder)

    assert read({"layer_norm_eps": 1e-5}).model.encoder.norm_epsilon == 1e-12
    with pytest.raises(ValueError, match=r"token_type_embeddings has shape \(2, 36\), wanted \(16, 36\)"):
        read({"type_vocab_size": "leave out"})
    for activation in ("gelu_new", "tanh", None, "leave out"):
        with pytest.raises(ValueError, match=rf"{file}: hidden_act .* is none of gelu, relu"):
            read({"hidden_act": activation})
    with pytest.raises(ValueError, match=rf"{file} lacks hidden_size"):
        read({"hidden_size": "leave out"})
    file.write_text("{")
    with pytest.raises(ValueError, match=rf"{file} is not valid JSON"):
        load(folder)


def test_which_checkpoint(tensorflow, saved):
    """A folder with several checkpoints, or none, is not guessed at."""
    _, folder = saved
    (folder / "model.ckpt-7.index").touch()
    with pytest.raises(FileNotFoundError, match=r"must hold one .* found bert_model.ckpt, model.ckpt-7"):
        load(folder)
    for path in folder.glob("*.index"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold one .* found none"):
        load(folder)


@pytest.mark.parametrize(
    ("heads", "overrides", "message"),
    [
        ({}, {"activation": "gelu"}, "activation 'gelu' has no name in bert_config.json"),
        ({}, {"norm_epsilon": 1e-5}, "norm_epsilon 1e-05 cannot be said in bert_config.json"),
        ({"mlm": Mlm(tied=False)}, {}, "untied decoder"),
        ({"tag": Tag(3)}, {}, r"no head as 'tag' \(Tag\)"),
        ({}, {"causal": True}, "the encoder is causal.*bert_config.json cannot say"),
    ],
)
def test_what_the_original_cannot_say(tmp_path, heads, overrides, message):
    """It is refused before anything is written, without TensorFlow even."""
    p = random_model(heads, **overrides)
    with pytest.raises(ValueError, match=message):
        p.save(tmp_path / "model", format="google")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [{"activation": "relu"}, {"norm_epsilon": 1e-5}])
def test_head_that_differs_from_the_encoder(tmp_path, change):
    """One field stands for encoder and head: where they differ, nothing is written."""
    p = random_model({"mlm": Mlm()})
    model = p.model.clone(objectives={"mlm": p.model.objectives["mlm"].clone(**change)})
    with pytest.raises(ValueError, match=r"in the head 'mlm', .* in the encoder"):
        dataclasses.replace(p, model=model).save(tmp_path / "model", format="google")


def test_without_tensorflow(tmp_path, monkeypatch):
    """Both directions say which extra to install, and nothing is left behind."""
    p = random_model({})
    names.from_params(p.params, p.model.encoder, {}, "google")  # einops looks for tensorflow when it is first used
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match=r"pip install 'bert_jax\[tensorflow\]'"):
        p.save(tmp_path / "model", format="google")
    assert not list(tmp_path.iterdir())
    config = {"hidden_act": "gelu"}
    (tmp_path / "bert_config.json").write_text(json.dumps(config))
    for ending in ("index", "data-00000-of-00001"):
        (tmp_path / f"bert_model.ckpt.{ending}").touch()
    with pytest.raises(ImportError, match=r"pip install 'bert_jax\[tensorflow\]'"):
        load(tmp_path)
