"""BERT's tokenizer: BasicTokenizer's word splitting, then greedy longest-match WordPiece, through `tokenizers`.

Token for token the original's tokenization.py, with these known differences, all in characters that no released
vocabulary holds:
- Unicode tables: `tokenizers` has its own and the original uses Python's, so characters that were added to Unicode or
  changed category between the two versions (some hundreds, none in everyday use) may count as punctuation, as an
  accent or as a control character in one and not in the other.
- The first 256 ideographs of CJK extension E (U+2B820 to U+2B91F) are not set apart from their neighbours.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Library
from tokenizers import models, normalizers, pre_tokenizers

from bert_jax.text.tokenizer import SPECIALS, Encoding, Tokenizer, write_new

# MPNet's vocabulary is BERT's between fairseq's special tokens, all of which are used but the unknown one, for which
# BERT's is taken where it is there (transformers, MPNetTokenizer).
MPNET_SPECIALS = ("<pad>", "[UNK]", "<s>", "</s>", "<mask>")
# One thread a process unless the user says otherwise: corpus preparation runs a process per core, and a process that
# forks after the library has started threads would hang or warn.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

MAX_WORD = 200  # characters of a word; a longer one becomes [UNK] (tokenization.py:306)

# Private-use characters, which the library drops and the original keeps, so that their word becomes [UNK]
# (tokenization.py:374-383); and surrogates, which are no characters. Planes 15 and 16 are private as a whole.
# The stand-in is a code point that is never a character: the library keeps it in its word, and no vocabulary has it.
_ODD = re.compile("[\ud800-\uf8ff\U000f0000-\U0010ffff]")
STAND_IN = "\uffff"


class BasicTokenizer:
    """BERT's first step, text to words (tokenization.py:161-297).

    Control characters, U+0000 and U+FFFD are dropped, any white space separates, every CJK ideograph and every
    punctuation character (all ASCII symbols count) is a word of its own; `lowercase` also strips accents.
    """

    def __init__(self, lowercase: bool):
        self.lowercase = lowercase
        self.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=lowercase, lowercase=lowercase
        )
        self.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._cleaner = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False
        )

    def prepare(self, text: str) -> str:
        """Replace, one character by one, what the library treats otherwise than the original.

        Raises ValueError for a lone surrogate.
        """
        if text.isascii():
            return text
        text = _ODD.sub(_stand_in, text)
        if self.lowercase and "Σ" in text:  # Python lowers this letter by its place in the word, the library does not
            lowered = (char for char in self._cleaner.normalize_str(text).lower() if char in "σς")
            text = re.sub("[Σσς]", lambda _: next(lowered), text)
        return text

    def words(self, text: str) -> list[str]:
        """The normalised words of a text."""
        normalised = self.normalizer.normalize_str(self.prepare(text))
        return [word for word, _ in self.pre_tokenizer.pre_tokenize_str(normalised)]


class WordPiece(Tokenizer):
    """BERT's WordPiece, or where the vocabulary has fairseq's special tokens, MPNet's, whose pairs have two separators.

    The bracketed names have no meaning inside a text: "[MASK]" there is a bracket, a word and a bracket, as in the
    original, so no text can smuggle in a special token.
    """

    def __init__(self, vocabulary: str | os.PathLike | Sequence[str], lowercase: bool = True):
        """Open a vocabulary.

        vocabulary: a file with one piece a line, in the order of the ids, or the pieces themselves.
        lowercase: lower the text and strip its accents (an "uncased" model).

        Raises FileNotFoundError for a missing file; ValueError for a vocabulary that is empty, not UTF-8, repeats a
        piece, or lacks one of [PAD] [UNK] [CLS] [SEP] [MASK], or of <pad> <s> </s> <mask> with [UNK] or <unk>.
        """
        if isinstance(vocabulary, str | os.PathLike):
            pieces, source = read_vocabulary(vocabulary), str(vocabulary)
        else:
            pieces, source = [piece.strip() for piece in vocabulary], "the vocabulary"
        specials = _specials(pieces)
        ids = _check(pieces, source, specials)
        content = json.dumps({"kind": "wordpiece", "lowercase": lowercase, "pieces": pieces})
        super().__init__(
            pieces,
            specials,
            continues=np.array([piece.startswith("##") for piece in pieces]),
            fingerprint=hashlib.sha256(content.encode()).hexdigest(),
            separators=1 if specials == SPECIALS else 2,
        )
        self.basic = BasicTokenizer(lowercase)
        unknown = self.pieces[self.unk_id]
        self._library = Library(models.WordPiece(ids, unk_token=unknown, max_input_chars_per_word=MAX_WORD))
        self._library.normalizer = self.basic.normalizer
        self._library.pre_tokenizer = self.basic.pre_tokenizer

    @property
    def lowercase(self) -> bool:
        """Whether the text is lower-cased and stripped of accents."""
        return self.basic.lowercase

    def encode(self, text: str) -> Encoding:
        """The tokens of one text, without special tokens, all of segment 0."""
        found = self._library.encode(self.basic.prepare(text), add_special_tokens=False)
        ids = np.array(found.ids, np.int32)
        return Encoding(ids, np.array(found.offsets, np.int32).reshape(-1, 2), np.zeros_like(ids))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text (int32 [n]), without special tokens or offsets: the fast path for large corpora."""
        prepared = [self.basic.prepare(text) for text in texts]
        found = self._library.encode_batch_fast(prepared, add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in found]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The words of the ids with a space between any two, so punctuation stands apart; [UNK] stays visible."""
        dropped = {self.pad_id, self.cls_id, self.sep_id, self.mask_id}
        kept = self.tokens([i for i in np.asarray(ids).tolist() if i not in dropped])
        return " ".join(kept).replace(" ##", "")

    def save(self, folder: str | os.PathLike) -> None:
        """Write `vocab.txt` and `tokenizer_config.json`, which Hugging Face's BertTokenizer or MPNetTokenizer opens as
        well."""
        config = {"do_lower_case": self.lowercase, "tokenizer_class": "BertTokenizer"}
        if self.separators == 2:
            config |= {"tokenizer_class": "MPNetTokenizer", "unk_token": self.pieces[self.unk_id]}
        write_new(Path(folder) / "vocab.txt", "".join(f"{piece}\n" for piece in self.pieces).encode())
        write_new(Path(folder) / "tokenizer_config.json", (json.dumps(config, indent=2) + "\n").encode())


def read_vocabulary(file: str | os.PathLike) -> list[str]:
    """The pieces of a vocabulary file, stripped as the original strips them (tokenization.py:121-133).

    Lines end at "\\n" alone. A line of white space keeps its id and can never be produced ("" in the list): the
    released Chinese vocabulary has one, U+2028.
    Raises FileNotFoundError for a missing file; ValueError for one that is empty or not UTF-8.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"vocabulary file {file} does not exist")
    content = file.read_bytes()
    if not content.strip():
        raise ValueError(f"vocabulary file {file} is empty")
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"vocabulary file {file} is not UTF-8: bad byte at offset {error.start}") from error
    return [line.strip() for line in (lines[:-1] if not lines[-1] else lines)]


