"""SQuAD from files and TFDS, and its questions as windows; what is wrong in a file is named with its place."""

import gzip
import json
from collections.abc import Iterator

import numpy as np
import pytest

from bert_jax.data.squad import QuestionWindows, SquadFiles, read_questions
from bert_jax.text.tokenizer import load
from bert_jax.text.wordpiece import WordPiece

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", ".", "##b"]
TOKENIZER = WordPiece(PIECES)
IDS = {piece: i for i, piece in enumerate(PIECES)}


def question(name, context, *answers, text="j ?", **more):
    """One of SQuAD's; each answer is (text, start), or a text that stands where it is found first."""
    pairs = [(one, context.index(one)) if isinstance(one, str) else one for one in answers]
    return {"id": name, "question": text, "answers": [{"text": t, "answer_start": s} for t, s in pairs]} | more


def squad(path, articles):
    """A file of {title: [(context, questions), ...]}."""
    data = [
        {"title": title, "paragraphs": [{"context": context, "qas": qas} for context, qas in paragraphs]}
        for title, paragraphs in articles.items()
    ]
    text = json.dumps({"version": "x", "data": data})
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return str(path)


def simple(path, *questions, context="a b c."):
    return squad(path, {"A": [(context, questions)]})


def ids(text):
    return [IDS.get(piece, 1) for piece in text.split()]


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.json", "a.v1.json.gz"])
def test_reading(tmp_path, name):
    """All questions in order, with their context, answers and place; compressed or not."""
    qas = [question("1", "a b c.", "b", ("c", 4)), question("2", "a b c.", is_impossible=True)]
    path = squad(tmp_path / name, {"A": [("a b c.", qas)], "B": [("d", [question(3, "d", "d")])]})
    rows = read_questions(path)
    assert [row.fields["id"] for row in rows] == ["1", "2", "3"]
    assert rows[0].fields == {
        "id": "1",
        "title": "A",
        "question": "j ?",
        "context": "a b c.",
        "answers": [("b", 2), ("c", 4)],
        "impossible": False,
        "ambiguous": False,
    }
    assert rows[1].fields["impossible"] and rows[1].fields["answers"] == []
    assert rows[2].place == f"{path}, article 'B', paragraph 1, question 3"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "list where an object with 'data' is wanted"),
        ('{"version": 1}', "no field 'data'; it has 'version'"),
        ('{"data": [{"title": "T", "paragraphs": {}}]}', "article 1: field 'paragraphs' is dict"),
        ('{"data": [{"title": "T", "paragraphs": [{"qas": []}]}]}', "article 'T', paragraph 1: no field 'context'"),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": "7", "question": "b"}]}]}]}',
            "article 'article 1', paragraph 1, question 7: no field 'answers'",
        ),
        ('{"data": ["x"]}', "article 1: str where an object with 'paragraphs' is wanted"),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": "7", "answers": {"text": []}}]}]}]}',
            "question 7: no field 'answer_start'; it has 'text'",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": '
            '[{"id": "7", "answers": {"text": ["a"], "answer_start": []}}]}]}]}',
            "question 7: 1 answers, but 0 answer_start",
        ),
        ('{"data": []}', "no questions"),
    ],
)
def test_what_is_no_squad(tmp_path, content, message):
    """Each level of the file is checked, and the error says where."""
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError) as error:
        read_questions(path)
    assert str(error.value).startswith(str(path)) and message in str(error.value)


def test_files_that_are_not_there(tmp_path):
    """A missing file, and one of another kind."""
    with pytest.raises(FileNotFoundError, match=r"gone\.json: no such file"):
        read_questions(tmp_path / "gone.json")
    with pytest.raises(ValueError, match=r"a\.tsv: a SQuAD file is called \.json"):
        read_questions(tmp_path / "a.tsv")


