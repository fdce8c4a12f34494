"""FNet: BERT's names around a transform that has no parameters."""

from typing import Any

from bert_jax.interop.member import Member, classes_of
from bert_jax.interop.members.bert import DECODER, HEADS, MLM, embeddings
from bert_jax.interop.parameter import Parameter, dense, norm
from bert_jax.models.fnet import Fnet
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.nsp import Nsp
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag

LAYER = "fnet.encoder.layer.{N}"
ENCODER = (
    *embeddings("fnet"),
    *dense("embeddings_project", "ED", "fnet.embeddings.projection", "E", "D"),
    *norm("layers/mixing_norm", "ND", f"{LAYER}.fourier.output.LayerNorm"),
    *dense("layers/mlp/widen", "NDF", f"{LAYER}.intermediate.dense", "D", "F"),
    *dense("layers/mlp/narrow", "NDF", f"{LAYER}.output.dense", "F", "D"),
    *norm("layers/mlp_norm", "ND", f"{LAYER}.output.LayerNorm"),
)
POOLER = tuple(dense("pooler", "DE", "fnet.pooler.dense", "D", "E"))


def _head_table(objective: Any) -> tuple[Parameter, ...] | None:
    if type(objective) is Mlm:
        return MLM if objective.tied else MLM + DECODER
    return None if getattr(objective, "hidden", "none") != "none" else HEADS.get(type(objective))


FNET = Member(
    model_type="fnet",
    encoder=Fnet,
    fields={
        "vocab_size": "vocab_size",
        "num_hidden_layers": "num_layers",
        "hidden_size": "width",
        "intermediate_size": "mlp_width",
        "max_position_embeddings": "max_length",
        "type_vocab_size": "segment_types",
        "hidden_dropout_prob": "dropout",
        "layer_norm_eps": "norm_epsilon",
        "initializer_range": "init_stddev",
    },
    defaults={  # FNetConfig
        "hidden_act": "gelu_new",
        "max_position_embeddings": 512,
        "type_vocab_size": 4,
        "hidden_dropout_prob": 0.1,
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
    },
    encoder_table=lambda encoder: ENCODER + (POOLER if encoder.pooler else ()),
    head_table=_head_table,
    architectures=classes_of("FNet", Mlm, Nsp, Classify, Regress, MultiLabel, Tag, Span, Choice)
    | {frozenset({Mlm, Nsp}): "FNetForPreTraining"},
    without_pooler=(),  # all of theirs have one
    prefix="fnet",
    parts=("embeddings", "encoder", "pooler"),
    predictions="cls.predictions.",
    decoder="cls.predictions.decoder.weight",
    decoder_bias="cls.predictions.decoder.bias",
    bias="cls.predictions.bias",
    # The ids of the released vocabulary; of the first theirs learn no embedding.
    written={"pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2, "use_tpu_fourier_optimizations": False},
    unsaid={"num_heads": 1},
    head_dropout=None,
    tag_dropout=None,
)
