"""Byte-level BPE, GPT-2's and RoBERTa's tokenizer (Radford et al. 2019, section 2.2; Liu et al. 2019, section 4.4),
through `tokenizers`.

Every text can be written, since every byte is a piece; nothing is lower-cased or otherwise changed.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from bert_jax.text.tokenizer import Encoding, Tokenizer, checked, write_new

# One thread a process unless the user says otherwise, as in `wordpiece`.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

VOCABULARY, MERGES, LIBRARY, CONFIG = "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"
SPACE = "Ġ"  # U+0120: stands for the byte of a space
# Padding, unknown, class, separator, mask: fairseq's names.
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
# GPT-2's only one: ends a text and begins the next one, and stands for all the others.
END_OF_TEXT = "<|endoftext|>"


class ByteLevelBpe(Tokenizer):
    """RoBERTa's tokenizer, or where the vocabulary has `END_OF_TEXT` and none of RoBERTa's special tokens, GPT-2's.

    GPT-2's puts nothing around a text. Between those of a pair stands `END_OF_TEXT`, as the delimiter of Radford et al.
    2018 (section 3.3), where `transformers` has nothing.

    The names of special tokens have no meaning inside a text: "<mask>" there is three pieces or more, so no text can
    smuggle in a special token. `continues` is True where a piece has no space in front: as with SentencePiece,
    punctuation belongs to the word before it.
    """

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], prefix_space: bool = False):
        """Arguments:

        vocabulary: ids from 0 on by piece, in the characters that stand for bytes (`pre_tokenizers.ByteLevel`).
        merges: pairs of pieces that are joined, the first first.
        prefix_space: read every text as if it began with a space, so that its first word is the piece that it is
          elsewhere; the released models do not.

        Raises ValueError for a vocabulary whose ids are not 0 to V - 1, that lacks a special token or a byte, or a
        merge that makes no piece of it.
        """
        pieces = sorted(vocabulary, key=vocabulary.get)
        if [vocabulary[piece] for piece in pieces] != list(range(len(pieces))):
            raise ValueError(f"the ids of the {len(pieces)} pieces are not 0 to {len(pieces) - 1}")
        gpt2 = END_OF_TEXT in vocabulary and not set(SPECIALS) & set(vocabulary)
        specials = (END_OF_TEXT,) * len(SPECIALS) if gpt2 else SPECIALS
        if missing := [name for name in specials if name not in vocabulary]:
            raise ValueError(f"the vocabulary ({len(pieces)} pieces) lacks the special tokens {' '.join(missing)}")
        if missing := sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(vocabulary)):
            raise ValueError(f"the vocabulary ({len(pieces)} pieces) lacks {len(missing)} of 256 bytes: {missing[0]!r}")
        merges = [tuple(pair) for pair in merges]
        for number, pair in enumerate(merges, 1):
            if unknown := [piece for piece in (*pair, "".join(pair)) if piece not in vocabulary]:
                raise ValueError(f"merge {number}, {' '.join(pair)!r}: the vocabulary has no {unknown[0]!r}")
        content = json.dumps({"kind": "bpe", "prefix_space": prefix_space, "pieces": pieces, "merges": merges})
        super().__init__(
            pieces,
            specials,
            continues=np.array([not piece.startswith(SPACE) and piece not in specials for piece in pieces]),
            fingerprint=hashlib.sha256(content.encode()).hexdigest(),
            separators=1 if gpt2 else 2,
            word_prefix="" if prefix_space else " ",
            framed=not gpt2,
        )
        self.prefix_space, self._merges = prefix_space, merges
        self._library = Library(models.BPE(dict(vocabulary), merges))
        self._library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
        self._decoder = decoders.ByteLevel()

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
        """The text of the ids; bytes that make no character show as U+FFFD, and the prefixed space stays away."""
        dropped = {self.pad_id, self.cls_id, self.sep_id, self.mask_id}
        text = self._decoder.decode(self.tokens([i for i in np.asarray(ids).tolist() if i not in dropped]))
        return text.removeprefix(" ") if self.prefix_space else text

    def save(self, folder: str | os.PathLike) -> None:
        """Write `vocab.json`, `merges.txt` and `tokenizer_config.json`, which Hugging Face's RobertaTokenizer or
        GPT2Tokenizer opens."""
        vocabulary = {piece: i for i, piece in enumerate(self.pieces)}
        merges = "".join(f"{left} {right}\n" for left, right in self._merges)
        kind = "RobertaTokenizer" if self.framed else "GPT2Tokenizer"
        config = {"add_prefix_space": self.prefix_space, "tokenizer_class": kind}
        write_new(Path(folder) / VOCABULARY, (json.dumps(vocabulary, ensure_ascii=False) + "\n").encode())
        write_new(Path(folder) / MERGES, f"#version: 0.2\n{merges}".encode())
        write_new(Path(folder) / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def is_saved_in(folder: Path) -> bool:
    """Whether a folder holds such a tokenizer: `vocab.json`, or a `tokenizer.json` of that kind and no `vocab.txt`."""
    if (folder / VOCABULARY).exists():
        return True
    if (folder / "vocab.txt").exists() or not (folder / LIBRARY).exists():
        return False
    try:
        return json.loads((folder / LIBRARY).read_text(encoding="utf-8"))["model"]["type"] == "BPE"
    except (ValueError, KeyError, TypeError, RecursionError):
        return False  # for those to complain of who open it


def read(folder: Path) -> ByteLevelBpe:
    """Opens one that a folder holds, from `vocab.json` and `merges.txt`, or from `tokenizer.json`.

    Raises FileNotFoundError without merges; ValueError for what is damaged, or BPE of another kind.
    """
    file = folder / VOCABULARY
    if file.exists():
        if not (folder / MERGES).exists():
            raise FileNotFoundError(f"{folder} holds {VOCABULARY}, but not the {MERGES} that belongs to it")
        vocabulary, merges = _json(file), _read_merges(folder / MERGES)
        prefix_space = _json(folder / CONFIG).get("add_prefix_space", False) if (folder / CONFIG).exists() else False
    else:
        file = folder / LIBRARY
        vocabulary, merges, prefix_space = _read_library(file)
    if type(prefix_space) is not bool:
        raise ValueError(f"{folder / CONFIG}: add_prefix_space is {prefix_space!r}, expected true or false")
    if not all(type(i) is int for i in vocabulary.values()):
        raise ValueError(f"{file} is damaged: it is not one of pieces and their ids")
    try:
        return ByteLevelBpe(vocabulary, merges, prefix_space)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _read_merges(file: Path) -> list[tuple[str, str]]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: bad byte at offset {error.start}") from error
    merges = []
    for number, line in enumerate(lines, 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise ValueError(f"{file}, line {number}: {line!r} is no pair of pieces")
        merges.append((pair[0], pair[1]))
    return merges


def _read_library(file: Path) -> tuple[dict[str, int], list[tuple[str, str]], bool]:
    content = _json(file)
    try:
        model, splitter, normalizer = content["model"], content["pre_tokenizer"], content.get("normalizer")
        pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
        kind, prefix_space, vocabulary = splitter["type"], splitter["add_prefix_space"], dict(model["vocab"])
        suffixes = model.get("continuing_subword_prefix"), model.get("end_of_word_suffix")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged, or of a tokenizer that is not byte-level BPE: {error!r}") from error
    if kind != "ByteLevel" or normalizer is not None or any(suffixes) or not splitter.get("use_regex", True):
        raise ValueError(f"{file} is of a BPE that is not GPT-2's: {kind}, normalizer {normalizer}, {suffixes}")
    if not all(len(pair) == 2 and all(isinstance(piece, str) for piece in pair) for pair in pairs):
        raise ValueError(f"{file} is damaged: its merges are no pairs of pieces")
    return vocabulary, pairs, prefix_space


def _json(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if type(content) is not dict:
        raise ValueError(f"{file} holds {type(content).__name__}, expected a JSON object")
    return content
