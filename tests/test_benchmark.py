"""The benchmark: who runs when, what is made of the times, and that peers are given the work that we do."""

import json
import os
from dataclasses import replace
from itertools import pairwise

import flax.linen as nn
import jax
import numpy as np
import pytest
from rich.console import Console

from bert_jax.experiment import decode
from bert_jax.models.bert import SIZES
from bert_jax.resolve import resolve
from bert_jax.training.flops import dot_flops
from bert_jax.training.step import abstract_parameters
from tools import benchmark as benchmark_module
from tools.benchmark import COLUMNS, Arguments, benchmark, choose, markdown, read, table
from tools.benchmarks import preparation
from tools.benchmarks.contest import OURS, Contestant, Failed, Row, choose_cores, compare, hold, ratios
from tools.benchmarks.rows import Inputs, all_rows

FAKE = "tests.fake_contestants:"


def fake_row(notes, **others):
    """Ours, one peer, one that is not installed, and one that fails."""
    contestants = (
        Contestant(OURS, f"{FAKE}Fake", {"work": 6.0}),
        Contestant("peer", f"{FAKE}Fake", {"name": "peer", "work": 2.0}),
        Contestant("absent", f"{FAKE}Fake", needs=("no_such_package",)),
        Contestant("other", f"{FAKE}Failing"),
    )
    row = Row("fake", "tokens", contestants, f"{FAKE}prepare", {"notes": str(notes)}, steps=3)
    return replace(row, **others)


def record(**medians):
    """A results file of rows with one peer and these ratios."""
    made = [{"part": "", "ours": OURS, "peer": "p", "side": "p", "pairs": [1.0], "median": 1.0}]
    return {"rows": [{"name": name, "ratios": [made[0] | {"median": median}]} for name, median in medians.items()]}


def contestant(name, side, seconds, part=None, work=10.0):
    """An entry of a record, of turns of so many seconds each."""
    turns = [{"seconds": of, "steps": 1, "work": work, "peak_memory": 10**9, "loss": 0.5} for of in seconds]
    turns = [turn | ({"parts": {"steps alone": part}} if part else {}) for turn in turns]
    return {"name": name, "side": side, "first_step": 1.0, "start": 2.0, "peak_memory": 10**9, "turns": turns}


def test_turns_alternate(tmp_path):
    """Ours, peer, ours, peer, in processes that live through all turns, with the same number of steps each."""
    notes, said = tmp_path / "notes", []
    found = hold(fake_row(notes), 3, 1.0, 1, tmp_path / "log", said.append)
    assert notes.read_text().splitlines() == ["ours 1", "peer 1", *3 * ["ours 3", "peer 3"]]
    assert [[turn["work"] for turn in one["turns"]] for one in found["contestants"]] == [3 * [18.0], 3 * [6.0]]
    assert found["padding"] == 0.25 and found["name"] == "fake" and found["work"] == "tokens"
    assert any("pair 3 of 3" in line for line in said)
    assert "what a library prints" in (tmp_path / "log").read_text()


def test_warm_up_comes_before_the_first_turn(tmp_path):
    """Where the number of steps is not given, everyone warms up, and the number is found from steps that do not
    count."""
    notes = tmp_path / "notes"
    found = hold(fake_row(notes, steps=0), 1, 0.0, 1, tmp_path / "log", lambda what: None)
    lines = [f"{name} {what}" for what in ("1", "warms up", "2", "1") for name in ("ours", "peer")]
    assert notes.read_text().splitlines() == lines
    assert [len(one["turns"]) for one in found["contestants"]] == [1, 1]


def test_fresh_turns_are_whole_processes(tmp_path):
    """Each turn starts a process, whose start counts; rehearsals do not."""
    notes = tmp_path / "notes"
    found = hold(fake_row(notes, fresh=True, rehearsals=1), 2, 1.0, 1, tmp_path / "log", lambda what: None)
    assert notes.read_text().splitlines() == 3 * ["ours 1", "peer 1"]
    ours = found["contestants"][0]
    assert len(ours["turns"]) == 2 and ours["turns"][1]["seconds"] >= ours["start"]


