"""The one interface of every tokenizer, and `load`, which opens a saved one."""

import abc
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# The files that `load` looks for.
FILES = ("vocab.txt", "spiece.model", "tokenizer.json")
# Padding, unknown, class, separator, mask, as BERT's vocabularies name them.
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Encoding:
    """The tokens of one text or of a pair of texts.

    ids: int32 [n] positions in the vocabulary.
    offsets: int32 [n, 2] start and end (exclusive) of each token, in characters of the text of its segment; (0, 0) for
      the special tokens that `encode_pair` adds.
    segments: int32 [n] 0 for `[CLS] a [SEP]`, 1 for `b [SEP]`.
    """

    ids: np.ndarray
    offsets: np.ndarray
    segments: np.ndarray


class Tokenizer(abc.ABC):
    """Text to ids and back.

    A subclass hands its vocabulary to `__init__` and defines `encode`, `encode_batch`, `decode` and `save`.

    pieces: the V tokens in the order of their ids; "" for an id that no text can produce.
    vocab_size: V.
    pad_id, unk_id, cls_id, sep_id, mask_id: ids of the five special tokens.
    continues: bool [V], True where the piece continues the word before it. Whole-word masking groups by it.
    fingerprint: sha256 in hex over all that determines the output (vocabulary and options). Two tokenizers with the
      same fingerprint are interchangeable; saving and loading keeps it.
    """

    def __init__(self, pieces: Sequence[str], specials: Sequence[str], continues: np.ndarray, fingerprint: str):
        """Arguments as the attributes; specials: which pieces are padding, unknown, class, separator and mask."""
        self.pieces = tuple(pieces)
        self.vocab_size = len(self.pieces)
        ids = [self.pieces.index(name) for name in specials]
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = ids
        self.continues = continues
        self.fingerprint = fingerprint

    @abc.abstractmethod
    def encode(self, text: str) -> Encoding:
        """The tokens of one text, without special tokens, all of segment 0."""

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text (int32 [n]), without special tokens or offsets: the fast path for large corpora."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of the ids, as far as it can be known: padding, class, separator and mask tokens are dropped."""

    @abc.abstractmethod
    def save(self, folder: str | os.PathLike) -> None:
        """Write the tokenizer's files into `folder`, made if need be. A file that differs is never overwritten."""

    def encode_pair(self, a: str, b: str | None = None, *, max_length: int) -> Encoding:
        """`[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, cut to `max_length` tokens as the original's fine-tuning does.

        A single text loses its last tokens; a pair loses the last token of the longer text, and of `b` where both are
        equally long, one at a time until it fits (run_classifier.py:386-443, 557-571).
        Raises ValueError when `max_length` does not even hold the special tokens.
        """
        specials = 2 if b is None else 3
        if max_length < specials:
            raise ValueError(f"max_length is {max_length}, but [CLS] and [SEP] alone take {specials} tokens")
        texts = [self.encode(a)] if b is None else [self.encode(a), self.encode(b)]
        kept = [len(text.ids) for text in texts]
        while sum(kept) > max_length - specials:
            kept[0 if len(kept) == 1 or kept[0] > kept[1] else 1] -= 1
        ids, offsets, segments = [[self.cls_id]], [[(0, 0)]], [[0]]
        for segment, (text, n) in enumerate(zip(texts, kept, strict=True)):
            ids += [text.ids[:n], [self.sep_id]]
            offsets += [text.offsets[:n], [(0, 0)]]
            segments += [[segment] * (n + 1)]
        return Encoding(*(np.concatenate(parts, dtype=np.int32) for parts in (ids, offsets, segments)))

    def tokens(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The pieces of the ids. Raises ValueError for an id outside the vocabulary."""
        ids = np.asarray(ids, np.int64)
        wrong = ids[(ids < 0) | (ids >= self.vocab_size)]
        if wrong.size:
            raise ValueError(f"id {wrong[0]} is outside the vocabulary of {self.vocab_size} pieces")
        return [self.pieces[i] for i in ids]


def load(folder: str | os.PathLike, lowercase: bool | None = None) -> Tokenizer:
    """Open a saved tokenizer: SentencePiece from `spiece.model`, or WordPiece from `vocab.txt` or `tokenizer.json`.

    lowercase: WordPiece only. None takes `do_lower_case` from `tokenizer_config.json`; where that does not say, a
      vocabulary with a capital letter from A to Z in any piece but the bracketed ones is cased, any other is uncased
      (right for the released English, Chinese and multilingual vocabularies). The original looks at the name of the
      checkpoint instead (tokenization.py:28-75), which a folder of one's own does not have.

    Raises FileNotFoundError when the folder or its tokenizer file is missing; ValueError when the folder holds both
    kinds, contradicts `lowercase`, or asks for an option that BERT's tokenizer does not have.
    """
    from bert_jax.text.sentencepiece import SentencePiece
    from bert_jax.text.wordpiece import WordPiece, has_capitals, read_library, read_vocabulary

    folder = Path(folder)
    vocab_file, model_file = folder / "vocab.txt", folder / "spiece.model"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: expected a saved tokenizer")
    if vocab_file.exists() and model_file.exists():
        raise ValueError(f"{folder} holds both vocab.txt and spiece.model: remove the one that does not belong there")
    if model_file.exists():
        if lowercase is not None:
            raise ValueError(f"lowercase={lowercase} does not apply to {model_file}, which holds its own rules")
        return SentencePiece(model_file)
    library_file = folder / "tokenizer.json"
    if not vocab_file.exists() and not library_file.exists():
        raise FileNotFoundError(
            f"{folder} holds neither vocab.txt nor tokenizer.json (WordPiece), nor spiece.model (SentencePiece)"
        )
    saved = _saved_case(folder / "tokenizer_config.json")
    if not vocab_file.exists():
        pieces, own = read_library(library_file)
        try:
            return WordPiece(pieces, own if lowercase is None else lowercase)
        except ValueError as error:
            raise ValueError(f"{library_file}: {error}") from error
    if lowercase is not None and saved is not None and lowercase != saved:
        raise ValueError(f"lowercase={lowercase}, but {folder / 'tokenizer_config.json'} says do_lower_case={saved}")
    if lowercase is None:
        lowercase = saved if saved is not None else not has_capitals(read_vocabulary(vocab_file))
    return WordPiece(vocab_file, lowercase)


def _saved_case(file: Path) -> bool | None:
    """`do_lower_case` of a tokenizer_config.json; None where the file or the field is absent."""
    if not file.exists():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if type(config) is not dict:
        raise ValueError(f"{file} holds {type(config).__name__}, expected a JSON object")
    lowercase = config.get("do_lower_case")
    if lowercase is not None and type(lowercase) is not bool:
        raise ValueError(f"{file}: do_lower_case is {lowercase!r}, expected true or false")
    for option, allowed in {"strip_accents": (None, lowercase), "tokenize_chinese_chars": (None, True)}.items():
        if config.get(option) not in allowed:
            raise ValueError(f"{file}: {option}={config[option]} is not supported, BERT's own rule is {allowed[1]}")
    return lowercase


def write_new(file: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises FileExistsError where it exists with other content."""
    if file.exists():
        if file.read_bytes() != content:
            raise FileExistsError(f"{file} exists with other content: choose another folder or remove it")
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.rename(file)
