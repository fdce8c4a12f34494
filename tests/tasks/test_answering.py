"""Question answering: the rules of the official script, the best span over windows, and "no answer"."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bert_jax.data.squad import SquadFiles
from bert_jax.evaluate import write_rows
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.span import Span
from bert_jax.tasks.answering import Answering, best_over, best_threshold, exact_match, f1, normalised
from bert_jax.text.wordpiece import WordPiece
from bert_jax.train import train
from bert_jax.training.optim import BertAdam
from tests.data.test_squad import question, squad
from tests.interop.random_models import random_model
from tools import squad_predictions
from tools.squad_predictions import convert

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "."]
TOKENIZER = WordPiece(PIECES)


# ---- the rules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The  Cat, a DOG\tand an owl!", "cat dog and owl"),
        ("theatre an-other U.S. $3.50", "theatre another us 350"),
        ("a the an", ""),
        ("“Élan” … naïve", "“élan” … naïve"),
        ("", ""),
    ],
)
def test_normalised(text, wanted):
    """Lower case, ASCII punctuation closed up, whole articles and spare white space gone; other characters stay."""
    assert normalised(text) == wanted


@pytest.mark.parametrize(
    ("found", "wanted", "exact", "score"),
    [
        ("the Cat!", "a cat", 1.0, 1.0),
        ("cat", "dog", 0.0, 0.0),
        ("black cat", "cat", 0.0, 2 / 3),
        ("cat cat dog", "cat dog dog", 0.0, 2 / 3),  # words count as often as they are in both
        ("", "cat", 0.0, 0.0),
        ("the", "", 1.0, 1.0),
        ("", "", 1.0, 1.0),
    ],
)
def test_exact_match_and_f1(found, wanted, exact, score):
    """By hand; an answer without words is right only where none is wanted."""
    assert exact_match(found, wanted) == exact
    assert f1(found, wanted) == pytest.approx(score)


def test_the_best_of_several_answers_counts():
    """An answer of which nothing is left does not; without any answer the empty one is wanted."""
    assert best_over(f1, "black cat", ["dog", "cat", "black cat on mats"]) == pytest.approx(2 / 3)
    assert best_over(exact_match, "", ["the", "cat"]) == 0.0
    assert best_over(exact_match, "", ["the"]) == best_over(exact_match, "", []) == 1.0
    assert best_over(f1, "cat", []) == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_best_threshold(seed):
    """No threshold does better, and this one does as well as it says: all that make a difference are tried, with ties
    and with nothing that is worth an answer."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 12)
    has = rng.random(size) < rng.choice([0.0, 0.5, 1.0])
    values = np.where(has, rng.choice([0.0, 0.5, 1.0], size), 0.0)
    odds = rng.choice([-2.0, -0.5, 0.0, 1.0, 3.0], size).astype(np.float32)

    def reached(threshold):
        return np.where(odds > threshold, ~has, values).mean()

    best, threshold = best_threshold(values, odds, has)
    assert best == pytest.approx(max(reached(each) for each in (-9.0, *odds)))
    assert reached(threshold) == pytest.approx(best)


# ---- windows to answers ----------------------------------------------------------------------------------------------

CONTEXT = "a b c d e f. g"


def task_of(tmp_path, *questions, context=CONTEXT, unanswerable=False, **options):
    """A task with windows of five tokens of the text, two apart."""
    path = squad(tmp_path / "a.json", {"A": [(context, questions)]})
    data = SquadFiles(path, (path,), unanswerable=unanswerable)
    task = Answering(data, max_length=10, stride=2, max_question_length=2, **options)
    return task, task.evaluations(TOKENIZER)["valid"]


def logits_of(source, *marks):
    """Logits of all windows: 0, but for (window, place, which end, value)."""
    logits = np.zeros((len(source), 10, 2), np.float32)
    for window, place, end, value in marks:
        logits[window, place, end] = value
    return {"span/logits": logits}


