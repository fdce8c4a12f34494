"""The log: valid JSON, no doubled or torn lines after a restart, readable progress; and the curves drawn from it."""

import json
import math
import re
import struct
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from bert_jax.training import log as log_module
from bert_jax.training.curves import plot_curves
from bert_jax.training.health import Health, Stuck
from bert_jax.training.log import Logger, read_metrics


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def events(workdir):
    """(tag, step, value) of all TensorBoard events, and the steps from which earlier ones are void."""
    scalars, purged = [], []
    for path in sorted((workdir / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:  # TFRecord: length, its crc, the record, its crc
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.HasField("session_log"):
                purged.append(event.step)
            scalars += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return scalars, purged


def test_metrics_are_recorded(tmp_path):
    """One JSON object a line with step, time and the full precision; the same in TensorBoard; nothing if nothing."""
    with Logger(tmp_path, 10) as log:
        log.log(1, {"train/loss": jnp.float32(0.1), "train/mlm/accuracy": np.float32(0.25)})
        log.log(2, {})
        log.log(2, {"valid/mlm/loss": 1 / 3})
    first, second = lines(tmp_path)
    assert first.pop("time") <= second.pop("time")
    assert first == {"step": 1, "train/loss": float(np.float32(0.1)), "train/mlm/accuracy": 0.25}
    assert second == {"step": 2, "valid/mlm/loss": 1 / 3}
    scalars, _ = events(tmp_path)
    assert scalars == [("train/loss", 1, float(np.float32(0.1))), ("train/mlm/accuracy", 1, 0.25),
                       ("valid/mlm/loss", 2, float(np.float32(1 / 3)))]  # fmt: skip
    assert read_metrics(tmp_path / "metrics.jsonl") == lines(tmp_path)


def test_not_a_number_is_null(tmp_path):
    """JSON has no NaN: a strict reader must be able to read every line."""
    with Logger(tmp_path, 10) as log:
        log.log(1, {"train/loss": math.nan, "train/a": math.inf, "train/b": -math.inf})

    def refuse(constant):
        raise ValueError(constant)

    entry = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert entry["train/loss"] is None and entry["train/a"] is None and entry["train/b"] is None


def test_restart_drops_what_came_after_the_checkpoint(tmp_path):
    """Curves are not doubled: later lines and a torn last one go, lines up to the step stay to the byte."""
    path = tmp_path / "metrics.jsonl"
    with Logger(tmp_path, 100) as log:
        for step in range(10, 60, 10):
            log.log(step, {"train/loss": step / 7})
    kept = path.read_bytes().splitlines(keepends=True)[:3]
    with path.open("a") as file:
        file.write('{"step": 60, "train/lo')  # killed in the middle of a line
    assert [entry["step"] for entry in read_metrics(path)] == [10, 20, 30, 40, 50]
    with Logger(tmp_path, 100, start_step=30) as log:
        assert path.read_bytes() == b"".join(kept)
        log.log(40, {"train/loss": 1.0})
    assert [entry["step"] for entry in lines(tmp_path)] == [10, 20, 30, 40]
    assert events(tmp_path)[1] == [0, 31]
    assert [path.name for path in tmp_path.glob("metrics*")] == ["metrics.jsonl"]


def test_restart_repairs_a_whole_line_without_its_end(tmp_path):
    """A line that lacks only its newline is kept and ended, so that the next one does not run into it."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}')
    with Logger(tmp_path, 10, start_step=1) as log:
        log.log(2, {"train/loss": 1.0})
    assert [entry["step"] for entry in lines(tmp_path)] == [1, 2]


@pytest.mark.parametrize("line", ["not json", "[1]", '{"loss": 1}', "\0\0"])
def test_a_foreign_line_is_refused(tmp_path, line):
    """A file that is not ours is named with the line, and not touched."""
    path = tmp_path / "metrics.jsonl"
    content = '{"step": 1}\n' + line + '\n{"step": 2}\n'
    path.write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not a JSON object with a step"):
        Logger(tmp_path, 10)
    assert path.read_text() == content


def test_started_anew(tmp_path):
    """A run that was killed before its first checkpoint: its evaluation before the first step does not stay, either."""
    with Logger(tmp_path, 10) as log:
        log.log(0, {"valid/loss": 3.0})
        log.log(1, {"train/loss": 2.0})
    with Logger(tmp_path, 10) as log:
        log.log(0, {"valid/loss": 3.0})
    assert [line["step"] for line in lines(tmp_path)] == [0]
    with Logger(tmp_path, 10, 1):
        pass
    assert [line["step"] for line in lines(tmp_path)] == [0]


def test_other_processes_write_nothing(tmp_path, monkeypatch, capsys):
    """Of several processes only the first logs."""
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with Logger(tmp_path, 10) as log:
        log.log(1, {"train/loss": 1.0})
        log.message("hello")
        log.warn("careful")
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ""


def test_plain_progress(tmp_path, capsys, monkeypatch):
    """Without a terminal: a line a report with step, time, time left and the metrics worth reading, not cut off."""
    clock = iter([0.0, 60.0, 65.0, 70.0, 4000.0])
    monkeypatch.setattr(
        log_module, "time", SimpleNamespace(monotonic=lambda: next(clock), time=time.time, time_ns=time.time_ns)
    )
    with Logger(tmp_path, 1200) as log:
        log.message("4,000 parameters [bold]")
        names = {"loss": 9.87654, "mlm/loss": 9.0, "mlm/accuracy": 0.01234, "learning_rate": 1e-5,
                 "gradient_norm": 3.0, "examples_per_second": 1234.5}  # fmt: skip
        for step in (100, 200, 1100):
            log.log(step, {f"train/{name}": value for name, value in names.items()})
        log.log(1100, {"valid/mlm/loss": 8.0, "valid/mlm/accuracy": 0.5, "valid_2/score": 0.125})
        log.warn("x")
    metrics = "loss 9.8765  mlm/accuracy 0.0123  lr 1.0e-05  examples/s 1,234"
    assert capsys.readouterr().out.splitlines() == [
        "4,000 parameters [bold]",
        f"100/1,200  after 1:00, 11:00 left  {metrics}",
        f"200/1,200  after 1:10, 0:50 left  {metrics}",  # neither compilation nor opening the files counts
        f"1,100/1,200  after 1:06:40, 6:34 left  {metrics}",
        "1,100/1,200  valid: mlm/loss 8.0000  mlm/accuracy 0.5000",
        "1,100/1,200  valid_2: score 0.125",
        "warning: x",
    ]


def test_progress_on_a_terminal(tmp_path, capsys, monkeypatch):
    """One line is rewritten for training; evaluations and messages stay above it; an exception ends it cleanly."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    with pytest.raises(KeyError), Logger(tmp_path, 100) as log:
        log.log(10, {"train/loss": 3.0})
        log.log(10, {"valid/loss": 4.0})
        log.log(20, {"train/loss": 2.0})
        raise KeyError
    out = capsys.readouterr().out
    assert "10/100  valid: loss 4.0000\n" in out
    assert re.search(r"20/100  after 0:0\d, .*loss 2.0000", out)
    assert "\x1b[?25l" in out and out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")  # the cursor is back
    assert len(lines(tmp_path)) == 3


STUCK = Stuck("train/nsp/loss", math.log(2), 0.01, 100, "look at the pairs")


def test_health_warns_once_until_recovered():
    """A loss at or above the constant answer's after enough steps warns once; again if it falls back to it."""
    health = Health([STUCK])
    losses = {50: 0.69, 99: 0.69, 100: 0.69, 150: 0.6931, 200: 0.6, 250: 0.75, 300: 0.8}
    said = [health.check(step, {"train/nsp/loss": loss, "train/other": 9.9}) for step, loss in losses.items()]
    assert [len(warnings) for warnings in said] == [0, 0, 1, 0, 0, 1, 0]
    assert said[2] == [
        "train/nsp/loss is 0.6900 at step 100, where always giving the same answer reaches 0.6931: look at the pairs"
    ]
    assert Health([STUCK]).check(1000, {"valid/nsp/loss": 0.69}) == []
    assert Health([STUCK]).check(1000, {"train/nsp/loss": math.log(2) - 0.011}) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, jnp.float32(math.nan)])
