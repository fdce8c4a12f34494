"""BERT: `transformers`' classes of 2018, and the original's names beside theirs."""

from typing import Any

from bert_jax.interop.member import Member
from bert_jax.interop.parameter import Parameter, dense, norm, output, same
from bert_jax.models.bert import Bert
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.nsp import Nsp
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag

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
DEFAULTS = {  # BertConfig
    "hidden_act": "gelu",
    "type_vocab_size": 2,
    "max_position_embeddings": 512,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
}
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


def embeddings(prefix: str, segments: bool = True) -> tuple[Parameter, ...]:
    """Those of the three tables, or without segments two, and the norm."""
    tables = [("words", "VD", "word_embeddings"), ("positions", "LD", "position_embeddings")]
    tables += [("segments", "SD", "token_type_embeddings")] if segments else []
    return (
        *(
            same(f"embeddings/{ours}/table", axes, f"{prefix}.embeddings.{name}.weight", f"{prefix}/embeddings/{name}")
            for ours, axes, name in tables
        ),
        *norm("embeddings/norm", "D", f"{prefix}.embeddings.LayerNorm"),
    )


def layers(prefix: str) -> tuple[Parameter, ...]:
    """Those of the tower."""
    layer = f"{prefix}.encoder.layer.{{N}}"
    return (
        *dense("layers/attention/qkv", "NDJHK", f"{layer}.attention.self.{{J}}", "D", "(H K)"),
        *dense("layers/attention/out", "NHKD", f"{layer}.attention.output.dense", "(H K)", "D"),
        *norm("layers/attention_norm", "ND", f"{layer}.attention.output.LayerNorm"),
        *dense("layers/mlp/widen", "NDF", f"{layer}.intermediate.dense", "D", "F"),
        *dense("layers/mlp/narrow", "NDF", f"{layer}.output.dense", "F", "D"),
        *norm("layers/mlp_norm", "ND", f"{layer}.output.LayerNorm"),
    )


def encoder_table(prefix: str, encoder: Any) -> tuple[Parameter, ...]:
    """Those of an encoder of BERT's shape."""
    pooler = tuple(dense("pooler", "DE", f"{prefix}.pooler.dense", "D", "E")) if encoder.pooler else ()
    return (*embeddings(prefix), *layers(prefix), *pooler)


MLM = (
    *dense("transform", "DE", "cls.predictions.transform.dense", "D", "E"),
    *norm("norm", "E", "cls.predictions.transform.LayerNorm"),
    same("bias", "V", "cls.predictions.bias", "cls/predictions/output_bias"),
)
DECODER = (same("decoder", "VE", "cls.predictions.decoder.weight"),)
CLASSIFIER = output("classifier", "")
HEADS = {
    Nsp: output("cls.seq_relationship", "cls/seq_relationship/"),
    Span: output("qa_outputs", "cls/squad/"),
} | dict.fromkeys((Classify, Regress, MultiLabel, Tag, Choice), CLASSIFIER)


def _head_table(objective: Any) -> tuple[Parameter, ...] | None:
    if type(objective) is Mlm:
        return MLM if objective.tied else MLM + DECODER
    return None if getattr(objective, "hidden", "none") != "none" else HEADS.get(type(objective))


BERT = Member(
    model_type="bert",
    encoder=Bert,
    fields=FIELDS,
    defaults=DEFAULTS,
    encoder_table=lambda encoder: encoder_table("bert", encoder),
    head_table=_head_table,
    architectures=ARCHITECTURES,
    without_pooler=("BertForMaskedLM", "BertForTokenClassification", "BertForQuestionAnswering"),
    prefix="bert",
    parts=("embeddings", "encoder", "pooler"),
    predictions="cls.predictions.",
    decoder="cls.predictions.decoder.weight",
    decoder_bias="cls.predictions.decoder.bias",
    bias="cls.predictions.bias",
    required={"position_embedding_type": "absolute", "is_decoder": False},
    written={"position_embedding_type": "absolute", "pad_token_id": 0},
)
