"""RoBERTa, DistilBERT: random weights compute what PyTorch's do, and folders pass in both directions."""

import tempfile

import jax
import numpy as np
import pytest
import torch
import transformers

from bert_jax.interop import names
from bert_jax.learners.distill import Distill
from bert_jax.learners.multitask import Multitask
from bert_jax.models.distilbert import DistilBert
from bert_jax.objectives.mlm import Mlm
from bert_jax.pretrained import Pretrained, load
from bert_jax.text.tokenizer import load as load_tokenizer
from bert_jax.text.training import train_bpe
from tests.interop.random_models import CONFIG, FAMILY, FAMILY_CLASSES, LABELS, TINY, family_model, random_model
from tests.parity.pytorch import gradients, opened, ours, tensors, theirs, with_own_scale
from tests.parity.test_numbers import HEADS, assert_parity, pretraining_labels

LENGTHS = (1, 17, 128, 512)
PRETRAINING = [
    ("roberta", "RobertaForMaskedLM"),
    ("distilbert", "DistilBertForMaskedLM"),
    ("electra", "ElectraForMaskedLM"),
    ("modernbert", "ModernBertForMaskedLM"),
]
# Of each, fields that differ from the defaults.
CONFIGURATIONS = {
    "as released": {},
    "other": {"vocab_size": 96, "width": 32, "num_heads": 4, "activation": "relu", "norm_epsilon": 1e-5},
    "untied": {"activation": "gelu_tanh"},
}


