"""ALBERT: one layer, whose names carry the number of its group, and heads behind narrow tables."""

from typing import Any

from bert_jax.interop.member import Member, classes_of
from bert_jax.interop.members.bert import DEFAULTS, FIELDS
from bert_jax.interop.parameter import Parameter, dense, norm, output, same
from bert_jax.models.albert import Albert
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.sop import Sop
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag

LAYER = "albert.encoder.albert_layer_groups.{N}.albert_layers.0"
ENCODER = (
    same("embeddings/words/table", "VE", "albert.embeddings.word_embeddings.weight"),
    same("embeddings/positions/table", "LE", "albert.embeddings.position_embeddings.weight"),
    same("embeddings/segments/table", "SE", "albert.embeddings.token_type_embeddings.weight"),
    *norm("embeddings/norm", "E", "albert.embeddings.LayerNorm"),
    *dense("embeddings/projection", "ED", "albert.encoder.embedding_hidden_mapping_in", "E", "D"),
    *dense("layers/attention/qkv", "NDJHK", f"{LAYER}.attention.{{J}}", "D", "(H K)"),
    *dense("layers/attention/out", "NHKD", f"{LAYER}.attention.dense", "(H K)", "D"),
    *norm("layers/attention_norm", "ND", f"{LAYER}.attention.LayerNorm"),
    *dense("layers/mlp/widen", "NDF", f"{LAYER}.ffn", "D", "F"),
    *dense("layers/mlp/narrow", "NDF", f"{LAYER}.ffn_output", "F", "D"),
    *norm("layers/mlp_norm", "ND", f"{LAYER}.full_layer_layer_norm"),
)
POOLER = tuple(dense("pooler", "DU", "albert.pooler", "D", "U"))
MLM = (
    *dense("transform", "DE", "predictions.dense", "D", "E"),
    *norm("norm", "E", "predictions.LayerNorm"),
    same("bias", "V", "predictions.bias"),
)
DECODER = (same("decoder", "VE", "predictions.decoder.weight"),)
CLASSIFIER = output("classifier", "")
# Their SOP head has the dropout of a classifier in training, which the original's has not, nor has `Sop`.
HEADS = {Sop: output("sop_classifier.classifier", ""), Span: output("qa_outputs", "")} | dict.fromkeys(
    (Classify, Regress, MultiLabel, Tag, Choice), CLASSIFIER
)


def _head_table(objective: Any) -> tuple[Parameter, ...] | None:
    if type(objective) is Mlm:
        return MLM if objective.tied else MLM + DECODER
    return None if getattr(objective, "hidden", "none") != "none" else HEADS.get(type(objective))


ALBERT = Member(
    model_type="albert",
    encoder=Albert,
    fields=FIELDS | {"embedding_size": "embedding_width", "num_hidden_groups": "num_groups"},
    defaults=DEFAULTS  # AlbertConfig has BertConfig's, but for these
    | {
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout_prob": 0.1,
        "embedding_size": 128,
        "num_hidden_groups": 1,
    },
    encoder_table=lambda encoder: ENCODER + (POOLER if encoder.pooler else ()),
    head_table=_head_table,
    architectures=classes_of("Albert", Mlm, Classify, Regress, MultiLabel, Tag, Span, Choice)
    | {frozenset({Mlm, Sop}): "AlbertForPreTraining"},
    without_pooler=("AlbertForMaskedLM", "AlbertForTokenClassification", "AlbertForQuestionAnswering"),
    prefix="albert",
    parts=("embeddings", "encoder", "pooler"),
    predictions="predictions.",
    decoder="predictions.decoder.weight",
    decoder_bias="predictions.decoder.bias",
    bias="predictions.bias",
    required={"inner_group_num": 1, "position_embedding_type": "absolute"},
    written={"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
    head_dropout="classifier_dropout_prob",
    tag_dropout="classifier_dropout_prob",
)