def test_peers_that_are_missing(tmp_path):
    """A peer that is not installed or fails is left out, and it says why; ours and the others are measured."""
    found = hold(fake_row(tmp_path / "notes"), 1, 1.0, 1, tmp_path / "log", lambda what: None)
    assert found["missing"]["absent"] == "not installed: no_such_package"
    assert "that is not the same work" in found["missing"]["other"]
    assert [one["name"] for one in found["contestants"]] == [OURS, "peer"]
    assert [ratio["peer"] for ratio in found["ratios"]] == ["peer"]
    alone = hold(
        fake_row(tmp_path / "notes", contestants=fake_row("").contestants[::2]), 1, 1.0, 1, tmp_path / "log", print
    )
    assert alone["ratios"] == [] and len(table([alone])) == 1


def test_a_peer_that_is_killed(tmp_path):
    """The others play on without it, and the record says what happened; ours alone ends the row."""
    row = fake_row(tmp_path / "notes")
    killed = Contestant("victim", f"{FAKE}Killed", {"name": "victim"})
    row = replace(row, contestants=(row.contestants[0], killed, row.contestants[1]))
    found = hold(row, 2, 1.0, 1, tmp_path / "log", lambda what: None)
    assert "SIGKILL, as the system does where memory runs out" in found["missing"]["victim"]
    assert [(one["name"], len(one["turns"])) for one in found["contestants"]] == [(OURS, 2), ("peer", 2)]
    with pytest.raises(Failed, match="SIGKILL"):
        hold(replace(row, contestants=(replace(killed, side=OURS),)), 2, 1.0, 1, tmp_path / "log", lambda what: None)


@pytest.mark.parametrize("target", ["Failing", "dies", "no_such_name"])
def test_ours_must_not_fail(tmp_path, target):
    """An error of ours, or a process of ours that is gone, ends the row."""
    row = fake_row(tmp_path / "notes", contestants=(Contestant(OURS, FAKE + target),), prepare="")
    with pytest.raises(Failed, match=target):
        hold(row, 1, 1.0, 1, tmp_path / "log", lambda what: None)


def test_ratios():
    """Pair by pair, of what is done a second; of several of a side the fastest; parts of turns by themselves."""
    ours = contestant("ours slow", OURS, [9.0, 9.0, 9.0]), contestant("ours fast", OURS, [1.0, 2.0, 4.0])
    peers = contestant("p fast", "p", [2.0, 2.0, 2.0]), contestant("p slow", "p", [8.0, 8.0, 8.0])
    (found,) = ratios([*ours, *peers])
    assert (found["ours"], found["peer"], found["side"]) == ("ours fast", "p fast", "p")
    assert found["pairs"] == [2.0, 1.0, 0.5] and found["median"] == 1.0
    more = contestant("five", OURS, [4.0], work=50.0), contestant("one", "one", [1.0])
    assert ratios(more)[0]["median"] == pytest.approx(50 / 4 / 10)
    whole, alone = ratios([contestant("a", OURS, [4.0], part=1.0), contestant("b", "b", [4.0], part=3.0)])
    assert (whole["part"], whole["median"]) == ("", 1.0)
    assert (alone["part"], alone["median"]) == ("steps alone", 3.0)


