import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from bert_jax.data import workers
from bert_jax.data.card import card_table, find_warnings
from bert_jax.data.corpus import Corpus, CorpusConfig, build_corpus
from bert_jax.data.documents import Document, TextFiles
from bert_jax.text.wordpiece import WordPiece
from tools import prepare_corpus

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"w{i}" for i in range(50)]
TOKENIZER = WordPiece([*SPECIALS, ".", *WORDS])


def documents(count: int = 40, seed: int = 0) -> list[Document]:
    """Documents of two paragraphs, several sentences in each, of random known words."""
    rng = np.random.default_rng(seed)

    def paragraph() -> str:
        return " ".join(f"W{' '.join(rng.choice(WORDS, 9))[1:]}." for _ in range(rng.integers(2, 9)))

    return [Document([paragraph(), paragraph()]) for _ in range(count)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


SMALL = CorpusConfig(max_seq_length=32, dupe_factor=3, valid_fraction=0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small corpus with both splits."""
    output = tmp_path_factory.mktemp("corpora") / "corpus"
    build_corpus(documents(), TOKENIZER, output, SMALL, workers=1)
    return output


def test_two_workers_and_one_give_the_same_bytes(folder, tmp_path, monkeypatch):
    """The result depends on the input and the seed only."""
    monkeypatch.setattr("bert_jax.data.stages.CHUNK_CHARACTERS", 2000)  # several chunks in flight
    build_corpus(iter(documents()), TOKENIZER, tmp_path / "two", SMALL, workers=2)
    assert contents(tmp_path / "two") == contents(folder)


def test_another_seed_gives_other_instances(folder, tmp_path):
    """The seed reaches the held-out split and the instances."""
    other = CorpusConfig(max_seq_length=32, dupe_factor=3, valid_fraction=0.2, seed=1)
    card = build_corpus(documents(), TOKENIZER, tmp_path / "other", other, workers=1)
    assert card["splits"]["train"]["tokens"] != Corpus(folder).card["splits"]["train"]["tokens"]


def test_batches_have_the_contracted_arrays(folder):
    """Padding, segments, lengths and labels of a whole batch, in the order that was asked for, repeats included."""
    corpus = Corpus(folder)
    batch = corpus.read(np.array([5, 0, 5]))
    assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
        "tokens": ("int32", (3, 32)),
        "segments": ("int32", (3, 32)),
        "lengths": ("int32", (3,)),
        "pair_label": ("int32", (3,)),
        "example": ("uint32", (3,)),
    }
    assert batch["example"].tolist() == [5, 0, 5]
    assert (batch["tokens"][0] == batch["tokens"][2]).all()
    for tokens, segments, length in zip(batch["tokens"], batch["segments"], batch["lengths"], strict=True):
        separators = np.flatnonzero(tokens == TOKENIZER.sep_id)
        assert tokens[0] == TOKENIZER.cls_id and len(separators) == 2 and separators[1] == length - 1
        assert (tokens[:length] != TOKENIZER.pad_id).all() and (tokens[length:] == TOKENIZER.pad_id).all()
        first = separators[0] + 1
        assert segments.tolist() == [0] * first + [1] * (length - first) + [0] * (32 - length)


def test_every_document_is_in_one_split_only(folder):
    """Held out by document: no sentence pair of the valid split shares text with training, random partners included."""
    found = {}
    for split in ("train", "valid"):
        corpus = Corpus(folder, split)
        tokens = corpus.read(np.arange(len(corpus)))["tokens"]
        found[split] = {window for row in tokens.tolist() for window in zip(*(row[i:] for i in range(6)), strict=False)}
    special = {TOKENIZER.pad_id, TOKENIZER.cls_id, TOKENIZER.sep_id}
    shared = {window for window in found["train"] & found["valid"] if not special.intersection(window)}
    assert not shared and found["valid"]


def test_labels_tell_whether_b_follows_a(tmp_path):
    """Segment B goes on where A ends exactly where the label is 0; 1 is a random next."""
    ordered = [Document(WORDS[:24], True), Document(WORDS[26:], True)]  # sentences of one word: nothing is truncated
    build_corpus(ordered, TOKENIZER, tmp_path / "c", CorpusConfig(11, 20), workers=1)
    corpus = Corpus(tmp_path / "c")
    batch = corpus.read(np.arange(len(corpus)))
    separators, rows = (batch["tokens"] == TOKENIZER.sep_id).argmax(axis=1), np.arange(len(corpus))
    follows = batch["tokens"][rows, separators + 1] == batch["tokens"][rows, separators - 1] + 1
    assert (follows == (batch["pair_label"] == 0)).all() and 0 < follows.mean() < 1


def test_card_counts_what_was_written(folder):
    """Documents, sentences, tokens and label share of the card agree with the input and the records."""
    card = Corpus(folder).card
    train, valid = card["splits"]["train"], card["splits"]["valid"]
    assert train["documents"] + valid["documents"] == 40 and 2 <= valid["documents"] <= 16
    words = sum(len(paragraph.split()) for document in documents() for paragraph in document.paragraphs)
    sentences = sum(paragraph.count(".") for document in documents() for paragraph in document.paragraphs)
    assert train["sentences"] + valid["sentences"] == sentences
    assert train["tokens"] + valid["tokens"] == words + sentences
    assert train["unknown"] == 0 and card["dtype"] == "uint16" and card["warnings"] == []
    corpus = Corpus(folder)
    batch = corpus.read(np.arange(len(corpus)))
    assert train["instances"] == len(corpus) == sum(shard["instances"] for shard in train["shards"])
    assert train["random_next"] == pytest.approx(batch["pair_label"].mean())
    assert train["mean_length"] == pytest.approx(batch["lengths"].mean())
    assert train["padding"] == pytest.approx((batch["tokens"] == TOKENIZER.pad_id).mean())


def test_saved_tokenizer_comes_back(folder):
    """The corpus carries the tokenizer it was made with."""
    assert Corpus(folder).tokenizer().fingerprint == TOKENIZER.fingerprint == Corpus(folder).card["fingerprint"]


def test_many_shards_read_as_one(folder, tmp_path, monkeypatch):
    """Shards divide the documents evenly; batches over several of them are in order; indices run through all."""
    monkeypatch.setattr(workers, "SHARD_TOKENS", 2000)
    monkeypatch.setattr(workers, "RELEASE_EVERY", 7)  # giving pages back changes nothing
    card = build_corpus(documents(), TOKENIZER, tmp_path / "c", SMALL, workers=1)
    shards = card["splits"]["train"]["shards"]
    assert len(shards) > 5 and shards[0]["file"] == f"train-00000-of-{len(shards):05d}.array_record"
    assert max(s["instances"] for s in shards) < 3 * min(s["instances"] for s in shards)
    many, one = Corpus(tmp_path / "c"), Corpus(folder)
    assert len(many) == len(one)
    order = np.random.default_rng(0).permutation(len(many))
    shuffled, straight = many.read(order), many.read(np.arange(len(many)))
    assert all((shuffled[key] == straight[key][order]).all() for key in straight)
    rows = {corpus: np.unique(corpus.read(np.arange(len(one)))["tokens"], axis=0) for corpus in (many, one)}
    assert np.array_equal(rows[many], rows[one])  # how the documents are divided changes no instance


def test_corpus_pickles_and_reads_from_threads(folder):
    """Data workers may be processes or threads."""
    corpus = Corpus(folder, "valid")
    parts = np.array_split(np.random.default_rng(0).permutation(len(corpus)), 20)
    expected = [corpus.read(part)["tokens"] for part in parts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda part: pickle.loads(pickle.dumps(corpus)).read(part)["tokens"], parts))
        again = list(pool.map(lambda part: corpus.read(part)["tokens"], parts))
    assert all((a == b).all() and (a == c).all() for a, b, c in zip(expected, found, again, strict=True))


def test_large_vocabulary_is_stored_in_32_bits(tmp_path):
    """More than 65,536 pieces do not fit in uint16; ids beyond it survive the round trip."""
    tokenizer = WordPiece([*SPECIALS, *(f"v{i}" for i in range(70_000))])
    text = [Document([f"v{69_000 + 10 * d + s} v{s}" for s in range(8)], True) for d in range(4)]
    card = build_corpus(text, tokenizer, tmp_path / "c", CorpusConfig(16, 1, 0.0), workers=1)
    corpus = Corpus(tmp_path / "c")
    batch = corpus.read(np.arange(len(corpus)))
    assert card["dtype"] == "uint32" and batch["tokens"].max() > 69_000
    assert (batch["tokens"][:, 0] == tokenizer.cls_id).all() and set(batch["pair_label"]) <= {0, 1}
    assert "v69000" in tokenizer.tokens(np.unique(batch["tokens"]))


def test_sentences_without_tokens_and_empty_documents_are_dropped(tmp_path):
    """As the original drops them (199-205): a control character alone has no token."""
    text = [Document(["w1 w2.", "\u200b", "w3."], True), Document(["\u200b"], True), Document([]), "w4. w5.\n\nw6."]
    card = build_corpus(text, TOKENIZER, tmp_path / "c", CorpusConfig(16, 1), workers=1)
    assert (card["splits"]["train"]["documents"], card["splits"]["train"]["sentences"]) == (2, 5)


@pytest.mark.parametrize(
    ("text", "tokenizer", "warning"),
    [
        ([Document(["w1 w2."] * 9, True)], TOKENIZER, "a single document"),
        ([Document(["w1 w2."], True)] * 9, TOKENIZER, "100% of the documents are one sentence"),
        ([Document(["w1 w2."], True)] * 9, TOKENIZER, "all NSP labels are equal"),
        ([Document(["Привет мир."] * 9, True)] * 9, TOKENIZER, r"\d\d\.\d% of the tokens are \[UNK\]"),
    ],
)
def test_card_warns_of_suspicious_input(tmp_path, text, tokenizer, warning):
    """A blank line after every sentence, a corpus in one file and a wrong vocabulary are noticed."""
    card = build_corpus(text, tokenizer, tmp_path / "c", CorpusConfig(16, 2, 0.0), workers=1)
    with pytest.raises(AssertionError, match=warning):  # pytest's way to match one of several
        raise AssertionError("\n".join(card["warnings"]))
    assert json.loads((tmp_path / "c/card.json").read_text()) == card
    card_table(card)


def test_held_out_files_are_a_split_of_their_own(tmp_path):
    """`valid` documents make the valid split, all of them."""
    card = build_corpus(
        documents(5), TOKENIZER, tmp_path / "c", CorpusConfig(32, 1), valid=documents(3, seed=9), workers=1
    )
    assert {split: card["splits"][split]["documents"] for split in card["splits"]} == {"train": 5, "valid": 3}
    assert find_warnings("valid", card["splits"]["valid"]) == []


def test_bad_input_leaves_nothing_behind(tmp_path):
    """An error in the middle of the text removes all temporary files and makes no output."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.txt").write_bytes(b"fine.\n\nbad \xff byte.\n")
    with pytest.raises(ValueError, match="byte 0xff at byte offset 11"):
        build_corpus(TextFiles([tmp_path / "in/bad.txt"]), TOKENIZER, tmp_path / "c", SMALL, workers=1)
    assert os.listdir(tmp_path) == ["in"]


def test_existing_output_is_never_overwritten(folder):
    """Whatever is there stays as it is."""
    before = contents(folder)
    with pytest.raises(FileExistsError, match="is not overwritten"):
        build_corpus(documents(3), TOKENIZER, folder, SMALL, workers=1)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_seq_length": 4}, "max_seq_length 4"),
        ({"max_seq_length": 1 << 16}, "max_seq_length 65536"),
        ({"dupe_factor": 0}, "dupe_factor 0"),
        ({"short_seq_prob": 1.5}, "short_seq_prob 1.5"),
        ({"valid_fraction": 1.0}, "valid_fraction 1.0"),
    ],
)
def test_settings_are_checked(settings, message):
    """Impossible settings fail before any text is read."""
    with pytest.raises(ValueError, match=message):
        CorpusConfig(**settings)


