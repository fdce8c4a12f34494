"""Folders in Hugging Face's layout: what is written opens as it was, and the spellings of all the years open too."""

import json

import flax.serialization
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from bert_jax.interop import names
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.nsp import Nsp
from bert_jax.objectives.regress import Regress
from bert_jax.pretrained import load
from bert_jax.text.wordpiece import WordPiece
from tests.interop.numpy_bert import forward
from tests.interop.random_models import CLASSES, CONFIG, LABELS, TINY, random_batch, random_model

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##b"]


@pytest.fixture(scope="module")
def pretraining():
    return random_model({"mlm": Mlm(), "nsp": Nsp()})


def state_of(p):
    """The tensors under their names of today."""
    return names.from_params(p.params, p.model.encoder, p.model.objectives, "huggingface")


def folder_of(folder, state, **config):
    """A folder with these tensors, its configuration silent on all that has a default but for `config`."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"hidden_act": "gelu_new"} | config))
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(value) for name, value in state.items()}, folder / "model.safetensors"
    )
    return folder


def assert_same(params, expected):
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


# --- the forward pass, refereed ---

FORWARD = {
    **{name: (heads, {"pooler": pooler}) for name, (heads, pooler) in CLASSES.items()},
    "exact gelu, one segment type": ({"mlm": Mlm(), "nsp": Nsp()}, {"activation": "gelu", "segment_types": 1}),
    "relu, 16 segment types": ({"mlm": Mlm(), "nsp": Nsp()}, {"activation": "relu", "segment_types": 16}),
    "epsilon 1e-5, untied, no pooler": ({"mlm": Mlm(tied=False)}, {"norm_epsilon": 1e-5, "pooler": False}),
    "one head, one layer": ({}, {"num_heads": 1, "num_layers": 1}),
}
THEIRS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}


def assert_forward(p, batch):
    """What `p` computes of a batch is what the independent implementation computes: within 1e-5 of each array's
    largest value, at all tokens that are no padding."""
    encoder = p.model.encoder
    config = {
        "hidden_act": THEIRS[encoder.activation],
        "num_attention_heads": encoder.num_heads,
        "num_hidden_layers": encoder.num_layers,
        "layer_norm_eps": encoder.norm_epsilon,
    }
    whole = {"segments": np.zeros_like(batch["tokens"]), "mask": np.ones_like(batch["tokens"])} | batch
    expected = forward(state_of(p), config, **whole)
    if "choice" in p.model.objectives:
        expected["logits"] = expected["logits"][:, 0]
    found = p(**batch)
    assert found.keys() == expected.keys()
    real = whole["mask"] > 0
    for name, value in expected.items():
        seen = real if value.shape[:2] == real.shape else real[:, 0]  # what is pooled is the first token
        assert np.abs(np.asarray(found[name])[seen] - value[seen]).max() <= 1e-5 * np.abs(value[seen]).max(), name


@pytest.mark.parametrize("case", FORWARD)
def test_forward(case):
    """Hidden states, pooled output and all logits, over the heads and over unusual configurations."""
    heads, overrides = FORWARD[case]
    p = random_model(heads, **overrides)
    assert_forward(p, random_batch(p.model, [17, 1, 9], 17))


def test_forward_of_any_mask(pretraining):
    """The same without mask and segments, with padding on the left, and with holes."""
    batch = random_batch(pretraining.model, [17, 17, 17], 17)
    assert_forward(pretraining, {"tokens": batch["tokens"]})
    batch["mask"][1, :4] = 0
    batch["mask"][2, 5:9] = 0
    assert_forward(pretraining, batch)


# --- saved and loaded ---


@pytest.mark.parametrize("name", CLASSES)
def test_saved_and_loaded(tmp_path, name):
    """Model, parameters, labels, tokenizer and outputs come back exactly, and the folder names its class."""
    heads, pooler = CLASSES[name]
    p = random_model(
        heads, tokenizer=WordPiece(PIECES), pooler=pooler, norm_epsilon=1e-6, activation="gelu", dropout=0.3
    )
    p.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert config["architectures"] == [name]
    assert again.model.encoder == p.model.encoder
    assert (
        again.labels
        == p.labels
        == (LABELS if name in ("BertForSequenceClassification", "BertForTokenClassification") else ())
    )
    assert again.tokenizer.fingerprint == p.tokenizer.fingerprint
    assert_same(again.params, p.params)
    for head in heads:
        assert getattr(again.model.objectives[head], "dropout", 0.2) == 0.2
    batch = random_batch(p.model, [17, 3], 17)
    assert_same(again(**batch), p(**batch))


def test_untied_decoder_is_saved(tmp_path):
    """A decoder of its own is written with its bias, and the configuration says that it is not tied."""
    p = random_model({"mlm": Mlm(tied=False), "nsp": Nsp()})
    p.save(tmp_path / "saved")
    held = safetensors.numpy.load_file(tmp_path / "saved/model.safetensors")
    np.testing.assert_array_equal(held["cls.predictions.decoder.bias"], held["cls.predictions.bias"])
    assert json.loads((tmp_path / "saved/config.json").read_text())["tie_word_embeddings"] is False
    again = load(tmp_path / "saved")
    assert not again.model.objectives["mlm"].tied
    assert_same(again.params, p.params)


def test_encoder_alone_has_no_prefix(tmp_path):
    """The names of a bare model are those that BertModel itself writes; a file of them comes back byte for byte."""
    p = random_model({"mlm": Mlm()})
    p.save(tmp_path / "first", heads=[])
    held = safetensors.numpy.load_file(tmp_path / "first/model.safetensors")
    assert {name.split(".")[0] for name in held} == {"embeddings", "encoder", "pooler"}
    load(tmp_path / "first").save(tmp_path / "second")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


@pytest.mark.parametrize("name", [name for name, (_, pooler) in CLASSES.items() if not pooler])
def test_pooler_stays_behind(tmp_path, name):
    """Where the class of theirs has no pooler, its tensors are not written; the rest computes the same."""
    p = random_model(CLASSES[name][0], pooler=True)
    p.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert not again.model.encoder.pooler
    assert any("no pooler" in note for note in again.notes)
    batch = random_batch(p.model, [17, 3], 17)
    outputs = dict(p(**batch))
    del outputs["pooled"]
    assert_same(again(**batch), outputs)


def test_a_causal_encoder_is_not_saved(tmp_path):
    """Their classes would compute something else of it: they pool the first token."""
    with pytest.raises(ValueError, match=r"the encoder is causal.*pools the last: format bert_jax"):
        random_model({"classify": Classify(2)}, causal=True).save(tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_what_cannot_be_saved(tmp_path):
    """Heads that no class has together, and a configuration that has one field for two values, leave no folder."""
    two = random_model({"mlm": Mlm(), "classify": Classify(3)})
    with pytest.raises(ValueError, match=r"no class of transformers has the heads mlm, classify.*`heads`"):
        two.save(tmp_path / "saved")
    p = random_model({"mlm": Mlm()})
    p.model.objectives["mlm"] = Mlm(activation="relu")
    with pytest.raises(ValueError, match="activation is 'gelu_tanh' in the encoder and 'relu' in the head 'mlm'"):
        p.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="the head 'classify' has 3 classes, but 2 labels"):
        random_model({"classify": Classify(3, labels=("a", "b"))}).save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


# --- spellings ---


def gamma_beta(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def test_gamma_and_beta(tmp_path, pretraining):
    """Checkpoints of 2018 call a norm's scale gamma and its bias beta."""
    state = {gamma_beta(name): value for name, value in state_of(pretraining).items()}
    assert sum("gamma" in name for name in state) == 6
    p = load(folder_of(tmp_path, state))
    assert_same(p.params, pretraining.params)
    assert p.notes == ()


