"""Prediction from the command line: what the methods give, line by line, and bad input."""

import gzip
import io
import json
import subprocess
import sys

import numpy as np
import pytest

from bert_jax import predict
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag
from bert_jax.pretrained import load
from bert_jax.text.wordpiece import WordPiece
from tests.interop.random_models import random_model

WORDS = "the cat sat on a mat dog run ##ning ##s , . ? who where is john in paris 王".split()
TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
HEADS = {
    "mlm": Mlm(), "classify": Classify(2, labels=("no", "yes")), "tag": Tag(2), "span": Span(),
    "regress": Regress(), "multilabel": MultiLabel(3, labels=("a", "b", "c")),
}  # fmt: skip
TEXTS = ["The cat sat.", "", "John is in paris, who runs?  ", "王", "a dog " * 8]
LONG = "the cat " * 20


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with all heads."""
    folder = tmp_path_factory.mktemp("models") / "all"
    random_model(HEADS, tokenizer=TOKENIZER, vocab_size=TOKENIZER.vocab_size, max_length=40).save(folder, "bert_jax")
    return folder


@pytest.fixture(scope="module")
def opened(model):
    return load(model)


@pytest.fixture
def run(model, tmp_path, monkeypatch, capsys):
    """`run(task, text or bytes, *options)`: what comes out, parsed; of a file of that name, or of standard input.
    `progress` is to be seen on standard error, or nothing is."""
    monkeypatch.setattr(predict.signal, "signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)

    def call(task, content, *options, name=None, source=model, progress=None):
        content = content if isinstance(content, bytes) else content.encode()
        if name is None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        else:
            (tmp_path / name).write_bytes(content)
            options = ("--input", name, *options)
        predict.main([str(source), task, *options])
        captured = capsys.readouterr()
        assert progress in captured.err if progress else captured.err == ""
        return [json.loads(line) for line in captured.out.splitlines()]

    return call


@pytest.fixture
def refused(run, tmp_path):
    """`refused(message, task, content, *options)`: ends with this one line, and no output file is there."""

    def check(message, task, content, *options, **where):
        before = {path.name for path in tmp_path.iterdir()}
        with pytest.raises(SystemExit, match=message) as stopped:
            run(task, content, *options, "--output", "out.jsonl", **where)
        assert str(stopped.value).startswith("error: ") and "\n" not in str(stopped.value)
        assert {path.name for path in tmp_path.iterdir()} - before <= {where.get("name")}

    return check


def lines(*objects):
    return "".join(json.dumps(each) + "\n" for each in objects)


def same(found, wanted):
    """Structures of the same names and strings, and numbers within float32's tolerance."""
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for name in wanted:
            same(found[name], wanted[name])
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for pair in zip(found, wanted, strict=True):
            same(*pair)
    else:
        assert found == (pytest.approx(wanted, rel=1e-5, abs=1e-6) if isinstance(wanted, float) else wanted)


def dicts(results):
    return [result._asdict() for result in results]


# ---- what comes out --------------------------------------------------------------------------------------------------


def test_embed(run, opened):
    """A line for each line, blank ones too, in order; every number is the float32 that the method gives."""
    found = run("embed", "\n".join(TEXTS))
    assert [list(line) for line in found] == [["embedding"]] * 5
    np.testing.assert_array_equal(np.array([line["embedding"] for line in found], np.float32), opened.embed(TEXTS))
    found = run("embed", "a cat\n", "--pooling", "cls", "--layer", "1", "--normalise")
    same(found[0]["embedding"], opened.embed("a cat", "cls", 1, True).tolist())


