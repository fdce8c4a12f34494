"""Hugging Face's layout of a BERT: `config.json` and PyTorch's names, in safetensors or the former Flax msgpack."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from bert_jax.interop import names, tensors
from bert_jax.interop.checkpoint import ForeignCheckpoint, assemble
from bert_jax.models.bert import Bert
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.nsp import Nsp
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag

# Their "gelu" is the exact one and "gelu_new" the tanh approximation, which the original calls gelu.
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
ARCHITECTURES = {
    frozenset(): "BertModel",
    frozenset({Mlm, Nsp}): "BertForPreTraining",
    frozenset({Mlm}): "BertForMaskedLM",
    frozenset({Nsp}): "BertForNextSentencePrediction",
    frozenset({Classify}): "BertForSequenceClassification",
    frozenset({Regress}): "BertForSequenceClassification",
    frozenset({MultiLabel}): "BertForSequenceClassification",
    frozenset({Tag}): "BertForTokenClassification",
    frozenset({Span}): "BertForQuestionAnswering",
    frozenset({Choice}): "BertForMultipleChoice",
}
# Those that make no pooler; one that is in the file is a tensor too many for them.
WITHOUT_POOLER = ("BertForMaskedLM", "BertForTokenClassification", "BertForQuestionAnswering")
# Their fields and ours, of the same meaning.
FIELDS = {
    "vocab_size": "vocab_size",
    "num_hidden_layers": "num_layers",
    "hidden_size": "width",
    "num_attention_heads": "num_heads",
    "intermediate_size": "mlp_width",
    "max_position_embeddings": "max_length",
    "type_vocab_size": "segment_types",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "norm_epsilon",
    "initializer_range": "init_stddev",
}
# What their classes assume where config.json is silent (BertConfig).
DEFAULTS = {
    "hidden_act": "gelu",
    "type_vocab_size": 2,
    "max_position_embeddings": 512,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
}


# What the other fields that are read must be; null where they have no default.
CHECKS = {
    "tie_word_embeddings": (lambda value: isinstance(value, bool), "true or false"),
    "architectures": (lambda value: isinstance(value, list) and all(isinstance(x, str) for x in value), "names"),
    "problem_type": (lambda value: isinstance(value, str), "a name"),
    "id2label": (lambda value: isinstance(value, dict), "names by their numbers"),
    "classifier_dropout": (lambda value: type(value) in (int, float) and 0 <= value < 1, "a number from 0, below 1"),
}


def read(folder: Path) -> ForeignCheckpoint:
    """Opens a folder.

    Raises FileNotFoundError for a file that is missing; ValueError for what is damaged, is no BERT, or whose tensors
    do not fit its configuration.
    """
    config = DEFAULTS | read_config(folder / "config.json")
    held, source = tensors.read_folder(folder)
    state, notes = canonical(held, config["tie_word_embeddings"], source)
    encoder = encoder_of(config, pooler="bert.pooler.dense.weight" in state, source=folder / "config.json")
    objectives, remarks = heads_of(state, config, encoder)
    return assemble(state, encoder, objectives, "huggingface", source, notes + remarks)


def write(folder: Path, checkpoint: ForeignCheckpoint) -> None:
    """Writes `config.json` and `model.safetensors` into a folder that is there.

    The tensors are exactly those of the class of theirs that has these heads: the pooler stays behind where that class
    has none (masked LM alone, tagging, spans).

    Raises ValueError for a set of heads that none of their classes has, and for what their configuration cannot say.
    """
    config = config_of(checkpoint)
    (kind,) = config["architectures"]
    encoder = checkpoint.encoder
    if kind in WITHOUT_POOLER:
        encoder = encoder.clone(pooler=False)
    state = names.from_params(checkpoint.params, encoder, checkpoint.objectives, "huggingface")
    if "cls.predictions.decoder.weight" in state:  # untied, their decoder has a bias of its own
        state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
    if kind == "BertModel":
        state = {name.removeprefix("bert."): value for name, value in state.items()}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors.write_safetensors(folder / tensors.SAFETENSORS, state)


def read_config(file: Path) -> dict[str, Any]:
    """Their `config.json`. Raises ValueError where it is not JSON or not of a BERT."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.get("model_type", "bert") != "bert":
        kind = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"{file} describes model_type {kind!r}; only 'bert' is known here")
    for field, (fits, wanted) in CHECKS.items():
        optional = field not in DEFAULTS and config.get(field) is None
        if field in config and not optional and not fits(config[field]):
            raise ValueError(f"{file}: {field} is {config[field]!r}, expected {wanted}")
    for field, wanted in {"position_embedding_type": "absolute", "is_decoder": False}.items():
        if config.get(field, wanted) != wanted:
            raise ValueError(f"{file}: {field} {config[field]!r} is not supported, only {wanted!r}")
    return config


