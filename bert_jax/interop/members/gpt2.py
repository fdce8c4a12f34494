"""GPT-2: query, key and value are one matrix, and kernels are stored as [in, out] (their Conv1D)."""

from collections.abc import Iterator
from typing import Any

from bert_jax.interop.member import Member, classes_of
from bert_jax.interop.parameter import Parameter, norm, output, same
from bert_jax.models.gpt2 import Gpt2
from bert_jax.objectives.causal_lm import CausalLm
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.tag import Tag

DROPOUTS = ("resid_pdrop", "embd_pdrop")  # theirs has two for what is one here


def _conv1d(path: str, axes: str, parameter: str, inputs: str, outputs: str) -> Iterator[Parameter]:
    """Kernel and bias of a projection."""
    yield Parameter(f"{path}/kernel", axes, (f"{parameter}.weight", f"{inputs}{outputs}"), ("", ""))
    bias = "".join(letter for letter in axes if letter not in inputs)
    yield Parameter(f"{path}/bias", bias, (f"{parameter}.bias", outputs), ("", ""))


LAYER = "transformer.h.{N}"
ENCODER = (
    same("embeddings/words/table", "VD", "transformer.wte.weight"),
    same("embeddings/positions/table", "LD", "transformer.wpe.weight"),
    *norm("layers/attention_norm", "ND", f"{LAYER}.ln_1"),
    *_conv1d("layers/attention/qkv", "NDJHK", f"{LAYER}.attn.c_attn", "D", "(J H K)"),
    *_conv1d("layers/attention/out", "NHKD", f"{LAYER}.attn.c_proj", "(H K)", "D"),
    *norm("layers/mlp_norm", "ND", f"{LAYER}.ln_2"),
    *_conv1d("layers/mlp/widen", "NDF", f"{LAYER}.mlp.c_fc", "D", "F"),
    *_conv1d("layers/mlp/narrow", "NDF", f"{LAYER}.mlp.c_proj", "F", "D"),
    *norm("last_norm", "D", "transformer.ln_f"),
)
DECODER = (same("decoder", "VE", "lm_head.weight"),)
SCORE = (Parameter("output/kernel", "DC", ("score.weight", "CD"), ("", "")),)


def _head_table(objective: Any) -> tuple[Parameter, ...] | None:
    if type(objective) is CausalLm and not objective.transform:
        return () if objective.tied else DECODER
    if type(objective) in (Classify, Regress, MultiLabel) and objective.hidden == "last":
        return SCORE
    return output("classifier", "") if type(objective) is Tag else None


def _spelled(config: dict[str, Any]) -> dict[str, Any]:
    """With the feed-forward width that theirs has where there is none. Raises ValueError for two rates of dropout."""
    first, second = (config.get(name, 0.1) for name in DROPOUTS)
    if first != second:
        raise ValueError(f"{DROPOUTS[0]} {first!r} and {DROPOUTS[1]} {second!r} differ, and are one rate here")
    if config.get("n_inner") is None and type(config.get("n_embd")) is int:
        config = config | {"n_inner": 4 * config["n_embd"]}
    return config


def _end_of_text(encoder: Gpt2) -> int:
    """The last piece, as in the released vocabulary, which stands for padding, too."""
    return encoder.vocab_size - 1


GPT2 = Member(
    model_type="gpt2",
    encoder=Gpt2,
    fields={
        "vocab_size": "vocab_size",
        "n_layer": "num_layers",
        "n_embd": "width",
        "n_head": "num_heads",
        "n_inner": "mlp_width",
        "n_positions": "max_length",
        "resid_pdrop": "dropout",
        "embd_pdrop": "dropout",
        "attn_pdrop": "attention_dropout",
        "layer_norm_epsilon": "norm_epsilon",
        "initializer_range": "init_stddev",
    },
    defaults={  # GPT2Config
        "n_positions": 1024,
        "activation_function": "gelu_new",
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
    },
    encoder_table=lambda encoder: ENCODER,
    head_table=_head_table,
    architectures=classes_of("GPT2", Classify, Regress, MultiLabel, Tag) | {frozenset({CausalLm}): "GPT2LMHeadModel"},
    without_pooler=(),
    prefix="transformer",
    parts=("wte", "wpe", "h", "ln_f"),
    predictions="lm_head.",
    decoder="lm_head.weight",
    decoder_bias="lm_head.bias",
    bias="lm_head.bias",
    classifiers=("score", "classifier"),
    activation="activation_function",
    required={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    # Of a vocabulary that ends otherwise than the released one, the three are to be put right by hand.
    written=dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), _end_of_text),
    buffers=(".attn.bias", ".attn.masked_bias"),  # the triangle of a mask
    token_ids={"bos_token_id": "cls_id", "eos_token_id": "sep_id", "pad_token_id": "pad_id"},
    causal=True,
    unsaid={"segment_types": 0},
    hidden=("last", "score"),
    words="wte.weight",
    spelled=_spelled,
)