CONTEXT = "a b c."


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (question("9", CONTEXT, ("b", 3)), r"the answer 'b' is not at character 3 of the context, where ' ' stands"),
        (question("9", CONTEXT, ("c.", -2)), ".*not at character -2"),
        (question("9", CONTEXT, ("c.d", 4)), r".*not at character 4 of the context, where 'c\.' stands"),
        (question("9", CONTEXT, "b", (" ", 1)), "an answer is empty"),
        (question("9", CONTEXT, "b", text=" "), "field 'question' is empty"),
        (question("9", CONTEXT, "b", text="\ud83d"), r"field 'question' is not Unicode: '\\ud83d'"),
        (question("9", CONTEXT), "it has no answer: --data.unanswerable is for data sets with such questions"),
        (question("9", CONTEXT, is_impossible=True), "it has no answer: --data.unanswerable"),
        (question("9", CONTEXT, "b", is_impossible=True), "is_impossible, but it has answers"),
        (question("9", CONTEXT, is_impossible=False), "it has no answer, and is_impossible is false"),
    ],
)
def test_bad_questions(tmp_path, bad, message):
    """An error with article, paragraph and question; or left out and counted."""
    path = simple(tmp_path / "a.json", question("1", CONTEXT, "a"), bad)
    with pytest.raises(ValueError, match=rf"a\.json, article 'A', paragraph 1, question 9: {message}"):
        _ = SquadFiles(path, (path,)).train_rows
    data = SquadFiles(path, (path,), skip_bad_rows=True)
    assert [row.fields["id"] for row in data.train_rows] == ["1"]
    assert len(data.valid_rows["valid"]) == 1
    assert f"1 of 2 questions of {path} are left out, the first: " in data.notes()[0]


def test_unanswerable_questions_are_asked_for(tmp_path):
    """Then they are questions as others; with `is_impossible` or without it."""
    path = simple(tmp_path / "a.json", question("1", CONTEXT), question("2", CONTEXT, is_impossible=True))
    rows = SquadFiles(path, (path,), unanswerable=True).train_rows
    assert [row.fields["impossible"] for row in rows] == [True, True]


# ---- splits ----------------------------------------------------------------------------------------------------------


def test_articles_are_not_divided(tmp_path):
    """Without held-out files whole articles are held out, and all questions are on one side."""
    articles = {f"T{i}": [(CONTEXT, [question(f"{i}-{j}", CONTEXT, "b") for j in range(i + 1)])] for i in range(10)}
    data = SquadFiles(squad(tmp_path / "a.json", articles), valid_share=0.3)
    titles = [{row.fields["title"] for row in rows} for rows in (data.train_rows, data.valid_rows["valid"])]
    assert len(titles[0]) == 7 and len(titles[1]) == 3 and not titles[0] & titles[1]
    assert len(data.train_rows) + len(data.valid_rows["valid"]) == 55
    with pytest.raises(ValueError, match="questions on one article cannot be split"):
        _ = SquadFiles(simple(tmp_path / "b.json", question("1", CONTEXT, "a"))).train_rows


def test_ambiguous_places_are_not_trained_on(tmp_path):
    """But evaluated on: the texts of the answers are known."""
    marked = question("2", CONTEXT, "b", answer_start_ambiguous=True)
    path = simple(tmp_path / "a.json", question("1", CONTEXT, "a"), marked)
    data = SquadFiles(path, (path,))
    assert [row.fields["id"] for row in data.train_rows] == ["1"]
    assert len(data.valid_rows["valid"]) == 2
    assert data.notes() == [
        f"1 of 2 questions of {path} are not trained on: the file marks them answer_start_ambiguous"
    ]
    assert len(SquadFiles(path, (path,), drop_ambiguous=False).train_rows) == 2
    only = simple(tmp_path / "b.json", marked)
    with pytest.raises(ValueError, match="every question is marked"):
        _ = SquadFiles(only, (only,)).train_rows