def test_the_answer_is_a_part_of_the_text(tmp_path):
    """Neither the question, [SEP] and padding, nor an end before its start, nor a span that is too long."""
    task, source = task_of(tmp_path, question("1", CONTEXT, "e f"), max_answer_length=2)
    assert source.start.tolist() == [0, 2, 4] and source.begin.tolist() == [4] * 3
    forbidden = [(w, p, e, 50.0) for w in range(3) for p in (0, 1, 2, 3, 9) for e in (0, 1)]
    forbidden += [(2, 8, 0, 50.0), (2, 8, 1, 50.0)]  # [SEP] of the last, shorter window
    marks = [(0, 5, 0, 3.0), (0, 8, 1, 2.0), (0, 4, 1, 2.5), (0, 6, 1, 1.0)]  # b; e is too far, a before it
    found = task.answers(logits_of(source, *forbidden, *marks), source)
    assert found.texts == ["b c"] and found.scores.tolist() == [4.0]


def test_the_window_with_most_context_decides(tmp_path):
    """As a first token d counts in window 0 and not in 1, where it also has one token beside it; e only in window 1."""
    task, source = task_of(tmp_path, question("1", CONTEXT, "e f"))
    ignored = [(1, 5, 0, 9.0), (0, 8, 0, 9.0), (2, 4, 0, 9.0)]
    counted = [(1, 6, 0, 2.0), (1, 7, 1, 2.0)]
    found = task.answers(logits_of(source, *ignored, *counted), source)
    assert found.texts == ["e f"] and found.scores.tolist() == [4.0]


def test_text_comes_from_the_characters(tmp_path):
    """Case, accents and punctuation as in the text, without white space around them."""
    context = "a  (É-j)\n g"
    task, source = task_of(tmp_path, question("1", context, "É-j"), context=context)
    assert TOKENIZER.tokens(source.read(np.array([0]))["tokens"][0])[4:9] == ["a", "[UNK]", "e", "[UNK]", "j"]
    assert task.answers(logits_of(source, (0, 6, 0, 1.0), (0, 8, 1, 1.0)), source).texts == ["É-j"]
    assert task.score(logits_of(source, (0, 6, 0, 1.0), (0, 8, 1, 1.0)), source) == {
        "span/exact_match": 1.0,
        "span/f1": 1.0,
    }


def test_no_answer(tmp_path):
    """Its score is the lowest of the windows; it is the answer where that is above the best span's by more than the
    threshold."""
    asked = [question("1", CONTEXT, "e f"), question("2", CONTEXT)]
    task, source = task_of(tmp_path, *asked, unanswerable=True)
    marks = [(w, 0, e, value) for w, value in enumerate([2.0, 1.5, 9.0, 3.0, 4.0, 5.0]) for e in (0, 1)]
    predictions = logits_of(source, *marks, (1, 6, 0, 2.0), (1, 7, 1, 3.0), (4, 6, 0, 5.0))
    found = task.answers(predictions, source)
    assert found.texts[0] == "e f" and found.scores.tolist() == [5.0, 5.0]
    assert found.null_odds.tolist() == [-2.0, 1.0]
    table = task.rows(predictions, source)
    assert [row["prediction"] for row in table] == ["e f", ""]
    assert table[1] == {
        "id": "2",
        "label": "",
        "prediction": "",
        "score": 5.0,
        "exact_match": 1.0,
        "f1": 1.0,
        "best_span": found.texts[1],
        "null_odds": 1.0,
    }
    for threshold, predicted in ((-2.0, 1), (-2.1, 0), (0.9, 1), (1.0, 2)):
        task, source = task_of(tmp_path, *asked, unanswerable=True, no_answer_threshold=threshold)
        assert sum(bool(row["prediction"]) for row in task.rows(predictions, source)) == predicted


def entry(text, start, end):
    return {"text": text, "start_logit": start, "end_logit": end}


def without_shares(found):
    return [{name: value for name, value in each.items() if name != "probability"} for each in found]


