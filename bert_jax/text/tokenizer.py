"""The one interface of every tokenizer, and `load`, which opens a saved one."""

import abc
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# The files that `load` looks for.
FILES = ("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "merges.txt", "tokenizer.json")
# Padding, unknown, class, separator, mask, as BERT's vocabularies name them.
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Encoding:
    """The tokens of one text or of a pair of texts.

    ids: int32 [n] positions in the vocabulary.
    offsets: int32 [n, 2] start and end (exclusive) of each token, in characters of its text; (0, 0) for the special
      tokens that `encode_pair` adds.
    segments: int32 [n] 0 for `[CLS] a [SEP]`, 1 for `b [SEP]`; all 0 of a tokenizer with two separators.
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
    framed: whether [CLS] and a last [SEP] stand around what is read; GPT-2's tokenizer has neither.
    separators: how many [SEP] stand between the texts of a pair. RoBERTa's pairs have two, and tell the texts apart by
      nothing else: all their segments are 0.
    word_prefix: what a word given alone needs in front to be read as it is inside a text.
    continues: bool [V], True where the piece continues the word before it. Whole-word masking groups by it.
    fingerprint: sha256 in hex over all that determines the output (vocabulary and options). Two tokenizers with the
      same fingerprint are interchangeable; saving and loading keeps it.
    """

    def __init__(
        self,
        pieces: Sequence[str],
        specials: Sequence[str],
        continues: np.ndarray,
        fingerprint: str,
        separators: int = 1,
        word_prefix: str = "",
        framed: bool = True,
    ):
        """Arguments as the attributes; specials: which pieces are padding, unknown, class, separator and mask."""
        self.pieces = tuple(pieces)
        self.vocab_size = len(self.pieces)
        ids = [self.pieces.index(name) for name in specials]
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = ids
        self.continues = continues
        self.fingerprint = fingerprint
        self.separators, self.word_prefix, self.framed = separators, word_prefix, framed

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
        """`[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`, or with two separators `[CLS] a [SEP] [SEP] b [SEP]`, or without
        a frame `a` or `a [SEP] b`, cut to `max_length` tokens as the original's fine-tuning does.

        A single text loses its last tokens; a pair loses the last token of the longer text, and of `b` where both are
        equally long, one at a time until it fits (run_classifier.py:386-443, 557-571).
        Raises ValueError when `max_length` does not even hold the special tokens.
        """
        specials = self.special_tokens(1 if b is None else 2)
        if max_length < specials:
            raise ValueError(f"max_length is {max_length}, but [CLS] and [SEP] alone take {specials} tokens")
        texts = [self.encode(a)] if b is None else [self.encode(a), self.encode(b)]
        kept = [len(text.ids) for text in texts]
        while sum(kept) > max_length - specials:
            kept[0 if len(kept) == 1 or kept[0] > kept[1] else 1] -= 1
        cut = (Encoding(text.ids[:n], text.offsets[:n], text.segments[:n]) for text, n in zip(texts, kept, strict=True))
        return self.join(*cut)

    def join(self, *texts: Encoding) -> Encoding:
        """One text or a pair, as `encode_pair` has them, of any length. Without a frame, no text is one [SEP]."""
        before = int(self.framed)
        ids, offsets, segments = [[self.cls_id] * before], [np.zeros((before, 2))], [[0] * before]
        for segment, text in enumerate(texts):
            last = 1 if self.framed or not sum(len(text.ids) for text in texts) else 0
            after = self.separators if segment + 1 < len(texts) else last
            ids += [text.ids, [self.sep_id] * after]
            offsets += [text.offsets, np.zeros((after, 2))]
            segments += [[segment if self.separators == 1 else 0] * (len(text.ids) + after)]
        parts = ids, offsets, segments
        return Encoding(*(np.concatenate(part, dtype=np.int32, casting="unsafe") for part in parts))

    def special_tokens(self, texts: int) -> int:
        """How many special tokens there are around so many texts, 1 or 2."""
        return (2 if self.framed else 0) + (texts - 1) * self.separators

    def tokens(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The pieces of the ids. Raises ValueError for an id outside the vocabulary."""
        ids = np.asarray(ids, np.int64)
        wrong = ids[(ids < 0) | (ids >= self.vocab_size)]
        if wrong.size:
            raise ValueError(f"id {wrong[0]} is outside the vocabulary of {self.vocab_size} pieces")
        return [self.pieces[i] for i in ids]


def load(folder: str | os.PathLike, lowercase: bool | None = None) -> Tokenizer:
    """Open a saved tokenizer: SentencePiece from `spiece.model`, WordPiece from `vocab.txt`, byte-level BPE from
    `vocab.json` with `merges.txt`, XLM-R's from `sentencepiece.bpe.model`, or one of the latter three from
    `tokenizer.json`, as ALBERT's SentencePiece; ModernBERT's has nothing else.

    lowercase: WordPiece only. None takes `do_lower_case` from `tokenizer_config.json`; where that does not say, a
      vocabulary with a capital letter from A to Z in any piece but the bracketed ones is cased, any other is uncased
      (right for the released English, Chinese and multilingual vocabularies). The original looks at the name of the
      checkpoint instead (tokenization.py:28-75), which a folder of one's own does not have.

    Raises FileNotFoundError when the folder or its tokenizer file is missing; ValueError when the folder holds both
    kinds, contradicts `lowercase`, or asks for an option that BERT's tokenizer does not have.
    """
    from bert_jax.text import (
        albert_sentencepiece,
        bpe,
        bracketed_bpe,
        fairseq_sentencepiece,
        fnet_sentencepiece,
        xlnet_sentencepiece,
    )
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
        for kind in (albert_sentencepiece, xlnet_sentencepiece, fnet_sentencepiece):
            if kind.is_saved_in(folder):
                return kind.read(folder)
        return SentencePiece(model_file)
    if fairseq_sentencepiece.is_saved_in(folder):
        if lowercase is not None:
            raise ValueError(f"lowercase={lowercase} does not apply to XLM-R's tokenizer, which keeps the case")
        return fairseq_sentencepiece.read(folder)
    library_file = folder / "tokenizer.json"
    if albert_sentencepiece.is_saved_in(folder):
        if lowercase is not None:
            raise ValueError(f"lowercase={lowercase} does not apply to {library_file}, which holds its own rules")
        return albert_sentencepiece.read(folder)
    if bracketed_bpe.is_saved_in(folder):
        if lowercase is not None:
            raise ValueError(f"lowercase={lowercase} does not apply to byte-level BPE, which keeps every byte")
        return bracketed_bpe.read(folder)
    if bpe.is_saved_in(folder):
        if vocab_file.exists():
            raise ValueError(f"{folder} holds both vocab.txt and {bpe.VOCABULARY}: remove the one of another tokenizer")
        if lowercase is not None:
            raise ValueError(f"lowercase={lowercase} does not apply to byte-level BPE, which keeps every byte")
        return bpe.read(folder)
    if not vocab_file.exists() and not library_file.exists():
        raise FileNotFoundError(
            f"{folder} holds neither vocab.txt nor tokenizer.json (WordPiece), nor spiece.model (SentencePiece), nor "
            f"{bpe.VOCABULARY} with {bpe.MERGES} (byte-level BPE), nor {fairseq_sentencepiece.MODEL} (XLM-R)"
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


def checked(text: str) -> str:
    """The text. Raises ValueError for a lone surrogate, which is no character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        place = f"U+{ord(text[error.start]):04X} at character {error.start}"
        raise ValueError(f"text holds the lone surrogate {place}: it is not Unicode") from error
    return text


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
