"""The soak: a command is sampled, stopped with SIGTERM, and what it took is summed up."""

import json
import sys

import pytest

from tools import soak

PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
held = [open(__file__) for _ in range(20)] if len(sys.argv) > 2 else []
print("started", flush=True)
time.sleep(100)
"""


def test_a_command_is_watched(tmp_path, monkeypatch, capsys):
    """Its memory and files are those of the process; growth is by the hour, once settled; the record is complete."""
    record, workdir, program = tmp_path / "record", tmp_path / "run", tmp_path / "program.py"
    program.write_text(PROGRAM)
    workdir.mkdir()
    (workdir / "config.json").write_text('{"checkpoint_every": 5}')
    lines = [{"step": 10, "time": 1.0, "train/loss": 2.0}, {"step": 10, "time": 1.0, "valid/mlm/loss": 2.0}]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    own = f"soak.py --record {record} --workdir {workdir} --seconds 1.5 --every 0.2 --settled 1".split()
    monkeypatch.setattr(sys, "argv", [*own, "--", sys.executable, str(program), "x", "many files"])
    soak.main()
    found = json.loads((record / "result.json").read_text())
    assert (found["exit_status"], found["steps"], found["evaluations"], found["checkpoints"]) == (75, 10, 1, 2)
    assert found["files"]["least"] >= 20 and found["resident"]["least"] > found["own"]["least"] > 1
    assert found["samples"] >= 3 and (record / "log.txt").read_text() == "started\n"
    assert (record / "memory.png").stat().st_size > 1000
    assert capsys.readouterr().out == (record / "table.md").read_text()


def test_growth(tmp_path):
    """One MB a minute is 60 an hour; what came before it had settled does not count."""
    samples = [
        {"seconds": 60.0 * i, "resident": 100.0 + i, "own": 50.0, "files": 7, "threads": 3} for i in range(1, 60)
    ]
    lines = [{"seconds": 0.0, "resident": 9e3, "own": 9e3, "files": 900, "threads": 900}, *samples]
    (tmp_path / soak.SAMPLES_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "config.json").write_text('{"checkpoint_every": 5}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "time": 1.0, "train/loss": 2.0}\n')
    found = soak.summary(soak.Arguments(record=tmp_path, workdir=tmp_path, settled=60.0))
    assert found["resident"]["growth_per_hour"] == pytest.approx(60) and found["own"]["growth_per_hour"] == 0
    assert (found["resident"]["first"], found["resident"]["last"], found["files"]["most"]) == (101, 159, 7)
    assert "| resident memory, MB | 101 | 159 | 101 | 159 | +60.0 |" in soak.table(found)