def test_without_prefix(tmp_path):
    """A bare encoder's tensors have no `bert.` before them, or have it: the same."""
    model = random_model({})
    bare = {name.removeprefix("bert."): value for name, value in state_of(model).items()}
    assert_same(load(folder_of(tmp_path / "bare", bare)).params, model.params)
    assert_same(load(folder_of(tmp_path / "prefixed", state_of(model))).params, model.params)


def test_buffers_and_duplicates(tmp_path, pretraining):
    """Counters and second copies of tied tensors are dropped without a word."""
    state = state_of(pretraining)
    state |= {
        "bert.embeddings.position_ids": np.arange(17)[None],
        "cls.predictions.decoder.weight": state["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": state["cls.predictions.bias"],
    }
    p = load(folder_of(tmp_path, state))
    assert_same(p.params, pretraining.params)
    assert p.notes == ()
    bare = {name.removeprefix("bert."): value for name, value in state_of(random_model({})).items()}
    assert load(folder_of(tmp_path, bare | {"embeddings.position_ids": np.arange(17)[None]})).params


def test_only_the_duplicates(tmp_path, pretraining):
    """Of tensors that are one, a file may keep either."""
    state = state_of(pretraining)
    state["cls.predictions.decoder.weight"] = state.pop("bert.embeddings.word_embeddings.weight")
    state["cls.predictions.decoder.bias"] = state.pop("cls.predictions.bias")
    assert_same(load(folder_of(tmp_path, state)).params, pretraining.params)


def test_decoder_that_differs(tmp_path, pretraining):
    """Where the file holds another decoder than the embeddings, it is opened, whatever the configuration says; and
    the bias that counts is the decoder's. Both are said."""
    state = state_of(pretraining)
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"] + 1
    state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"] + 1
    p = load(folder_of(tmp_path, state))
    assert not p.model.objectives["mlm"].tied
    np.testing.assert_array_equal(p.params["objectives_mlm"]["decoder"], state["cls.predictions.decoder.weight"])
    np.testing.assert_array_equal(p.params["objectives_mlm"]["bias"], state["cls.predictions.decoder.bias"])
    assert len(p.notes) == 2
    assert "opened untied" in p.notes[1]


def test_spelled_twice(tmp_path, pretraining):
    """Two spellings of one tensor that disagree are an error."""
    state = state_of(pretraining)
    state["bert.embeddings.LayerNorm.gamma"] = state["bert.embeddings.LayerNorm.weight"] + 1
    with pytest.raises(ValueError, match=r"model.safetensors holds bert.embeddings.LayerNorm.weight twice"):
        load(folder_of(tmp_path, state))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision(tmp_path, pretraining, dtype):
    """Files of 16-bit floats open as float32 of the same values."""
    state = {name: value.astype(dtype) for name, value in state_of(pretraining).items()}
    p = load(folder_of(tmp_path, state))
    assert_same(p.params, jax.tree.map(lambda leaf: leaf.astype(dtype).astype(np.float32), pretraining.params))


def test_several_files(tmp_path, pretraining):
    """Tensors spread over files that an index names."""
    state = state_of(pretraining)
    folder_of(tmp_path, state)
    (tmp_path / "model.safetensors").unlink()
    places = {name: f"model-0000{1 + i % 3}-of-00003.safetensors" for i, name in enumerate(state)}
    for file in set(places.values()):
        safetensors.numpy.save_file({n: v for n, v in state.items() if places[n] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert_same(load(tmp_path).params, pretraining.params)


@pytest.mark.parametrize("name", CLASSES)
def test_flax_msgpack(tmp_path, name):
    """The trees of the removed Flax classes: kernels transposed, `scale` and `embedding` for `weight`."""
    heads, pooler = CLASSES[name]
    model = random_model(heads, pooler=pooler)
    tree = {}
    for key, value in state_of(model).items():
        *path, last = (key.removeprefix("bert.") if name == "BertModel" else key).split(".")
        if last == "weight":
            last = "scale" if path[-1] == "LayerNorm" else "embedding" if "embeddings" in path[-1] else "kernel"
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = value.T if last == "kernel" else value
    folder_of(tmp_path, {}, architectures=[name])
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "flax_model.msgpack").write_bytes(flax.serialization.msgpack_serialize(tree))
    p = load(tmp_path)
    assert set(p.model.objectives) == set(heads)
    assert_same(p.params, model.params)


# --- what is said ---


def test_missing_and_misshapen(tmp_path, pretraining):
    """A file that does not fit its configuration is refused with the list of all faults, and named."""
    state = state_of(pretraining)
    del state["bert.pooler.dense.bias"], state["cls.predictions.transform.dense.weight"]
    with pytest.raises(ValueError, match=r"model\.safetensors: tensors do not fit") as error:
        load(folder_of(tmp_path, state, intermediate_size=51))
    assert "bert.pooler.dense.bias is missing, wanted (36,)" in str(error.value)
    assert "cls.predictions.transform.dense.weight is missing" in str(error.value)
    assert "layer.1.output.dense.weight has shape (36, 52), wanted (36, 51)" in str(error.value)


def test_untied_without_decoder(tmp_path, pretraining):
    """A configuration that promises a decoder which is not there does not get the embeddings instead."""
    with pytest.raises(ValueError, match=r"cls\.predictions\.decoder\.weight is missing"):
        load(folder_of(tmp_path, state_of(pretraining), tie_word_embeddings=False))


def test_notes(tmp_path):
    """A missing pooler, a missing head and tensors without a use are said."""
    state = state_of(random_model({}, pooler=False)) | {"my.own": np.zeros((2, 3), np.float32)}
    p = load(folder_of(tmp_path, state))
    assert p.notes == (
        "there is no pooler: `pooled` and the heads that need it are not available",
        "there is no head: a new one starts from random weights",
        "tensor my.own (2, 3) is not used",
    )
    assert set(p([[1, 2]])) == {"hidden"}


def test_head_without_its_pooler(tmp_path, pretraining):
    """A head over a pooler that is not there is left out and said, so that the rest can be used."""
    state = {name: value for name, value in state_of(pretraining).items() if "pooler" not in name}
    p = load(folder_of(tmp_path, state))
    assert set(p.model.objectives) == {"mlm"}
    assert "tensor cls.seq_relationship.weight (2, 36) is not used" in p.notes


def test_kinds_of_classifier(tmp_path):
    """Three classes have a `classifier`, one of them for three problems: the configuration tells them apart (a single
    output is a regression where it does not say, as theirs is trained), and what has no objective is said."""
    state = state_of(random_model({"classify": Classify(3)}))

    def opened(state=state, **config):
        p = load(folder_of(tmp_path, state, **config))
        return list(p.model.objectives), " ".join(p.notes)

    assert opened(architectures=["BertForSequenceClassification"]) == (["classify"], "")
    assert opened(architectures=["BertForTokenClassification"]) == (["tag"], "")
    assert opened() == (["classify"], "config.json names no architecture: the classifier is taken for texts")
    texts = {"architectures": ["BertForSequenceClassification"]}
    assert opened(**texts, problem_type="multi_label_classification") == (["multilabel"], "")
    assert opened(**texts, problem_type="single_label_classification") == (["classify"], "")
    assert opened(problem_type="multi_label_classification")[1].startswith("config.json names no architecture")
    several = opened(**texts, problem_type="regression")
    assert several[0] == []
    assert "the classifier is a regression of 3 outputs, which no objective here is" in several[1]
    one = state | {"classifier.weight": np.zeros((1, 36), np.float32), "classifier.bias": np.zeros(1, np.float32)}
    assert opened(one, architectures=["BertForMultipleChoice"]) == (["choice"], "")
    assert opened(one, **texts) == opened(one, **texts, problem_type="regression") == (["regress"], "")
    assert opened(one, **texts, problem_type="multi_label_classification") == (["multilabel"], "")
    single = opened(one, **texts, problem_type="single_label_classification")
    assert "the classifier is a single_label_classification of 1 output, which" in single[1] and single[0] == []


@pytest.mark.parametrize("head", [Regress(0.2), MultiLabel(3, 0.2, labels=LABELS), MultiLabel(1, 0.2)])
def test_other_heads_over_whole_texts(tmp_path, head):
    """A regression and several labels come back exactly, head, parameters and labels, and compute what they did."""
    name = "regress" if isinstance(head, Regress) else "multilabel"
    p = random_model({name: head})
    p.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.notes == () and list(again.model.objectives) == [name]
    found = again.model.objectives[name]
    assert type(found) is type(head) and found.dropout == 0.2
    assert again.labels == {1: ("LABEL_0",), 3: LABELS}.get(getattr(head, "num_classes", 0), ())
    assert_same(again.params, p.params)
    batch = random_batch(p.model, [17, 3], 17)
    assert_forward(again, batch)
    assert again(**batch)["logits"].shape == (2, getattr(head, "num_classes", 1))


def test_labels(tmp_path):
    """The names of the classes are taken where there are as many as classes, in the order of their numbers."""
    state = state_of(random_model({"classify": Classify(3)}))
    kind = {"architectures": ["BertForSequenceClassification"]}
    labels = {"2": "yes", "0": "no", "1": "perhaps"}
    assert load(folder_of(tmp_path, state, id2label=labels, **kind)).labels == LABELS
    assert load(folder_of(tmp_path, state, id2label={"0": "no"}, **kind)).labels == ()
    assert load(folder_of(tmp_path, state, **kind)).labels == ()


def test_defaults(tmp_path):
    """Fields that config.json leaves out have the values that their class gives them."""
    folder = folder_of(tmp_path, state_of(random_model({})))
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_act"]
    (folder / "config.json").write_text(json.dumps(config))
    encoder = load(folder).model.encoder
    assert encoder.activation == "gelu"
    assert (encoder.segment_types, encoder.dropout, encoder.attention_dropout) == (2, 0.1, 0.1)
    assert (encoder.norm_epsilon, encoder.init_stddev) == (1e-12, 0.02)
    assert {field: getattr(encoder, field) for field in TINY} == TINY


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "describes model_type 'list'"),
        ({"model_type": "t5"}, "describes model_type 't5'; only 'bert', 'distilbert', .* are known"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key' is not supported"),
        ({"is_decoder": True}, "is_decoder True is not supported"),
        ({"hidden_act": "silu"}, "hidden_act 'silu' is none of gelu"),
        ({"hidden_act": ["gelu"]}, "hidden_act .* is none of gelu"),
        ({"hidden_size": None}, "hidden_size is None, expected a whole number from 1"),
        ({"hidden_size": "36"}, "hidden_size is '36', expected a whole number from 1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0, expected a whole number from 1"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps is '1e-12', expected a number from 0"),
        ({"num_attention_heads": 5}, "hidden_size 36 is not a multiple of num_attention_heads 5"),
    ],
)
def test_bad_config(tmp_path, config, message):
    """A configuration of something else, or that makes no sense, is refused with its file and field."""
    folder = folder_of(tmp_path, state_of(random_model({})), **(config if isinstance(config, dict) else {}))
    if isinstance(config, str):
        (folder / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message) as error:
        load(folder)
    assert "config.json" in str(error.value)


def test_config_that_lacks_sizes(tmp_path):
    """Sizes have no defaults here: a configuration without them is no description of the tensors."""
    folder = folder_of(tmp_path, state_of(random_model({})))
    (folder / "config.json").write_text(json.dumps({"vocab_size": 67, "hidden_size": 36, "num_attention_heads": 3}))
    with pytest.raises(ValueError, match=r"config\.json lacks num_hidden_layers, intermediate_size"):
        load(folder)
