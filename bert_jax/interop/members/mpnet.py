"""MPNet: BERT's tower with names of its own, a table of relative positions, and RoBERTa's heads."""

from typing import Any

from bert_jax.interop.member import Member, classes_of
from bert_jax.interop.members.bert import DEFAULTS, FIELDS, embeddings
from bert_jax.interop.members.roberta import DECODER, HEADS, MLM, TEXTS
from bert_jax.interop.parameter import Parameter, dense, norm, same
from bert_jax.models.mpnet import BUCKETS, Mpnet
from bert_jax.models.roberta import FIRST_POSITION
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag

LAYER = "mpnet.encoder.layer.{N}"
ENCODER = (
    *embeddings("mpnet", segments=False),
    same("embeddings_relative/table", "RH", "mpnet.encoder.relative_attention_bias.weight"),
    *dense("layers/attention/qkv", "NDJHK", f"{LAYER}.attention.attn.{{j}}", "D", "(H K)"),
    *dense("layers/attention/out", "NHKD", f"{LAYER}.attention.attn.o", "(H K)", "D"),
    *norm("layers/attention_norm", "ND", f"{LAYER}.attention.LayerNorm"),
    *dense("layers/mlp/widen", "NDF", f"{LAYER}.intermediate.dense", "D", "F"),
    *dense("layers/mlp/narrow", "NDF", f"{LAYER}.output.dense", "F", "D"),
    *norm("layers/mlp_norm", "ND", f"{LAYER}.output.LayerNorm"),
)
POOLER = tuple(dense("pooler", "DE", "mpnet.pooler.dense", "D", "E"))


def _head_table(objective: Any) -> tuple[Parameter, ...] | None:
    if type(objective) is Mlm:
        return MLM if objective.tied else MLM + DECODER
    if type(objective) in (Classify, Regress, MultiLabel):
        return TEXTS if objective.hidden == "tanh" else None
    return None if getattr(objective, "hidden", "none") != "none" else HEADS.get(type(objective))


MPNET = Member(
    model_type="mpnet",
    encoder=Mpnet,
    fields={theirs: ours for theirs, ours in FIELDS.items() if ours != "segment_types"},
    # MPNetConfig has BertConfig's; the released model says what it has.
    defaults={field: value for field, value in DEFAULTS.items() if field != "type_vocab_size"},
    encoder_table=lambda encoder: ENCODER + (POOLER if encoder.pooler else ()),
    head_table=_head_table,
    architectures=classes_of("MPNet", Mlm, Classify, Regress, MultiLabel, Tag, Span, Choice),
    without_pooler=(
        "MPNetForMaskedLM",
        "MPNetForSequenceClassification",
        "MPNetForTokenClassification",
        "MPNetForQuestionAnswering",
    ),
    prefix="mpnet",
    parts=("embeddings", "encoder", "pooler"),
    predictions="lm_head.",
    decoder="lm_head.decoder.weight",
    decoder_bias="lm_head.decoder.bias",
    bias="lm_head.bias",
    classifiers=("classifier.out_proj", "classifier"),
    # Positions are counted from behind the id of padding.
    required={"pad_token_id": FIRST_POSITION - 1, "relative_attention_num_buckets": BUCKETS},
    written={
        "pad_token_id": FIRST_POSITION - 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "relative_attention_num_buckets": BUCKETS,
    },
    unsaid={"segment_types": 0},
    spare_positions=FIRST_POSITION,
    mlm_activation="gelu",  # MPNetLMHead: the exact one, whatever the encoder's
    hidden=("tanh", "classifier.dense"),
    head_dropout=None,
    tag_dropout=None,
)