def test_n_best(tmp_path):
    """Different texts, each with the two logits of its best span, and probabilities that are those of the list; where
    there are fewer than asked for, all."""
    context = "a b a b c"
    task, source = task_of(tmp_path, question("q", context, "c"), context=context, max_answer_length=1)
    assert source.start.tolist() == [0]
    marks = [(0, 4 + place, 0, value) for place, value in enumerate([1.0, 3.0, 4.0, 2.0, -5.0])]
    marks += [(0, 4 + place, 1, 0.5) for place in range(4)]
    found = task.n_best(logits_of(source, *marks), source)
    assert list(found) == ["q"]
    assert without_shares(found["q"]) == [entry("a", 4.0, 0.5), entry("b", 3.0, 0.5), entry("c", -5.0, 0.0)]
    shares = np.exp([4.5, 3.5, -5.0])
    assert [each["probability"] for each in found["q"]] == pytest.approx(shares / shares.sum())
    assert without_shares(task.n_best(logits_of(source, *marks), source, 2)["q"]) == without_shares(found["q"])[:2]


def test_n_best_over_windows(tmp_path):
    """The logits are those of the window in which the first token has most context: e of window 1, not of 0 or 2."""
    task, source = task_of(tmp_path, question("1", CONTEXT, "e f"))
    ignored = [(0, 8, 0, 9.0), (2, 4, 0, 9.0), (2, 5, 1, 9.0)]
    predictions = logits_of(source, *ignored, (1, 6, 0, 2.0), (1, 7, 1, 3.0), (1, 6, 1, 1.5))
    found = task.n_best(predictions, source)["1"]
    assert without_shares(found[:2]) == [entry("e f", 2.0, 3.0), entry("e", 2.0, 1.5)]
    assert len(found) == 20 and len({each["text"] for each in found}) == 20
    assert found[0]["text"] == task.answers(predictions, source).texts[0]
    scores = [each["start_logit"] + each["end_logit"] for each in found]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(("null", "place"), [(6.0, 0), (3.0, 1), (-9.0, 2)])
def test_n_best_with_no_answer(tmp_path, null, place):
    """It has the logits of the window where it is lowest; it is one of so many by its score, or comes after them."""
    task, source = task_of(tmp_path, question("q", CONTEXT), unanswerable=True)
    nulls = [(w, 0, 0, value) for w, value in enumerate([9.0, null, 9.5])]
    predictions = logits_of(source, *nulls, (1, 0, 1, 1.0), (1, 6, 0, 2.0), (1, 7, 1, 3.0), (1, 6, 1, 1.5))
    texts = [entry("e f", 2.0, 3.0), entry("e", 2.0, 1.5)]
    texts.insert(place, entry("", null, 1.0))
    found = task.n_best(predictions, source, 2)["q"]
    assert without_shares(found) == (texts if place == 2 else texts[:2])
    assert sum(each["probability"] for each in found) == pytest.approx(1.0)


def test_score_with_unanswerable_questions(tmp_path):
    """Over all questions, over those with and without an answer, and with the best threshold: here 0 answers too much,
    and -3 is right for all. Nothing is said of a kind that is not there."""
    asked = [question("1", CONTEXT, "e f"), question("2", CONTEXT), question("3", CONTEXT)]
    task, source = task_of(tmp_path, *asked, unanswerable=True)
    best = [(3 * q + 1, p, e, 2.0) for q in range(3) for p, e in ((6, 0), (7, 1))]
    null = [(3 * q + w, 0, 0, value) for q, value in enumerate([1.0, 3.0, 6.0]) for w in range(3)]
    predictions = logits_of(source, *best, *null)
    found = task.score(predictions, source)
    assert found.keys() == set(task.metric_names)
    half = {"exact_match": 2 / 3, "f1": 2 / 3, "no_answer_exact_match": 0.5, "no_answer_f1": 0.5}
    full = {"has_answer_exact_match": 1.0, "has_answer_f1": 1.0, "best_exact_match": 1.0, "best_f1": 1.0}
    threshold = {"best_exact_match_threshold": -3.0, "best_f1_threshold": -3.0}
    assert found == pytest.approx({f"span/{k}": v for k, v in (half | full | threshold).items()})
    for index, kind in ((0, "no_answer"), (1, "has_answer")):
        task, source = task_of(tmp_path, asked[index], unanswerable=True)
        found = task.score(logits_of(source), source)
        assert found.keys() == set(task.metric_names) and f"span/{kind}_f1" not in found


