"""Opens what was trained, here or elsewhere, and writes it out again."""

import dataclasses
import functools
import json
import os
import re
import shutil
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np

from bert_jax.experiment import Experiment, decode, encode, write_json
from bert_jax.inference import predictors
from bert_jax.inference.generate import generate
from bert_jax.interop import google, huggingface, tensors
from bert_jax.interop.checkpoint import ForeignCheckpoint
from bert_jax.learners.multitask import Multitask
from bert_jax.nn.dot import ComputeDtype
from bert_jax.text import tokenizer as tokenizers
from bert_jax.text.tokenizer import Tokenizer
from bert_jax.training.checkpoint import Checkpoints, restore_params
from bert_jax.training.compilation_cache import keep_compiled

Format = Literal["hf", "google", "bert_jax"]
# The learner of a run with all sizes filled in, beside its checkpoints: what `load` builds the model from.
LEARNER_FILE = "learner.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A model that was opened.

    Attributes:
        model: encoder and heads, `model.encoder` and `model.objectives` by name.
        params: float32 arrays by top-level name (`encoder`, `objectives_mlm`, ...); None if they were not asked for.
        tokenizer: None where the checkpoint came without one.
        notes: what a user should know: parts that are missing, tensors that were not used.
    """

    model: Multitask
    params: dict[str, Any] | None
    tokenizer: Tokenizer | None
    notes: tuple[str, ...] = ()

    def __call__(self, tokens: Any, segments: Any = None, mask: Any = None) -> dict[str, jax.Array]:
        """What the model computes.

        Args:
            tokens: [B, L] ids.
            segments: [B, L] 0 or 1; all 0 if not given.
            mask: [B, L] 1 for a token that others may attend to, 0 for padding; all 1 if not given.

        Returns `hidden` [B, L, D]; `pooled` [B, D] where there is a pooler; the heads' `mlm_logits` or `lm_logits`
        [B, L, V], `nsp_logits` and `sop_logits` [B, 2], `rtd_logits` [B, L], `logits`, and what the `outputs` of a head
        of one's own are called. Raises ValueError for shapes that differ, rows longer than the encoder takes, and ids
        outside the vocabulary or the segment types.
        """
        batch = self.batch(tokens, segments, mask)
        return compute(self.model, self.params, batch)

    def batch(self, tokens: Any, segments: Any = None, mask: Any = None) -> dict[str, np.ndarray]:
        """The encoder's batch of these arrays, checked; see `__call__`."""
        encoder = self.model.encoder
        tokens = _integers("tokens", tokens)
        if tokens.ndim != 2:
            raise ValueError(f"tokens has shape {tokens.shape}, expected [B, L]")
        if tokens.shape[1] > encoder.max_length:
            raise ValueError(
                f"rows of {tokens.shape[1]} tokens, but the encoder takes {encoder.max_length} (max_length)"
            )
        batch = {"tokens": tokens}
        limits = [("tokens", tokens, encoder.vocab_size)]
        if segments is not None:
            batch["segments"] = _integers("segments", segments)
            limits.append(("segments", batch["segments"], max(1, getattr(encoder, "segment_types", 0))))  # none: all 0
        mask = np.ones_like(tokens) if mask is None else _integers("mask", mask)
        limits.append(("mask", mask, 2))
        for name, array, limit in limits:
            if array.shape != tokens.shape:
                raise ValueError(f"{name} has shape {array.shape}, but tokens {tokens.shape}")
            if array.size and not 0 <= array.min() <= array.max() < limit:
                raise ValueError(f"{name} holds {array.min()} to {array.max()}, but only 0 to {limit - 1} are there")
        if (np.diff(mask, axis=1) <= 0).all():
            batch["lengths"] = mask.sum(axis=1, dtype=np.int32)
        else:
            batch["sequence_ids"] = mask  # holes, or padding on the left
        return batch

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes of the classifying, labelling or tagging head, in order; empty if it has none or does not say."""
        return next((head.labels for head in self.model.objectives.values() if getattr(head, "labels", ())), ())

    # ---- on text; `bert_jax.inference.predictors` describes arguments, results and errors ----

    def embed(self, texts: Any, pooling: str = "mean", layer: int = -1, normalise: bool = False) -> np.ndarray:
        """A vector of each text: float32 [n, D], or [D] of one string."""
        return predictors.embed(self, texts, pooling, layer, normalise)

    def fill_mask(self, texts: Any, top_k: int = 5) -> list:
        """The likeliest tokens for each [MASK]: for each text a list of masks, for each mask a list of `Filling`."""
        return predictors.fill_mask(self, texts, top_k)

    def classify(self, texts: Any) -> Any:
        """The class of each text or pair (a, b): `Classified`, or a list of them."""
        return predictors.classify(self, texts)

    def multilabel(self, texts: Any) -> Any:
        """The labels of each text or pair (a, b), any number of them: `Labelled`, or a list of them."""
        return predictors.multilabel(self, texts)

    def regress(self, texts: Any) -> Any:
        """The number for each text or pair (a, b): a float, or a list of them."""
        return predictors.regress(self, texts)

    def tag(self, texts: Any) -> list:
        """The class of each word: for each string or tuple of words a list of `Tagged`."""
        return predictors.tag(self, texts)

    def answer(
        self,
        questions: Any,
        contexts: Any,
        top_k: int = 1,
        max_answer_length: int = predictors.MAX_ANSWER_LENGTH,
        stride: int = predictors.STRIDE,
        no_answer_threshold: float | None = None,
    ) -> list:
        """The spans of a context that best answer its question: for each question a list of `Answer`."""
        arguments = questions, contexts, top_k, max_answer_length, stride, no_answer_threshold
        return predictors.answer(self, *arguments)

    def pseudo_log_likelihood(self, texts: Any, normalise: bool = False) -> Any:
        """The log probability of each text in nats, a token at a time masked: a float, or a list of them."""
        return predictors.pseudo_log_likelihood(self, texts, normalise)

    def generate(
        self,
        texts: Any,
        max_new_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Any:
        """Each text with what a causal language model goes on with: a string, or a list of them."""
        return generate(self, texts, max_new_tokens, temperature, top_k, top_p, seed)

    # ---- to others ----

    def save(self, folder: str | os.PathLike, format: Format = "hf", heads: Sequence[str] | None = None) -> None:
        """Writes a folder that others open: `transformers` ("hf"), the original's code ("google"), or `load`.

        Args:
            folder: must not exist; it appears whole or not at all.
            heads: names of the objectives to write; all if not given.

        Raises FileExistsError for a folder that is there; ValueError for what the layout cannot say.
        """
        folder = Path(folder)
        if format not in typing.get_args(Format):
            raise ValueError(f"format {format!r} is none of {', '.join(typing.get_args(Format))}")
        if self.params is None:
            raise ValueError("there are no weights to save: only the architecture was opened")
        if folder.exists():
            raise FileExistsError(f"{folder} exists: choose another folder, nothing is overwritten")
        objectives = dict(self.model.objectives)
        if heads is not None:
            if unknown := set(heads) - set(objectives):
                raise ValueError(f"no heads {sorted(unknown)}; there are {sorted(objectives)}")
            objectives = {name: objectives[name] for name in heads}
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        partial.mkdir(parents=True)
        try:
            if format == "bert_jax":
                self._save_here(partial, objectives)
            else:
                checkpoint = ForeignCheckpoint(self.model.encoder, objectives, self.params, tokenizer=self.tokenizer)
                {"hf": huggingface, "google": google}[format].write(partial, checkpoint)
                if self.tokenizer is not None:
                    self.tokenizer.save(partial)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial)
            raise

    def _save_here(self, folder: Path, objectives: Mapping[str, Any]) -> None:
        weights = {name: weight for name, weight in (self.model.weights or {}).items() if name in objectives}
        write_learner(folder, self.model.clone(objectives=objectives, weights=weights or None))
        kept = {"encoder", *(f"objectives_{name}" for name in objectives)}
        with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
            checkpoints.save(0, {"params": {name: part for name, part in self.params.items() if name in kept}})
        if self.tokenizer is not None:
            self.tokenizer.save(folder / "tokenizer")


def compute(
    model: Multitask, params: Any, batch: Mapping[str, Any], wanted: tuple[str, ...] = ()
) -> dict[str, jax.Array]:
    """Those of `model.outputs` that are wanted and there, by default all but the inner layers; the rest is not
    computed. One compilation for each shape."""
    return _compute(model.frozen(), params, batch, wanted)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _compute(model: Multitask, params: Any, batch: Mapping[str, Any], wanted: tuple[str, ...]) -> dict[str, jax.Array]:
    found = model.apply({"params": params}, batch, method="outputs")
    wanted = wanted or [name for name in found if name not in ("embeddings", "layers")]
    return {name: found[name] for name in wanted if name in found}


def load(
    source: str | os.PathLike, checkpoint: Literal["best", "latest"] = "latest", dtype: ComputeDtype | None = None
) -> Pretrained:
    """Opens a model.

    Args:
        source: a workdir of a run, or a folder that `save` wrote; a folder in Hugging Face's layout (`config.json`
            with safetensors or `flax_model.msgpack`); one in the original's (`bert_config.json` with a TF1
            checkpoint); or a name on the Hugging Face hub, which is downloaded once (HF_HUB_OFFLINE=1: never).
        checkpoint: of a workdir, its latest or its best.
        dtype: of the operands of the encoder's dots; its own if not given. bfloat16 is about twice as fast, also on a
            CPU that has it.

    From then on, what this process compiles is kept for the next one (`training.compilation_cache`).
    Raises FileNotFoundError for what is not there, ValueError for what is damaged, not to be trusted, or no BERT.
    """
    keep_compiled()
    opened = _load(source, checkpoint, weights=True)
    if dtype is None:
        return opened
    encoder = opened.model.encoder.clone(dtype=dtype)
    return dataclasses.replace(opened, model=opened.model.clone(encoder=encoder))


def load_architecture(source: str | os.PathLike) -> Pretrained:
    """Model and tokenizer as `load` opens them, without the weights."""
    return _load(source, "latest", weights=False)


def load_experiment(workdir: Path) -> Experiment:
    """The experiment that a workdir holds. Raises FileNotFoundError where there is none, ValueError for a record that
    is damaged."""
    path = Path(workdir) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{workdir} is no workdir of a run: it has no config.json")
    return _recorded(path, Experiment)


def _recorded(path: Path, kind: type) -> Any:
    """What `encode` has written to a file."""
    try:
        found = decode(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or of another version: {error}") from error
    if not isinstance(found, kind):
        raise ValueError(f"{path} is damaged: it records a {type(found).__name__}, not a {kind.__name__}")
    return found


def write_learner(folder: Path, learner: nn.Module) -> None:
    """Records a learner, with its sizes filled in, where `load` looks for it: as what it is opened as."""
    write_json(folder / LEARNER_FILE, encode(learner if isinstance(learner, Multitask) else learner.as_multitask()))


def locate(source: str | os.PathLike) -> tuple[Path, Format]:
    """The folder of a source, downloaded if it is a name on the hub, and its layout.

    Raises FileNotFoundError for a folder that holds no model, and for a name that is not to be had.
    """
    folder = Path(source)
    if folder.is_file():
        raise FileNotFoundError(f"{folder} is a file: give its folder")
    if not folder.is_dir():
        folder = _download(os.fspath(source))
    theirs = (folder / "config.json").exists()
    if (folder / LEARNER_FILE).exists():
        return folder, "bert_jax"
    if theirs and _has_weights(folder):
        return folder, "hf"  # also where the original's files lie beside them: these need no TensorFlow
    if (folder / google.CONFIG).exists():
        return folder, "google"
    if seeds := sorted(folder.glob(f"seed-*/{LEARNER_FILE}")):
        raise FileNotFoundError(f"{folder} holds {len(seeds)} runs: open one of them, such as {seeds[0].parent}")
    if theirs:
        return folder, "hf"
    raise FileNotFoundError(
        f"{folder} holds no model: neither {LEARNER_FILE} (a run of bert_jax), nor config.json (Hugging Face), nor "
        f"{google.CONFIG} (the original)"
    )


def _load(source: str | os.PathLike, checkpoint: str, weights: bool) -> Pretrained:
    folder, layout = locate(source)
    if layout == "bert_jax":
        learner = _recorded(folder / LEARNER_FILE, Multitask)
        params = _restore(folder / "checkpoints", checkpoint) if weights else None
        if params is not None:  # without what only training has, such as a teacher
            own = {"encoder", *(f"objectives_{name}" for name in learner.objectives)}
            params = {name: part for name, part in params.items() if name in own}
        return Pretrained(learner, params, _tokenizer(folder / "tokenizer"))
    found = {"hf": huggingface, "google": google}[layout].read(folder)
    tokenizer = _tokenizer(folder)
    if tokenizer is not None and tokenizer.vocab_size > found.encoder.vocab_size:
        raise ValueError(
            f"{folder}: the vocabulary has {tokenizer.vocab_size} pieces, but the model's table only "
            f"{found.encoder.vocab_size} rows"
        )
    return Pretrained(
        Multitask(found.encoder, found.objectives), found.params if weights else None, tokenizer, found.notes
    )


def _restore(folder: Path, checkpoint: str) -> dict[str, Any]:
    try:
        return restore_params(folder, "best" if checkpoint == "best" else None)
    except (KeyError, AttributeError, json.JSONDecodeError) as error:  # Orbax on a damaged or absent file of its own
        raise ValueError(f"a checkpoint in {folder} is damaged: {error!r}") from error


def _tokenizer(folder: Path) -> Tokenizer | None:
    return tokenizers.load(folder) if any((folder / name).exists() for name in tokenizers.FILES) else None


def _download(name: str) -> Path:
    """The folder of a model of the hub, from its cache or downloaded into it; pickles are not fetched."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise FileNotFoundError(f"{name} is not a folder, and no name on the Hugging Face hub")
    import huggingface_hub  # here, since it takes a second that other sources need not pay

    wanted = ["config.json", *tokenizers.FILES, "tokenizer_config.json", "model*.safetensors*"]
    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
        if not _has_weights(folder):
            wanted.append(tensors.MSGPACK)
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
    except (huggingface_hub.errors.HFValidationError, OSError) as error:
        raise FileNotFoundError(f"{name} is no folder, and not to be had from the Hugging Face hub: {error}") from error
    if not _has_weights(folder):
        raise FileNotFoundError(
            f"{name} has neither safetensors nor {tensors.MSGPACK} on the Hugging Face hub (or, offline, in {folder}). "
            f"If it has pickles, which are not fetched: hf download {name} --local-dir FOLDER, and then "
            f"{tensors.convert_command('FOLDER')}"
        )
    return folder


def _has_weights(folder: Path) -> bool:
    return any((folder / file).exists() for file in tensors.FILES)


def _integers(name: str, array: Any) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "iub":
        raise ValueError(f"{name} has dtype {array.dtype}, expected integers")
    return array.astype(np.int32)
