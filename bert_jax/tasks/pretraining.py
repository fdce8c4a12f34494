"""Pre-training on a prepared corpus."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bert_jax.data.corpus import Corpus
from bert_jax.learners.multitask import Multitask
from bert_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Pretraining:
    """The instances of a corpus made by `tools/prepare_corpus.py`, and its held-out split."""

    corpus: Path
    """folder that `tools/prepare_corpus.py` wrote"""
    valid_limit: int = 2000
    """held-out instances that an evaluation reads, spread evenly over the split; 0 reads all"""

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def train(self, tokenizer: Tokenizer) -> "Instances":
        return Instances(Corpus(self.corpus, "train"), tokenizer)

    def evaluations(self, tokenizer: Tokenizer) -> dict[str, "Instances"]:
        return {"valid": Instances(Corpus(self.corpus, "valid"), tokenizer, self.valid_limit)}

    def prepare(self, learner: Multitask) -> Multitask:
        return learner

    def baselines(self, train: "Instances", evaluation: "Instances") -> dict[str, float]:
        """`mlm/loss`: the entropy of the training tokens in nats, what a model reaches that ignores its input;
        `mlm/accuracy`: the share of the most frequent one in the held-out tokens; `nsp/...`: those of a fair coin."""
        frequency, held_out = train.unigrams(), evaluation.unigrams()
        seen = frequency[frequency > 0]
        return {
            "mlm/loss": float(-(seen * np.log(seen)).sum()),
            "mlm/accuracy": float(held_out[frequency.argmax()]),
            "nsp/loss": float(np.log(2)),
            "nsp/accuracy": 0.5,
        }

    def rows(self, predictions: dict[str, np.ndarray], evaluation: "Instances") -> list[dict]:
        return []

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Corpus(self.corpus, "train").tokenizer()


class Instances:
    """A source: a split of a corpus, with `continues` for whole-word masking; `limit` takes that many, evenly."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, limit: int = 0):
        self.corpus, self.tokenizer, self.max_length = corpus, tokenizer, corpus.max_length
        self._size = min(limit or len(corpus), len(corpus))

    def __len__(self) -> int:
        return self._size

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        batch = self.corpus.read(np.asarray(indices, np.int64) * len(self.corpus) // self._size)
        return batch | {"continues": self.tokenizer.continues[batch["tokens"]]}

    def unigrams(self, sample: int = 5000) -> np.ndarray:
        """Frequencies [V] of the tokens that can be masked, over up to `sample` instances spread evenly."""
        batch = self.read(np.unique(np.linspace(0, len(self) - 1, sample).astype(int)))
        real = np.arange(self.max_length) < batch["lengths"][:, None]
        counts = np.bincount(batch["tokens"][real], minlength=self.tokenizer.vocab_size).astype(float)
        counts[[self.tokenizer.cls_id, self.tokenizer.sep_id]] = 0
        return counts / counts.sum()
