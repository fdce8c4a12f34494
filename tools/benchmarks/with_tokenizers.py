"""Hugging Face tokenizers alone: what a corpus costs at least."""

import importlib.metadata
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

LINES = 10_000  # that are given to it at once


class Encoding:
    """The lines of a file to ids, on all cores.

    Args:
        file: of text.
        tokenizer: folder with vocab.txt.
        megabytes: of the text.
    """

    def __init__(self, file: str, tokenizer: str, megabytes: float):
        pieces = (Path(tokenizer) / "vocab.txt").read_text(encoding="utf-8").splitlines()
        self._tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
        self._tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._tokenizer.decoder = decoders.WordPiece()
        self._file, self._megabytes = Path(file), megabytes
        self.facts = {"tokenizers": importlib.metadata.version("tokenizers")}

    def run(self, steps: int) -> dict[str, Any]:
        """Encodes the file; `work` is MB of text."""
        for _ in range(steps):
            lines = self._file.read_text(encoding="utf-8").split("\n")
            for start in range(0, len(lines), LINES):
                self._tokenizer.encode_batch_fast(lines[start : start + LINES], add_special_tokens=False)
        return {"work": steps * self._megabytes}