def test_comparison():
    """A ratio that has lost more than the margin is worse; rows that only one of the two has are left alone."""
    worse, lines = compare(record(a=2.0, b=2.0, c=2.0, gone=1.0), record(a=1.7, b=1.9, c=9.0, new=0.1), 0.1)
    assert len(worse) == 1 and worse[0].startswith("a: 1.70x p now, 2.00x then (-15%)")
    assert [line[0] for line in lines] == ["a", "b", "c"]
    other = record(a=1.0)["rows"][0]
    then = {"rows": [other, other | {"ratios": [other["ratios"][0] | {"side": "q"}]}]}
    assert compare(then, record(a=1.0), 0.1)[1][0] == "a: q was measured then, and is not now"
    with pytest.raises(ValueError, match="nothing can be compared"):
        compare(record(a=1.0), record(b=1.0), 0.1)


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    """Three files; a later call compares with them and fails where a ratio is lower, or a row failed."""
    row = fake_row(tmp_path / "notes")
    monkeypatch.setattr(benchmark_module, "all_rows", lambda folder, inputs: [row])
    arguments, console = Arguments(output=tmp_path / "out", pairs=1), Console(width=200)
    assert benchmark(arguments, console) == 0
    results = tmp_path / "out/results.json"
    found = read(results)
    assert found["machine"]["packages"]["jax"] == jax.__version__ and found["rows"][0]["name"] == "fake"
    text = (tmp_path / "out/results.md").read_text()
    assert f"| {' | '.join(COLUMNS)} |" in text and "without absent: not installed: no_such_package" in text
    assert (tmp_path / "out/ratios.png").read_bytes().startswith(b"\x89PNG")
    for factor, status, said in ((0.0, 0, "nothing became worse"), (1e6, 1, "worse:")):
        found["rows"][0]["ratios"][0]["median"] *= factor
        found["rows"][0]["ratios"][0]["median"] += 1e-9
        (tmp_path / "old.json").write_text(json.dumps(found))
        capsys.readouterr()
        assert benchmark(replace(arguments, compare=tmp_path / "old.json"), console) == status
        assert said in capsys.readouterr().out
        found = read(results)
    row = fake_row(tmp_path / "notes", prepare=f"{FAKE}dies", arguments={})
    assert benchmark(arguments, console) == 1
    assert "fake failed" in (tmp_path / "out/results.md").read_text()


def test_bad_input(tmp_path, monkeypatch, capsys):
    """A row that there is not, and a file to compare with that is none, end before anything is measured."""
    rows = all_rows(tmp_path, Inputs())
    with pytest.raises(ValueError, match=r"--rows pretrain-huge: there are pretrain-tiny-128, "):
        choose(rows, ["pretrain-huge"])
    with pytest.raises(ValueError, match="at least 1 pair"):
        Arguments(pairs=0)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other\.json is no results\.json"):
        read(tmp_path / "other.json")
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--compare", str(tmp_path / "none.json")])
    assert benchmark_module.main() == 2
    assert "none.json" in capsys.readouterr().err


def test_rows(tmp_path):
    """Names are unique, patterns choose, and the large models are measured only where they are named."""
    rows = all_rows(tmp_path, Inputs())
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert [row.name for row in choose(rows, ["five-*", "embed"])] == [
        "five-seeds-tiny-128",
        "five-seeds-sst2",
        "embed",
    ]
    assert not any("large" in row.name for row in choose(rows, []))
    assert all(row.contestants[0].side == OURS for row in rows)


def test_the_table():
    """Milliseconds a step, what is done a second, the ratio beside its peer, the share of the peak."""
    entries = [contestant("ours", OURS, [0.5, 1.0, 1.0]), contestant("peer", "p", [2.0, 2.0, 2.0])]
    row = {
        "name": "r",
        "work": "tokens",
        "threads": 2,
        "fresh": False,
        "note": "a note",
        "missing": {},
        "contestants": entries,
    }
    row |= {"ratios": ratios(entries), "flops_per_unit": 3.0, "peak": 60.0}
    ours, peer = table([row])
    assert ours[:6] == ["r", "ours", "1,000 ms ±25%", "10.00 tokens", "", "50%"]
    assert peer[:6] == ["r", "peer", "2,000 ms ±0%", "5.00 tokens", "2.00x (2.00 to 4.00)", "25%"]
    machine = {"time": "now", "processor": "cpu", "commit": "c", "system": "s", "python": "3", "packages": {"jax": "1"}}
    text = markdown({"rows": [row], "failed": {"x": "why"}, "machine": machine})
    assert "- r: a note" in text and "- x failed: why" in text and "jax 1" in text


