"""Tagging of files: which tags there are, what is scored, and that it does not depend on how sentences lie in rows."""

import numpy as np
import pytest

from bert_jax.data.conll import TaggedFiles
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.tag import Tag
from bert_jax.tasks.tagging import Tagging
from bert_jax.text.wordpiece import WordPiece

TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef", *(f"##{c}" for c in "abcdef")])
TRAIN = ["a/O bc/B-PER d/I-PER e/O f/O", "b/B-LOC a/O", "a/O"]
VALID = ["ab/O c/B-PER d/I-PER e/O ab/B-LOC f/I-LOC", "f/O a/O", "c/B-PER"]


def write(path, sentences):
    lines = ["-DOCSTART- O", ""]
    for sentence in sentences:
        lines += [*(word.replace("/", " ") for word in sentence.split()), ""]
    path.write_text("\n".join(lines))
    return str(path)


def task_of(tmp_path, train=TRAIN, valid=VALID, max_length=16, document_context=False, surface_f1=False, **options):
    """A task over CoNLL files with these sentences of word/tag."""
    data = TaggedFiles(write(tmp_path / "train.conll", train), (write(tmp_path / "valid.conll", valid),), **options)
    return Tagging(data, max_length, document_context, surface_f1)


def answers(task, source, tags):
    """Predictions of a tag for each word, given sentence by sentence; where nothing is scored they are noise."""
    rng = np.random.default_rng(0)
    found = rng.random((*source.targets["tags"].shape, len(task.classes)), np.float32)
    numbers = [task.classes.index(tag) for sentence in tags for tag in sentence.split()]
    found[source.targets["tags"] >= 0] = np.eye(len(task.classes))[numbers]
    return {"tag/probabilities": found}


def test_classes(tmp_path):
    """Of entities O and every letter of each type of training, though no I-LOC is there; of plain tags those that are
    there."""
    assert task_of(tmp_path).classes == ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
    assert task_of(tmp_path, scheme="plain").classes == ("B-LOC", "B-PER", "I-PER", "O")
    iobes = task_of(tmp_path, ["a/S-X b/O"], scheme="iobes")
    assert iobes.classes == ("B-X", "E-X", "I-X", "O", "S-X")
    assert task_of(tmp_path, ["a/I-X"], scheme="iob1").classes == ("B-X", "I-X", "O")


def test_sources(tmp_path):
    """Rows of training and held-out sentences with the numbers of the training tags."""
    task = task_of(tmp_path)
    assert task.tokenizer() is None  # the checkpoint's is used
    train, evaluations = task.train(TOKENIZER), task.evaluations(TOKENIZER)
    assert len(train) == 3 and list(evaluations) == ["valid"]
    assert train.targets["tags"][0].tolist() == [-1, 4, 1, -1, 3, 4, 4] + 9 * [-1]
    assert evaluations["valid"].targets["tags"][0, :9].tolist() == [-1, 4, -1, 1, 3, 4, 0, -1, 2]


def test_a_tag_that_is_none_names_its_file_and_line(tmp_path):
    """A held-out tag that training does not have is an error, or its sentence is left out, and preview says so."""
    valid = ["a/O", "a/O b/B-ORG"]
    with pytest.raises(ValueError, match=r"valid\.conll, line 6: the tag 'B-ORG' of 'b' is none of .*train\.conll: B"):
        task_of(tmp_path, valid=valid).evaluations(TOKENIZER)
    task = task_of(tmp_path, valid=valid, skip_bad_rows=True)
    assert len(task.evaluations(TOKENIZER)["valid"]) == 1
    assert task.preview(task.train(TOKENIZER), TOKENIZER)[-1].startswith("1 of 2 sentences of valid are left out, the")


@pytest.mark.parametrize("seed", range(5))
def test_a_tag_of_sentences_that_are_held_out_of_training(tmp_path, seed):
    """Is one of the classes: one file has one set of tags, whichever of its documents are drawn."""
    path = tmp_path / "a.conll"
    path.write_text("".join(f"-DOCSTART- O\n\na O\nb B-{kind}\n\n" for kind in "XXRXXXXX"))
    task = Tagging(TaggedFiles(str(path), draw_seed=seed, valid_share=0.5))
    assert task.classes == ("B-R", "B-X", "I-R", "I-X", "O")
    assert len(task.train(TOKENIZER)) + len(task.evaluations(TOKENIZER)["valid"]) == 8


def test_the_head_gets_its_number_of_classes(tmp_path):
    """0 and the labels are filled in, nothing else; a number that the data contradicts, or one tag only, an error."""
    task = task_of(tmp_path)
    head = task.prepare(Multitask(None, {"tag": Tag(dropout=0.3)})).objectives["tag"]
    assert head == Tag(num_classes=5, dropout=0.3, labels=task.classes)
    with pytest.raises(ValueError, match=r"num_classes 2, but .*train\.conll has the 5 tags B-LOC, B-PER, "):
        task.prepare(Multitask(None, {"tag": Tag(2)}))
    with pytest.raises(ValueError, match="the task needs a head called 'tag'; the learner has ner"):
        task.prepare(Multitask(None, {"ner": Tag()}))
    with pytest.raises(ValueError, match=r"train\.conll: every word has the tag 'X'; two are needed"):
        task_of(tmp_path, ["a/X"], scheme="plain").prepare(Multitask(None, {"tag": Tag()}))


