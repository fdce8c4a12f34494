"""Hugging Face's layout: `config.json` and PyTorch's names, in safetensors or the former Flax msgpack.

What is particular to one encoder, such as its fields and its heads, is in its file of `members/`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from bert_jax.interop import names, tensors
from bert_jax.interop.checkpoint import ForeignCheckpoint, assemble
from bert_jax.interop.member import Member
from bert_jax.interop.members import MEMBERS, member_of
from bert_jax.interop.members.bert import BERT
from bert_jax.objectives.causal_lm import CausalLm
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.nsp import Nsp
from bert_jax.objectives.plm import Plm
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.rtd import Rtd
from bert_jax.objectives.sop import Sop
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag
from bert_jax.text.tokenizer import Tokenizer

# Their "gelu" is the exact one and "gelu_new" the tanh approximation, which the original calls gelu.
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
# What the other fields that are read must be; null where they have no default.
CHECKS = {
    "tie_word_embeddings": (lambda value: isinstance(value, bool), "true or false"),
    "architectures": (lambda value: isinstance(value, list) and all(isinstance(x, str) for x in value), "names"),
    "problem_type": (lambda value: isinstance(value, str), "a name"),
    "id2label": (lambda value: isinstance(value, dict), "names by their numbers"),
    "classifier_dropout": (lambda value: type(value) in (int, float) and 0 <= value < 1, "a number from 0, below 1"),
    "seq_classif_dropout": (lambda value: type(value) in (int, float) and 0 <= value < 1, "a number from 0, below 1"),
}
CHECKS["classifier_dropout_prob"] = CHECKS["summary_last_dropout"] = CHECKS["classifier_dropout"]


def read(folder: Path) -> ForeignCheckpoint:
    """Opens a folder.

    Raises FileNotFoundError for a file that is missing; ValueError for what is damaged, is no member of the family, or
    whose tensors do not fit its configuration.
    """
    config = read_config(folder / "config.json")
    member = MEMBERS[config.get("model_type", "bert")]
    config = {**member.defaults, **config}
    held, source = tensors.read_folder(folder)
    state, notes = canonical(held, config["tie_word_embeddings"], source, member)
    pooler = any(name.startswith(f"{member.prefix}.pooler.") for name in state)
    encoder = encoder_of(config, pooler=pooler, source=folder / "config.json", member=member)
    objectives, remarks = heads_of(state, config, encoder, member)
    return assemble(state, encoder, objectives, "huggingface", source, notes + remarks)


def write(folder: Path, checkpoint: ForeignCheckpoint) -> None:
    """Writes `config.json` and `model.safetensors` into a folder that is there.

    The tensors are exactly those of the class of theirs that has these heads: the pooler stays behind where that class
    has none (masked LM alone, tagging, spans).

    Raises ValueError for a set of heads that none of their classes has, and for what their configuration cannot say.
    """
    config = config_of(checkpoint)
    (kind,) = config["architectures"]
    encoder, member = checkpoint.encoder, member_of(checkpoint.encoder, checkpoint.tokenizer)
    if kind in member.without_pooler:
        encoder = encoder.clone(pooler=False)
    state = names.from_params(checkpoint.params, encoder, checkpoint.objectives, "huggingface")
    if member.decoder in state and member.bias in state:  # untied, their decoder has a bias of its own
        state[member.decoder_bias] = state[member.bias]
    if not checkpoint.objectives:
        state = {name.removeprefix(f"{member.prefix}."): value for name, value in state.items()}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors.write_safetensors(folder / tensors.SAFETENSORS, state)


def read_config(file: Path) -> dict[str, Any]:
    """Their `config.json`. Raises ValueError where it is not JSON or of none of `MEMBERS`."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    kind = config.get("model_type", "bert") if isinstance(config, dict) else type(config).__name__
    if not isinstance(config, dict) or kind not in tuple(MEMBERS):
        known = ", ".join(map(repr, MEMBERS))
        raise ValueError(f"{file} describes model_type {kind!r}; only {known} are known here")
    for field, (fits, wanted) in CHECKS.items():
        optional = field not in MEMBERS[kind].defaults and config.get(field) is None
        if field in config and not optional and not fits(config[field]):
            raise ValueError(f"{file}: {field} is {config[field]!r}, expected {wanted}")
    for field, wanted in MEMBERS[kind].required.items():
        if config.get(field, wanted) != wanted:
            raise ValueError(f"{file}: {field} {config[field]!r} is not supported, only {wanted!r}")
    try:
        return MEMBERS[kind].spelled(config)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def encoder_of(config: Mapping[str, Any], pooler: bool, source: Path, member: Member = BERT) -> nn.Module:
    """The encoder that a configuration describes. Raises ValueError for a field that is missing or makes no sense."""
    config = {**member.defaults, **config}
    if missing := [field for field in member.fields if field not in config]:
        raise ValueError(f"{source} lacks {', '.join(missing)}")
    activation = config[member.activation]
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(f"{source}: {member.activation} {activation!r} is none of {', '.join(ACTIVATIONS)}")
    fields = {}
    for theirs, ours in member.fields.items():
        value, whole = config[theirs], type(getattr(member.encoder, ours)) is int
        if type(value) not in ((int,) if whole else (int, float)) or not (1 if whole else 0) <= value < 1 << 31:
            wanted = "a whole number from 1" if whole else "a number from 0"
            raise ValueError(f"{source}: {theirs} is {value!r}, expected {wanted}")
        fields[ours] = value if whole else float(value)
    theirs = {ours: name for name, ours in member.fields.items()}
    if fields["width"] % fields.get("num_heads", 1):
        raise ValueError(
            f"{source}: {theirs['width']} {fields['width']} is not a multiple of {theirs['num_heads']} "
            f"{fields['num_heads']}"
        )
    fields["max_length"] -= member.spare_positions
    if fields["max_length"] < 1:
        raise ValueError(
            f"{source}: {theirs['max_length']} is {config[theirs['max_length']]}, of which {member.spare_positions} "
            "are of no token"
        )
    fields |= {"activation": ACTIVATIONS[activation], **member.unsaid}
    return member.encoder(**fields, **({"pooler": pooler} if hasattr(member.encoder, "pooler") else {}))