def test_health_passes_over_a_loss_that_is_no_number(value):
    """It is of steps that changed nothing: neither a sign of a stuck run nor of one that has recovered."""
    health = Health([STUCK])
    said = [health.check(200, {"train/nsp/loss": loss}) for loss in (value, 0.69, value, 0.69)]
    assert [len(warnings) for warnings in said] == [0, 1, 0, 0]


def test_curves(tmp_path):
    """A PNG of several runs with gaps, a torn end and one evaluation set more than the other."""
    for seed, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        with Logger(tmp_path / name, 50) as log:
            for step in range(1, 51):
                loss = 5 / step + seed if step != 7 else math.nan
                log.log(step, {"train/mlm/loss": loss, "train/learning_rate": 1.0})
                if step % 10 == 0:
                    log.log(step, {"valid/mlm/loss": 5 / step, "valid/mlm/accuracy": 0.1, "more/mlm/loss": 4 / step})
    runs = {name: tmp_path / name / "metrics.jsonl" for name in "ab"}
    with runs["b"].open("a") as file:
        file.write('{"step"')
    plot_curves(runs, tmp_path / "both.png", baselines={"mlm/accuracy": 0.05, "nsp/accuracy": 0.5})
    plot_curves({"a": runs["a"]}, tmp_path / "one.png", ["mlm/loss"])
    for picture in ("both.png", "one.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"nothing to draw for \['nsp/loss'\]; metrics there: mlm/loss, learning_rate"):
        plot_curves(runs, tmp_path / "none.png", ["nsp/loss"])
    with pytest.raises(FileNotFoundError):
        plot_curves({"c": tmp_path / "c/metrics.jsonl"}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
