"""XLM-R (Conneau et al. 2019, arXiv 1911.02116): RoBERTa's encoder, tensors and heads, over another vocabulary."""

from bert_jax.interop.members.roberta import ROBERTA
from bert_jax.text.fairseq_sentencepiece import FairseqSentencePiece

XLM_ROBERTA = ROBERTA._replace(
    model_type="xlm-roberta",
    tokenizer=FairseqSentencePiece,
    architectures={heads: f"XLM{name}" for heads, name in ROBERTA.architectures.items()},
    without_pooler=tuple(f"XLM{name}" for name in ROBERTA.without_pooler),
)
