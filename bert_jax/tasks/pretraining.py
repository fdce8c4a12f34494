"""Pre-training on a prepared corpus."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import flax.linen as nn
import numpy as np

from bert_jax.data.corpus import Corpus
from bert_jax.data.storage import is_url
from bert_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Pretraining:
    """The instances of a corpus made by `tools/prepare_corpus.py`, and its held-out split."""

    corpus: str | Path
    """folder that `tools/prepare_corpus.py` wrote, or the URL of a copy of it: gs://, s3://, https://, ..."""
    valid_limit: int = 2000
    """held-out instances that an evaluation reads, spread evenly over the split; 0 reads all"""
    also: tuple[str | Path, ...] = ()
    """other corpora whose held-out splits are evaluated, too, under their folders' names"""
    skip_damaged: bool = False
    """read another instance in the place of a damaged one, and warn of it; by default it is an error"""
    cache: Path | None = None
    """where the files behind URLs are kept once they are fetched; ~/.cache/bert_jax/corpora if not given"""
    cache_gigabytes: float = 0.0
    """of that folder at most, 0 for no limit; below the size of the corpus, files are fetched again and again"""

    def __post_init__(self):
        # A URL stays a string, since a Path has no double slash.
        places = {"corpus": _place(self.corpus), "also": tuple(map(_place, self.also))}
        for name, place in places.items():
            object.__setattr__(self, name, place)
        if self.cache_gigabytes < 0:
            raise ValueError(f"cache_gigabytes must be 0 or more, got {self.cache_gigabytes}")

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def train(self, tokenizer: Tokenizer) -> "Instances":
        return Instances(self._open(self.corpus, "train"), tokenizer)

    def evaluations(self, tokenizer: Tokenizer) -> dict[str, "Instances"]:
        corpora = {"valid": self.corpus} | {str(folder).rstrip("/").split("/")[-1]: folder for folder in self.also}
        if len(corpora) != 1 + len(self.also) or "train" in corpora:
            listing = ", ".join(map(str, self.also))
            raise ValueError(f"the folders of `also` need names of their own, not train or valid: {listing}")
        for folder in self.also:
            if (other := self._open(folder, "valid").tokenizer()).fingerprint != tokenizer.fingerprint:
                raise ValueError(
                    f"{folder} was prepared with another vocabulary ({other.vocab_size} pieces) than {self.corpus}"
                )
        held_out = {name: self._open(folder, "valid") for name, folder in corpora.items()}
        return {name: Instances(corpus, tokenizer, self.valid_limit) for name, corpus in held_out.items()}

    def prepare(self, learner: nn.Module) -> nn.Module:
        """The learner. Raises ValueError for an objective over pairs where a corpus has none, or others."""
        heads = getattr(learner, "objectives", {})
        wanted = {name: heads[name].pairs for name in heads if getattr(heads[name], "pairs", "")}
        for folder in (self.corpus, *self.also) if wanted else ():
            corpus = self._open(folder, "valid" if folder in self.also else "train")
            for name, pairs in wanted.items():
                if not corpus.has_pairs:
                    raise ValueError(
                        f"{folder} has rows of {corpus.card['rows']} and no pairs of segments, which the objective "
                        f"{name!r} is about: leave it out, or prepare the corpus with rows pairs"
                    )
                if corpus.pairs != pairs:
                    raise ValueError(
                        f"the labels of {folder} say {corpus.pairs!r} of a pair, and the objective {name!r} is about "
                        f"{pairs!r}: leave it out, or prepare the corpus with --pairs {pairs}"
                    )
        return learner

    def baselines(self, train: "Instances", evaluation: "Instances") -> dict[str, float]:
        """What answers reach that ignore the input: always the training split's frequencies, or its commonest token
        or label. `mlm/loss` is the entropy of the tokens in nats, `nsp/loss` that of the labels, of which more than
        half are random; with labels of the order it is `sop/loss`, and there is none where rows are no pairs."""
        tokens, labels = train.frequencies()
        held_out_tokens, held_out_labels = evaluation.frequencies()
        found = {"mlm/loss": _entropy(tokens), "mlm/accuracy": float(held_out_tokens[tokens.argmax()])}
        if train.corpus.has_pairs:
            name = {"next": "nsp", "order": "sop"}[train.corpus.pairs]
            found |= {f"{name}/loss": _entropy(labels), f"{name}/accuracy": float(held_out_labels[labels.argmax()])}
        return found

    metric_names = ()

    def score(self, predictions: dict[str, np.ndarray], evaluation: "Instances") -> dict[str, float]:
        return {}

    def rows(self, predictions: dict[str, np.ndarray], evaluation: "Instances") -> list[dict]:
        return []

    def preview(self, train: "Instances", tokenizer: Tokenizer) -> list[str]:
        return []

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self._open(self.corpus, "train").tokenizer()

    def _open(self, folder: str | Path, split: str) -> Corpus:
        limit = int(self.cache_gigabytes * 1e9) or None
        return Corpus(folder, split, skip_damaged=self.skip_damaged, cache=self.cache, cache_bytes=limit)


def _place(folder: str | Path) -> str | Path:
    return folder if is_url(folder) else Path(folder)


class Instances:
    """A source: a split of a corpus, with `continues` for whole-word masking; `limit` takes that many, evenly."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, limit: int = 0):
        self.corpus, self.tokenizer, self.max_length = corpus, tokenizer, corpus.max_length
        self._size = min(limit or len(corpus), len(corpus))

    def __len__(self) -> int:
        return self._size

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        batch = self.corpus.read(self._in_corpus(indices))
        return {"continues": self.tokenizer.continues[batch["tokens"]]} | batch  # the corpus' own, if it has them

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        return self.corpus.lengths_of(self._in_corpus(indices))

    def _in_corpus(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(indices, np.int64) * len(self.corpus) // self._size

    def frequencies(self, sample: int = 5000) -> tuple[np.ndarray, np.ndarray]:
        """Shares of the tokens that can be masked [V] and of the pair labels [2], over `sample` instances at most."""
        batch = self.read(np.unique(np.linspace(0, len(self) - 1, sample).astype(int)))
        real = np.arange(self.max_length) < batch["lengths"][:, None]
        tokens = np.bincount(batch["tokens"][real], minlength=self.tokenizer.vocab_size).astype(float)
        tokens[[self.tokenizer.cls_id, self.tokenizer.sep_id]] = 0
        return tokens / tokens.sum(), np.bincount(batch["pair_label"], minlength=2) / len(batch["pair_label"])


def _entropy(shares: np.ndarray) -> float:
    """In nats; `scipy.stats.entropy` gives the same, but its import alone takes a second of every start."""
    there = shares[shares > 0]
    return float(-np.sum(there * np.log(there)))
