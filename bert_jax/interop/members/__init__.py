"""The encoders that Hugging Face's layout is known of: a file each, and the one list of them."""

from typing import Any

import flax.linen as nn

from bert_jax.interop.member import Member
from bert_jax.interop.members.albert import ALBERT
from bert_jax.interop.members.bert import BERT
from bert_jax.interop.members.distilbert import DISTILBERT
from bert_jax.interop.members.electra import ELECTRA
from bert_jax.interop.members.fnet import FNET
from bert_jax.interop.members.gpt2 import GPT2
from bert_jax.interop.members.modernbert import MODERNBERT
from bert_jax.interop.members.mpnet import MPNET
from bert_jax.interop.members.roberta import ROBERTA
from bert_jax.interop.members.xlm_roberta import XLM_ROBERTA
from bert_jax.interop.members.xlnet import XLNET

ALL = (BERT, DISTILBERT, XLM_ROBERTA, ROBERTA, ALBERT, GPT2, ELECTRA, MODERNBERT, FNET, MPNET, XLNET)
MEMBERS = {member.model_type: member for member in ALL}


def member_of(encoder: nn.Module, tokenizer: Any = None) -> Member:
    """That of an encoder, and of two that differ in the vocabulary alone, the one with this tokenizer. Raises
    ValueError for an encoder of none of them."""
    for member in MEMBERS.values():
        if type(encoder) is member.encoder and (member.tokenizer is None or isinstance(tokenizer, member.tokenizer)):
            return member
    known = ", ".join(dict.fromkeys(member.encoder.__name__ for member in MEMBERS.values()))
    raise ValueError(
        f"the encoder {type(encoder).__name__} has no counterpart outside this project, only {known}: format bert_jax "
        "keeps it"
    )