def test_metrics_of_several_held_out_sets(tmp_path):
    """Those that every set has, whatever is missing in one: a best_metric must be found after each evaluation. Without
    unanswerable questions there is only one kind."""
    plain = squad(tmp_path / "plain.json", {"A": [(CONTEXT, [question("1", CONTEXT, "e f")])]})
    mixed = squad(tmp_path / "mixed.json", {"A": [(CONTEXT, [question("1", CONTEXT, "e"), question("2", CONTEXT)])]})
    for valid, kinds in (((mixed,), {"has", "no"}), ((plain, mixed), {"has"}), ((plain,), {"has"})):
        task = Answering(SquadFiles(mixed, valid, unanswerable=True))
        names = {name.split("/")[1] for name in task.metric_names}
        assert {name.split("_answer")[0] for name in names if "_answer" in name} == kinds
    assert Answering(SquadFiles(plain, (plain,))).metric_names == ("span/exact_match", "span/f1")


def test_baselines(tmp_path):
    """The first word, or nothing where that may be right; of windows, that none holds the answer."""
    task, source = task_of(tmp_path, question("1", CONTEXT, "a"), question("2", CONTEXT, "a b"))
    assert task.baselines(source, source) == pytest.approx(
        {"span/exact_match": 0.5, "span/f1": 0.5, "span/accuracy": 4 / 6}  # a is an article: nothing is left of it
    )
    task, source = task_of(tmp_path, question("1", CONTEXT, "e"), question("2", CONTEXT), unanswerable=True)
    assert task.baselines(source, source)["span/f1"] == 0.5


def test_preview(tmp_path):
    """How many questions and windows, and how many of these hold an answer."""
    task, source = task_of(tmp_path, question("1", CONTEXT, "e f"), question("2", CONTEXT), unanswerable=True)
    lines = task.preview(source, TOKENIZER)
    assert "2 questions (1 without an answer) in 6 windows, 33.3% of which hold the answer" in lines
    assert not any("in no window" in line for line in lines)
    task, source = task_of(tmp_path, question("1", CONTEXT, "a b c d e f"))
    assert "1 answers are in no window as a whole" in task.preview(source, TOKENIZER)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride 0: must be at least 1"),
        ({"max_answer_length": 0}, "max_answer_length 0"),
        ({"max_length": 67}, "max_length 67 leaves no room for a text beside a question of 64 tokens"),
    ],
)
def test_settings_that_make_no_windows(options, message):
    """Said before anything is read."""
    with pytest.raises(ValueError, match=message):
        Answering(SquadFiles("train.json"), **options)


def test_official_json(tmp_path):
    """The predictions file as the official script reads it: quotes, tabs and line breaks in answers survive."""
    rows = [
        {"id": "x", "label": "l", "prediction": "", "score": 1.5, "best_span": "a\t\"b\"\n'c' é", "null_odds": 0.25},
        {"id": "y", "label": "l", "prediction": '"7"', "score": 1.0, "best_span": '"7"', "null_odds": -1e-07},
    ]
    source, answers, odds = tmp_path / "predictions-valid.tsv", tmp_path / "answers.json", tmp_path / "odds.json"
    write_rows(source, rows)
    convert(source, answers, odds)
    assert json.loads(answers.read_text()) == {"x": "", "y": '"7"'}
    assert json.loads(odds.read_text()) == {"x": 0.25, "y": -1e-07}
    convert(source, answers, best_spans=True)
    assert json.loads(answers.read_text())["x"] == "a\t\"b\"\n'c' é"
    write_rows(source, [{"id": "x", "prediction": "a"}] * 2)
    with pytest.raises(ValueError, match="ids are not unique"):
        convert(source, answers)
    write_rows(source, [{"id": "x", "prediction": "a"}])
    with pytest.raises(ValueError, match="no field 'null_odds'; it has 'id', 'prediction'"):
        convert(source, answers, odds)


