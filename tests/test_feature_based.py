"""The feature-based approach as a run: the rows of table 7, and an encoder that is in the end what it was."""

import importlib.util
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from bert_jax.data.conll import TaggedFiles
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.frozen import Frozen
from bert_jax.objectives.tag import Tag
from bert_jax.pretrained import load
from bert_jax.tasks.tagging import Tagging
from bert_jax.text.wordpiece import WordPiece
from bert_jax.train import train
from bert_jax.training.optim import BertAdam
from tests.interop.random_models import random_model

ROOT = Path(__file__).resolve().parents[1]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Tagging of letters, a and b as entities, from a model of another's format."""
    folder = tmp_path_factory.mktemp("features")
    random_model({}, tokenizer=WordPiece(PIECES)).save(folder / "model")
    rng = np.random.default_rng(0)
    for name in ("train", "valid"):
        letters = rng.choice(list("abcdefghij"), (48, 6))
        lines = ["".join(f"{c} {'B-X' if c in 'ab' else 'O'}\n" for c in row) for row in letters]
        (folder / f"{name}.conll").write_text("\n".join(lines))
    data = TaggedFiles(str(folder / "train.conll"), (str(folder / "valid.conll"),))
    return Experiment(
        task=Tagging(data, max_length=8),
        learner=Multitask(None, {"tag": Tag(features=Frozen((0, -1), "weighted", lstm_width=16))}),
        optimizer=BertAdam(learning_rate=2e-2, warmup=0, bias_correction=True),
        init_from=folder / "model",
        epochs=60.0,
        batch_size=16,
        eval_batch_size=16,
        best_metric="valid/tag/f1",
    )


def test_a_run_trains_the_head_only(experiment, tmp_path):
    """The task is learned, the encoder is bit for bit that of the checkpoint, and the model opens and tags."""
    metrics = train(experiment, tmp_path / "run")
    assert metrics["valid/tag/f1"] > 0.95 and metrics["valid/tag/accuracy"] > 0.95
    before, after = load(experiment.init_from), load(tmp_path / "run")
    assert jax.tree.all(jax.tree.map(np.array_equal, before.params["encoder"], after.params["encoder"]))
    assert [tagged.label for tagged in after.tag(("c", "a", "d", "b", "j"))] == ["O", "B-X", "O", "B-X", "O"]
    rows = (tmp_path / "run/predictions-valid.tsv").read_text().splitlines()
    assert rows[0] == "sentence\tword\ttag\tprediction" and len(rows) == 1 + 48 * 6
    with pytest.raises(ValueError, match=r"objective 'tag' \(Tag\) has no counterpart outside this project"):
        after.save(tmp_path / "theirs")
    after.save(tmp_path / "ours", format="bert_jax")
    assert load(tmp_path / "ours").model.objectives["tag"].features == experiment.learner.objectives["tag"].features


def test_the_rows_of_the_table(experiment, tmp_path):
    """Six features, each with the head that the experiment asks for, and the paper's figures."""
    spec = importlib.util.spec_from_file_location("features_of", ROOT / "experiments/feature_based.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        cells = module.cells_of(experiment, tmp_path)
    finally:
        del sys.modules[spec.name]
    features = {name: cell.experiment.learner.objectives["tag"].features for name, cell in cells.items()}
    assert {name: (f.layers, f.combine) for name, f in features.items()} == {
        "embeddings": ((0,), "concat"),
        "second-to-last hidden": ((-2,), "concat"),
        "last hidden": ((-1,), "concat"),
        "weighted sum last four hidden": ((-4, -3, -2, -1), "weighted"),
        "concat last four hidden": ((-4, -3, -2, -1), "concat"),
        "weighted sum all layers": ((), "weighted"),
    }
    assert {f.lstm_width for f in features.values()} == {16}
    assert [published for _, _, published in module.ROWS.values()] == [91.0, 95.6, 94.9, 95.9, 96.1, 95.5]
    assert len({cell.workdir for cell in cells.values()}) == 6 and cells["embeddings"].metric == "valid/tag/f1"
