"""Models of random weights, every parameter of which matters: nothing is left at zero or one, attention is not flat."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np

from bert_jax.learners.multitask import Multitask
from bert_jax.models.albert import Albert
from bert_jax.models.bert import Bert
from bert_jax.models.distilbert import DistilBert
from bert_jax.models.electra import Electra
from bert_jax.models.fnet import Fnet
from bert_jax.models.gpt2 import Gpt2
from bert_jax.models.modernbert import ModernBert
from bert_jax.models.mpnet import Mpnet
from bert_jax.models.roberta import Roberta
from bert_jax.models.xlnet import Xlnet
from bert_jax.objectives.causal_lm import CausalLm
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.objectives.plm import Plm
from bert_jax.objectives.rtd import Rtd
from bert_jax.objectives.sop import Sop
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag
from bert_jax.pretrained import Pretrained

# Nothing here is a power of two, nor a multiple of eight, nor equal to anything else.
TINY = {
    "vocab_size": 67,
    "num_layers": 2,
    "width": 36,
    "num_heads": 3,
    "mlp_width": 52,
    "max_length": 17,
    "segment_types": 2,
}
# The same in the words of Hugging Face's config.json, written out: what is tested is the way between the two.
CONFIG = {
    "vocab_size": 67,
    "num_hidden_layers": 2,
    "hidden_size": 36,
    "num_attention_heads": 3,
    "intermediate_size": 52,
    "max_position_embeddings": 17,
}
LABELS = ("no", "perhaps", "yes")
# The heads of each class of transformers that has a counterpart here, and whether that class has a pooler.
CLASSES = {
    "BertModel": ({}, True),
    "BertForPreTraining": ({"mlm": Mlm(), "nsp": Nsp()}, True),
    "BertForMaskedLM": ({"mlm": Mlm()}, False),
    "BertForNextSentencePrediction": ({"nsp": Nsp()}, True),
    "BertForSequenceClassification": ({"classify": Classify(3, 0.2, labels=LABELS)}, True),
    "BertForTokenClassification": ({"tag": Tag(3, 0.2, labels=LABELS)}, False),
    "BertForQuestionAnswering": ({"span": Span(over_padding=True)}, False),
    "BertForMultipleChoice": ({"choice": Choice(2, 0.2)}, True),
}
# The same of each other member of the family: encoder, id of padding, classes.
FAMILY = {
    "roberta": (
        Roberta,
        1,
        {
            "RobertaModel": ({}, True),
            "RobertaForMaskedLM": ({"mlm": Mlm()}, False),
            "RobertaForSequenceClassification": ({"classify": Classify(3, 0.2, labels=LABELS, hidden="tanh")}, False),
            "RobertaForTokenClassification": ({"tag": Tag(3, 0.2, labels=LABELS)}, False),
            "RobertaForQuestionAnswering": ({"span": Span(over_padding=True)}, False),
            "RobertaForMultipleChoice": ({"choice": Choice(2, 0.2)}, True),
        },
    ),
    "distilbert": (
        DistilBert,
        0,
        {
            "DistilBertModel": ({}, False),
            "DistilBertForMaskedLM": ({"mlm": Mlm()}, False),
            "DistilBertForSequenceClassification": (
                {"classify": Classify(3, 0.2, labels=LABELS, hidden="relu")},
                False,
            ),
            "DistilBertForTokenClassification": ({"tag": Tag(3, 0.1, labels=LABELS)}, False),
            "DistilBertForQuestionAnswering": ({"span": Span(over_padding=True)}, False),
            "DistilBertForMultipleChoice": ({"choice": Choice(2, 0.2, hidden="relu")}, False),
        },
    ),
    "albert": (
        Albert,
        0,
        {
            "AlbertModel": ({}, True),
            "AlbertForPreTraining": ({"mlm": Mlm(), "sop": Sop()}, True),
            "AlbertForMaskedLM": ({"mlm": Mlm()}, False),
            "AlbertForSequenceClassification": ({"classify": Classify(3, 0.2, labels=LABELS)}, True),
            "AlbertForTokenClassification": ({"tag": Tag(3, 0.2, labels=LABELS)}, False),
            "AlbertForQuestionAnswering": ({"span": Span(over_padding=True)}, False),
            "AlbertForMultipleChoice": ({"choice": Choice(2, 0.2)}, True),
        },
    ),
    "gpt2": (
        Gpt2,
        -1,  # the last of the vocabulary
        {
            "GPT2Model": ({}, False),
            "GPT2LMHeadModel": ({"lm": CausalLm(transform=False)}, False),
            "GPT2ForSequenceClassification": ({"classify": Classify(3, 0.2, labels=LABELS, hidden="last")}, False),
            "GPT2ForTokenClassification": ({"tag": Tag(3, 0.2, labels=LABELS)}, False),
        },
    ),
    "electra": (
        Electra,
        0,
        {
            "ElectraModel": ({}, False),
            "ElectraForPreTraining": ({"rtd": Rtd()}, False),
            "ElectraForMaskedLM": ({"mlm": Mlm()}, False),
            "ElectraForSequenceClassification": ({"classify": Classify(3, 0.2, labels=LABELS, hidden="gelu")}, False),
            "ElectraForTokenClassification": ({"tag": Tag(3, 0.2, labels=LABELS)}, False),
            "ElectraForQuestionAnswering": ({"span": Span(over_padding=True)}, False),
        },
    ),
    "fnet": (
        Fnet,
        4,  # of padding theirs is 3, of which they learn nothing: here it is a token as any other
        {
            "FNetModel": ({}, True),
            "FNetForPreTraining": ({"mlm": Mlm(), "nsp": Nsp()}, True),
            "FNetForMaskedLM": ({"mlm": Mlm()}, True),
            "FNetForNextSentencePrediction": ({"nsp": Nsp()}, True),
            "FNetForSequenceClassification": ({"classify": Classify(3, 0.1, labels=LABELS)}, True),
            "FNetForTokenClassification": ({"tag": Tag(3, 0.1, labels=LABELS)}, True),
            "FNetForQuestionAnswering": ({"span": Span(over_padding=True)}, True),
            "FNetForMultipleChoice": ({"choice": Choice(2, 0.1)}, True),
        },
    ),
    "mpnet": (
        Mpnet,
        1,
        {
            "MPNetModel": ({}, True),
            "MPNetForMaskedLM": ({"mlm": Mlm()}, False),
            "MPNetForSequenceClassification": ({"classify": Classify(3, 0.1, labels=LABELS, hidden="tanh")}, False),
            "MPNetForTokenClassification": ({"tag": Tag(3, 0.1, labels=LABELS)}, False),
            "MPNetForQuestionAnswering": ({"span": Span(over_padding=True)}, False),
            "MPNetForMultipleChoice": ({"choice": Choice(2, 0.1)}, True),
        },
    ),
    "xlnet": (
        Xlnet,
        5,
        {
            "XLNetModel": ({}, False),
            "XLNetLMHeadModel": ({"plm": Plm()}, False),
            "XLNetForSequenceClassification": (
                {"classify": Classify(3, 0.2, labels=LABELS, hidden="last_tanh")},
                False,
            ),
            "XLNetForTokenClassification": ({"tag": Tag(3, 0.2, labels=LABELS)}, False),
            "XLNetForQuestionAnsweringSimple": ({"span": Span(over_padding=True)}, False),
            "XLNetForMultipleChoice": ({"choice": Choice(2, 0.2, hidden="last_tanh")}, False),
        },
    ),
    "modernbert": (
        ModernBert,
        0,
        {
            "ModernBertModel": ({}, False),
            "ModernBertForMaskedLM": ({"mlm": Mlm(use_bias=False)}, False),
            "ModernBertForSequenceClassification": (
                {"classify": Classify(3, 0.2, labels=LABELS, hidden="gelu_norm")},
                False,
            ),
            "ModernBertForTokenClassification": ({"tag": Tag(3, 0.2, labels=LABELS, hidden="gelu_norm")}, False),
            "ModernBertForMultipleChoice": ({"choice": Choice(2, 0.2, hidden="gelu_norm")}, False),
        },
    ),
}
FAMILY_CLASSES = [(member, name) for member, (*_, classes) in FAMILY.items() for name in classes]


def family_model(member: str, name: str, tokenizer=None, **overrides) -> Pretrained:
    """A model of random weights that a class of theirs opens."""
    encoder, _, classes = FAMILY[member]
    heads, pooler = classes[name]
    return random_model(heads, tokenizer=tokenizer, kind=encoder, **{"pooler": pooler} | overrides)


def random_model(objectives, seed: int = 0, tokenizer=None, kind: type = Bert, **overrides) -> Pretrained:
    """A model with these heads (an `Mlm` takes over activation and epsilon), of the tiny size but for `overrides`;
    other kinds than BERT have their own segments, and only the fields that they have.

    The weights' deviation, 0.2, times the root of the width is about what it is in BERT-base as released.
    """
    fields = TINY | overrides
    if kind is not Bert:
        known = {field.name for field in dataclasses.fields(kind)} - {"segment_types"}
        known -= {"num_heads"} if kind is Fnet else set()
        fields = {name: value for name, value in fields.items() if name in known}
    encoder = kind(**fields)
    objectives = {
        name: head.clone(activation=encoder.activation, norm_epsilon=encoder.norm_epsilon)
        if isinstance(head, Mlm)
        else head
        for name, head in objectives.items()
    }
    model = Multitask(encoder, objectives)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        mean = 1.0 if path[-1].key == "scale" else 0.0
        drawn = rng.normal(mean, 0.2, leaf.shape).astype(np.float32)
        if kind is ModernBert and path[-2].key == "attention_norm":
            drawn[0] = 1.0  # of no layer
        return drawn

    batch = {"tokens": jax.ShapeDtypeStruct((1, 1), np.int32)}
    shapes = jax.eval_shape(lambda batch: model.init(jax.random.key(0), batch, method="outputs"), batch)
    return Pretrained(model, jax.tree_util.tree_map_with_path(draw, nn.unbox(shapes["params"])), tokenizer)


def random_batch(model: Multitask, lengths, width: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of these lengths: `tokens`, `segments`, `mask` [B, width]; no token but padding is 0."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int32)
    tokens = rng.integers(1, model.encoder.vocab_size, mask.shape, np.int32) * mask
    segments = rng.integers(0, model.encoder.segment_types, mask.shape, np.int32) * mask
    return {"tokens": tokens, "segments": segments, "mask": mask}