def encoder_of(config: Mapping[str, Any], pooler: bool, source: Path) -> Bert:
    """The encoder that a configuration describes. Raises ValueError for a field that is missing or makes no sense."""
    config = DEFAULTS | dict(config)
    if missing := [field for field in FIELDS if field not in config]:
        raise ValueError(f"{source} lacks {', '.join(missing)}")
    if not isinstance(config["hidden_act"], str) or config["hidden_act"] not in ACTIVATIONS:
        raise ValueError(f"{source}: hidden_act {config['hidden_act']!r} is none of {', '.join(ACTIVATIONS)}")
    fields = {}
    for theirs, ours in FIELDS.items():
        value, whole = config[theirs], type(getattr(Bert, ours)) is int
        if type(value) not in ((int,) if whole else (int, float)) or not (1 if whole else 0) <= value < 1 << 31:
            wanted = "a whole number from 1" if whole else "a number from 0"
            raise ValueError(f"{source}: {theirs} is {value!r}, expected {wanted}")
        fields[ours] = value if whole else float(value)
    if fields["width"] % fields["num_heads"]:
        raise ValueError(
            f"{source}: hidden_size {fields['width']} is not a multiple of num_attention_heads {fields['num_heads']}"
        )
    return Bert(**fields, activation=ACTIVATIONS[config["hidden_act"]], pooler=pooler)


