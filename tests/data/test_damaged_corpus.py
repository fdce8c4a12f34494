"""Damaged files of a corpus: named with file and record, or replaced and counted where that is asked for."""

import json
import pickle
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from bert_jax.data import workers
from bert_jax.data.corpus import Corpus, CorpusConfig, build_corpus
from bert_jax.data.documents import Document
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.text.wordpiece import WordPiece

WORDS = [f"w{i}" for i in range(50)]
TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A corpus of several shards."""
    rng = np.random.default_rng(0)
    documents = [Document([" ".join(rng.choice(WORDS, 9)) for _ in range(12)], True) for _ in range(60)]
    output = tmp_path_factory.mktemp("corpora") / "corpus"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "SHARD_TOKENS", 4000)
        build_corpus(documents, TOKENIZER, output, CorpusConfig(max_seq_length=48, dupe_factor=3), workers=1)
    assert len(Corpus(output).card["splits"]["train"]["shards"]) == 5
    return output


@pytest.fixture
def corpus(whole, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "corpus"))


def change_card(folder: Path, **changes) -> None:
    """Changes fields of the training split, or drops those that are None."""
    card = json.loads((folder / "card.json").read_text())
    split = card["splits"]["train"] | changes
    card["splits"]["train"] = {name: value for name, value in split.items() if value is not None}
    (folder / "card.json").write_text(json.dumps(card))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("train-*.array_record"))


def reads(corpus: Corpus) -> dict[str, np.ndarray]:
    """All instances, with the warnings of the damaged ones left aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return corpus.read(np.arange(len(corpus)))


def test_damaged_record_is_named(corpus):
    """A flipped byte is noticed by its checksum, and the file and index of the record are in the message."""
    flip(shards(corpus)[0], 3000)
    damaged = Corpus(corpus)
    message = r"train-00000-of-00005\.array_record, record (\d+) \(example \1\) is damaged: .*hash mismatch"
    with pytest.raises(ValueError, match=message):
        damaged.read(np.arange(len(damaged)))


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (b"\2\0\4\0" + b"\5\0" * 8, "header is impossible"),
        (b"\0\0\0\0" + b"\5\0" * 8, "header is impossible"),
        (b"\0\0\4\0" + b"\xff\xff" * 8, "not in the vocabulary"),
        (b"\0\0\4\0" + b"\5\0" * 3, "length is not 5 to 48"),
        (b"\0\0\4\0" + b"\5\0" * 49, "length is not 5 to 48"),
        (b"\0\0\4\0\5", "whole number of ids"),
        (b"\0", "whole number of ids"),
    ],
)
def test_impossible_record_is_named(corpus, record, what):
    """A label above 1, an empty segment, an id outside the vocabulary, a wrong size never reach the model."""
    writer = ArrayRecordWriter(str(shards(corpus)[0]), "group_size:1")
    writer.write(record)
    writer.close()
    change_card(corpus, shards=[{"file": shards(corpus)[0].name, "instances": 1}], lengths=None)
    with pytest.raises(ValueError, match=rf"record 0 \(example 0\) is damaged: .*{what}"):
        Corpus(corpus).read(np.array([0]))


def test_record_of_another_length_than_was_said(corpus):
    """Processes that do not read a record plan with its length in the file of lengths."""
    lengths = np.fromfile(corpus / "train-lengths.bin", "<u2")
    lengths[7] += 1
    lengths.tofile(corpus / "train-lengths.bin")
    with pytest.raises(ValueError, match=r"record 7 \(example 7\) is damaged: its length is not the one in the file"):
        Corpus(corpus).read(np.array([6, 7]))


def test_file_of_lengths_must_be_as_long_as_the_split(corpus):
    """A file that is cut off, or of another corpus, is not read beyond its end."""
    path = corpus / "train-lengths.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"train-lengths\.bin is damaged: \d+ bytes for \d+ instances"):
        Corpus(corpus).lengths_of(np.array([0]))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"train-lengths\.bin is missing"):
        Corpus(corpus).lengths_of(np.array([0]))


def test_truncated_shard_is_found_when_the_corpus_is_opened(corpus):
    """Before anything is compiled: the card says how many bytes each shard has."""
    path = shards(corpus)[2]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"train-00002-of-00005\.array_record is damaged: it has \d+ bytes, and had"):
        Corpus(corpus)


def test_shard_with_another_number_of_instances_is_found_when_it_is_opened(corpus):
    """Else every later instance would be another one than before."""
    described = Corpus(corpus).card["splits"]["train"]["shards"]
    described[1]["instances"] -= 1
    change_card(corpus, shards=described, lengths=None)
    first = described[0]["instances"]
    Corpus(corpus).read(np.array([first - 1]))
    message = r"train-00001-of-00005\.array_record, record 0 .* the shard holds \d+ records, and \d+ were written"
    with pytest.raises(ValueError, match=message):
        Corpus(corpus).read(np.array([first]))