def test_limits_and_names(tmp_path):
    """Draws as in tables; several held-out files by their names."""
    paths = [simple(tmp_path / f"{n}.json", *(question(str(i), CONTEXT, "b") for i in range(20))) for n in "abc"]
    data = SquadFiles(f"{paths[0]}+{paths[1]}", (paths[1], paths[2]), train_limit=30, valid_limit=5)
    assert len(data.train_rows) == 30
    assert {name: len(rows) for name, rows in data.valid_rows.items()} == {"b": 5, "c": 5}
    with pytest.raises(ValueError, match=r"valid_limit 21: .* has only 20"):
        _ = SquadFiles(paths[0], (paths[1],), valid_limit=21).valid_rows
    with pytest.raises(ValueError, match="valid_share 1"):
        SquadFiles("a.json", valid_share=1.0)


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    """Two questions in the features that TFDS gives SQuAD 2.0, prepared from local values: no network."""
    import tensorflow_datasets as tfds

    class TinySquad(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            answer = {"text": tfds.features.Text(), "answer_start": np.int32}
            texts = {name: tfds.features.Text() for name in ("title", "context", "question")}
            more = {"id": np.str_, "is_impossible": np.bool_}
            answers = {"answers": tfds.features.Sequence(answer), "plausible_answers": tfds.features.Sequence(answer)}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(texts | more | answers))

        def _split_generators(self, dl_manager: object) -> dict:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict]]:
            shared = {"title": "A", "context": "é b c.", "question": "j?"}
            right = [{"text": "b", "answer_start": 2}, {"text": "c", "answer_start": 4}]
            yield 0, shared | {"id": "x", "answers": right, "plausible_answers": [], "is_impossible": False}
            yield 1, shared | {"id": "y", "answers": [], "plausible_answers": right, "is_impossible": True}

    folder = tmp_path_factory.mktemp("tfds")
    TinySquad(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_tfds(tfds_folder):
    """The same questions through the other door; plausible answers are none."""
    source = "tfds:tiny_squad@train"
    data = SquadFiles(source, (source,), unanswerable=True, tfds_dir=str(tfds_folder))
    rows = {row.fields["id"]: row.fields for row in data.train_rows}
    assert rows["x"]["answers"] == [("b", 2), ("c", 4)] and rows["x"]["context"] == "é b c."
    assert rows["y"]["answers"] == [] and rows["y"]["impossible"] and not rows["x"]["impossible"]
    windows = QuestionWindows(data.train_rows, TOKENIZER, 16, 8, 4)
    assert sorted(windows.targets["span"].tolist()) == [[0, 0], [5, 5]]


# ---- windows ---------------------------------------------------------------------------------------------------------


def windows_of(tmp_path, *questions, context, max_length, stride, max_question_length=8):
    path = simple(tmp_path / "a.json", *questions, context=context)
    rows = SquadFiles(path, (path,), unanswerable=True).train_rows
    return QuestionWindows(rows, TOKENIZER, max_length, stride, max_question_length)


def test_windows_of_a_page(tmp_path):
    """Row by row: the question and a part of the text each; the span only where the whole answer is."""
    context = "a b c d e f. g"
    found = windows_of(
        tmp_path, question("1", context, "e f"), question("2", context), context=context, max_length=10, stride=2
    )
    rows = found.read(np.arange(len(found)))
    assert rows["tokens"].tolist() == 2 * [
        ids("[CLS] j ? [SEP] a b c d e [SEP]"),
        ids("[CLS] j ? [SEP] c d e f . [SEP]"),
        ids("[CLS] j ? [SEP] e f . g [SEP] [PAD]"),
    ]
    assert rows["segments"][2].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 0]
    assert rows["span"].tolist() == [[0, 0], [6, 7], [4, 5], *[[0, 0]] * 3]
    assert rows["lengths"].tolist() == [10, 10, 9] * 2
    assert found.question.tolist() == [0, 0, 0, 1, 1, 1] and found.start.tolist() == [0, 2, 4] * 2
    assert found.begin.tolist() == [4] * 6 and found.cut_questions == found.loose_answers == 0


