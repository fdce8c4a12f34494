"""Folders pass between here and `transformers` in both directions: every tensor, the outputs, tokenizer and labels."""

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from bert_jax.pretrained import load
from bert_jax.text.tokenizer import SPECIALS
from bert_jax.text.tokenizer import load as load_tokenizer
from bert_jax.text.wordpiece import WordPiece
from tests.interop.random_models import CLASSES, LABELS, random_batch, random_model
from tests.interop.random_models import CONFIG as SIZES
from tests.parity.pytorch import opened, tensors

PIECES = [*SPECIALS, *"abcdefgh", *(f"##{letter}" for letter in "abcdefgh"), "北", "é"]
TEXTS = ["a bad cab", "ABBA, egé 北北!", "", "[x] z"]
LABELLED = ("BertForSequenceClassification", "BertForTokenClassification")


def outputs(model, batch):
    """Their logits and hidden states under our names."""
    inputs = {"input_ids": batch["tokens"], "token_type_ids": batch["segments"], "attention_mask": batch["mask"]}
    choices = isinstance(model, transformers.BertForMultipleChoice)
    if choices:
        inputs = {name: array[None] for name, array in inputs.items()}
    with torch.no_grad():
        found = model(**tensors(inputs), output_hidden_states=True)
    own = {
        "BertForPreTraining": {"prediction_logits": "mlm_logits", "seq_relationship_logits": "nsp_logits"},
        "BertForMaskedLM": {"logits": "mlm_logits"},
        "BertForNextSentencePrediction": {"logits": "nsp_logits"},
    }.get(type(model).__name__, {"logits": "logits", "pooler_output": "pooled"})
    result = {"hidden": found.hidden_states[-1]} | {ours: found[name] for name, ours in own.items() if name in found}
    if "start_logits" in found:
        result["logits"] = torch.stack([found.start_logits, found.end_logits], -1)
    if choices:
        result["logits"] = result["logits"][0]
    return result


def assert_outputs(compare, p, model):
    batch = random_batch(p.model, [17, 5], 17)
    expected, found = outputs(model, batch), p(**batch)
    for name, value in expected.items():
        compare(name, found[name], value)


# From an encoder with a pooler each class opens, and from one without those that need none.
OURS = [(name, True) for name in CLASSES] + [(name, False) for name, (_, pooler) in CLASSES.items() if not pooler]


@pytest.mark.parametrize(("name", "pooler"), OURS)
def test_ours_there(compare, tmp_path, name, pooler):
    """Each class opens what we save, with no tensor missing or left over, tokenizer and labels; outputs are equal."""
    p = random_model(CLASSES[name][0], tokenizer=WordPiece(PIECES), pooler=pooler)
    p.save(tmp_path / "saved")
    model = opened(tmp_path / "saved", name)
    assert_outputs(compare, p, model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == p.tokenizer.encode_pair(text, max_length=99).ids.tolist()
    if name in LABELLED:
        assert model.config.id2label == dict(enumerate(LABELS))
        assert model.config.label2id == {label: i for i, label in enumerate(LABELS)}


CONFIG = SIZES | {
    "hidden_act": "relu",
    "layer_norm_eps": 1e-5,
    "initializer_range": 0.2,
    "hidden_dropout_prob": 0.3,
}


def theirs_of(name, **config):
    """A random model of theirs, biases included."""
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    labels = labels if name in LABELLED else {}
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.BertConfig(**CONFIG | labels | config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", CLASSES)
def test_theirs_here(compare, tmp_path, name):
    """What each class saves opens here as that kind of model, to the bit, and computes the same; saved again, their
    class opens it, and every tensor is what it was."""
    model = theirs_of(name)
    model.save_pretrained(tmp_path / "theirs")
    p = load(tmp_path / "theirs")
    heads, _ = CLASSES[name]
    assert {key: type(head) for key, head in p.model.objectives.items()} == {k: type(h) for k, h in heads.items()}
    assert p.labels == (LABELS if name in LABELLED else ())
    assert not any("not used" in note for note in p.notes)
    assert_outputs(compare, p, model)
    p.save(tmp_path / "ours")
    again = opened(tmp_path / "ours", name).state_dict()
    state = model.state_dict()
    assert again.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(again[key], value), key


@pytest.mark.parametrize("form", ["untied", "several files", "float16", "bfloat16"])
def test_other_forms(compare, tmp_path, form):
    """An untied decoder, tensors in several files, and half precision, as their class writes them."""
    model = theirs_of("BertForPreTraining", tie_word_embeddings=form != "untied")
    if form in ("float16", "bfloat16"):
        model.to(getattr(torch, form))
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB" if form == "several files" else "1GB")
    assert (len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1) == (form == "several files")
    p = load(tmp_path / "theirs")
    assert p.notes == ()  # for example on the bias beside an untied decoder, which has its own
    assert p.model.objectives["mlm"].tied == (form != "untied")
    assert_outputs(compare, p, model.float())


def test_tokenizer_of_theirs(tmp_path):
    """Their tokenizer, saved as they save it, opens here as the one it was made from, cased and not."""
    for lowercase in (True, False):
        ours = WordPiece(PIECES, lowercase)
        ours.save(tmp_path / f"ours-{lowercase}")
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / f"ours-{lowercase}")
        theirs.save_pretrained(tmp_path / f"theirs-{lowercase}")
        assert load_tokenizer(tmp_path / f"theirs-{lowercase}").fingerprint == ours.fingerprint


def test_minilm_comes_back(tmp_path, minilm):
    """A real checkpoint, loaded and saved: all tensors are the same bits under the same names, and the tokenizer that
    transformers opens gives the same ids."""
    p = load(minilm)
    p.save(tmp_path / "saved")
    before = safetensors.numpy.load_file(minilm / "model.safetensors")
    after = safetensors.numpy.load_file(tmp_path / "saved/model.safetensors")
    before.pop("embeddings.position_ids", None)
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    opened(tmp_path / "saved", "BertModel")
    text = "Mr. Smith's café — 北京 isn't far (3.5 km); antidisestablishmentarianism!"
    expected = transformers.AutoTokenizer.from_pretrained(minilm)(text)["input_ids"]
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")(text)["input_ids"] == expected
    assert p.tokenizer.encode_pair(text, max_length=512).ids.tolist() == expected
