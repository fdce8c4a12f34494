"""DistilBERT: names of its own for the same blocks."""

from typing import Any

from bert_jax.interop.member import Member, classes_of
from bert_jax.interop.members.bert import embeddings
from bert_jax.interop.parameter import Parameter, dense, norm, output, same
from bert_jax.models.distilbert import DistilBert
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag

LAYER = "distilbert.transformer.layer.{N}"
ENCODER = (
    *embeddings("distilbert", segments=False),
    *dense("layers/attention/qkv", "NDJHK", f"{LAYER}.attention.{{j}}_lin", "D", "(H K)"),
    *dense("layers/attention/out", "NHKD", f"{LAYER}.attention.out_lin", "(H K)", "D"),
    *norm("layers/attention_norm", "ND", f"{LAYER}.sa_layer_norm"),
    *dense("layers/mlp/widen", "NDF", f"{LAYER}.ffn.lin1", "D", "F"),
    *dense("layers/mlp/narrow", "NDF", f"{LAYER}.ffn.lin2", "F", "D"),
    *norm("layers/mlp_norm", "ND", f"{LAYER}.output_layer_norm"),
)
MLM = (
    *dense("transform", "DE", "vocab_transform", "D", "E"),
    *norm("norm", "E", "vocab_layer_norm"),
    same("bias", "V", "vocab_projector.bias"),
)
DECODER = (same("decoder", "VE", "vocab_projector.weight"),)
TEXTS = (*dense("hidden", "DE", "pre_classifier", "D", "E"), *output("classifier", ""))
HEADS = {Tag: output("classifier", ""), Span: output("qa_outputs", "")}


def _head_table(objective: Any) -> tuple[Parameter, ...] | None:
    if type(objective) is Mlm:
        return MLM if objective.tied else MLM + DECODER
    if type(objective) in (Classify, Regress, MultiLabel, Choice):
        return TEXTS if objective.hidden == "relu" else None
    return HEADS.get(type(objective))


DISTILBERT = Member(
    model_type="distilbert",
    encoder=DistilBert,
    fields={
        "vocab_size": "vocab_size",
        "n_layers": "num_layers",
        "dim": "width",
        "n_heads": "num_heads",
        "hidden_dim": "mlp_width",
        "max_position_embeddings": "max_length",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "initializer_range": "init_stddev",
    },
    defaults={  # DistilBertConfig
        "activation": "gelu",
        "max_position_embeddings": 512,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
    },
    encoder_table=lambda encoder: ENCODER,
    head_table=_head_table,
    architectures=classes_of("DistilBert", Mlm, Classify, Regress, MultiLabel, Tag, Span, Choice),
    without_pooler=(),
    prefix="distilbert",
    parts=("embeddings", "transformer"),
    predictions="vocab_",
    decoder="vocab_projector.weight",
    decoder_bias="vocab_projector.bias",
    bias="vocab_projector.bias",
    activation="activation",
    written={"pad_token_id": 0, "sinusoidal_pos_embds": False, "qa_dropout": 0.0},  # no dropout before `Span`, as BERT
    unsaid={"norm_epsilon": 1e-12, "segment_types": 0},
    hidden=("relu", "pre_classifier"),
    head_dropout="seq_classif_dropout",
    tag_dropout=None,
)
