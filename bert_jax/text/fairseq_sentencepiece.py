"""XLM-R's tokenizer: a SentencePiece model under fairseq's ids (Conneau et al. 2019, arXiv:1911.02116).

fairseq's dictionary begins with `<s>`, `<pad>`, `</s>`, `<unk>`, where the model has `<unk>`, `<s>`, `</s>`: the pieces
that follow have ids one higher than there, and `<mask>` is behind the last one (`XLMRobertaTokenizer` of transformers).
"""

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bert_jax.text.sentencepiece import WORD_MARK, parse
from bert_jax.text.sentencepiece_file import CONTROL, UNKNOWN, model_of, normalizer_of
from bert_jax.text.tokenizer import Encoding, Tokenizer, checked, write_new

MODEL, LIBRARY, CONFIG = "sentencepiece.bpe.model", "tokenizer.json", "tokenizer_config.json"
FIRST = ("<s>", "<pad>", "</s>", "<unk>")  # here
FIRST_THERE = ("<unk>", "<s>", "</s>")  # in the model
MASK = "<mask>"
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", MASK)
TYPES = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}  # in the model


class FairseqSentencePiece(Tokenizer):
    """XLM-R's tokenizer.

    The names of special tokens have no meaning inside a text. `continues` is True for a piece that does not start with
    the word mark, as in `SentencePiece`; where words are not set apart by spaces, a sentence is one word.
    """

    def __init__(self, model: str | os.PathLike | bytes):
        """Open a model file, or the bytes of one.

        Raises FileNotFoundError for a missing file; ValueError for one that is empty, no SentencePiece model, or begins
        with other pieces than <unk> <s> </s>.
        """
        source = "the given bytes" if isinstance(model, bytes) else str(model)
        if not isinstance(model, bytes) and not Path(model).is_file():
            raise FileNotFoundError(f"SentencePiece model {source} does not exist")
        self._content = model if isinstance(model, bytes) else Path(model).read_bytes()
        library = self._library = parse(self._content, source)
        there = library.id_to_piece(list(range(library.get_piece_size())))
        if tuple(there[:3]) != FIRST_THERE or {"<pad>", MASK} & set(there):
            raise ValueError(
                f"{source} ({len(there)} pieces) is no model of XLM-R's: its first pieces are {' '.join(there[:3])}, "
                f"expected {' '.join(FIRST_THERE)}, and <pad> and {MASK} nowhere"
            )
        self._ids = np.array([3, 0, 2, *range(4, len(there) + 1)], np.int32)  # by the number in the model
        pieces = [*FIRST, *there[3:], MASK]
        scores = library.get_score(list(range(len(there))))
        kind = {"kind": "fairseq sentencepiece", "normalizer": normalizer_of(self._content)}
        content = json.dumps(kind | {"pieces": there, "scores": scores})
        super().__init__(
            pieces,
            SPECIALS,
            continues=np.array([not piece.startswith(WORD_MARK) and piece not in SPECIALS for piece in pieces]),
            fingerprint=hashlib.sha256(content.encode()).hexdigest(),
            separators=2,
        )

    def encode(self, text: str) -> Encoding:
        """The tokens of one text, without special tokens, all of segment 0. A token includes the space before it."""
        found = self._library.encode(checked(text), return_type="offset_mapping")
        ids = self._ids[np.array(found["ids"], np.int32)]
        return Encoding(ids, np.array(found["offsets"], np.int32).reshape(-1, 2), np.zeros_like(ids))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text (int32 [n]), without special tokens or offsets: the fast path for large corpora."""
        found = self._library.encode([checked(text) for text in texts], return_type="numpy", num_threads=1)
        return [self._ids[ids] for ids in found]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of the ids; an unknown piece shows as the model's own mark for it, " ⁇ " by default."""
        self.tokens(ids)  # the check that every id is in the vocabulary
        dropped = {self.pad_id, self.cls_id, self.sep_id, self.mask_id}
        kept = [i for i in np.asarray(ids).tolist() if i not in dropped]
        return self._library.decode([0 if i == self.unk_id else i - 1 for i in kept])

    def save(self, folder: str | os.PathLike) -> None:
        """Write `sentencepiece.bpe.model` and `tokenizer_config.json`, which XLMRobertaTokenizer opens."""
        config = {"tokenizer_class": "XLMRobertaTokenizer"}
        write_new(Path(folder) / MODEL, self._content)
        write_new(Path(folder) / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def is_saved_in(folder: Path) -> bool:
    """Whether a folder holds such a tokenizer: the model, or a `tokenizer.json` that begins with fairseq's ids and no
    file of another tokenizer."""
    if (folder / MODEL).exists():
        return True
    others = ("vocab.txt", "vocab.json", "spiece.model")
    if any((folder / other).exists() for other in others) or not (folder / LIBRARY).exists():
        return False
    try:
        model = json.loads((folder / LIBRARY).read_text(encoding="utf-8"))["model"]
        return model["type"] == "Unigram" and tuple(piece for piece, _ in model["vocab"][:4]) == FIRST
    except (ValueError, KeyError, TypeError, RecursionError):
        return False  # for those to complain of who open it


def read(folder: Path) -> FairseqSentencePiece:
    """Opens one that a folder holds, from its model, or else from `tokenizer.json`, of which a model is made.

    Raises ValueError for what is damaged, or does more to a text than XLM-R's.
    """
    if (folder / MODEL).exists():
        return FairseqSentencePiece(folder / MODEL)
    file = folder / LIBRARY
    content = json.loads(file.read_text(encoding="utf-8"))
    try:
        vocabulary = [(str(piece), float(score)) for piece, score in content["model"]["vocab"]]
        splitter, normalizer = content["pre_tokenizer"], content["normalizer"]
        splitters = splitter.get("pretokenizers", [splitter])
        schemes = [part.get("prepend_scheme", "always") for part in splitters if part["type"] == "Metaspace"]
        steps = normalizer.get("normalizers", [normalizer]) if normalizer else []
        maps = [base64.b64decode(part["precompiled_charsmap"]) for part in steps if part["type"] == "Precompiled"]
        kinds = [part["type"] for part in (*steps, *splitters)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged, or of a tokenizer that is not XLM-R's: {error!r}") from error
    # The older files squeeze runs of spaces (Replace), the newer split at them: the model does either by itself.
    known = {"Precompiled", "Replace", "Strip", "WhitespaceSplit", "Metaspace"}
    if set(kinds) - known or schemes != ["always"] or len(maps) > 1 or vocabulary[-1][0] != MASK:
        raise ValueError(f"{file} is of a tokenizer that is not XLM-R's: {', '.join(kinds)}, {schemes}, {len(maps)}")
    there = [(piece, 0.0) for piece in FIRST_THERE] + vocabulary[len(FIRST) : -1]
    return FairseqSentencePiece(model_of(there, TYPES, maps[0] if maps else b""))
