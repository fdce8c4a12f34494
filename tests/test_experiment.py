"""An experiment's command line, its record, and its workdir, which never becomes another experiment's."""

import dataclasses
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from bert_jax import experiment as experiment_module
from bert_jax import phases
from bert_jax.data.tables import Tables
from bert_jax.experiment import Experiment, claim_workdir, decode, encode, parse, write_environment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.pretrained import load_experiment
from bert_jax.tasks.classification import Classification
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.train import main
from bert_jax.training.optim import AdamW, BertAdam
from bert_jax.training.sharding import MeshShape

ROOT = Path(__file__).parents[1]


def pretraining():
    return Experiment(
        task=Pretraining(Path("runs/corpus"), valid_limit=7),
        learner=Multitask(
            Bert(num_layers=1, width=8, num_heads=2, mlp_width=8, dtype="bfloat16"),
            {"mlm": Mlm(vocab_size=9, special_ids=(2, 3, 4), whole_word=True), "nsp": Nsp()},
            {"nsp": 0.5},
        ),
        optimizer=BertAdam(learning_rate=1e-3, warmup=10, clip_norm=None),
        steps=100,
        batch_size=8,
        mesh=MeshShape(data=2, fsdp=4),
    )


def fine_tuning():
    return Experiment(
        task=Classification(Tables("train.tsv", ("dev.tsv",), text_columns=("question", "sentence"))),
        learner=Multitask(None, {"classify": Classify(num_classes=2)}),
        optimizer=AdamW(warmup=0.25),
        init_from=Path("runs/mini"),
        epochs=0.5,
    )


# ---- the record --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [pretraining, fine_tuning])
def test_the_record_gives_the_same_experiment(config):
    """Through JSON: nested modules, paths, tuples, None for the encoder; whole and broken numbers keep their type."""
    record = json.loads(json.dumps(encode(config())))
    read = decode(record)
    assert read == config() and encode(read) == record
    assert isinstance(read.optimizer.warmup, type(config().optimizer.warmup))
    assert isinstance(read.task, type(config().task))


def test_paths_come_back_as_paths():
    """Also where the field may be None; a string field stays a string."""
    read = decode(json.loads(json.dumps(encode(fine_tuning()))))
    assert read.task.data.train == "train.tsv" and read.task.data.text_columns == ("question", "sentence")
    assert isinstance(read.init_from, Path)
    assert read.learner.encoder is None
    assert decode(encode(pretraining())).init_from is None


def test_a_class_that_is_gone_is_named():
    """A record of code that no longer exists, or of another project."""
    for name in ("bert_jax.models.gone.Gone", "bert_jax.models.bert.Gone"):
        with pytest.raises(ValueError, match=f"class {name} of the record cannot be imported"):
            decode({"class": name})


