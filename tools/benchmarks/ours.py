"""Our part of the contests."""

import json
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax.data.corpus import CorpusConfig, build_corpus
from bert_jax.data.documents import TextFiles
from bert_jax.data.loader import TrainingBatches, stream
from bert_jax.data.packing import Layout
from bert_jax.data.workers import cores
from bert_jax.experiment import Experiment, decode
from bert_jax.members import RESULT_FILE
from bert_jax.pretrained import load
from bert_jax.resolve import resolve
from bert_jax.text import tokenizer as tokenizers
from bert_jax.train import train
from bert_jax.training.accumulation import groups
from bert_jax.training.cpu_devices import split_cores
from bert_jax.training.log import METRICS_FILE
from bert_jax.training.step import make_init, make_train_step, state_shardings
from bert_jax.training.work_memory import keep_work_memory

# Batches that are looked at for shapes, each of which is compiled before anything is measured.
SEEN = 400
# Batches that a step of `Loading` is.
BATCHES_READ = 200


def facts(**others: Any) -> dict[str, Any]:
    """Version and device, for the record."""
    return {"jax": jax.__version__, "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}"} | others


def opened(experiment: Mapping[str, Any]) -> Experiment:
    """The experiment of a record, on the devices that its command line would take."""
    found = decode(experiment)
    split_cores(cores(), found.seeds, found.batch_size, found.eval_batch_size)
    return found


def device_memory() -> dict[str, int]:
    """The most bytes of an accelerator's memory that were in use; nothing on a CPU."""
    found = jax.devices()[0].memory_stats() or {}
    return {"peak_memory": found["peak_bytes_in_use"]} if "peak_bytes_in_use" in found else {}


