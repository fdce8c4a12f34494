"""The search over hyper-parameters: every combination once, nothing before all of them are known to be sound."""

import dataclasses
import json
from pathlib import Path

import pytest
from rich.console import Console

from bert_jax import matrix as matrix_module
from tools import grid as grid_module
from tools.grid import Arguments, axes_of, cells_of, load_config, search

SST2 = Path(__file__).parents[1] / "experiments/sst2.py"
AXES = {"optimizer.learning-rate": ["5e-5", "3e-5"], "batch-size": ["16", "32"]}


def test_every_combination(tmp_path):
    """In order, in a folder of its own by its settings, with the flags that all have."""
    cells = cells_of(load_config(SST2), AXES, ["--seeds", "3"], tmp_path, "")
    assert list(cells) == [("5e-5", "16"), ("5e-5", "32"), ("3e-5", "16"), ("3e-5", "32")]
    for (rate, size), cell in cells.items():
        experiment = cell.experiment
        assert (experiment.optimizer.learning_rate, experiment.batch_size) == (float(rate), int(size))
        assert experiment.seeds == 3 and cell.metric == "valid/classify/accuracy"
        assert cell.workdir == tmp_path / f"optimizer.learning-rate={rate},batch-size={size}"


@pytest.mark.parametrize(
    ("grid", "fixed", "message"),
    [
        (["batch-size"], [], "--grid batch-size: expected NAME=VALUE,VALUE"),
        (["batch-size=16,,32"], [], "expected NAME=VALUE,VALUE"),
        (["=16"], [], "expected NAME=VALUE,VALUE"),
        (["batch-size=16", "batch_size=32"], [], "--batch-size is given twice"),
        (["batch-size=16,32"], ["--batch-size", "8"], "--batch-size is given twice"),
        (["batch-size=16,32"], ["--batch_size=8"], "--batch-size is given twice"),
        (["seeds=1,2"], [], "seeds is no setting to search"),
        (["workdir=a,b"], [], "workdir is no setting to search"),
    ],
)
def test_bad_grids(grid, fixed, message):
    """Found before any experiment is made of them."""
    with pytest.raises(ValueError, match=message):
        axes_of(grid, fixed)


@pytest.mark.parametrize(
    ("axes", "fixed", "said"),
    [
        ({"batch-sise": ["16"]}, [], "batch-sise"),
        ({"batch-size": ["16", "many"]}, [], "many"),
        ({"batch-size": ["16"]}, ["--task", "mnli"], "--task"),
    ],
    ids=["unknown", "no number", "fixed"],
)
def test_bad_flags(tmp_path, capsys, axes, fixed, said):
    """What the experiment's command line does not take is an error that names it, though other values are fine."""
    with pytest.raises(SystemExit) as error:
        cells_of(load_config(SST2), axes, fixed, tmp_path, "")
    streams = capsys.readouterr()
    assert error.value.code == 2 and said in streams.err + streams.out
    assert not list(tmp_path.iterdir())


def test_combinations_that_are_one(tmp_path):
    """Two spellings of a number would be trained twice, and count as two."""
    with pytest.raises(ValueError, match=r"5e-5 and 0\.00005 are the same experiment"):
        cells_of(load_config(SST2), {"optimizer.learning-rate": ["5e-5", "0.00005"]}, [], tmp_path, "")


def test_a_metric_is_needed(tmp_path):
    """To say which is the best: the experiment's, or the one given."""
    config = load_config(SST2)

    def silent():
        return dataclasses.replace(config(), best_metric="")

    silent.__module__ = config.__module__
    with pytest.raises(ValueError, match="give --metric"):
        cells_of(silent, AXES, [], tmp_path, "")
    cells = cells_of(silent, AXES, [], tmp_path, "valid/classify/loss")
    assert {cell.experiment.best_metric for cell in cells.values()} == {"valid/classify/loss"}


def test_files_that_are_no_experiments(tmp_path):
    """A missing file, and one without `config`."""
    with pytest.raises(FileNotFoundError, match="no such experiment file"):
        load_config(tmp_path / "missing.py")
    (tmp_path / "other.py").write_text("settings = 3\n")
    with pytest.raises(ValueError, match=r"other\.py has no function config"):
        load_config(tmp_path / "other.py")


def test_the_best_by_the_median(tmp_path, monkeypatch):
    """Not by the mean, nor the best seed; one that diverged is in the table and out of the choice; finished ones are
    not trained again."""
    scores = {("5e-5", "16"): (0.9, 0.1, 0.8), ("5e-5", "32"): (0.7, 0.7, 0.95), ("3e-5", "16"): (0.75, 0.76, 0.77)}
    trained = []

    def train(experiment, workdir):
        trained.append(workdir.name)
        rate, size = (part.partition("=")[2] for part in workdir.name.split(","))
        if (rate, size) not in scores:
            raise FloatingPointError("loss is nan at step 3")
        for folder, score in zip(matrix_module.Cell(experiment, workdir).folders, scores[rate, size], strict=True):
            folder.mkdir(parents=True)
            (folder / "result.json").write_text(json.dumps({"metrics": {"valid/classify/accuracy": score}}))

    monkeypatch.setattr(matrix_module, "train", train)
    monkeypatch.setattr(grid_module, "resolve", lambda experiment: None)
    grid = tuple(f"{name}={','.join(values)}" for name, values in AXES.items())
    arguments = Arguments(SST2, tmp_path / "grid", grid)
    for count in (4, 5):  # the second time only what diverged is tried again
        assert search(arguments, ["--seeds", "3"], Console(quiet=True)) == ("5e-5", "16")
        assert len(trained) == count
    lines = (tmp_path / "grid/grid.md").read_text().splitlines()
    assert lines[2] == "| 5e-5 | 16 | **0.8000** | 0.6000 | 0.4359 |"
    assert lines[4] == "| 3e-5 | 16 | 0.7600 | 0.7600 | 0.0100 |"
    assert lines[5] == "| 3e-5 | 32 | diverged | - | - |"
    assert (tmp_path / "grid/grid.csv").read_text().splitlines()[1] == "5e-5,16,0.8000,0.6000,0.4359"


def test_bad_data_are_found_before_anything_runs(tmp_path, monkeypatch):
    """By opening those of the first combination; nothing is written."""
    monkeypatch.setattr(matrix_module, "train", None)
    arguments = Arguments(SST2, tmp_path / "grid", ("batch-size=16,32",))
    with pytest.raises(FileNotFoundError):
        search(arguments, ["--init-from", str(tmp_path / "missing")], Console(quiet=True))
    assert not list(tmp_path.iterdir())
