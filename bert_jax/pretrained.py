"""Opens what was trained: a workdir of this project."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn

from bert_jax.experiment import Experiment, decode
from bert_jax.text import tokenizer as tokenizers
from bert_jax.text.tokenizer import Tokenizer
from bert_jax.training.checkpoint import restore_params


class Pretrained(NamedTuple):
    """A trained run, opened.

    Attributes:
        encoder: with the vocabulary's size filled in.
        params: of the whole learner by top-level name (`encoder`, `objectives_mlm`, ...); None if not asked for.
        tokenizer: what the run's data was made with.
    """

    encoder: nn.Module
    params: dict[str, Any] | None
    tokenizer: Tokenizer


def load_experiment(workdir: Path) -> Experiment:
    """The experiment that a workdir holds. Raises FileNotFoundError where there is none."""
    path = Path(workdir) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{workdir} is no workdir of a run: it has no config.json")
    return decode(json.loads(path.read_text()))


def load_workdir(workdir: Path, checkpoint: Literal["best", "latest"] = "latest", weights: bool = True) -> Pretrained:
    """Encoder, tokenizer and, if `weights`, parameters of a run.

    Raises FileNotFoundError where the folder, its tokenizer or a finished checkpoint is missing.
    """
    workdir = Path(workdir)
    experiment = load_experiment(workdir)
    tokenizer = tokenizers.load(workdir / "tokenizer")
    encoder = experiment.learner.encoder.clone(vocab_size=tokenizer.vocab_size)
    params = restore_params(workdir / "checkpoints", "best" if checkpoint == "best" else None) if weights else None
    return Pretrained(encoder, params, tokenizer)
