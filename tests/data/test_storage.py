"""A corpus that is elsewhere: fetched whole file by file, into a cache that stays within its bound."""

import functools
import http.server
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest

from bert_jax.data import shards, storage, workers
from bert_jax.data.corpus import Corpus, CorpusConfig, build_corpus
from bert_jax.data.documents import Document
from bert_jax.data.storage import cache_folder, is_url
from bert_jax.experiment import decode, encode
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.text.wordpiece import WordPiece

WORDS = [f"w{i}" for i in range(50)]
TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS])
URL = "memory://bucket/corpus"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A corpus of several shards on this machine."""
    rng = np.random.default_rng(0)
    documents = [Document([" ".join(rng.choice(WORDS, 9)) for _ in range(12)], True) for _ in range(60)]
    output = tmp_path_factory.mktemp("corpora") / "corpus"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "SHARD_TOKENS", 2000)
        config = CorpusConfig(max_seq_length=48, dupe_factor=3, valid_fraction=0.2)
        build_corpus(documents, TOKENIZER, output, config, workers=1)
    return output


@pytest.fixture
def bucket(folder):
    """A store in memory that holds a copy."""
    files = fsspec.filesystem("memory")
    files.put(f"{folder}/", "/bucket/corpus/", recursive=True)
    yield files
    files.rm("/bucket", recursive=True)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Between two tries."""
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)


def everything(corpus: Corpus) -> dict[str, np.ndarray]:
    return corpus.read(np.random.default_rng(0).permutation(len(corpus)))


def same(one: Corpus, other: Corpus) -> bool:
    a, b = everything(one), everything(other)
    return all((a[name] == b[name]).all() for name in a)


def held(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_same_as_here(folder, bucket, tmp_path, split):
    """Instances, lengths and tokenizer; also from a copy in another process or in threads."""
    there, here = Corpus(URL, split, cache=tmp_path), Corpus(folder, split)
    assert there.card == here.card and len(there) == len(here)
    assert same(there, here) and same(pickle.loads(pickle.dumps(there)), here)
    assert there.lengths_of(np.arange(9)).tolist() == here.lengths_of(np.arange(9)).tolist()
    assert there.tokenizer().fingerprint == here.tokenizer().fingerprint
    fresh = Corpus(URL, split, cache=tmp_path / "fresh")
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: same(fresh, here), range(4)))


def test_files_are_fetched_once(bucket, tmp_path, monkeypatch):
    """When they are needed; what is in the cache is not fetched again, also by the next process, but for the card."""
    fetched = []
    get = type(bucket).get_file
    monkeypatch.setattr(
        type(bucket), "get_file", lambda self, there, here: (fetched.append(there), get(self, there, here))
    )
    corpus = Corpus(URL, cache=tmp_path)
    assert fetched == []
    corpus.read(np.array([0]))
    assert [Path(there).name for there in fetched] == [
        corpus.card["splits"]["train"]["shards"][0]["file"],
        "train-lengths.bin",
    ]
    everything(corpus)
    count = len(fetched)
    assert count == len(corpus.card["splits"]["train"]["shards"]) + 1
    everything(Corpus(URL, cache=tmp_path))
    assert len(fetched) == count and not list(tmp_path.rglob("*.partial"))


def test_another_corpus_at_the_same_url_is_another_one(bucket, tmp_path):
    """Files that were fetched beside an earlier card are not taken for those of the new one."""
    first = everything(Corpus(URL, cache=tmp_path / "cache"))
    bucket.rm("/bucket/corpus", recursive=True)
    documents = [Document(["w7 w8 w9", "w1 w2 w3"], True) for _ in range(20)]
    build_corpus(documents, TOKENIZER, tmp_path / "other", CorpusConfig(16, 1), workers=1)
    bucket.put(f"{tmp_path}/other/", "/bucket/corpus/", recursive=True)
    assert same(Corpus(URL, cache=tmp_path / "cache"), Corpus(tmp_path / "other"))
    assert len(first["example"]) != len(Corpus(URL, cache=tmp_path / "cache"))