def test_splits_must_have_text_and_be_disjoint(tmp_path):
    """An empty split, two ways to hold out, and held-out text that is training text are errors."""
    with pytest.raises(ValueError, match="held-out split is empty"):
        build_corpus(documents(3), TOKENIZER, tmp_path / "c", CorpusConfig(32, 1, valid_fraction=1e-9), workers=1)
    with pytest.raises(ValueError, match="training split has no text"):
        build_corpus([], TOKENIZER, tmp_path / "c", CorpusConfig(32, 1), workers=1)
    with pytest.raises(ValueError, match="both given"):
        build_corpus(documents(3), TOKENIZER, tmp_path / "c", SMALL, valid=documents(3), workers=1)
    (tmp_path / "a.txt").write_text("w1. w2.")
    (tmp_path / "b.txt").write_text("w1. w2.")
    train, valid = TextFiles([tmp_path / "a.txt"]), TextFiles([tmp_path / "b.txt"])
    inputs = {"train": train.describe(), "valid": valid.describe()}
    with pytest.raises(ValueError, match=r"b\.txt has the same content as training file .*a\.txt"):
        build_corpus(train, TOKENIZER, tmp_path / "c", CorpusConfig(32, 1), valid=valid, inputs=inputs, workers=1)
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]


def test_lengths_are_those_of_the_records(folder, tmp_path):
    """They are known without the records, in the order asked for; of an older corpus the records tell them."""
    for name, content in contents(folder).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    card = json.loads((tmp_path / "card.json").read_text())
    for split in card["splits"].values():
        (tmp_path / split.pop("lengths")).unlink()
    (tmp_path / "card.json").write_text(json.dumps(card))
    for split in ("train", "valid"):
        corpus, older = Corpus(folder, split), Corpus(tmp_path, split)
        order = np.random.default_rng(0).integers(len(corpus), size=100)
        assert corpus.lengths_of(order).dtype == np.int32
        assert corpus.lengths_of(order).tolist() == corpus.read(order)["lengths"].tolist()
        assert older.lengths_of(order).tolist() == corpus.lengths_of(order).tolist()
        assert pickle.loads(pickle.dumps(corpus)).lengths_of(order).tolist() == corpus.lengths_of(order).tolist()
    with pytest.raises(IndexError, match="valid has 0 to"):
        corpus.lengths_of(np.array([len(corpus)]))


