"""RoBERTa: BERT's tensors under its own prefix, with heads of its own."""

from typing import Any

from bert_jax.interop.member import Member, classes_of
from bert_jax.interop.members.bert import DEFAULTS, FIELDS, encoder_table
from bert_jax.interop.parameter import Parameter, dense, norm, output, same
from bert_jax.models.roberta import FIRST_POSITION, Roberta
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag

MLM = (
    *dense("transform", "DE", "lm_head.dense", "D", "E"),
    *norm("norm", "E", "lm_head.layer_norm"),
    same("bias", "V", "lm_head.bias"),
)
DECODER = (same("decoder", "VE", "lm_head.decoder.weight"),)
# RobertaClassificationHead: on the first token, with a hidden layer of its own.
TEXTS = (*dense("hidden", "DE", "classifier.dense", "D", "E"), *output("classifier.out_proj", ""))
HEADS = {Tag: output("classifier", ""), Choice: output("classifier", ""), Span: output("qa_outputs", "")}


def _head_table(objective: Any) -> tuple[Parameter, ...] | None:
    if type(objective) is Mlm:
        return MLM if objective.tied else MLM + DECODER
    if type(objective) in (Classify, Regress, MultiLabel):
        return TEXTS if objective.hidden == "tanh" else None
    return None if getattr(objective, "hidden", "none") != "none" else HEADS.get(type(objective))


ROBERTA = Member(
    model_type="roberta",
    encoder=Roberta,
    fields=FIELDS,
    defaults=DEFAULTS,  # RobertaConfig has BertConfig's; the released models say what they have
    encoder_table=lambda encoder: encoder_table("roberta", encoder),
    head_table=_head_table,
    architectures=classes_of("Roberta", Mlm, Classify, Regress, MultiLabel, Tag, Span, Choice),
    without_pooler=(
        "RobertaForMaskedLM",
        "RobertaForSequenceClassification",
        "RobertaForTokenClassification",
        "RobertaForQuestionAnswering",
    ),
    prefix="roberta",
    parts=("embeddings", "encoder", "pooler"),
    predictions="lm_head.",
    decoder="lm_head.decoder.weight",
    decoder_bias="lm_head.decoder.bias",
    bias="lm_head.bias",
    classifiers=("classifier.out_proj", "classifier"),
    # Positions are counted from behind the id of padding.
    required={"position_embedding_type": "absolute", "is_decoder": False, "pad_token_id": FIRST_POSITION - 1},
    written={"pad_token_id": FIRST_POSITION - 1, "bos_token_id": 0, "eos_token_id": 2},
    spare_positions=FIRST_POSITION,
    mlm_activation="gelu",  # RobertaLMHead: the exact one, whatever the encoder's
    hidden=("tanh", "classifier.dense"),
)