def test_the_dtype_of_the_dots(run, model, opened):
    """`--dtype` and `load(dtype=)` are the same, near the model's own float32, and not it."""
    low = load(model, dtype="bfloat16")
    assert (low.model.encoder.dtype, opened.model.encoder.dtype) == ("bfloat16", "auto")
    found = np.array([line["embedding"] for line in run("embed", "\n".join(TEXTS), "--dtype", "bfloat16")], np.float32)
    wanted = opened.embed(TEXTS)
    np.testing.assert_array_equal(found, low.embed(TEXTS))
    cosines = np.sum(found * wanted, 1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert np.all(cosines > 0.999) and not np.array_equal(found, wanted)


def test_fill_mask(run, opened):
    """Candidates by mask; five, or as many as asked for."""
    texts = ["the [MASK] sat", "[MASK] is [MASK]"]
    for options, count in (((), 5), (("--top-k", "2"), 2)):
        found = run("fill-mask", "\n".join(texts), *options)
        same(found, [{"masks": [dicts(mask) for mask in masks]} for masks in opened.fill_mask(texts, count)])
        assert [[len(mask) for mask in line["masks"]] for line in found] == [[count], [count, count]]


def test_score(run, opened):
    """Of the whole line, or per token."""
    texts = ["the cat sat", "a dog"]
    same(run("score", "\n".join(texts)), [{"score": score} for score in opened.pseudo_log_likelihood(texts)])
    found = run("score", "\n".join(texts), "--normalise")
    same(found, [{"score": score} for score in opened.pseudo_log_likelihood(texts, normalise=True)])


def test_classify_texts_and_pairs(run, opened):
    """Plain lines; objects, from a file whose name says so or as an option does; other fields are left alone."""
    wanted = opened.classify(["the cat", ("the cat", "a dog"), '"quoted"'])
    content = lines({"text": "the cat", "id": 1}, {"text": "the cat", "text_pair": "a dog"}, {"text": '"quoted"'})
    same(run("classify", content, name="in.jsonl"), dicts(wanted))
    same(run("classify", content, "--format", "jsonl"), dicts(wanted))
    same(run("classify", gzip.compress(content.encode()), name="in.jsonl.gz"), dicts(wanted))
    same(run("classify", "the cat\r\n"), dicts(wanted[:1]))
    same(run("classify", "{\n", "--format", "lines", name="odd.jsonl"), dicts([opened.classify("{")]))


@pytest.mark.parametrize("task", ["regress", "multilabel"])
def test_numbers_and_labels_of_texts_and_pairs(run, opened, task):
    """Read as `classify` reads them."""
    wanted = getattr(opened, task)(["the cat", ("the cat", "a dog")])
    wanted = [{"value": value} for value in wanted] if task == "regress" else dicts(wanted)
    content = lines({"text": "the cat", "id": 1}, {"text": "the cat", "text_pair": "a dog"})
    same(run(task, content, name="in.jsonl"), wanted)
    same(run(task, "the cat\n"), wanted[:1])


def test_tag(run, opened):
    """Strings with places, words without."""
    same(run("tag", "John runs.\n"), [{"words": dicts(opened.tag("John runs."))}])
    found = run("tag", lines({"words": ["John", "runs"]}, {"text": "a 王"}), "--format", "jsonl")
    same(found, [{"words": dicts(words)} for words in opened.tag([["John", "runs"], "a 王"])])
    assert found[1]["words"][1]["start"] == 2 and found[0]["words"][0]["start"] is None


def test_answer(run, opened):
    """Objects, whatever the file is called."""
    pairs = [("who runs?", "John runs in paris."), ("where", "in a " * 30)]
    content = lines(*({"context": context, "question": question} for question, context in pairs))
    flags = ("--top-k", "3", "--max-answer-length", "2", "--stride", "9", "--no-answer-threshold", "-99")
    for options, arguments in (((), {}), (flags[:6], (3, 2, 9)), (flags, (3, 2, 9, -99.0))):
        wanted = opened.answer(*map(list, zip(*pairs, strict=True)), *arguments)
        same(run("answer", content, *options, name="questions.txt"), [{"answers": dicts(each)} for each in wanted])


def test_to_a_file_in_chunks(run, tmp_path, opened, monkeypatch):
    """A few lines at a time, however many there are; the file holds what standard output would get."""
    held = []
    monkeypatch.setattr(predict, "CHUNK", 2)
    monkeypatch.setattr(predict, "load", lambda *_: opened)
    embed = type(opened).embed
    monkeypatch.setattr(type(opened), "embed", lambda p, texts, **o: held.append(len(texts)) or embed(p, texts, **o))
    assert run("embed", "\n".join(TEXTS), "--output", "out.jsonl", name="in.txt") == []
    assert held == [0, 2, 2, 1]  # the first tells whether it can be done at all
    found = [json.loads(line)["embedding"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    same(found, opened.embed(TEXTS).tolist())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.jsonl"]


def test_nothing_in(run, tmp_path):
    """Nothing out, and a file that says so."""
    assert run("score", "") == []
    assert run("score", "", "--output", "out.jsonl") == []
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_progress(run, monkeypatch):
    """Lines done of all lines on a terminal; of standard input, whose end is not known, lines done."""
    monkeypatch.setattr(predict.Console, "is_terminal", True)
    monkeypatch.setattr(predict, "CHUNK", 2)
    for name, shown in (("in.txt", "5/5"), (None, "5/?")):
        assert len(run("embed", "\n".join(TEXTS), name=name, progress=shown)) == 5


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "content", "name", "message"),
    [
        ("embed", f"a\nb\nc\n{LONG}\n", "in.txt", r"in\.txt, line 4: 42 tokens with .* the model takes 40: shorten"),
        ("score", f"a\nb\nc\n{LONG}\n", None, "standard input, line 4: 42 tokens"),
        ("fill-mask", "[MASK]\n\nthe cat\n", "in.txt", r"in\.txt, line 2: there is no \[MASK\] in ''"),
        ("embed", b"a\nb\nc \xff\n", "in.txt", r"in\.txt, line 3: not UTF-8: byte 0xff at byte offset 6"),
        ("embed", b"a\nb\nc \xff\n", None, "standard input, line 3: not UTF-8: byte 0xff at byte 2 of the line"),
        ("embed", gzip.compress(b"a\nb\n", mtime=0)[:-9], "in.txt.gz", r"in\.txt\.gz: archive damaged or cut off"),
        ("embed", lines({"text": "a"}) + '{"text": \n', "in.jsonl", r"in\.jsonl, line 2: not JSON: Expecting value"),
        ("embed", lines({"text": "a"}) + "\n", "in.jsonl", r"in\.jsonl, line 2: not JSON"),
        ("embed", lines({"text": "a"}, ["a"]), "in.jsonl", "line 2: a JSON object is wanted, not list"),
        ("embed", lines({"sentence": "a"}), "in.jsonl", "line 1: field 'text' is missing, .* there are 'sentence'"),
        ("embed", lines({"text": None}), "in.jsonl", "line 1: field 'text' is NoneType"),
        ("embed", lines({"text": "a"}, {"text": "\ud800"}), "in.jsonl", r"line 2: text holds the lone surrogate"),
        ("classify", lines({"text": "a", "text_pair": 3}), "in.jsonl", "line 1: field 'text_pair' is int"),
        ("tag", lines({"words": ["a", 3]}), "in.jsonl", "line 1: field 'words' is no list of strings"),
        ("answer", lines({"question": "a"}), "in.txt", r"in\.txt, line 1: field 'context' is missing"),
        ("answer", lines({"question": "a", "context": ""}), None, "standard input, line 1: there is nothing to answer"),
    ],
)
def test_lines_that_cannot_be_used(refused, monkeypatch, opened, task, content, name, message):
    """File and line, and nothing written: in a later chunk, too."""
    monkeypatch.setattr(predict, "CHUNK", 2)
    monkeypatch.setattr(predict, "load", lambda *_: opened)
    refused(message, task, content, name=name)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("embed", ("--top-k", "3"), "--top-k is no option of embed"),
        ("classify", ("--normalise",), "--normalise is no option of classify"),
        ("tag", ("--layer", "0"), "--layer is no option of tag"),
        ("score", ("--max-answer-length", "3"), "--max-answer-length is no option of score"),
        ("answer", ("--format", "lines"), "answer reads objects with question and context"),
        ("embed", ("--input", "gone.txt"), r"gone\.txt: no such file"),
        ("embed", ("--layer", "7"), "layer 7: there are 0, the embeddings, to 2"),
        ("fill-mask", ("--top-k", "99"), "top_k 99: 1 to 25"),
    ],
)
def test_options_that_do_not_fit(refused, task, options, message):
    """Before a line is read."""
    refused(message, task, b"\xff", *options)


