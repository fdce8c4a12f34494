"""What a predictor is given: checked, and turned into the rows that the model reads."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bert_jax.data.spans import joined
from bert_jax.learners.multitask import Multitask
from bert_jax.text.tokenizer import Encoding, Tokenizer
from bert_jax.text.words import word_pieces


@runtime_checkable
class Opened(Protocol):
    """What a prediction needs: a `pretrained.Pretrained`."""

    model: Multitask
    params: dict[str, Any] | None
    tokenizer: Tokenizer | None


class BadInput(ValueError):
    """One of the inputs cannot be predicted on.

    index: which, from 0.
    reason: why.
    """

    def __init__(self, index: int, reason: str):
        super().__init__(f"input {index}: {reason}")
        self.index, self.reason = index, reason


# ---- what is asked for, checked --------------------------------------------------------------------------------------


def items_of(given: Any, *kinds: type) -> list:
    """The inputs as a list: a list is one already, anything else a single input.

    kinds: of an input: str, tuple or list of str; a list in a list is an input, a list alone never is.

    Raises TypeError for anything else.
    """
    wanted = " or ".join(kind.__name__ for kind in kinds)
    items = given if isinstance(given, list) else [given]
    one = tuple(kind for kind in kinds if kind is not list)
    if not isinstance(given, (list, *one)):
        raise TypeError(f"the input is {type(given).__name__}, expected {wanted}, or a list of these")
    for i, item in enumerate(items):
        if not isinstance(item, kinds):
            raise TypeError(f"input {i} is {type(item).__name__}, expected {wanted}")
        for part in () if isinstance(item, str) else item:
            if not isinstance(part, str):
                raise TypeError(f"input {i} holds {type(part).__name__}, expected str")
    return items


def check_opened(opened: Opened) -> None:
    """Raises ValueError for what was opened without a tokenizer or without weights."""
    if opened.tokenizer is None:
        raise ValueError("text needs a tokenizer, but the checkpoint came without one: put its vocab.txt beside it")
    if opened.params is None:
        raise ValueError("the model was opened without its weights")


def head_of(opened: Opened, kind: type, task: str) -> str:
    """The name of the one head of a kind. Raises ValueError where there is none or several, or nothing to read text."""
    heads = opened.model.objectives
    names = [name for name, head in heads.items() if isinstance(head, kind)]
    if len(names) != 1:
        listing = ", ".join(f"{name} ({type(head).__name__})" for name, head in heads.items()) or "no head"
        raise ValueError(f"{task} needs one head of the kind {kind.__name__}, but the model has {listing}")
    check_opened(opened)
    return names[0]


# ---- text to rows ----------------------------------------------------------------------------------------------------


def encode(opened: Opened, items: Sequence[str | tuple]) -> list[Encoding]:
    """`[CLS] a [SEP] (b [SEP])` of each text or pair.

    Raises BadInput for one that the model does not take: longer than its position table, a pair where there is a
    single segment type, a tuple that is no pair.
    """
    for i, item in enumerate(items):
        if not isinstance(item, str) and len(item) != 2:
            raise BadInput(i, f"a tuple of {len(item)}, expected a pair")
        if not isinstance(item, str) and lacks_segments(opened):
            raise BadInput(i, "a pair needs two segment types, and this model has one")
    texts = [(item,) if isinstance(item, str) else item for item in items]
    try:
        ids = iter(opened.tokenizer.encode_batch([text for parts in texts for text in parts]))
    except ValueError:  # of one of them: which?
        ids = (tokens_of(opened, i, text).ids for i, parts in enumerate(texts) for text in parts)
    return [
        fitting(opened, i, joined(opened.tokenizer, *(next(ids) for _ in parts)), parts[0])
        for i, parts in enumerate(texts)
    ]


def lacks_segments(opened: Opened) -> bool:
    """Whether the texts of a pair would be told apart by segments that the model has not; one without any, as
    DistilBERT, is used to that."""
    return getattr(opened.model.encoder, "segment_types", 0) == 1 and opened.tokenizer.separators == 1


def tokens_of(opened: Opened, index: int, text: str) -> Encoding:
    """The tokens of a text of input `index`. Raises BadInput for what is not Unicode."""
    try:
        return opened.tokenizer.encode(text)
    except ValueError as error:
        raise BadInput(index, str(error)) from error


def fitting(opened: Opened, index: int, encoding: Encoding, text: str) -> Encoding:
    """The encoding of input `index`, which `text` is the beginning of. Raises BadInput if the model takes less."""
    tokens, limit = len(encoding.ids), opened.model.encoder.max_length
    if tokens > limit:
        reason = f"{tokens} tokens with [CLS] and [SEP], but the model takes {limit}: shorten or split it"
        raise BadInput(index, f"{reason} ({beginning(text)})")
    return encoding


def beginning(text: str) -> str:
    """How a message quotes a text."""
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def words_of(
    opened: Opened, index: int, item: str | Sequence[str]
) -> tuple[Encoding, np.ndarray, list[tuple[str, int | None, int | None]]]:
    """What the model reads of a string or of words, the place of each word's first piece in it, and (word, start, end)
    of each word.

    The words of a string are those of its tokens; given words have no start and end, and one without any token is read
    as [UNK]. Raises BadInput for what the model does not take.
    """
    if isinstance(item, str):
        tokens = tokens_of(opened, index, item)
        begins = ~opened.tokenizer.continues[tokens.ids]
        begins[:1] = True
        firsts = np.flatnonzero(begins)
        ends = np.append(firsts, len(begins))[1:]
        ids, offsets = tokens.ids, tokens.offsets
        words = [cut(item, int(offsets[a, 0]), int(offsets[b - 1, 1])) for a, b in zip(firsts, ends, strict=True)]
    else:
        try:
            pieces = word_pieces(opened.tokenizer, item)
        except ValueError as error:
            raise BadInput(index, str(error)) from error
        ids = np.concatenate([np.zeros(0, np.int32), *pieces])
        firsts = np.cumsum([0, *(len(own) for own in pieces)])[:-1]
        words = [(word, None, None) for word in item]
    text = item if isinstance(item, str) else " ".join(item)
    return fitting(opened, index, joined(opened.tokenizer, ids), text), firsts + opened.tokenizer.framed, words


def cut(text: str, start: int, end: int) -> tuple[str, int, int]:
    """(characters, start, end) without the space before it, which a SentencePiece token has."""
    start = end - len(text[start:end].lstrip())
    return text[start:end], start, end
