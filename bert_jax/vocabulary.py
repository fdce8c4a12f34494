"""New pieces for a trained model: words of one's own domain that its vocabulary splits."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from bert_jax.pretrained import Pretrained
from bert_jax.text.tokenizer import Tokenizer
from bert_jax.text.wordpiece import WordPiece


def frequent_words(words: Mapping[str, int], tokenizer: Tokenizer, count: int, minimum: int = 5) -> list[str]:
    """The words that would save the most tokens as pieces of their own.

    Args:
        words: how often each normalised word occurs (`text.training.count_words`).
        tokenizer: that splits them; a word it cannot write ([UNK]) is a gain of its own and counts as two pieces.
        count: at most this many.
        minimum: words seen less often are left out.

    Ranked by (pieces - 1) x occurrences, equal ones by the word.
    """
    candidates = [word for word, seen in words.items() if seen >= minimum]
    saved: Counter[str] = Counter()
    for word, ids in zip(candidates, tokenizer.encode_batch(candidates), strict=True):
        pieces = 2 if tokenizer.unk_id in ids else len(ids)
        if pieces > 1:
            saved[word] = (pieces - 1) * words[word]
    return sorted(saved, key=lambda word: (-saved[word], word))[:count]


def extend(pretrained: Pretrained, words: Sequence[str]) -> Pretrained:
    """The same model with one more piece for each word; each new row is the mean of the rows of its old pieces.

    The new ids follow the vocabulary's last. Output biases, and the table of an untied decoder, get means likewise.
    A word keeps its old ids in nothing that was tokenized before: prepare a corpus anew.

    Raises ValueError for a tokenizer that is not WordPiece, and for a word that is there, repeated, or not one word.
    """
    tokenizer, model = pretrained.tokenizer, pretrained.model
    if not isinstance(tokenizer, WordPiece):
        raise ValueError("only a WordPiece vocabulary can be extended" + ("" if tokenizer else "; there is none here"))
    old = set(tokenizer.pieces)
    for word in words:
        if word in old:
            raise ValueError(f"the vocabulary has {word!r} already")
        if tokenizer.basic.words(word) != [word]:
            made = tokenizer.basic.words(word)
            raise ValueError(f"{word!r} is not one normalised word: the tokenizer makes it {made}")
        old.add(word)
    pieces = tokenizer.encode_batch(list(words))
    rows = tokenizer.vocab_size

    def grown(table: np.ndarray) -> np.ndarray:
        table = np.asarray(table)[:rows]  # a padded table loses the rows that no piece has
        return np.concatenate([table, *(table[ids].mean(axis=0, keepdims=True) for ids in pieces)]).astype(np.float32)

    params = {name: dict(part) for name, part in pretrained.params.items()}
    embeddings = params["encoder"]["embeddings"]
    params["encoder"]["embeddings"] = dict(embeddings) | {"words": {"table": grown(embeddings["words"]["table"])}}
    size, objectives = rows + len(words), dict(model.objectives)
    for name, objective in objectives.items():
        own = params.get(f"objectives_{name}", {})
        own.update({key: grown(own[key]) for key in ("bias", "decoder") if key in own})
        if hasattr(objective, "for_vocabulary"):
            objectives[name] = objective.clone(vocab_size=0)
    model = model.clone(encoder=model.encoder.clone(vocab_size=size), objectives=objectives)
    extended = WordPiece([*tokenizer.pieces, *words], tokenizer.lowercase)
    return Pretrained(model, params, extended, (*pretrained.notes, f"{len(words)} pieces were added to the vocabulary"))