def test_cache_stays_within_its_limit(folder, bucket, tmp_path, monkeypatch):
    """Files are dropped that were not asked for the longest, however small the limit and whatever is open."""
    monkeypatch.setattr(shards, "MOST_OPEN", 3)
    size = max(path.stat().st_size for path in folder.glob("*.array_record"))
    limit, most = 4 * size, 0
    corpus = Corpus(URL, cache=tmp_path, cache_bytes=limit)
    here = Corpus(folder)
    for index in np.random.default_rng(0).permutation(len(corpus))[:150]:
        assert (corpus.read(np.array([index]))["tokens"] == here.read(np.array([index]))["tokens"]).all()
        most = max(most, held(tmp_path))
    assert 3 * size < most <= limit
    assert same(corpus, here) and held(tmp_path) <= limit  # batches that need more shards than there is room for
    with pytest.raises(ValueError, match=r"may hold 1,000 bytes, but one file alone has .*: allow more"):
        Corpus(URL, cache=tmp_path / "small", cache_bytes=1000).read(np.array([0]))


def test_what_an_interrupted_process_left_is_dropped_for_room(bucket, tmp_path):
    """A partial file nobody has touched for a day; one of another process that is at work stays."""
    old, new = tmp_path / ".old.partial", tmp_path / ".new.partial"
    for path in (old, new):
        path.write_bytes(bytes(10_000_000))
    os.utime(old, (0, 0))
    Corpus(URL, cache=tmp_path, cache_bytes=11_000_000).read(np.array([0]))
    assert new.exists() and not old.exists()


def test_a_damaged_file_in_the_cache_is_fetched_again(folder, bucket, tmp_path):
    """One that another program cut off, say."""
    everything(Corpus(URL, cache=tmp_path))
    for path in tmp_path.rglob("*.array_record"):
        path.write_bytes(path.read_bytes()[:-1])
    assert same(Corpus(URL, cache=tmp_path), Corpus(folder))


def test_a_damaged_file_there_is_named(bucket, tmp_path):
    """A shard whose upload was cut off: the error names it, or it is replaced as any other damage."""
    path = "/bucket/corpus/" + Corpus(URL, cache=tmp_path).card["splits"]["train"]["shards"][1]["file"]
    bucket.pipe_file(path, bucket.cat_file(path)[:-100])
    with pytest.raises(
        ValueError, match=rf"{URL}/train-00001.*record .* is damaged: it has \d+ bytes, and had \d+ when"
    ):
        everything(Corpus(URL, cache=tmp_path))
    with pytest.warns(UserWarning, match="is read instead"):
        everything(Corpus(URL, cache=tmp_path, skip_damaged=True))
    bucket.rm(path)
    with pytest.raises(FileNotFoundError, match=rf"{URL}/train-00001.*: there is no such file"):
        everything(Corpus(URL, cache=tmp_path, skip_damaged=True))


def test_a_flaky_connection_is_tried_again(bucket, tmp_path, monkeypatch):
    """Errors that pass, and transfers that end early; one that stays is raised with the URL."""
    get, tries = type(bucket).get_file, []

    def flaky(self, there, here):
        tries.append(there)
        if len(tries) == 1:
            raise RuntimeError("connection reset")
        get(self, there, here)
        if len(tries) == 2:
            os.truncate(here, 100)

    monkeypatch.setattr(type(bucket), "get_file", flaky)
    Corpus(URL, cache=tmp_path).read(np.array([0]))
    assert len({*tries[:3]}) == 1 and len(tries) == 4
    monkeypatch.setattr(type(bucket), "get_file", lambda *_: 1 / 0)
    with pytest.raises(OSError, match=rf"{URL}/train-00.* cannot be read: ZeroDivisionError"):
        everything(Corpus(URL, cache=tmp_path))
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("memory://bucket/nothing", FileNotFoundError, r"memory://bucket/nothing/card\.json: there is no such file"),
        ("nonsense://bucket/corpus", ValueError, "nonsense://bucket/corpus: .*not known"),
        (Path("gs://bucket/corpus"), ValueError, r"gs:/bucket/corpus was a URL before it became a Path"),
    ],
)
def test_wrong_urls(tmp_path, url, error, message):
    """Each says what is wrong with it."""
    with pytest.raises(error, match=message):
        Corpus(url, cache=tmp_path)