def canonical(
    held: Mapping[str, np.ndarray], tied: bool, source: Path, member: Member = BERT
) -> tuple[dict[str, np.ndarray], list[str]]:
    """One spelling for all that are around: `bert.` or the like before the encoder, `weight` and `bias` in norms, no
    buffers, no tensor twice. Returns the tensors and notes on what was dropped.

    Raises ValueError where two spellings of one tensor hold different values.
    """
    state: dict[str, np.ndarray] = {}
    for name, value in held.items():
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if name.split(".")[0] in member.parts:
            name = f"{member.prefix}.{name}"
        if name.endswith(member.buffers):
            continue
        if name in state and not np.array_equal(state[name], value):
            raise ValueError(f"{source} holds {name} twice, with different values")
        state[name] = value
    notes = []
    words, decoder = f"{member.prefix}.{member.words}", member.decoder
    bias, decoder_bias = member.bias, member.decoder_bias
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
    state: Mapping[str, np.ndarray], config: Mapping[str, Any], encoder: nn.Module, member: Member | None = None
) -> tuple[dict[str, nn.Module], list[str]]:
    """The objectives whose heads the tensors are, and notes on heads that are there but not opened."""
    member = member or member_of(encoder)
    config = {**member.defaults, **config}
    deviation = encoder.init_stddev
    objectives: dict[str, nn.Module] = {}
    notes = []
    if frozenset({CausalLm}) in member.architectures:  # the class says it: where it is tied, the head has no tensor
        if member.architectures[frozenset({CausalLm})] in (config.get("architectures") or ()):
            tied = config["tie_word_embeddings"] and member.decoder not in state
            objectives["lm"] = CausalLm(tied=tied, init_stddev=deviation, transform=False)
    elif frozenset({Plm}) in member.architectures:
        if member.bias in state:
            tied = config["tie_word_embeddings"] and member.decoder not in state
            objectives["plm"] = Plm(tied=tied, init_stddev=deviation)
    elif any(name.startswith(member.predictions) for name in state):
        objectives["mlm"] = Mlm(
            activation=member.mlm_activation or encoder.activation,
            norm_epsilon=encoder.norm_epsilon,
            init_stddev=deviation,
            tied=config["tie_word_embeddings"] and member.decoder not in state,
            use_bias=member.mlm_bias,
        )
    if "cls.seq_relationship.weight" in state and getattr(encoder, "pooler", False):
        objectives["nsp"] = Nsp(init_stddev=deviation)
    if "sop_classifier.classifier.weight" in state and getattr(encoder, "pooler", False):
        objectives["sop"] = Sop(init_stddev=deviation)
    if "discriminator_predictions.dense_prediction.weight" in state:
        objectives["rtd"] = Rtd(activation=encoder.activation, init_stddev=deviation)
    if "qa_outputs.weight" in state:
        objectives["span"] = Span(init_stddev=deviation)
    if output := next((name for name in member.classifiers if f"{name}.weight" in state), ""):
        own = member.hidden is not None and f"{member.hidden[1]}.weight" in state
        hidden = member.pooling.get(config.get("classifier_pooling"), member.hidden[0]) if own else "none"
        name, head, remark = _classifier(state[f"{output}.weight"].shape[0], config, encoder, hidden, member)
        objectives |= {name: head} if head else {}
        notes += [remark] if remark else []
    return objectives, notes


