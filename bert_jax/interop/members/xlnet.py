"""XLNet: attention's kernels as they are here, and heads over the last token."""

from typing import Any

from bert_jax.interop.member import Member, classes_of
from bert_jax.interop.parameter import Parameter, dense, norm, output, same
from bert_jax.models.xlnet import Xlnet
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.plm import Plm
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag

LAYER = "transformer.layer.{N}"
ATTENTION = f"{LAYER}.rel_attn"


def _attention(path: str, axes: str, name: str, theirs: str) -> Parameter:
    return Parameter(f"layers/attention/{path}", axes, (f"{ATTENTION}.{name}", theirs), ("", ""))


ENCODER = (
    same("embeddings/words/table", "VD", "transformer.word_embedding.weight"),
    Parameter("embeddings/mask", "D", ("transformer.mask_emb", "11D"), ("", "")),
    _attention("qkv/kernel", "NDJHK", "{j}", "DHK"),
    _attention("relative/kernel", "NDHK", "r", "DHK"),
    _attention("out/kernel", "NHKD", "o", "DHK"),
    _attention("content_bias", "NHK", "r_w_bias", "HK"),
    _attention("position_bias", "NHK", "r_r_bias", "HK"),
    _attention("segment_bias", "NHK", "r_s_bias", "HK"),
    _attention("segments", "NGHK", "seg_embed", "GHK"),
    *norm("layers/attention_norm", "ND", f"{ATTENTION}.layer_norm"),
    *dense("layers/mlp/widen", "NDF", f"{LAYER}.ff.layer_1", "D", "F"),
    *dense("layers/mlp/narrow", "NDF", f"{LAYER}.ff.layer_2", "F", "D"),
    *norm("layers/mlp_norm", "ND", f"{LAYER}.ff.layer_norm"),
)
PLM = (same("bias", "V", "lm_loss.bias"),)
DECODER = (same("decoder", "VE", "lm_loss.weight"),)
# XLNetSequenceSummary, and what is behind it.
TEXTS = (*dense("hidden", "DE", "sequence_summary.summary", "D", "E"), *output("logits_proj", ""))
HEADS = {Tag: output("classifier", ""), Span: output("qa_outputs", "")}


def _head_table(objective: Any) -> tuple[Parameter, ...] | None:
    if type(objective) is Plm:
        return PLM if objective.tied else PLM + DECODER
    if type(objective) in (Classify, Regress, MultiLabel, Choice):
        return TEXTS if objective.hidden == "last_tanh" else None
    return None if getattr(objective, "hidden", "none") != "none" else HEADS.get(type(objective))


def _spelled(config: dict[str, Any]) -> dict[str, Any]:
    """With the original's `dropatt`, the dropout on probabilities, for which theirs has no number of its own. Raises
    ValueError for heads that do not fill the width."""
    width, heads = (config.get(field) for field in ("d_model", "n_head"))
    if (own := config.get("d_head")) is not None and own * (heads or 0) != width:
        raise ValueError(f"d_head is {own!r}, and {heads} heads of it do not make the d_model {width}")
    return {"dropatt": config.get("dropout", DEFAULTS["dropout"])} | config


DEFAULTS = {  # XLNetConfig
    "ff_activation": "gelu",
    "dropout": 0.1,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "summary_last_dropout": 0.1,
    "tie_word_embeddings": True,
    "n_positions": 512,  # no field of theirs, which knows no longest input: that of the released models' pre-training
}

XLNET = Member(
    model_type="xlnet",
    encoder=Xlnet,
    fields={
        "vocab_size": "vocab_size",
        "n_layer": "num_layers",
        "d_model": "width",
        "n_head": "num_heads",
        "d_inner": "mlp_width",
        "n_positions": "max_length",
        "dropout": "dropout",
        "dropatt": "attention_dropout",
        "layer_norm_eps": "norm_epsilon",
        "initializer_range": "init_stddev",
    },
    defaults=DEFAULTS,
    encoder_table=lambda encoder: ENCODER,
    head_table=_head_table,
    architectures=classes_of("XLNet", Classify, Regress, MultiLabel, Tag, Choice)
    | {frozenset({Plm}): "XLNetLMHeadModel", frozenset({Span}): "XLNetForQuestionAnsweringSimple"},
    without_pooler=(),
    prefix="transformer",
    parts=("word_embedding", "mask_emb", "layer"),
    predictions="lm_loss.",
    decoder="lm_loss.weight",
    decoder_bias="lm_loss.bias",
    bias="lm_loss.bias",
    classifiers=("logits_proj", "classifier"),
    activation="ff_activation",
    required={
        "attn_type": "bi",
        "bi_data": False,
        "clamp_len": -1,
        "untie_r": True,
        "summary_type": "last",
        "summary_use_proj": True,
        "summary_activation": "tanh",
    },
    # Ids of the released vocabulary; of another one they are to be put right by hand.
    written={"pad_token_id": 5, "bos_token_id": 1, "eos_token_id": 2, "mem_len": None}
    | {"summary_activation": "tanh", "d_head": lambda encoder: encoder.width // encoder.num_heads},
    buffers=(),
    unsaid={"segment_types": Xlnet.segment_types, "chunk": 0},  # their memory goes from call to call (`mems`)
    hidden=("last_tanh", "sequence_summary.summary"),
    head_dropout="summary_last_dropout",
    words="word_embedding.weight",
    spelled=_spelled,
)