def test_models_that_do_not_fit(refused, tmp_path_factory):
    """None there, or one without the head; before a line is read."""
    refused("gone is not a folder", "embed", b"\xff", source="./gone")
    folder = tmp_path_factory.mktemp("models") / "bare"
    random_model({}).save(folder)
    refused("fill_mask needs one head of the kind Mlm, but the model has no head", "fill-mask", b"\xff", source=folder)
    refused("text needs a tokenizer", "embed", b"\xff", source=folder)


def test_an_output_that_is_there(run, tmp_path):
    """Is kept, and the model not even opened; nor is it where there is no folder to write to."""
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(SystemExit, match=r"out\.jsonl exists: choose another name"):
        run("embed", "a\n", "--output", "out.jsonl", source="gone")
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    with pytest.raises(SystemExit, match="none is not a folder"):
        run("embed", "a\n", "--output", "none/out.jsonl", source="gone")


def test_interrupted(run, tmp_path, opened, monkeypatch):
    """Control-C between two chunks leaves no half-written file."""

    def interrupted(p, texts, **options):
        if "stop" in texts:
            raise KeyboardInterrupt
        return np.zeros((len(texts), 2), np.float32)

    monkeypatch.setattr(predict, "CHUNK", 1)
    monkeypatch.setattr(type(opened), "embed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("embed", "go\nstop\n", "--output", "out.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_as_a_program(model, monkeypatch, capsys):
    """`python -m bert_jax.predict`: a reader that has seen enough, as `head` has, ends it without a complaint."""
    command = [sys.executable, "-m", "bert_jax.predict", str(model), "embed"]
    text = ("the cat\n" * 2000).encode()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        program.stdin.write(text)
        program.stdin.close()
        assert len(json.loads(program.stdout.readline())["embedding"]) == 36
        program.stdout.close()
        assert program.stderr.read() == b""
    assert program.returncode == 0
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(predict.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit, match="0"):
        predict.main(["--help"])
    shown = capsys.readouterr().out
    assert "python -m bert_jax.predict [-h] [OPTIONS] SOURCE TASK" in shown and "--max-answer-length" in shown