def _classifier(
    classes: int, config: Mapping[str, Any], encoder: nn.Module, hidden: str, member: Member
) -> tuple[str, nn.Module | None, str]:
    """The objective of a head called `classifier`, which three classes have, its name, and a note if there is one.

    hidden: the activation of its hidden layer, or "none".
    """
    over_texts = member.architectures[frozenset({Classify})]
    kind = (config.get("architectures") or [over_texts])[0]
    tagging = kind == member.architectures[frozenset({Tag})]
    field = member.tag_dropout if tagging else member.head_dropout
    dropout = config.get(field) if field else None
    default = 0.0 if hidden == "last" else encoder.dropout  # their GPT-2 has none there
    dropout = default if dropout is None else float(dropout)
    problem = config.get("problem_type") or ("regression" if classes == 1 else "single_label_classification")
    labels = labels_of(config, classes)
    if tagging:
        return "tag", Tag(classes, dropout, encoder.init_stddev, labels, hidden=member.tag_hidden), ""
    if kind.endswith("ForQuestionAnswering"):  # ModernBERT's: two scores of a token, under the name of a classifier
        return "", None, f"the classifier of {kind} finds spans, behind a hidden layer, and is not opened"
    if hidden == "none" and not getattr(encoder, "pooler", False):
        return "", None, f"the classifier of {kind} needs a pooler and is not opened"
    if kind == member.architectures.get(frozenset({Choice})):
        return "choice", Choice(0, dropout, encoder.init_stddev, hidden), ""
    remark = (
        "" if config.get("architectures") else "config.json names no architecture: the classifier is taken for texts"
    )
    if problem == "regression" and classes == 1:
        return "regress", Regress(dropout, encoder.init_stddev, hidden), remark
    if problem == "multi_label_classification":
        return "multilabel", MultiLabel(classes, dropout, encoder.init_stddev, labels, hidden), remark
    if problem == "single_label_classification" and classes > 1:
        return "classify", Classify(classes, dropout, encoder.init_stddev, labels, hidden), remark
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
    member = member_of(encoder, checkpoint.tokenizer)
    kinds = frozenset(type(head) for head in heads.values())
    if kinds not in member.architectures or len(kinds) != len(heads):
        listing = ", ".join(heads)
        raise ValueError(f"no class of transformers has the heads {listing}: choose those to save with `heads`")
    if getattr(encoder, "causal", False) and not member.causal:
        raise ValueError(
            "the encoder is causal, and transformers' causal BERT (is_decoder) pools the first token where this one "
            "pools the last: format bert_jax keeps it"
        )
    activation = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == encoder.activation)
    for field, wanted in member.unsaid.items():
        if getattr(encoder, field) != wanted:
            raise ValueError(
                f"{field} is {getattr(encoder, field)!r}, and their {member.model_type} has no other than {wanted!r}: "
                "format bert_jax keeps it"
            )
    config = {
        "architectures": [member.architectures[kinds]],
        "model_type": member.model_type,
        member.activation: activation,
    }
    config |= {theirs: getattr(encoder, ours) for theirs, ours in member.fields.items()}
    theirs = {ours: name for name, ours in member.fields.items()}
    config[theirs["max_length"]] += member.spare_positions
    config |= {name: value(encoder) if callable(value) else value for name, value in member.written.items()}
    config |= _token_ids(checkpoint.tokenizer, member)
    config["dtype"] = "float32"
    for name, head in heads.items():
        config |= _of_head(name, head, encoder, member)
    return config