def test_opening_what_is_no_corpus(folder, tmp_path):
    """Not a corpus folder, a missing split, a missing shard, an index outside: each is named."""
    with pytest.raises(FileNotFoundError, match="not a finished corpus folder"):
        Corpus(tmp_path)
    with pytest.raises(ValueError, match="no split 'test', only train, valid"):
        Corpus(folder, "test")
    with pytest.raises(IndexError, match="train has 0 to"):
        Corpus(folder).read(np.array([0, len(Corpus(folder))]))
    (tmp_path / "card.json").write_bytes((folder / "card.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"train-00000-of-00001\.array_record is missing"):
        Corpus(tmp_path)


ENDLESS = """
import multiprocessing, sys, time
from bert_jax.data.corpus import build_corpus
from bert_jax.text.tokenizer import load

def endless():
    while True:
        time.sleep(0.01)
        yield "w1 w2 w3. " * 3000

def report(stage, done, total):
    print(*[process.pid for process in multiprocessing.active_children()], flush=True)

if __name__ == "__main__":
    build_corpus(endless(), load(sys.argv[1]), sys.argv[2], workers=2, progress=report)
"""


def test_killed_build_leaves_no_corpus_and_no_processes(tmp_path):
    """kill -9 in the middle: no output folder, nothing with a card, and the workers end by themselves."""
    TOKENIZER.save(tmp_path / "tokenizer")
    (tmp_path / "endless.py").write_text(ENDLESS)
    command = [sys.executable, str(tmp_path / "endless.py"), str(tmp_path / "tokenizer"), str(tmp_path / "corpus")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as build:
        children = [psutil.Process(int(pid)) for pid in build.stdout.readline().split()]
        build.send_signal(signal.SIGKILL)
    assert len(children) == 2
    assert not psutil.wait_procs(children, timeout=20)[1]
    assert not (tmp_path / "corpus").exists() and not list(tmp_path.rglob("card.json"))
    build_corpus(documents(3), TOKENIZER, tmp_path / "corpus", CorpusConfig(32, 1), workers=1)  # and it can be repeated
    assert len(Corpus(tmp_path / "corpus")) > 0


def test_memory_is_bounded_by_chunks_in_flight(tmp_path, monkeypatch):
    """Documents are taken from the input only as fast as workers finish them."""
    drawn, tokenized, ahead = 0, 0, []
    size = 2000

    def counted() -> Iterator[str]:
        nonlocal drawn
        for _ in range(200):
            drawn += 1
            yield "w1 w2. " * (size // 7 + 1)

    def watch(stage: str, done: int, total: int | None) -> None:
        nonlocal tokenized
        tokenized = done if stage == "reading" else tokenized
        ahead.append(drawn - tokenized // size)

    monkeypatch.setattr("bert_jax.data.stages.CHUNK_CHARACTERS", size)
    build_corpus(counted(), TOKENIZER, tmp_path / "c", CorpusConfig(32, 1), workers=2, progress=watch)
    assert drawn == 200 and max(ahead) <= 2 * 2 + 1


def run_tool(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["prepare_corpus.py", *map(str, arguments)])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return prepare_corpus.main()
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_tool_builds_and_shows_the_card(tmp_path, monkeypatch, capsys):
    """The command line end to end: files, held-out files, settings, the table at the end."""
    TOKENIZER.save(tmp_path / "tokenizer")
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"W1 w2 {name[0]}. W3 w4. W5.\n\nW6 w7. W8 w9.\n")
    arguments = ["--tokenizer", tmp_path / "tokenizer", "--output", tmp_path / "c", "--workers", "1"]
    settings = ["--max-seq-length", "16", "--dupe-factor", "2", "--seed", "3"]
    assert run_tool(monkeypatch, tmp_path / "a.txt", "--valid", tmp_path / "b.txt", *arguments, *settings) == 0
    card = Corpus(tmp_path / "c", "valid").card
    assert (card["max_seq_length"], card["dupe_factor"], card["seed"]) == (16, 2, 3)
    assert card["inputs"]["train"][0]["path"].endswith("a.txt") and len(card["inputs"]["train"][0]["sha256"]) == 64
    shown = capsys.readouterr().out
    assert "random next" in shown and "warning: train: a single document" in shown


@pytest.mark.parametrize(
    ("files", "extra", "message"),
    [
        (["missing.txt"], [], "missing.txt: no such text file"),
        (["empty.txt"], [], "empty.txt is empty"),
        (["latin.txt"], [], "latin.txt, line 1: not UTF-8: byte 0xe9 at byte offset 3"),
        (["wiki.txt"], [], "wiki.txt, line 1: <doc> without </doc>"),
        (["good.txt"], ["--max-seq-length", "3"], "max_seq_length 3: must be 5 to 65535"),
        (["good.txt"], ["--tokenizer", "nowhere"], "nowhere"),
        (["good.txt"], ["--output", "good.txt"], "good.txt exists and is not overwritten"),
        (["tfds:a", "tfds:b"], [], "give one TFDS data set, or text files"),
        ([], [], "no text files"),
    ],
)
def test_tool_answers_bad_input_with_one_line(tmp_path, monkeypatch, capsys, files, extra, message):
    """Exit code 2 and one line that names what is wrong; no traceback, no output."""
    monkeypatch.chdir(tmp_path)
    WordPiece([*SPECIALS, "w1"]).save("tokenizer")
    Path("empty.txt").touch()
    Path("latin.txt").write_bytes(b"caf\xe9\n")
    Path("wiki.txt").write_text("<doc id='1'>\nText.\n")
    Path("good.txt").write_text("w1. w1.\n")
    arguments = ["--tokenizer", "tokenizer", "--output", "out", "--workers", "1", *extra]
    assert run_tool(monkeypatch, *files, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("prepare_corpus: ") and message in error and error.count("\n") == 1
    assert not Path("out").exists() and not list(Path().glob(".out*"))


def test_tool_terminated_removes_its_temporary_files(tmp_path):
    """SIGTERM ends the build in order."""
    TOKENIZER.save(tmp_path / "tokenizer")
    (tmp_path / "text").write_text("W1 w2 w3. W4 w5 w6.\n\n" * 30000)
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "tools/prepare_corpus.py"), "text", "--tokenizer", "tokenizer"]
    options = ["--output", "c", "--dupe-factor", "1000", "--workers", "1"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    with subprocess.Popen([*command, *options], cwd=tmp_path, stdout=subprocess.DEVNULL, env=environment) as build:
        deadline = time.monotonic() + 20
        while not list(tmp_path.glob(".c.building-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        build.terminate()
        assert build.wait(20) == 128 + signal.SIGTERM
    assert sorted(os.listdir(tmp_path)) == ["text", "tokenizer"]


def test_real_wikipedia_card(shared_data, tmp_path):
    """On real articles: nothing to warn of, more than half of the pairs random, hardly any unknown token."""
    tokenizer = WordPiece(shared_data / "vocab/bert-base-uncased/vocab.txt")
    source = TextFiles([shared_data / "enwiki/small.wikiextractor.gz"])
    card = build_corpus(source, tokenizer, tmp_path / "c", CorpusConfig(dupe_factor=1), workers=2)
    train = card["splits"]["train"]
    assert card["warnings"] == [] and train["documents"] == 103
    assert 0.5 < train["random_next"] < 0.65 and train["unknown"] < 0.001 and train["padding"] < 0.2