def test_missing_packages_are_named(tmp_path, monkeypatch):
    """The packages for gs:// and s3:// are extras."""
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ValueError, match=r"gs://bucket/corpus: .*gcsfs.*pip install 'bert_jax\[gcs\]'"):
        Corpus("gs://bucket/corpus", cache=tmp_path)


def test_where_files_are_kept(tmp_path, monkeypatch):
    """In the user's cache, which the environment can move."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "bert_jax/corpora"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache/bert_jax/corpora"


def test_paths_and_urls():
    """A string with a scheme is a URL, a Path never."""
    assert is_url("gs://bucket/corpus") and is_url("memory://x")
    assert not is_url("runs/corpus") and not is_url(Path("/runs/corpus")) and not is_url("c:/corpus")


def test_task_on_a_url(bucket, tmp_path):
    """It survives the record of an experiment, and its other corpora have the names of their folders."""
    bucket.copy("/bucket/corpus", "/bucket/second", recursive=True)
    task = Pretraining(URL, also=("memory://bucket/second/",), cache=tmp_path, valid_limit=9)
    again = decode(encode(task))
    assert again == task and again.corpus == URL
    assert list(again.evaluations(again.tokenizer())) == ["valid", "second"]
    assert len(again.train(again.tokenizer()).read(np.arange(4))["tokens"]) == 4
    local = decode(encode(Pretraining("runs/corpus/")))
    assert local == Pretraining(Path("runs/corpus")) and isinstance(local.corpus, Path)
    with pytest.raises(ValueError, match="cache_gigabytes must be 0 or more"):
        Pretraining(URL, cache_gigabytes=-1.0)


def test_over_http(folder, tmp_path):
    """A real server on this machine, whose errors are named, too."""
    pytest.importorskip("aiohttp", reason="fsspec needs it for https://")
    handler = functools.partial(Quiet, directory=str(folder.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/corpus"
        corpus = Corpus(url, cache=tmp_path)
        assert same(corpus, Corpus(folder)) and corpus.tokenizer().fingerprint == TOKENIZER.fingerprint
        with pytest.raises(FileNotFoundError, match=r"nothing/card\.json: there is no such file"):
            Corpus(f"{url}/nothing", cache=tmp_path)
        server.shutdown()
    with pytest.raises(OSError, match=r"card\.json cannot be read: Client"):
        Corpus(url, cache=tmp_path)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that keeps its log to itself."""

    def log_message(self, *_: object) -> None:
        pass


FETCH = """
import sys, time, fsspec, numpy as np
from pathlib import Path
from bert_jax.data.corpus import Corpus
from fsspec.implementations.local import LocalFileSystem

class Slow(LocalFileSystem):
    protocol = "slow"
    def get_file(self, there, here, **_):
        content = Path(self._strip_protocol(there)).read_bytes()
        with open(here, "wb") as file:
            for i in range(0, len(content), 1000):
                file.write(content[i : i + 1000])
                file.flush()
                print(here, flush=True)
                time.sleep(0.01)

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("slow://")

fsspec.register_implementation("slow", Slow)
Corpus("slow://" + sys.argv[1], cache=Path(sys.argv[2])).read(np.array([0]))
"""


def test_killed_while_fetching(folder, tmp_path):
    """kill -9 in the middle of a file: nothing that looks finished is left, and the next process fetches it."""
    command = [sys.executable, "-c", FETCH, str(folder), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as fetching:
        partial = Path(fetching.stdout.readline().strip())
        fetching.kill()
    assert partial.name.endswith(".partial") and not list(tmp_path.rglob("*.array_record"))
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert ".partial" in run.stdout and len(list(tmp_path.rglob("*.array_record"))) == 1


def test_few_files_are_open(folder, monkeypatch):
    """However many shards there are; which of them are open changes nothing of what is read."""
    expected = everything(Corpus(folder))
    monkeypatch.setattr(shards, "MOST_OPEN", 2)
    corpus = Corpus(folder)
    for _ in range(2):
        found = everything(corpus)
        assert all((found[name] == expected[name]).all() for name in expected)
        assert len(corpus._shards._readers) == 2