def _token_ids(tokenizer: Tokenizer | None, member: Member) -> dict[str, int]:
    """Their ids of special tokens, as the tokenizer has them. Raises ValueError for one that they compute with."""
    found = {} if tokenizer is None else {field: getattr(tokenizer, own) for field, own in member.token_ids.items()}
    for field, own in found.items():
        wanted = member.spare_positions - 1 if member.spare_positions and field == "pad_token_id" else own
        if own != wanted:
            raise ValueError(
                f"{field} is {own} in the tokenizer, and their {member.model_type} counts positions from behind the id "
                f"{wanted} of padding: format bert_jax keeps it, or train with a vocabulary whose padding has that id"
            )
    return found


def _of_head(name: str, head: nn.Module, encoder: nn.Module, member: Member) -> dict[str, Any]:
    """What their configuration says of a head. Raises ValueError for what it has no field for."""
    said: dict[str, Any] = {}
    if isinstance(head, Mlm) and member.mlm_activation not in (None, head.activation):
        raise ValueError(
            f"activation is {head.activation!r} in the head {name!r}, and that of their {member.model_type} "
            f"has no other than {member.mlm_activation!r}"
        )
    shared = {
        "activation": isinstance(head, Rtd) or (isinstance(head, Mlm) and member.mlm_activation is None),
        "norm_epsilon": isinstance(head, Mlm),
        "dropout": hasattr(head, "dropout") and _dropout_field(head, member) is None,
    }
    for field in (field for field, is_one in shared.items() if is_one):
        if getattr(head, field) != getattr(encoder, field):
            raise ValueError(
                f"{field} is {getattr(encoder, field)!r} in the encoder and {getattr(head, field)!r} in the "
                f"head {name!r}: config.json has one field for both"
            )
    if isinstance(head, Mlm | CausalLm | Plm):
        said["tie_word_embeddings"] = head.tied
    if hasattr(head, "dropout") and (field := _dropout_field(head, member)):
        said[field] = head.dropout
    for pooling, hidden in member.pooling.items():
        said |= {"classifier_pooling": pooling} if getattr(head, "hidden", "") == hidden else {}
    if isinstance(head, Regress):
        said |= {"problem_type": "regression", "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    if isinstance(head, MultiLabel):
        said["problem_type"] = "multi_label_classification"
    if isinstance(head, Classify | MultiLabel | Tag):
        labels = head.labels or tuple(f"LABEL_{i}" for i in range(head.num_classes))
        if len(labels) != head.num_classes:
            raise ValueError(f"the head {name!r} has {head.num_classes} classes, but {len(labels)} labels")
        said["id2label"] = {str(i): label for i, label in enumerate(labels)}
        said["label2id"] = {label: i for i, label in enumerate(labels)}
    return said


def _dropout_field(head: nn.Module, member: Member) -> str | None:
    """Their field for the dropout in front of a head; None where it is the encoder's."""
    return member.tag_dropout if isinstance(head, Tag) else member.head_dropout
