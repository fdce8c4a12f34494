"""ELECTRA: BERT's tensors under its own prefix, a projection, and the heads of discriminator and generator."""

from typing import Any

from bert_jax.interop.member import Member, classes_of
from bert_jax.interop.members.bert import DEFAULTS, FIELDS, layers
from bert_jax.interop.parameter import Parameter, dense, norm, output, same
from bert_jax.models.electra import Electra
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.rtd import Rtd
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag

EMBEDDINGS = (
    same("embeddings/words/table", "VE", "electra.embeddings.word_embeddings.weight"),
    same("embeddings/positions/table", "LE", "electra.embeddings.position_embeddings.weight"),
    same("embeddings/segments/table", "SE", "electra.embeddings.token_type_embeddings.weight"),
    *norm("embeddings/norm", "E", "electra.embeddings.LayerNorm"),
)
PROJECTION = tuple(dense("embeddings_project", "ED", "electra.embeddings_project", "E", "D"))
MLM = (
    *dense("transform", "DE", "generator_predictions.dense", "D", "E"),
    *norm("norm", "E", "generator_predictions.LayerNorm"),
    same("bias", "V", "generator_lm_head.bias"),
)
DECODER = (same("decoder", "VE", "generator_lm_head.weight"),)
RTD = (
    *dense("hidden", "DU", "discriminator_predictions.dense", "D", "U"),
    *output("discriminator_predictions.dense_prediction", ""),
)
# ElectraClassificationHead: on the first token, with a hidden layer of its own.
TEXTS = (*dense("hidden", "DU", "classifier.dense", "D", "U"), *output("classifier.out_proj", ""))
HEADS = {Rtd: RTD, Tag: output("classifier", ""), Span: output("qa_outputs", "")}


def _encoder_table(encoder: Electra) -> tuple[Parameter, ...]:
    projection = PROJECTION if encoder.width != encoder.embedding_width else ()
    return EMBEDDINGS + projection + layers("electra")


def _head_table(objective: Any) -> tuple[Parameter, ...] | None:
    if type(objective) is Mlm:
        return MLM if objective.tied else MLM + DECODER
    if type(objective) in (Classify, Regress, MultiLabel):
        return TEXTS if objective.hidden == "gelu" else None
    return None if getattr(objective, "hidden", "none") != "none" else HEADS.get(type(objective))


ELECTRA = Member(
    model_type="electra",
    encoder=Electra,
    fields=FIELDS | {"embedding_size": "embedding_width"},
    defaults=DEFAULTS | {"embedding_size": 128},  # ElectraConfig has BertConfig's; the released models say their sizes
    encoder_table=_encoder_table,
    head_table=_head_table,
    architectures=classes_of("Electra", Mlm, Classify, Regress, MultiLabel, Tag, Span)
    | {frozenset({Rtd}): "ElectraForPreTraining"},
    without_pooler=(),
    prefix="electra",
    parts=("embeddings", "embeddings_project", "encoder"),
    predictions="generator_",
    decoder="generator_lm_head.weight",
    decoder_bias="generator_lm_head.bias",
    bias="generator_lm_head.bias",
    classifiers=("classifier.out_proj", "classifier"),
    required={"position_embedding_type": "absolute", "is_decoder": False},
    written={"position_embedding_type": "absolute", "pad_token_id": 0},
    mlm_activation="gelu",  # ElectraGeneratorPredictions: the exact one, whatever the encoder's
    hidden=("gelu", "classifier.dense"),
)