def canonical(held: Mapping[str, np.ndarray], tied: bool, source: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """One spelling for all that are around: `bert.` before the encoder, `weight` and `bias` in norms, no buffers, no
    tensor twice. Returns the tensors and notes on what was dropped.

    Raises ValueError where two spellings of one tensor hold different values.
    """
    state: dict[str, np.ndarray] = {}
    for name, value in held.items():
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if name.split(".")[0] in ("embeddings", "encoder", "pooler"):
            name = f"bert.{name}"
        if name in ("bert.embeddings.position_ids", "bert.embeddings.token_type_ids"):
            continue  # counters, not parameters
        if name in state and not np.array_equal(state[name], value):
            raise ValueError(f"{source} holds {name} twice, with different values")
        state[name] = value
    notes = []
    words, decoder = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
    bias, decoder_bias = "cls.predictions.bias", "cls.predictions.decoder.bias"
    if decoder_bias in state:  # the one that their decoder adds
        if not np.array_equal(state.setdefault(bias, state[decoder_bias]), state[decoder_bias]) and tied:
            notes.append(f"{bias} differs from {decoder_bias} and is not used")
        state[bias] = state.pop(decoder_bias)
    if tied and decoder in state:
        if np.array_equal(state.setdefault(words, state[decoder]), state[decoder]):
            del state[decoder]
        else:
            notes.append(f"{decoder} differs from {words}, though the configuration ties them: opened untied")
    return state, notes


def heads_of(
    state: Mapping[str, np.ndarray], config: Mapping[str, Any], encoder: Bert
) -> tuple[dict[str, nn.Module], list[str]]:
    """The objectives whose heads the tensors are, and notes on heads that are there but not opened."""
    config = DEFAULTS | dict(config)
    deviation = encoder.init_stddev
    objectives: dict[str, nn.Module] = {}
    notes = []
    if any(name.startswith("cls.predictions.") for name in state):
        objectives["mlm"] = Mlm(
            activation=encoder.activation,
            norm_epsilon=encoder.norm_epsilon,
            init_stddev=deviation,
            tied=config["tie_word_embeddings"] and "cls.predictions.decoder.weight" not in state,
        )
    if "cls.seq_relationship.weight" in state and encoder.pooler:
        objectives["nsp"] = Nsp(init_stddev=deviation)
    if "qa_outputs.weight" in state:
        objectives["span"] = Span(init_stddev=deviation)
    if "classifier.weight" in state:
        name, head, remark = _classifier(state["classifier.weight"].shape[0], config, encoder)
        objectives |= {name: head} if head else {}
        notes += [remark] if remark else []
    return objectives, notes


def _classifier(classes: int, config: Mapping[str, Any], encoder: Bert) -> tuple[str, nn.Module | None, str]:
    """The objective of a head called `classifier`, which three classes have, its name, and a note if there is one."""
    dropout = config.get("classifier_dropout")
    dropout = encoder.dropout if dropout is None else float(dropout)
    kind = (config.get("architectures") or ["BertForSequenceClassification"])[0]
    problem = config.get("problem_type") or ("regression" if classes == 1 else "single_label_classification")
    labels = labels_of(config, classes)
    if kind == "BertForTokenClassification":
        return "tag", Tag(classes, dropout, encoder.init_stddev, labels), ""
    if not encoder.pooler:
        return "", None, f"the classifier of {kind} needs a pooler and is not opened"
    if kind == "BertForMultipleChoice":
        return "choice", Choice(0, dropout, encoder.init_stddev), ""
    remark = (
        "" if config.get("architectures") else "config.json names no architecture: the classifier is taken for texts"
    )
    if problem == "regression" and classes == 1:
        return "regress", Regress(dropout, encoder.init_stddev), remark
    if problem == "multi_label_classification":
        return "multilabel", MultiLabel(classes, dropout, encoder.init_stddev, labels), remark
    if problem == "single_label_classification" and classes > 1:
        return "classify", Classify(classes, dropout, encoder.init_stddev, labels), remark
    outputs = f"{classes} output{'s' if classes > 1 else ''}"
    return "", None, f"the classifier is a {problem} of {outputs}, which no objective here is, and is not opened"


def labels_of(config: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """The names of the classes, where the configuration has as many as the head."""
    named = config.get("id2label") or {}
    if set(named) != {str(i) for i in range(classes)}:
        return ()
    return tuple(str(named[str(i)]) for i in range(classes))


def config_of(checkpoint: ForeignCheckpoint) -> dict[str, Any]:
    """Their `config.json` for a model. Raises ValueError for a set of heads that none of their classes has, and for
    heads that their configuration cannot describe."""
    encoder, heads = checkpoint.encoder, checkpoint.objectives
    kinds = frozenset(type(head) for head in heads.values())
    if kinds not in ARCHITECTURES or len(kinds) != len(heads):
        listing = ", ".join(heads)
        raise ValueError(f"no class of transformers has the heads {listing}: choose those to save with `heads`")
    if encoder.causal:
        raise ValueError(
            "the encoder is causal, and transformers' causal BERT (is_decoder) pools the first token where this one "
            "pools the last: format bert_jax keeps it"
        )
    activation = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == encoder.activation)
    config = {"architectures": [ARCHITECTURES[kinds]], "model_type": "bert", "hidden_act": activation}
    config |= {theirs: getattr(encoder, ours) for theirs, ours in FIELDS.items()}
    config |= {"position_embedding_type": "absolute", "pad_token_id": 0, "dtype": "float32"}
    for name, head in heads.items():
        if isinstance(head, Mlm):
            for field in ("activation", "norm_epsilon"):
                if getattr(head, field) != getattr(encoder, field):
                    raise ValueError(
                        f"{field} is {getattr(encoder, field)!r} in the encoder and {getattr(head, field)!r} in the "
                        f"head {name!r}: config.json has one field for both"
                    )
            config["tie_word_embeddings"] = head.tied
        if isinstance(head, Classify | Regress | MultiLabel | Tag | Choice):
            config["classifier_dropout"] = head.dropout
        if isinstance(head, Regress):
            config |= {"problem_type": "regression", "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        if isinstance(head, MultiLabel):
            config["problem_type"] = "multi_label_classification"
        if isinstance(head, Classify | MultiLabel | Tag):
            labels = head.labels or tuple(f"LABEL_{i}" for i in range(head.num_classes))
            if len(labels) != head.num_classes:
                raise ValueError(f"the head {name!r} has {head.num_classes} classes, but {len(labels)} labels")
            config["id2label"] = {str(i): label for i, label in enumerate(labels)}
            config["label2id"] = {label: i for i, label in enumerate(labels)}
    return config
