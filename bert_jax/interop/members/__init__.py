"""The encoders that Hugging Face's layout is known of: a file each, and the one list of them."""

import flax.linen as nn

from bert_jax.interop.member import Member
from bert_jax.interop.members.bert import BERT
from bert_jax.interop.members.distilbert import DISTILBERT
from bert_jax.interop.members.roberta import ROBERTA

MEMBERS = {member.model_type: member for member in (BERT, DISTILBERT, ROBERTA)}


def member_of(encoder: nn.Module) -> Member:
    """That of an encoder. Raises ValueError for one that is none of them."""
    for member in MEMBERS.values():
        if type(encoder) is member.encoder:
            return member
    known = ", ".join(member.encoder.__name__ for member in MEMBERS.values())
    raise ValueError(
        f"the encoder {type(encoder).__name__} has no counterpart outside this project, only {known}: format bert_jax "
        "keeps it"
    )