@pytest.mark.parametrize("older", [False, True])
def test_damaged_instances_are_replaced_if_asked(whole, corpus, older):
    """By other whole ones of their length, always the same ones, whoever reads them in whichever order; the others
    stay what they are; each is warned of, and counted."""
    flip(shards(corpus)[0], 1000)
    flip(shards(corpus)[3], 2000)
    if older:
        change_card(corpus, lengths=None)
    damaged, good = Corpus(corpus, skip_damaged=True), Corpus(whole)
    with pytest.warns(UserWarning) as caught:
        found = damaged.read(np.arange(len(damaged)))
    for count, warning in enumerate(caught, 1):
        message = rf"record \d+ \(example \d+\) is damaged: .*; example \d+ is read instead \({count} so far\)"
        assert re.search(message, str(warning.message))
    assert len(caught) == 2
    expected = good.read(np.arange(len(good)))
    differs = np.flatnonzero((found["tokens"] != expected["tokens"]).any(axis=1))
    assert set(differs) <= set(damaged.replaced) and len(damaged.replaced) == 2
    assert found["example"].tolist() == expected["example"].tolist()
    for index, other in damaged.replaced.items():
        assert (found["tokens"][index] == expected["tokens"][other]).all() and other not in damaged.replaced
    assert damaged.lengths_of(np.arange(len(good))).tolist() == found["lengths"].tolist()
    if not older:
        assert found["lengths"].tolist() == expected["lengths"].tolist()
    again = Corpus(corpus, skip_damaged=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in np.random.default_rng(1).permutation(len(again)):
            assert (again.read(np.array([index]))["tokens"][0] == found["tokens"][index]).all()
    assert again.replaced == damaged.replaced == pickle.loads(pickle.dumps(again)).replaced


def test_a_whole_shard_is_replaced(whole, corpus):
    """One that is cut off: each of its instances by another one, not all by the same."""
    path = shards(corpus)[2]
    path.write_bytes(path.read_bytes()[:50_000])
    damaged, good = Corpus(corpus, skip_damaged=True), Corpus(whole)
    sizes = [shard["instances"] for shard in damaged.card["splits"]["train"]["shards"]]
    found = reads(damaged)
    assert sorted(damaged.replaced) == list(range(sum(sizes[:2]), sum(sizes[:3])))
    assert len(set(damaged.replaced.values())) > sizes[2] // 2
    assert found["lengths"].tolist() == reads(good)["lengths"].tolist()


def test_nothing_left_to_read_instead(corpus):
    """It ends with an error and not in a loop, where all is damaged."""
    for path in shards(corpus):
        path.write_bytes(bytes(path.stat().st_size))
    with warnings.catch_warnings(), pytest.raises(ValueError, match="damaged at its end; so are 50 others"):
        warnings.simplefilter("ignore")
        Corpus(corpus, skip_damaged=True).read(np.array([0]))


def test_a_missing_shard_is_no_damage(corpus):
    """It may only not be there yet, so it is never replaced."""
    shards(corpus)[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00001-of-00005\.array_record is missing"):
        Corpus(corpus, skip_damaged=True)


def test_the_task_asks_for_it(corpus):
    """`skip_damaged` of the task reaches the corpus."""
    flip(shards(corpus)[0], 1000)
    for skip in (False, True):
        task = Pretraining(corpus, skip_damaged=skip)
        assert task.train(task.tokenizer()).corpus.skip_damaged is skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "it has no splits"),
        ('{"splits": {}}', "max_seq_length is None"),
        ('{"splits": {}, "max_seq_length": 9, "vocab_size": 9, "pad_id": 0, "dtype": "float32"}', "dtype is 'float32'"),
    ],
)
def test_damaged_card(corpus, content, message):
    """What cannot be the card of a corpus is named."""
    (corpus / "card.json").write_text(content)
    with pytest.raises(ValueError, match=rf"card\.json is damaged.*{message}"):
        Corpus(corpus)


@pytest.mark.parametrize("name", ["../train.array_record", "/etc/passwd", "", ".hidden", "a\n", "a" * 300, 3])
def test_card_cannot_point_out_of_its_folder(corpus, name):
    """It may come from elsewhere, and its files are fetched under the names that it gives."""
    change_card(corpus, shards=[{"file": name, "instances": 1}])
    with pytest.raises(ValueError, match="is no name of a file in its folder"):
        Corpus(corpus)