def test_n_best_of_what_is_no_such_run(monkeypatch):
    """A run of another task, a held-out set that it does not have, a list of nothing: said before it is evaluated."""

    def of(task):
        run = SimpleNamespace(experiment=SimpleNamespace(task=task), evaluations={"dev": None})
        monkeypatch.setattr(squad_predictions, "restore", lambda *_: (run, None, None))

    of("text")
    with pytest.raises(ValueError, match="runs/x is a run of str, not of questions"):
        squad_predictions.best_answers(Path("runs/x/predictions-dev.tsv"), 20)
    of(Answering(SquadFiles("train.json")))
    with pytest.raises(ValueError, match=r"predictions-valid\.tsv is no evaluation .* predictions-dev\.tsv"):
        squad_predictions.best_answers(Path("runs/x/predictions-valid.tsv"), 20)
    with pytest.raises(ValueError, match="n_best_size 0: must be at least 1"):
        squad_predictions.best_answers(Path("runs/x/predictions-dev.tsv"), 0)


def test_a_run(tmp_path):
    """From the files to the metrics of SQuAD 2.0, with windows and a ragged last batch. The answer is the letter b,
    where the text has one, which is soon learned; the predictions file agrees with the metrics, and the lists of the
    best answers, which are computed anew from the checkpoint, with the predictions file."""
    rng = np.random.default_rng(0)

    def articles(count):
        asked = []
        for i in range(count):
            letters = [str(letter) for letter in rng.permutation(list("cdefghij"))[: 8 if i % 3 else 4]]
            place = int(rng.integers(len(letters)))
            without, context = " ".join(letters), " ".join([*letters[:place], "b", *letters[place + 1 :]])
            asked.append((context, [question(f"{i}a", context, "b", text="j")]))
            asked.append((without, [question(f"{i}b", without, text="j")]))
        return {"A": asked}

    files = [squad(tmp_path / f"{name}.json", articles(count)) for name, count in (("train", 200), ("valid", 21))]
    start = random_model({}, tokenizer=TOKENIZER, vocab_size=TOKENIZER.vocab_size, max_length=16)
    start.save(tmp_path / "start")
    experiment = Experiment(
        task=Answering(SquadFiles(files[0], (files[1],), unanswerable=True), 10, 3, 2, name="tiny"),
        learner=Multitask(None, {"span": Span()}),
        optimizer=BertAdam(learning_rate=3e-3),
        init_from=tmp_path / "start",
        dropout=0.0,
        batch_size=32,
        eval_batch_size=16,
        epochs=3.0,
        best_metric="valid/span/best_f1",
    )
    found = train(experiment, tmp_path / "run")
    with open(tmp_path / "run/predictions-valid.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["id"] for row in rows] == [f"{i}{kind}" for i in range(21) for kind in "ab"]
    assert found["valid/span/exact_match"] == pytest.approx(
        np.mean([row["prediction"] == row["label"] for row in rows])
    )
    assert found["valid/span/best_f1"] >= found["valid/span/f1"] > 0.9
    assert all((row["prediction"] == "") == (float(row["null_odds"]) > 0) for row in rows)
    files = {name: tmp_path / f"{name}.json" for name in ("answers", "null_odds", "n_best")}
    convert(tmp_path / "run/predictions-valid.tsv", files["answers"], files["null_odds"], n_best=files["n_best"])
    _, null_odds, n_best = (json.loads(file.read_text()) for file in files.values())
    assert list(n_best) == [row["id"] for row in rows]
    for row in rows:
        best = n_best[row["id"]]
        scores = {each["text"]: each["start_logit"] + each["end_logit"] for each in best}
        first = next(text for text in scores if text)
        assert first == row["best_span"] and scores[first] == pytest.approx(float(row["score"]), abs=1e-4)
        assert scores[""] - scores[first] == pytest.approx(null_odds[row["id"]], abs=1e-4)
        assert sum(each["probability"] for each in best) == pytest.approx(1.0)
        assert len(best) <= 21 and {each["probability"] > 0 for each in best} == {True}