def read_library(file: Path) -> tuple[list[str], bool]:
    """Pieces and lower-casing of a BERT's `tokenizer.json`, the file of the `tokenizers` library.

    Raises ValueError for a file that is damaged, or of a tokenizer that is not BERT's.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        model, normalizer = content["model"], content["normalizer"]
        kinds = (model["type"], normalizer["type"], content["pre_tokenizer"]["type"])
        ids, lowercase = model["vocab"], normalizer["lowercase"]
        accents, ideographs = normalizer["strip_accents"], normalizer["handle_chinese_chars"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged, or of a tokenizer that is not BERT's WordPiece: {error!r}") from error
    if kinds != ("WordPiece", "BertNormalizer", "BertPreTokenizer"):
        raise ValueError(f"{file} is of a tokenizer that is not BERT's WordPiece: {', '.join(map(str, kinds))}")
    if type(lowercase) is not bool:
        raise ValueError(f"{file}: lowercase is {lowercase!r}, expected true or false")
    if accents not in (None, lowercase) or not ideographs:
        raise ValueError(f"{file}: strip_accents={accents}, handle_chinese_chars={ideographs} are not BERT's own rules")
    if not isinstance(ids, dict) or any(type(i) is not int for i in ids.values()):
        raise ValueError(f"{file}: its vocab is not one of pieces and their ids")
    if sorted(ids.values()) != list(range(len(ids))):
        raise ValueError(f"{file}: the ids of its {len(ids)} pieces are not 0 to {len(ids) - 1}")
    return sorted(ids, key=ids.get), lowercase


def has_capitals(pieces: Sequence[str]) -> bool:
    """Whether any piece but the bracketed ones ([CLS], [unused3], <S>) has a letter from A to Z: a cased vocabulary."""
    return any(re.search("[A-Z]", piece) and not re.fullmatch(r"[\[<].*[\]>]", piece) for piece in pieces)


def _specials(pieces: Sequence[str]) -> tuple[str, ...]:
    """The names of the special tokens in a vocabulary."""
    specials = MPNET_SPECIALS if "[UNK]" in pieces else tuple(name.replace("[UNK]", "<unk>") for name in MPNET_SPECIALS)
    return specials if set(specials) <= set(pieces) else SPECIALS


def _check(pieces: Sequence[str], source: str, specials: Sequence[str]) -> dict[str, int]:
    """Piece -> id, blank pieces left out. Raises ValueError for a vocabulary that BERT cannot work with."""
    ids: dict[str, int] = {}
    for i, piece in enumerate(pieces):
        if piece in ids:
            raise ValueError(f"{source} repeats the piece {piece!r}: entries {ids[piece] + 1} and {i + 1}")
        if "\n" in piece:
            raise ValueError(f"{source}: entry {i + 1}, {piece!r}, holds a line break")
        if piece:
            ids[piece] = i
    if missing := [name for name in specials if name not in ids]:
        raise ValueError(f"{source} ({len(ids)} pieces) lacks the special tokens {' '.join(missing)}")
    return ids


def _stand_in(match: re.Match) -> str:
    char = match.group()
    if "\ud800" <= char <= "\udfff":
        place = f"U+{ord(char):04X} at character {match.start()}"
        raise ValueError(f"text holds the lone surrogate {place}: it is not Unicode")
    return STAND_IN