@pytest.mark.parametrize("document_context", [False, True])
@pytest.mark.parametrize("max_length", [4, 5, 16])
def test_scores_and_rows_do_not_depend_on_how_sentences_are_dealt_out(tmp_path, max_length, document_context):
    """The same answers for the words give the same F1, by hand, and the same predictions file: an entity across two
    rows is one entity, and context is not scored."""
    task = task_of(tmp_path, max_length=max_length, document_context=document_context, surface_f1=True)
    source = task.evaluations(TOKENIZER)["valid"]
    assert (len(source) > 3) == (max_length < 16)
    found = ["O B-PER I-PER O B-LOC O", "O O", "B-PER"]
    # Right: c d and c. Found: those and ab. There: those and ab f. Different ones: the same.
    scores = task.score(answers(task, source, found), source)
    third = pytest.approx(2 / 3)
    assert scores == {"tag/precision": third, "tag/recall": third, "tag/f1": third, "tag/surface_f1": third}
    assert tuple(scores) == task.metric_names
    table = task.rows(answers(task, source, found), source)
    assert [list(row.values()) for row in table] == [
        [0, "ab", "O", "O"], [0, "c", "B-PER", "B-PER"], [0, "d", "I-PER", "I-PER"], [0, "e", "O", "O"],
        [0, "ab", "B-LOC", "B-LOC"], [0, "f", "I-LOC", "O"], [1, "f", "O", "O"], [1, "a", "O", "O"],
        [2, "c", "B-PER", "B-PER"],
    ]  # fmt: skip
    assert list(table[0]) == ["sentence", "word", "tag", "prediction"]
    gold = [" ".join(sentence.tags) for sentence in source.sentences]
    assert set(task.score(answers(task, source, gold), source).values()) == {1.0}


def test_plain_tags_have_no_entities(tmp_path):
    """Their accuracy is the head's; F1 over entities cannot be asked for."""
    task = task_of(tmp_path, scheme="plain", valid=["a/O b/B-PER"])
    source = task.evaluations(TOKENIZER)["valid"]
    assert task.metric_names == () and task.score(answers(task, source, ["O O"]), source) == {}
    assert task.baselines(task.train(TOKENIZER), source) == {"tag/accuracy": 0.5}
    with pytest.raises(ValueError, match="surface_f1 is of entities"):
        task_of(tmp_path, scheme="plain", surface_f1=True)


def test_baselines(tmp_path):
    """The most frequent tag of training, over words and not over tokens; no entity is found without looking."""
    task = task_of(tmp_path)
    baselines = task.baselines(task.train(TOKENIZER), task.evaluations(TOKENIZER)["valid"])
    assert baselines == {"tag/accuracy": 4 / 9, "tag/f1": 0.0}
    source = task.evaluations(TOKENIZER)["valid"]
    assert task.score(answers(task, source, ["O O O O O O", "O O", "O"]), source)["tag/f1"] == baselines["tag/f1"]


def test_document_context_needs_documents(tmp_path):
    """A file that marks none would be read without context, silently."""
    path = tmp_path / "a.conll"
    path.write_text("a O\n\nb B-X\n")
    task = Tagging(TaggedFiles(str(path), (str(path),)), document_context=True)
    with pytest.raises(ValueError, match=r"document_context: .*a\.conll marks no documents \(-DOCSTART- in CoNLL"):
        task.train(TOKENIZER)


def test_preview(tmp_path):
    """Rows with the tags at the tokens that have them, how many sentences are dealt out, the balance of the tags, and
    that BIO may be IOB1."""
    task = task_of(tmp_path, ["abc/O b/I-X c/I-X", "d/B-X", "e/O"], ["a/O"], max_length=6)
    lines = task.preview(task.train(TOKENIZER), TOKENIZER)
    assert lines[:3] == [
        "example 0: [CLS] a/O ##b ##c b/I-X [SEP]", "example 1: [CLS] c/I-X [SEP]", "example 2: [CLS] d/B-X [SEP]"
    ]  # fmt: skip
    assert lines[3].startswith("1 of 3 sentences do not fit 6 tokens and are dealt out over several rows, every word")
    assert lines[3].endswith("4 rows, mean length 3.8")
    assert lines[4:] == [
        "5 words, 3 tags: I-X 40.0%, O 40.0%, B-X 20.0%",
        "2 entities",
        "an I- begins an entity in 1 sentences: if this is IOB1, --data.scheme iob1",
    ]


@pytest.mark.parametrize("max_length", [16, 128])
def test_real_files(shared_data, max_length):
    """WNUT-17: gold against gold is 1.0 in both metrics, and all O is 0, whether or not sentences are dealt out."""
    folder = shared_data / "wnut17"
    data = TaggedFiles(str(folder / "wnut17train.conll"), (str(folder / "emerging.dev.conll"),))
    task = Tagging(data, max_length, surface_f1=True)
    letters = [chr(i) for i in range(33, 127)]
    tokenizer = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)])
    source = task.evaluations(tokenizer)["valid"]
    gold = [" ".join(sentence.tags) for sentence in source.sentences]
    assert sum(len(tags.split()) for tags in gold) == 15733
    assert set(task.score(answers(task, source, gold), source).values()) == {1.0}
    nothing = [" ".join("O" for _ in sentence.tags) for sentence in source.sentences]
    assert set(task.score(answers(task, source, nothing), source).values()) == {0.0}
