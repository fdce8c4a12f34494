"""sentence-transformers on PyTorch: vectors of sentences."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer, models

from tools.benchmarks.with_transformers import DEVICE, start_torch

# How far two coordinates of vectors of length 1 may lie apart.
TOLERANCES = {"float32": 1e-3, "bfloat16": 2e-2}


class Embedding:
    """Means over the tokens, as ours; it sorts the sentences by length itself.

    Args:
        start: folder of the model.
        sentences: JSON file with a list of them.
        vectors: that we find for the first of them.
        dtype: of its weights and arithmetic.
        batch_size: its own default if not given.
    """

    def __init__(self, start: str, sentences: str, vectors: list[list[float]], dtype: str, batch_size: int = 32):
        self.facts = start_torch(dtype) | {"sentence-transformers": sentence_transformers.__version__}
        arguments = {"dtype": getattr(torch, dtype), "attn_implementation": "sdpa"}
        words = models.Transformer(start, max_seq_length=512, model_args=arguments)
        pooling = models.Pooling(words.get_word_embedding_dimension(), "mean")
        self._model = SentenceTransformer(modules=[words, pooling], device=DEVICE.type)
        self._sentences, self._batch_size = json.loads(Path(sentences).read_text()), batch_size
        ours = np.array(vectors)
        theirs = np.asarray(self._encode(self._sentences[: len(ours)]), np.float64)
        ours, theirs = (found / np.linalg.norm(found, axis=1, keepdims=True) for found in (ours, theirs))
        if not (error := np.abs(ours - theirs).max()) <= TOLERANCES[dtype]:
            raise ValueError(f"its vectors differ from ours by {error:.4f}: that is not the same work")

    def run(self, steps: int) -> dict[str, Any]:
        """Embeds all sentences; `work` is their number."""
        for _ in range(steps):
            self._encode(self._sentences)
        return {"work": float(steps * len(self._sentences))}

    def _encode(self, sentences: list[str]) -> np.ndarray:
        found = self._model.encode(
            sentences, batch_size=self._batch_size, convert_to_tensor=True, show_progress_bar=False
        )
        return found.float().cpu().numpy()
