"""Models of random weights, every parameter of which matters: nothing is left at zero or one, attention is not flat."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np

from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.models.distilbert import DistilBert
from bert_jax.models.roberta import Roberta
from bert_jax.objectives.choice import Choice
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
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
        return rng.normal(mean, 0.2, leaf.shape).astype(np.float32)

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
