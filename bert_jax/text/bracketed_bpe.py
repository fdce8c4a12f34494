"""ModernBERT's tokenizer: byte-level BPE with BERT's special tokens, and with pieces beside the BPE's own (Warner et
al. 2024, arXiv 2412.13663: OLMo's, modified).

It has no format but the `tokenizer.json` of `tokenizers`, which is what is opened and written.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Library

from bert_jax.text.bpe import SPACE
from bert_jax.text.tokenizer import SPECIALS, Encoding, Tokenizer, checked, write_new

# One thread a process unless the user says otherwise, as in `wordpiece`.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

LIBRARY, CONFIG = "tokenizer.json", "tokenizer_config.json"


class BracketedBpe(Tokenizer):
    """Byte-level BPE whose pairs are `[CLS] a [SEP] b [SEP]`.

    Pieces that were added to the BPE, such as runs of spaces, are found in a text before it is split. The special ones
    among them are not: their names have no meaning inside a text, so no text can smuggle in a special token.
    `continues` is True where a piece of the BPE has no space in front, as in `ByteLevelBpe`.
    """

    def __init__(self, content: Mapping[str, Any]):
        """content: that of a `tokenizer.json`.

        Raises ValueError for BPE of another kind, and for a vocabulary without BERT's special tokens or whose ids are
        not 0 to V - 1.
        """
        try:
            model, splitter, normalizer = content["model"], content["pre_tokenizer"], content.get("normalizer")
            added = {token["content"]: token for token in content["added_tokens"]}
            vocabulary = dict(model["vocab"]) | {name: token["id"] for name, token in added.items()}
            plain = [token for token in content["added_tokens"] if not token["special"]]
            kinds = [splitter["type"], (normalizer or {}).get("type")]
            options = [splitter.get("use_regex", True), splitter["add_prefix_space"]]
            pieces = sorted(vocabulary, key=vocabulary.get)
            read = json.dumps({**content, "added_tokens": plain, "post_processor": None, "padding": None,
                               "truncation": None})  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"damaged, or of a tokenizer that is not byte-level BPE: {error!r}") from error
        if kinds not in (["ByteLevel", None], ["ByteLevel", "NFC"]) or options != [True, False]:
            raise ValueError(f"of a BPE that is not ModernBERT's: {kinds}, {options}")
        if [vocabulary[piece] for piece in pieces] != list(range(len(pieces))):
            raise ValueError(f"the ids of the {len(pieces)} pieces are not 0 to {len(pieces) - 1}")
        if missing := [name for name in SPECIALS if name not in vocabulary]:
            raise ValueError(f"the vocabulary ({len(pieces)} pieces) lacks the special tokens {' '.join(missing)}")
        try:
            self._library = Library.from_str(read)
        except Exception as error:  # the library raises nothing more particular
            raise ValueError(f"damaged: {error}") from error
        merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        found = {"kind": "bracketed bpe", "normalizer": normalizer, "pieces": pieces, "merges": merges, "added": plain}
        super().__init__(
            pieces,
            SPECIALS,
            continues=np.array([not piece.startswith(SPACE) and piece not in added for piece in pieces]),
            fingerprint=hashlib.sha256(json.dumps(found).encode()).hexdigest(),
            word_prefix=" ",
        )
        self._content = dict(content)

    def encode(self, text: str) -> Encoding:
        """The tokens of one text, without special tokens, all of segment 0. A token includes the space before it."""
        found = self._library.encode(checked(text), add_special_tokens=False)
        ids = np.array(found.ids, np.int32)
        return Encoding(ids, np.array(found.offsets, np.int32).reshape(-1, 2), np.zeros_like(ids))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text (int32 [n]), without special tokens or offsets: the fast path for large corpora."""
        found = self._library.encode_batch_fast([checked(text) for text in texts], add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in found]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of the ids; bytes that make no character show as U+FFFD."""
        dropped = {self.pad_id, self.cls_id, self.sep_id, self.mask_id}
        return self._library.decoder.decode(self.tokens([i for i in np.asarray(ids).tolist() if i not in dropped]))

    def save(self, folder: str | os.PathLike) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which AutoTokenizer of transformers opens."""
        names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
        config = {"tokenizer_class": "PreTrainedTokenizerFast"} | dict(zip(names, SPECIALS, strict=True))
        config["model_input_names"] = ["input_ids", "attention_mask"]
        content = json.dumps(self._content, ensure_ascii=False, indent=2)
        write_new(Path(folder) / LIBRARY, (content + "\n").encode())
        write_new(Path(folder) / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def is_saved_in(folder: Path) -> bool:
    """Whether a folder holds such a tokenizer: a `tokenizer.json` of BPE with BERT's [CLS] among the added tokens, and
    no file of another one."""
    if any((folder / other).exists() for other in ("vocab.txt", "vocab.json")) or not (folder / LIBRARY).exists():
        return False
    try:
        content = json.loads((folder / LIBRARY).read_text(encoding="utf-8"))
        return content["model"]["type"] == "BPE" and "[CLS]" in [token["content"] for token in content["added_tokens"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False  # for those to complain of who open it


def read(folder: Path) -> BracketedBpe:
    """Opens one that a folder holds. Raises ValueError, with its file, as `BracketedBpe`."""
    file = folder / LIBRARY
    try:
        return BracketedBpe(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