def test_answers_that_no_window_holds(tmp_path):
    """Longer than a window, or between two that do not overlap: counted, since they are trained on as none."""
    context = "a b c d e f. g"
    asked = [question(str(i), context, *answers) for i, answers in enumerate((["b c d e f"], ["e f"], ["c"], []))]
    found = windows_of(tmp_path, *asked, context=context, max_length=9, stride=4)
    assert found.start.tolist()[:2] == [0, 4] and found.lost_answers == 1
    found = windows_of(tmp_path, question("1", context, "d e"), context=context, max_length=9, stride=4)
    assert found.lost_answers == 1 and not found.targets["span"].any()


def test_an_answer_may_begin_with_white_space(tmp_path):
    """Which is no part of its tokens, nor counted as one of them."""
    context = "a  b c."
    asked = [question(str(i), context, answer) for i, answer in enumerate([" b", "  b c", "b "])]
    found = windows_of(tmp_path, *asked, context=context, max_length=16, stride=8)
    assert found.targets["span"].tolist() == [[5, 5], [5, 6], [5, 5]] and found.loose_answers == 0


def test_long_questions_lose_their_end(tmp_path):
    """And are counted."""
    asked = question("1", "b", "b", text="a c d e")
    found = windows_of(tmp_path, asked, context="b", max_length=8, stride=2, max_question_length=2)
    assert found.read(np.array([0]))["tokens"].tolist() == [ids("[CLS] a c [SEP] b [SEP] [PAD] [PAD]")]
    assert found.cut_questions == 1


def test_an_answer_inside_of_a_token(tmp_path):
    """The token is taken whole, and the answer counted; the pieces of a word can be told apart."""
    context = "ab ij c"  # a ##b, [UNK], c
    asked = [question(str(i), context, answer) for i, answer in enumerate(["a", "b", "i", " ij"])]
    found = windows_of(tmp_path, *asked, context=context, max_length=16, stride=8)
    assert found.targets["span"].tolist() == [[4, 4], [5, 5], [6, 6], [6, 6]]
    assert found.loose_answers == 1


def test_what_has_no_tokens(tmp_path):
    """Nothing can be found there: named, not trained on as unanswerable."""
    with pytest.raises(ValueError, match=r"question 1: the answer .* has no tokens"):
        windows_of(tmp_path, question("1", "a \u200b b", "\u200b"), context="a \u200b b", max_length=16, stride=8)
    with pytest.raises(ValueError, match="question 1: the context has no tokens"):
        windows_of(tmp_path, question("1", "\u200b"), context="\u200b", max_length=16, stride=8)


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_real_answers_are_in_a_window(shared_data, version):
    """Of the real questions: each answer that may be trained on is the span of some window, whose characters are its
    own, but for the few that begin or end inside of a token."""
    tokenizer = load(shared_data / "vocab/bert-base-cased")
    path = str(shared_data / f"squad/dev-v{version}.reconstructed.json.gz")
    data = SquadFiles(path, (path,), unanswerable=version == "2.0")
    assert len(data.valid_rows["valid"]) == {"1.1": 10570, "2.0": 11873}[version]
    found = QuestionWindows(data.train_rows, tokenizer, 384, 128, 64)
    decoded = [set() for _ in found.rows]
    spans = found.targets["span"] + (found.start - found.begin)[:, None]
    for number, inside, (first, last) in zip(found.question, found.targets["span"][:, 1], spans.tolist(), strict=True):
        if inside:
            decoded[number].add(found.text(found.rows[number], found.offsets[number], first, last))
    wanted = [{row.fields["answers"][0][0].strip()} if row.fields["answers"] else set() for row in found.rows]
    wrong = sum(a != b for a, b in zip(decoded, wanted, strict=True))
    assert wrong == found.loose_answers <= 20