def test_what_makes_no_sense_is_refused():
    """When the experiment is built, with the values."""
    for changes, message in (
        ({"epochs": 1.0}, "give steps or epochs, one of them: steps is 100, epochs is 1.0"),
        ({"steps": 0}, "give steps or epochs, one of them: steps is 0, epochs is 0.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"max_skipped_in_a_row": 0}, "max_skipped_in_a_row must be at least 1, got 0"),
        ({"log_every": -1}, "log_every must be at least 1, got -1"),
        ({"stall_seconds": -1.0}, r"stall_seconds must be 0 or more, got -1\.0"),
        ({"seed": 2**32}, "seed must be between 0"),
        ({"learner": Multitask(None, {"nsp": Nsp()})}, "nothing to start from"),
        ({"dropout": 0.1}, "dropout is for an encoder from init_from; this learner has its own"),
        ({"dtype": "float32"}, "dtype is for an encoder from init_from; this learner has its own"),
        ({"learner": Multitask(None, {}), "init_from": Path("x"), "dropout": 1.0}, "at least 0 and below 1, got 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(pretraining(), **changes)


def test_epochs_make_steps():
    """As the original counts them (run_classifier.py:843): int(examples / batch_size * epochs)."""
    experiment = dataclasses.replace(fine_tuning(), epochs=3.0, batch_size=32)
    assert experiment.total_steps(67349) == 6313
    assert pretraining().total_steps(5) == 100
    with pytest.raises(ValueError, match=r"0\.5 epochs of 7 examples make no batch of 32"):
        dataclasses.replace(experiment, epochs=0.5).total_steps(7)


# ---- the command line --------------------------------------------------------------------------------------------


def test_flags_override_numbers():
    """At any depth; everything else stays as in the file."""
    workdir, read = parse(pretraining, ["--workdir", "runs/x", "--steps", "7", "--optimizer.learning-rate", "3e-4",
                                        "--learner.encoder.num-layers", "3", "--corpus", "elsewhere",
                                        "--mesh.fsdp", "2", "--best-metric", "valid/mlm/loss"])  # fmt: skip
    assert workdir == Path("runs/x")
    wanted = pretraining()
    assert read == dataclasses.replace(
        wanted,
        steps=7,
        optimizer=dataclasses.replace(wanted.optimizer, learning_rate=3e-4),
        learner=wanted.learner.clone(encoder=wanted.learner.encoder.clone(num_layers=3)),
        task=Pretraining(Path("elsewhere"), valid_limit=7),
        mesh=MeshShape(data=2, fsdp=2),
        best_metric="valid/mlm/loss",
    )


def test_a_switch_and_a_path():
    """`--random-weights` and `--init-from`, as the example files say."""
    arguments = ["--workdir", "w", "--random-weights", "--init-from", "runs/base"]
    _, read = parse(fine_tuning, arguments)
    assert read == dataclasses.replace(fine_tuning(), random_weights=True, init_from=Path("runs/base"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workdir", "w", "--stepz", "3"], "--stepz"),
        (["--workdir", "w", "--steps", "many"], "many"),
        (["--workdir", "w", "--learner.encoder.dtype", "float64"], "float64"),
        (["--workdir", "w", "--learner.encoder.remat", "half"], "half"),
        ([], "--workdir"),
    ],
)
def test_a_wrong_flag_is_an_error(arguments, said, capsys):
    """Unknown, of the wrong type, outside the choices, missing: exit status 2 and the flag named."""
    with pytest.raises(SystemExit) as error:
        parse(pretraining, arguments)
    assert error.value.code == 2
    assert said in "".join(capsys.readouterr())


def test_steps_and_epochs_exclude_each_other():
    """A flag that contradicts the file is not silently preferred or dropped."""
    with pytest.raises(ValueError, match=r"give steps or epochs, one of them: steps is 100, epochs is 3\.0"):
        parse(pretraining, ["--workdir", "w", "--epochs", "3"])
    assert parse(pretraining, ["--workdir", "w", "--epochs", "3", "--steps", "0"])[1].epochs == 3


# ---- the workdir -------------------------------------------------------------------------------------------------


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_workdir_gets_the_record(tmp_path):
    """Made with its parents; what it holds can be opened again; an empty folder will do."""
    claim_workdir(tmp_path / "a/b", pretraining())
    assert load_experiment(tmp_path / "a/b") == pretraining()
    (tmp_path / "empty").mkdir()
    claim_workdir(tmp_path / "empty", fine_tuning())
    assert list(contents(tmp_path / "empty")) == ["config.json"]


def test_the_same_experiment_continues(tmp_path):
    """Also on other devices, with other intervals of logging or more checkpoints kept; the record stays as it is."""
    claim_workdir(tmp_path, pretraining())
    before = contents(tmp_path)
    claim_workdir(tmp_path, pretraining())
    for changes in ({"mesh": MeshShape()}, {"keep": 9}, {"log_every": 1}, {"checkpoint_every": 1}, {"accumulate": 2},
                    {"max_skipped_in_a_row": 3}):  # fmt: skip
        claim_workdir(tmp_path, dataclasses.replace(pretraining(), **changes))
    assert contents(tmp_path) == before


def test_another_experiment_is_refused(tmp_path):
    """The fields that differ are named with both values, and nothing is overwritten."""
    claim_workdir(tmp_path, pretraining())
    before = contents(tmp_path)
    other = dataclasses.replace(
        pretraining(),
        seed=1,
        optimizer=AdamW(),
        learner=pretraining().learner.clone(encoder=Bert(num_layers=1, width=16, num_heads=2, mlp_width=8)),
    )
    with pytest.raises(ValueError, match="holds another experiment; take another --workdir") as error:
        claim_workdir(tmp_path, other)
    message = str(error.value)
    assert "  seed: 12345 there, 1 now" in message
    assert "  learner.encoder.width: 8 there, 16 now" in message
    assert "  optimizer.class: 'bert_jax.training.optim.BertAdam' there, 'bert_jax.training.optim.AdamW' now" in message
    assert "num_heads" not in message and "mesh" not in message
    assert contents(tmp_path) == before


def test_a_foreign_folder_is_refused(tmp_path):
    """A folder with files but without a run is somebody else's; nothing is written into it."""
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        claim_workdir(tmp_path, pretraining())
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_record_from_before_a_field_was_there(tmp_path):
    """It has the default, so an interrupted run goes on; a field that is no more is a difference."""
    claim_workdir(tmp_path, pretraining())
    path = tmp_path / "config.json"
    record = json.loads(path.read_text())
    del record["seeds"], record["optimizer"]["layer_decay"]
    path.write_text(json.dumps(record))
    claim_workdir(tmp_path, pretraining())
    with pytest.raises(ValueError, match="differs in\n  seeds: 1 there, 2 now"):
        claim_workdir(tmp_path, dataclasses.replace(pretraining(), seeds=2))
    path.write_text(json.dumps(record | {"gone": 7}))
    with pytest.raises(ValueError, match="gone: 7 there, None now"):
        claim_workdir(tmp_path, pretraining())


@pytest.mark.parametrize(("there", "now"), [(True, "full"), (False, "none")])
def test_a_record_from_before_remat_had_names(tmp_path, there, now):
    """It said yes or no, and is that of the same experiment; anything but the names is a wrong flag."""
    experiment = pretraining()
    encoder = experiment.learner.encoder.clone(remat=now)
    experiment = dataclasses.replace(experiment, learner=experiment.learner.clone(encoder=encoder))
    claim_workdir(tmp_path, experiment)
    path = tmp_path / "config.json"
    record = json.loads(path.read_text())
    assert record["learner"]["encoder"]["remat"] == now
    record["learner"]["encoder"]["remat"] = there
    path.write_text(json.dumps(record))
    assert load_experiment(tmp_path).learner.encoder == encoder
    claim_workdir(tmp_path, experiment)


def test_a_process_killed_while_claiming(tmp_path):
    """The half-written record that it leaves is no reason to refuse the same command."""
    (tmp_path / "config.tmp").write_text('{"class": "bert_')
    claim_workdir(tmp_path, pretraining())
    assert load_experiment(tmp_path) == pretraining()
    assert list(contents(tmp_path)) == ["config.json"]


def test_no_workdir(tmp_path):
    """Where there is no run, that is said."""
    with pytest.raises(FileNotFoundError, match=r"is no workdir of a run: it has no config\.json"):
        load_experiment(tmp_path)


@pytest.mark.parametrize("git", ["git", None])
def test_the_environment_is_recorded_at_every_start(tmp_path, monkeypatch, git):
    """A line a start, with versions and devices; a machine without git is no error."""
    if git is None:
        monkeypatch.setattr(experiment_module.shutil, "which", lambda name: None)
    write_environment(tmp_path)
    write_environment(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "environment.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert lines[0]["packages"]["jax"] and len(lines[0]["devices"]) == 8 and lines[0]["cores"] >= 1
    assert (lines[0]["commit"] is not None) == bool(git and shutil.which("git") and (ROOT / ".git").exists())


# ---- the example files -------------------------------------------------------------------------------------------


def load_example(name):
    """The module of an experiment file, where tyro finds its source."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / f"experiments/{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


README = (ROOT / "experiments/README.md").read_text()
COMMANDS = re.findall(r"^\| \[(\w+)\.py\]\(\1\.py\) \|[^|]*\| `\1\.py ([^`|]*)` \|", README, re.MULTILINE)


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_the_commands_of_the_table(name, command):
    """Each row of experiments/README.md can be given as it stands there."""
    module = load_example(name)
    if name in ("ablations", "family"):
        assert str(tyro.cli(module.Arguments, args=command.split()).workdir).startswith("runs/")
    elif name in ("pretrain_two_phases", "pretrain_lamb"):
        workdir, both = phases.parse(module.config, command.split())
        assert str(workdir).startswith("runs/")
        for phase in both.in_folder(workdir):
            assert decode(encode(phase)) == phase
    else:
        workdir, experiment = parse(module.config, command.split())
        assert str(workdir).startswith("runs/") and isinstance(experiment, Experiment)


def test_the_table_has_every_experiment():
    """A row each, with a command."""
    files = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"quickstart"}  # make quickstart
    assert {name for name, _ in COMMANDS} == files and "`make quickstart`" in README


@pytest.mark.parametrize(
    "name",
    ["pretrain", "pretrain_mini", "pretrain_roberta", "pretrain_xlm_roberta", "pretrain_chinese",
     "pretrain_gpt2", "pretrain_albert", "pretrain_electra", "pretrain_modernbert", "pretrain_spanbert",
     "pretrain_fnet", "pretrain_mpnet", "pretrain_xlnet", "distill", "continue_pretraining", "classify", "regress",
     "multilabel", "sst2", "imdb", "ner", "pos", "squad", "squad2", "swag", "arc", "feature_based"],
)  # fmt: skip
def test_the_example_files(name, tmp_path):
    """Loaded through importlib (tyro reads the source): the record round-trips, and their own command line is valid."""
    module = load_example(name)
    experiment = module.config()
    assert decode(json.loads(json.dumps(encode(experiment)))) == experiment
    command = next(part for part in module.__doc__.split("\n\n") if f"experiments/{name}.py" in part)
    command = command[command.index(f"experiments/{name}.py") :].replace("\\\n", " ")
    workdir, read = parse(module.config, command.split()[1:])
    assert str(workdir).startswith("runs/") and isinstance(read, Experiment)


def test_help_and_bad_values_of_an_example_file(tmp_path, monkeypatch, capsys):
    """`--help` shows the docstring and the flags; values that exclude each other, and files that are not there, end in
    one line; as a program, too."""
    module, program = load_example("pretrain"), str(ROOT / "experiments/pretrain.py")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    with pytest.raises(SystemExit) as ended:
        main(module.config)
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "masked language modelling" in shown
    assert "--optimizer.learning-rate" in shown and "passes over" in shown
    monkeypatch.setattr(sys, "argv", [program, "--workdir", str(tmp_path / "w"), "--epochs", "3"])
    with pytest.raises(SystemExit, match=r"^error: give steps or epochs, one of them: steps is 20000, epochs is 3\.0$"):
        main(module.config)
    command = [sys.executable, program, "--workdir", str(tmp_path / "w"), "--corpus", str(tmp_path / "none")]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1 and failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1
    assert not (tmp_path / "w").exists()