class Training:
    """Steps of an experiment as `train` does them: loading, layout, corruption, dropout, update.

    Args:
        experiment: `encode`d.
    """

    def __init__(self, experiment: Mapping[str, Any]):
        keep_work_memory()
        self._run = run = resolve(opened(experiment))
        self._together, experiment = run.together, run.experiment
        optimizer = experiment.optimizer.build(run.steps)
        alone = state_shardings(run.learner, optimizer, run.example_batch, run.mesh)
        shardings = run.together.own(alone)
        seeds = np.arange(experiment.seed, experiment.seed + experiment.seeds, dtype=np.uint32)
        init = make_init(run.learner, optimizer, shardings, run.together)
        self._state = init(seeds if experiment.seeds > 1 else seeds[0], run.example_batch)
        given = jax.device_put(run.together.stack([run.initial] * run.together.count))
        self._state = self._state.replace(params=self._state.params | given)
        self._step = make_train_step(run.learner, optimizer, shardings, run.together, experiment.accumulate)
        layout = Layout.of(run.train_source, experiment.padding, *groups(run.together, experiment.accumulate))
        orders = [TrainingBatches(run.train_source, experiment.batch_size, int(seed)) for seed in seeds]
        self._batch_of = lambda step: run.together.stack(layout.batches(orders, step))
        self._batches = stream(self._batch_of, 0, run.steps)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self._state.params)) // experiment.seeds
        self.facts = facts(parameters=parameters)

    def warm_up(self) -> None:
        """Compiles the other shapes that batches have, by training on one of each."""
        shapes = set()
        for step in range(SEEN):
            batch = self._batch_of(step)
            shape = tuple((name, array.shape) for name, array in sorted(batch.items()))
            if shape not in shapes:
                shapes.add(shape)
                self._train(batch)
        jax.block_until_ready(self._state)
        self.facts["shapes"] = len(shapes)

    def run(self, steps: int) -> dict[str, Any]:
        """Trains; `work` is the tokens that are no padding."""
        pending = []
        for _ in range(steps):
            pending.append(self._train(next(self._batches)))
            if len(pending) > 3:
                jax.block_until_ready(pending[-3])
        pending = jax.device_get(pending)
        jax.block_until_ready(self._state)
        work = sum(float(np.sum(scalars["tokens"])) for scalars in pending)
        return {"work": work, "loss": float(np.mean(pending[-1]["loss"]))} | device_memory()

    def _train(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        self._state, (_, scalars) = self._step(self._state, jax.device_put(batch, self._together.batch))
        return scalars


class Gradient(Training):
    """The gradient that a step computes, without the update."""

    def __init__(self, experiment: Mapping[str, Any]):
        super().__init__(experiment)
        learner, params = self._run.learner, self._state.params

        @jax.jit
        def gradient(params, step, batch):
            corrupt, dropout = jax.random.split(jax.random.key(self._run.experiment.seed))
            batch = learner.corrupt(corrupt, step, batch)
            rngs = {"dropout": jax.random.fold_in(dropout, step)}

            def loss(params):
                return learner.loss_of(learner.apply({"params": params}, batch, True, rngs=rngs))

            return jax.value_and_grad(loss)(params), batch["lengths"].sum()

        self._state, self._gradient, self._params, self._at = None, gradient, params, 0

    def _train(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        self._at += 1
        batch = jax.device_put(batch, self._together.batch)  # left to itself, each device would compute all of it
        (loss, gradient), tokens = self._gradient(self._params, np.int32(self._at), batch)
        self._state = gradient
        return {"loss": loss, "tokens": tokens}


class Loading:
    """The batches of an experiment's steps without the steps; `work` is the tokens that are no padding."""

    def __init__(self, experiment: Mapping[str, Any]):
        run = resolve(decode(experiment))
        order = TrainingBatches(run.train_source, run.experiment.batch_size, run.experiment.seed)
        layout = Layout.of(run.train_source, run.experiment.padding)
        self._batches = stream(lambda step: layout.batches([order], step)[0], 0, run.steps)
        self.facts = facts()

    def run(self, steps: int) -> dict[str, Any]:
        """Reads many batches for each step, so that those which were read ahead while it waited hardly count."""
        return {"work": float(sum(next(self._batches)["lengths"].sum() for _ in range(BATCHES_READ * steps)))}


class WholeRun:
    """`train` from its start to its end: with checkpoints, an evaluation at the end, and its files.

    Args:
        experiment: `encode`d.
        tokens: of all its steps, without padding.
    """

    def __init__(self, experiment: Mapping[str, Any], tokens: float):
        self._experiment, self._tokens = opened(experiment), tokens
        self.facts = facts()

    def run(self, steps: int) -> dict[str, Any]:
        """One run; the part is its steps without the first quarter, as long as if all had been as fast."""
        total = self._experiment.steps
        experiment = replace(self._experiment, log_every=max(1, total // 4))
        with tempfile.TemporaryDirectory() as folder:
            train(experiment, Path(folder) / "run")
            lines = [json.loads(line) for line in (Path(folder) / "run" / METRICS_FILE).read_text().splitlines()]
            result = json.loads((Path(folder) / "run" / RESULT_FILE).read_text())
        logged = [line for line in lines if "train/loss" in line]
        counts = np.diff([line["step"] for line in logged])
        rates = np.array([line["train/examples_per_second"] for line in logged[1:]])
        alone = float(np.sum(counts * experiment.batch_size / rates) / np.sum(counts) * total)
        found = {"parts": {"steps alone": alone}, "metrics": result["metrics"]}
        return {"work": self._tokens, "loss": logged[-1]["train/loss"]} | found


class FirstStep:
    """`train` until its first step is logged: `until` is when that was.

    Args:
        experiment: `encode`d.
    """

    def __init__(self, experiment: Mapping[str, Any]):
        self._experiment = replace(opened(experiment), steps=2, log_every=1)
        self.facts = facts()

    def run(self, steps: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            file, found = Path(folder) / "run" / METRICS_FILE, {}

            def wait() -> None:
                while not (file.exists() and file.stat().st_size):
                    time.sleep(0.01)
                found["until"] = time.time()

            watch = threading.Thread(target=wait, daemon=True)
            watch.start()
            train(self._experiment, Path(folder) / "run")
            watch.join()
        return {"work": 1.0} | found


class Embedding:
    """Vectors of sentences, of any length and in any order.

    Args:
        start: folder of the model.
        sentences: JSON file with a list of them.
        dtype: of the dots.
    """

    def __init__(self, start: str, sentences: str, dtype: str):
        model = load(start)
        self._model = replace(model, model=model.model.clone(encoder=model.model.encoder.clone(dtype=dtype)))
        self._sentences: Sequence[str] = json.loads(Path(sentences).read_text())
        self.facts = facts(dtype=dtype)

    def run(self, steps: int) -> dict[str, Any]:
        """Embeds all sentences; `work` is their number."""
        for _ in range(steps):
            self._model.embed(self._sentences)
        return {"work": float(steps * len(self._sentences))}


class Corpus:
    """A text file to a corpus of sentence pairs: reading, sentences, tokens, pairs, shards.

    Args:
        file: of text.
        tokenizer: folder.
        megabytes: of the text.
        dupe_factor: how often the text is made into pairs.
    """

    def __init__(self, file: str, tokenizer: str, megabytes: float, dupe_factor: int):
        self._file, self._tokenizer, self._megabytes = file, tokenizers.load(tokenizer), megabytes
        self._config = CorpusConfig(dupe_factor=dupe_factor)
        self.facts = facts()

    def run(self, steps: int) -> dict[str, Any]:
        """Builds the corpus; `work` is MB of text."""
        for _ in range(steps):
            with tempfile.TemporaryDirectory() as folder:
                build_corpus(TextFiles([self._file]), self._tokenizer, Path(folder) / "corpus", self._config)
        return {"work": steps * self._megabytes}