def batches_of(member, model, length, pad=None):
    """(our batch, their inputs) of four rows, whole and padded: padding is the id of padding, or the one that is given,
    and no token is the former, from which theirs count positions and which has no gradient there."""
    pad = FAMILY[member][1] % model.encoder.vocab_size if pad is None else pad
    rng = np.random.default_rng(length)
    lengths = np.array([length, max(1, length * 2 // 3), length, max(1, length // 3)], np.int32)
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    first = 4 if member == "fnet" else 2
    tokens = np.where(mask, rng.integers(first, model.encoder.vocab_size - 1, mask.shape), pad).astype(np.int32)
    return {"tokens": tokens, "lengths": lengths}, {"input_ids": tokens, "attention_mask": mask}


def without_padding(outputs, mask):
    """Of no meaning at padding, where theirs read another position."""
    apply = {name: x.shape[:2] == mask.shape for name, x in outputs.items()}
    return {name: x * mask[..., None] if apply[name] and x.ndim == 3 else x for name, x in outputs.items()}


def assert_the_same(compare, p, model, batch, labels, inputs, wanted, head):
    found, expected = ours(p.model, p.params, batch | labels), theirs(model, inputs, wanted, head)
    mask = inputs["attention_mask"].reshape(batch["tokens"].shape)
    found, expected = ((without_padding(outputs, mask), *rest) for outputs, *rest in (found, expected))
    assert_parity(compare, found, expected)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize(("member", "name"), PRETRAINING)
def test_pretraining(compare, tmp_path, member, name, configuration, length):
    """Hidden states, logits, loss and all gradients of the masked LM, with padding."""
    fields = {"max_length": 512, "activation": "gelu"} | CONFIGURATIONS[configuration]
    if member in ("distilbert", "modernbert"):
        fields.pop("norm_epsilon", None)  # theirs has but one
    p = family_model(member, name, **fields)
    head = p.model.objectives["mlm"].clone(tied=configuration != "untied", activation=fields["activation"])
    head = head.clone(norm_epsilon=p.model.encoder.norm_epsilon)
    if member in ("roberta", "electra", "modernbert"):  # whose heads have their own
        head = head.clone(activation="gelu")
    p.model.objectives["mlm"] = head
    if not head.tied:
        rng = np.random.default_rng(1)
        shape = p.params["encoder"]["embeddings"]["words"]["table"].shape
        p.params["objectives_mlm"]["decoder"] = rng.normal(0, 0.2, shape).astype(np.float32)
    p.save(tmp_path / "saved")
    batch, inputs = batches_of(member, p.model, length)
    labels, wanted = pretraining_labels(p.model, batch, batch["lengths"])
    assert_the_same(compare, p, opened(tmp_path / "saved", name), batch, labels, inputs, wanted, "mlm_logits")


FINE_TUNED = [(m, n) for m, n in FAMILY_CLASSES if not n.endswith(("Model", "LM", "PreTraining")) and m != "xlnet"]


@pytest.mark.parametrize(("member", "name"), FINE_TUNED)
def test_heads(compare, tmp_path, member, name):
    """The heads of fine-tuning: logits, loss and all gradients, of the folder that we wrote."""
    p = family_model(member, name, activation="gelu")
    p.save(tmp_path / "saved")
    # Spans have a softmax over padding, too: so what stands there must have a position, and a gradient.
    batch, inputs = batches_of(member, p.model, 17, 5 if name.endswith("QuestionAnswering") else None)
    own = f"Bert{name[name.index('For') :]}"
    if HEADS[own] is None:
        tags = np.random.default_rng(0).integers(0, 3, (4, 17))
        tags[inputs["attention_mask"] == 0] = -100
        labels, wanted = {"tags": tags}, {"labels": tags}
    else:
        labels, wanted = HEADS[own]
    labels = jax.tree.map(lambda array: array.astype(np.int32), labels) | {"weight": np.ones(4, np.float32)}
    model = opened(tmp_path / "saved", name)
    if name.endswith("MultipleChoice"):
        inputs = {key: value.reshape(2, 2, 17) for key, value in inputs.items()}
        found, expected = ours(p.model, p.params, batch | labels), theirs(model, inputs, wanted, "logits")
        expected[0]["logits"] = expected[0]["logits"].reshape(-1)
        mask = inputs["attention_mask"].reshape(4, 17)
        pair = ((without_padding(outputs, mask), *rest) for outputs, *rest in (found, expected))
        assert_parity(compare, *pair)
    else:
        head = "nsp_logits" if name.endswith("NextSentencePrediction") else "logits"
        assert_the_same(compare, p, model, batch, labels, inputs, wanted, head)


@pytest.mark.parametrize(("member", "name"), FAMILY_CLASSES)
def test_theirs_here(compare, tmp_path, member, name):
    """What each class saves opens here with its heads and labels; `hidden` is its last hidden state; saved again, their
    class opens it, and every tensor is what it was, to the bit."""
    model = theirs_of(member, name)
    model.save_pretrained(tmp_path / "theirs")
    p = load(tmp_path / "theirs")
    encoder, _, classes = FAMILY[member]
    assert type(p.model.encoder) is encoder and p.model.encoder.max_length == TINY["max_length"]
    assert {key: type(head) for key, head in p.model.objectives.items()} == {
        key: type(head) for key, head in classes[name][0].items()
    }
    assert p.labels == (LABELS if name.endswith(("SequenceClassification", "TokenClassification")) else ())
    assert not any("not used" in note for note in p.notes)
    _, inputs = batches_of(member, p.model, 17)
    mask = inputs["attention_mask"]
    with torch.no_grad():
        expected = model.base_model(**tensors(inputs)).last_hidden_state.numpy()
    found = p(inputs["input_ids"], np.zeros_like(mask), mask)["hidden"]
    compare("hidden", found * mask[..., None], expected * mask[..., None])
    p.save(tmp_path / "ours")
    again, state = opened(tmp_path / "ours", name).state_dict(), model.state_dict()
    assert again.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(again[key], value), key


THEIRS = {  # of each member, their configuration of the tiny size
    "roberta": (
        transformers.RobertaConfig,
        CONFIG | {"max_position_embeddings": 19, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    ),
    "distilbert": (
        transformers.DistilBertConfig,
        {"vocab_size": 67, "n_layers": 2, "dim": 36, "n_heads": 3, "hidden_dim": 52, "max_position_embeddings": 17},
    ),
    "gpt2": (
        transformers.GPT2Config,
        {"vocab_size": 67, "n_layer": 2, "n_embd": 36, "n_head": 3, "n_inner": 52, "n_positions": 17}
        | dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 66),
    ),
    "mpnet": (
        transformers.MPNetConfig,
        CONFIG | {"max_position_embeddings": 19, "layer_norm_eps": 1e-5},
    ),
    "albert": (transformers.AlbertConfig, CONFIG | {"embedding_size": 20}),
    "electra": (transformers.ElectraConfig, CONFIG | {"embedding_size": 20}),
    "fnet": (
        transformers.FNetConfig,
        {name: value for name, value in CONFIG.items() if name != "num_attention_heads"},
    ),
    "xlnet": (
        transformers.XLNetConfig,
        {"vocab_size": 67, "n_layer": 2, "d_model": 36, "n_head": 3, "d_inner": 52, "n_positions": 17},
    ),
    "modernbert": (transformers.ModernBertConfig, CONFIG | {"pad_token_id": 0, "local_attention": 8}),
}


def theirs_of(member, name):
    """A random model of theirs, biases included, with all rows of the tables that have no gradient."""
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    labelled = name.endswith(("SequenceClassification", "TokenClassification"))
    torch.manual_seed(0)
    kind, fields = THEIRS[member]
    model = getattr(transformers, name)(kind(**fields, **labels if labelled else {})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


TEXTS = ["low lower lowest", " a  new\tday", "", "Größe, 北京 🙂!", "don't"]


@pytest.mark.parametrize("prefix_space", [False, True])
def test_tokenizer(tmp_path, prefix_space):
    """A byte-level BPE that we trained gives the same ids there, of texts and of pairs; saved there, it opens here."""
    text = ["low lower lowest new newest day days don't won't Größe"] * 5
    ours = train_bpe(text, 290, prefix_space)
    ours.save(tmp_path / "ours")
    theirs = transformers.RobertaTokenizer.from_pretrained(tmp_path / "ours")
    assert (theirs.pad_token_id, theirs.mask_token_id) == (ours.pad_id, ours.mask_id)
    for a in TEXTS:
        assert theirs(a)["input_ids"] == ours.encode_pair(a, max_length=99).ids.tolist()
        for b in TEXTS:
            if b:  # without a text theirs make no pair
                assert theirs(a, b)["input_ids"] == ours.encode_pair(a, b, max_length=99).ids.tolist()
    theirs.save_pretrained(tmp_path / "theirs")
    assert load_tokenizer(tmp_path / "theirs").fingerprint == ours.fingerprint


@pytest.mark.parametrize("only_predicted", [False, True])
def test_distillation(compare, only_predicted):
    """The student's loss and gradients are those of the original's training code, written with PyTorch's losses over
    the two models of theirs (distiller.py, `Distiller.step`)."""
    source = random_model({"mlm": Mlm()}, max_length=17, activation="gelu", num_layers=3, pooler=False)
    student = random_model({}, kind=DistilBert, max_length=17, activation="gelu").model.encoder
    learner = Distill(student, {"mlm": Mlm(activation="gelu")}, only_predicted=only_predicted)
    learner, params = learner.starting_from(source.model, source.params)
    rng = np.random.default_rng(3)
    params |= {
        name: jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32), params[name])
        for name in ("encoder", "objectives_mlm")
    }
    batch, inputs = batches_of("distilbert", source.model, 17)
    labels, wanted = pretraining_labels(source.model, batch, batch["lengths"])
    batch = jax.tree.map(jax.numpy.asarray, batch | labels | {"weight": np.ones(4, np.float32)})

    def loss(trained):
        metrics = learner.apply({"params": params | trained}, batch)
        return learner.loss_of(metrics)

    params = jax.tree.map(jax.numpy.asarray, params)
    trained = {name: params[name] for name in ("encoder", "objectives_mlm")}
    found, gradient = jax.jit(jax.value_and_grad(loss))(trained)
    objectives = {"mlm": learner.objectives["mlm"]}
    gradient = names.from_params(gradient, learner.encoder, objectives, "huggingface")
    models = []
    for p in (Pretrained(Multitask(student, objectives), trained, None), source):
        with tempfile.TemporaryDirectory() as folder:
            p.save(f"{folder}/saved")
            kind = "DistilBertForMaskedLM" if p is not source else "BertForMaskedLM"
            models.append(opened(f"{folder}/saved", kind))
    mine, teacher = (model(**tensors(inputs), output_hidden_states=True) for model in models)
    real = torch.tensor(inputs["attention_mask"]).bool()
    target = torch.tensor(wanted["labels"])
    chosen = target > -1 if only_predicted else real
    soft = torch.nn.KLDivLoss(reduction="batchmean")(
        torch.log_softmax(mine.logits[chosen] / 2, -1), torch.softmax(teacher.logits[chosen].detach() / 2, -1)
    )
    masked = torch.nn.functional.cross_entropy(mine.logits.flatten(0, 1), target.flatten())
    states = mine.hidden_states[-1][real], teacher.hidden_states[-1][real].detach()
    cosine = torch.nn.functional.cosine_embedding_loss(*states, torch.ones(len(states[0])))
    expected = 5 * 4 * soft + 2 * masked + cosine
    expected.backward()
    compare("loss", float(found), expected.item())
    compare("gradients", with_own_scale(gradient), with_own_scale(gradients(models[0])))
