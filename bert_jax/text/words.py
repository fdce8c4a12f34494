"""Words that are given one by one, to tokens: the input of tagging."""

from collections.abc import Sequence

import numpy as np

from bert_jax.text.tokenizer import Tokenizer


def word_pieces(tokenizer: Tokenizer, words: Sequence[str]) -> list[np.ndarray]:
    """The ids of each word (int32 [n], n >= 1), encoded on its own; [UNK] for one of which the tokenizer leaves nothing
    (an empty one, a control character), so that every word has a first token that stands for it.

    Raises ValueError for what is not Unicode.
    """
    unknown = np.array([tokenizer.unk_id], np.int32)
    prefixed = [tokenizer.word_prefix + word for word in words]
    return [ids if len(ids) else unknown for ids in tokenizer.encode_batch(prefixed)]