def test_cores():
    """As many as threads, all of them that the process may use, spread out."""
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not own:
        assert choose_cores(1) == []
    for threads in range(1, len(own) + 1):
        chosen = choose_cores(threads)
        assert len(set(chosen)) == threads and set(chosen) <= set(own)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tiny_corpus):
    """A preparation of one pair of layers on a small text: (folder, what it found)."""
    folder = tmp_path_factory.mktemp("benchmark")
    lines = [" ".join(f"{topic}{last}" for last in "lmnlmnl") for topic in "abcd"]
    text = folder / "text.txt"
    text.write_text("\n".join(f'<doc title="{i}">\n' + "\n".join(20 * [lines[i % 4]]) + "\n</doc>" for i in range(80)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "tiny", (1, 64))
        patch.setitem(preparation.PREDICTIONS, 32, 5)
        given = {"text": [str(text)], "limit": 1000, "tokenizer": str(tiny_corpus / "tokenizer"), "batches": 2}
        shape = {"size": "tiny", "length": 32, "batch_size": 16, "dtype": "float32"}
        found = preparation.pretraining(str(folder), **given, **shape)
    return folder, json.loads(json.dumps(found))


def test_peers_get_our_batches(prepared):
    """The same rows, with the masks that our corruption has made and labels at exactly the predicted places."""
    _, found = prepared
    run = resolve(decode(found["ours"]["experiment"]))
    with np.load(found["peers"]["batches"]) as file:
        theirs = dict(file)
    assert theirs["tokens"].shape == (2, 16, 32)
    order = preparation.TrainingBatches(run.train_source, 16, run.experiment.seed)
    for step in range(2):
        ours = order[step]
        assert (theirs["lengths"][step] == ours["lengths"]).all()
        assert (theirs["pair_label"][step] == ours["pair_label"]).all()
        chosen = theirs["labels"][step] != preparation.IGNORED
        assert (theirs["labels"][step][chosen] == ours["tokens"][chosen]).all()
        assert (theirs["tokens"][step][~chosen] == ours["tokens"][~chosen]).all()
        assert chosen.sum() == theirs["mlm_weights"][step].sum() > 16


def test_flops_leave_padding_out(prepared):
    """Of rows without padding they are those of the training step; of shorter rows fewer."""
    _, found = prepared
    run = resolve(decode(found["ours"]["experiment"]))
    full = preparation.speed(run, np.full(16, 32))

    def forward(params, batch):
        return run.learner.apply({"params": params}, run.learner.corrupt(jax.random.key(0), 0, batch), False)

    whole = 3 * dot_flops(forward, nn.unbox(abstract_parameters(run.learner, run.example_batch)), run.example_batch)
    assert full["flops_per_unit"] * 16 * 32 == pytest.approx(whole)
    totals = [preparation.speed(run, np.full(16, n))["flops_per_unit"] * n for n in (20, 26, 32)]
    assert all(shorter < longer for shorter, longer in pairwise(totals))


def test_theirs_is_the_same_work(prepared):
    """From the weights that we begin with, transformers finds our loss, and would say so if it did not."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tools.benchmarks.with_transformers import Training

    _, found = prepared
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        theirs = Training(**found["peers"])
        with pytest.raises(ValueError, match="not the same work"):
            Training(**found["peers"] | {"loss": found["peers"]["loss"] + 0.01})
    with np.load(found["peers"]["batches"]) as file:
        tokens = file["lengths"].sum()
    assert theirs.run(2)["work"] == tokens


def test_ours_is_the_work_of_the_record(prepared):
    """Steps of the experiment, counted in real tokens; every shape that its batches have was compiled before."""
    from tools.benchmarks import ours

    _, found = prepared
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "SEEN", 20)
        patch.setattr(ours, "keep_work_memory", lambda: True)
        training = ours.Training(**found["ours"])
        first = training.run(1)
        training.warm_up()
    with np.load(found["peers"]["batches"]) as file:
        assert first["work"] == file["lengths"][0].sum()
    assert abs(first["loss"] - found["peers"]["loss"]) < 0.5
    assert training.facts["shapes"] >= 1
