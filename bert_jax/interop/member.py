"""One encoder in Hugging Face's layout: all that is particular to it, as data; `members/` has a file for each."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from bert_jax.interop.parameter import Parameter
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.nsp import Nsp
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag

# What their classes with one head are called after the name of the member.
HEADS = {
    Mlm: "ForMaskedLM",
    Nsp: "ForNextSentencePrediction",
    Classify: "ForSequenceClassification",
    Regress: "ForSequenceClassification",
    MultiLabel: "ForSequenceClassification",
    Tag: "ForTokenClassification",
    Span: "ForQuestionAnswering",
    Choice: "ForMultipleChoice",
}


class Member(NamedTuple):
    """A member of the family.

    Attributes:
        model_type: in config.json.
        encoder: the class here.
        fields: of config.json, and those of the encoder, of the same meaning.
        defaults: what their class assumes where config.json is silent.
        encoder_table: `(encoder) -> parameters`, paths below `encoder`.
        head_table: `(objective) -> parameters`, paths below `objectives_<name>`; None where they have no such head.
        architectures: the class of theirs that has a set of heads.
        without_pooler: those that make no pooler; one that is in the file is a tensor too many for them.
        prefix: of the encoder's tensors, in all classes but that of the bare encoder.
        parts: what the names of the bare encoder's tensors begin with.
        predictions: what the names of the masked LM's head begin with.
        decoder, decoder_bias, bias: of its last projection; the bias has two names in some.
        classifiers: names of the last projection of a head over texts, or over tokens.
        activation: their field for it.
        required: further fields of which no other value can be read.
        written: those that are written and not looked at; what is a function, is called with the encoder.
        token_ids: those of `written` or `required` that are ids of special tokens, by the tokenizer's name for them.
        buffers: what the names of tensors that are no parameters end with.
        causal: whether its tokens see those before them only.
        unsaid: fields of the encoder that config.json cannot say, with the values that their class gives them.
        spare_positions: rows of the position table that no token has.
        mlm_activation: of the masked LM's head; the encoder's if not given.
        hidden: activation and name of the hidden layer of a head over texts, where it has one.
        head_dropout: their field for the dropout of a head over texts; None where it is the encoder's.
        tag_dropout: that of a head over tokens; None where it is the encoder's.
        words: the table of tokens, below the prefix.
        implied: `(encoder) -> tensors` that theirs have not, by the names that they would have: what is here of a
            parameter of which there is none there.
        mlm_bias: whether transform and norm of the masked LM's head have biases.
        pooling: `hidden` of a head over texts by their `classifier_pooling`, where that is a field.
        tag_hidden: of a head over tokens.
        spelled: `(config.json) -> config.json` in the words of `fields`, where there are several. Raises ValueError for
            what no field says.
        tokenizer: the class of tokenizer that tells it from another member with the same encoder.
    """

    model_type: str
    encoder: type[nn.Module]
    fields: Mapping[str, str]
    defaults: Mapping[str, Any]
    encoder_table: Callable[[Any], tuple[Parameter, ...]]
    head_table: Callable[[Any], tuple[Parameter, ...] | None]
    architectures: Mapping[frozenset, str]
    without_pooler: tuple[str, ...]
    prefix: str
    parts: tuple[str, ...]
    predictions: str
    decoder: str
    decoder_bias: str
    bias: str
    classifiers: tuple[str, ...] = ("classifier",)
    activation: str = "hidden_act"
    required: Mapping[str, Any] = {}
    written: Mapping[str, Any] = {}
    buffers: tuple[str, ...] = ("embeddings.position_ids", "embeddings.token_type_ids")  # counters
    causal: bool = False
    unsaid: Mapping[str, Any] = {}
    spare_positions: int = 0
    mlm_activation: str | None = None
    hidden: tuple[str, str] | None = None
    head_dropout: str | None = "classifier_dropout"
    tag_dropout: str | None = "classifier_dropout"
    words: str = "embeddings.word_embeddings.weight"
    implied: Callable[[Any], Mapping[str, Any]] = lambda encoder: {}
    mlm_bias: bool = True
    pooling: Mapping[str, str] = {}
    tag_hidden: str = "none"
    spelled: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: config
    tokenizer: type | None = None
    token_ids: Mapping[str, str] = {"pad_token_id": "pad_id"}


def classes_of(name: str, *heads: type[nn.Module]) -> dict[frozenset, str]:
    """Their class of the bare encoder, and that of each of these heads alone."""
    return {frozenset(): f"{name}Model"} | {frozenset({head}): name + HEADS[head] for head in heads}
