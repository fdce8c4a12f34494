"""Workdirs of finished runs, made up: what a report is built from, without training anything."""

import csv
import json
from pathlib import Path

import numpy as np


def config(seed: int = 1, seeds: int = 1, init_from: str = "models/minilm", name: str = "", **options) -> dict:
    """A record of an experiment with the fields that a report looks at; `options` are dotted names with __."""
    record = {
        "class": "bert_jax.experiment.Experiment",
        "task": {
            "class": "bert_jax.tasks.classification.Classification",
            "data": {"class": "bert_jax.data.tables.Tables", "train": "SST-2/train.tsv", "train_limit": 0},
            "max_length": 64,
            "name": name,
        },
        "learner": {
            "class": "bert_jax.learners.multitask.Multitask",
            "encoder": None,
            "objectives": {"classify": {"class": "bert_jax.objectives.classify.Classify", "dropout": 0.1}},
        },
        "optimizer": {"class": "bert_jax.training.optim.BertAdam", "learning_rate": 5e-05, "warmup": 0.1},
        "steps": 0,
        "epochs": 3.0,
        "batch_size": 32,
        "seed": seed,
        "seeds": seeds,
        "init_from": init_from,
        "random_weights": False,
        "best_metric": "",
        "keep": 2,
    }
    for path, value in options.items():
        *parents, last = path.split("__")
        place = record
        for parent in parents:
            place = place[parent]
        place[last] = value
    return record


def write_config(folder: Path, **options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(**options)))
    return folder


def write_run(folder: Path, metrics: dict, seed: int = 1, name: str = "SST-2", degenerate=None, lines=(), **options):
    """A finished workdir whose last evaluation gave `metrics` (`classify/accuracy`: 0.9), with two logged steps."""
    write_config(folder, seed=seed, name=name, **options)
    keyed = {f"valid/{metric}": value for metric, value in metrics.items()}
    result = {
        "name": name,
        "seed": seed,
        "step": 200,
        "metrics": keyed,
        "best": None,
        "baselines": {"valid": {"classify/accuracy": 0.5}},
        "degenerate": degenerate,
        "parameters": 22_713_216,
        "train_examples": 3000,
        "eval_examples": {"valid": 872},
        "seconds": 120.0,
    }
    (folder / "result.json").write_text(json.dumps(result))
    logged = [{"step": step, "train/classify/loss": 1 / step, "train/classify/accuracy": 0.8} for step in (100, 200)]
    entries = [*logged, {"step": 100} | keyed, {"step": 200} | keyed]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    write_lines(folder, lines)
    return folder


def write_seeds(folder: Path, accuracies, first: int = 12345, degenerate=None, lines=None, **options) -> Path:
    """A folder of seeds with these accuracies; `degenerate` names the reason of some, by number."""
    write_config(folder, seed=first, seeds=len(accuracies), name=options.get("name", "SST-2"))
    for i, accuracy in enumerate(accuracies):
        write_run(
            folder / f"seed-{first + i}",
            {"classify/loss": 1 - accuracy, "classify/accuracy": accuracy},
            seed=first + i,
            degenerate=(degenerate or {}).get(i),
            lines=lines[i] if lines else (),
            **options,
        )
    return folder


def write_lines(folder: Path, lines, evaluation: str = "valid") -> None:
    """A predictions file."""
    if len(lines):
        with open(folder / f"predictions-{evaluation}.tsv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, lines[0].keys(), delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)


def answers(labels, found, classes=("0", "1")) -> list[dict]:
    """The lines of a classification's predictions file, of numbers of classes."""
    table = []
    for label, answer in zip(labels, found, strict=True):
        shares = {f"p({name})": float(i == answer) for i, name in enumerate(classes)}
        table.append({"label": classes[label], "prediction": classes[answer]} | shares)
    return table


def guesses(rng: np.random.Generator, labels: np.ndarray, right: float) -> np.ndarray:
    """Answers of two classes of which the share `right` is, on average."""
    return np.where(rng.random(len(labels)) < right, labels, 1 - labels)
