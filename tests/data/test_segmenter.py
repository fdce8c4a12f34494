"""A corpus whose words a segmenter found: its instances say which tokens continue one, and whole words are masked."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.data.corpus import Corpus, CorpusConfig, build_corpus
from bert_jax.data.documents import Document, TextFiles
from bert_jax.data.store import token_dtype, with_flags, without_flags
from bert_jax.objectives.mlm import Mlm
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.text.tokenizer import SPECIALS
from bert_jax.text.wordpiece import WordPiece

CHARACTERS = [chr(0x4E00 + i) for i in range(40)]
WORDS = ["".join(CHARACTERS[i : i + n]) for i, n in zip(range(0, 40, 4), [1, 2, 3, 4, 2, 1, 2, 3, 4, 2], strict=True)]
CONFIG = CorpusConfig(max_seq_length=32, dupe_factor=2, segmenter="spaces", valid_fraction=0.2)


@pytest.fixture(scope="module")
def documents():
    """Words of one to four characters with spaces between them; of a word the characters tell where they stand."""
    rng = np.random.default_rng(0)
    return [Document([" ".join(rng.choice(WORDS, 6)) for _ in range(8)], sentences=True) for _ in range(12)]


@pytest.fixture(scope="module")
def tokenizer():
    return WordPiece([*SPECIALS, *CHARACTERS])


@pytest.fixture(scope="module")
def folder(documents, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "segmented"
    build_corpus(documents, tokenizer, folder, CONFIG, workers=1)
    return folder


def test_flags_fit_into_ids():
    """In the upper bit of the narrowest type that has one to spare."""
    assert [token_dtype(size, flagged=True).name for size in (32768, 32769, 119_547)] == ["uint16", "uint32", "uint32"]
    for size in (32768, 119_547):
        ids, flags = np.array([0, 5, size - 1, size - 1]), np.array([True, False, True, False])
        found = without_flags(with_flags(ids, flags, token_dtype(size, flagged=True)))
        np.testing.assert_array_equal(found[0], ids)
        np.testing.assert_array_equal(found[1], flags)


def test_instances_know_their_words(folder, documents, tokenizer, tmp_path):
    """The ids are those of the corpus without a segmenter; a token continues a word unless it is the first of its
    characters, at special tokens and padding never."""
    corpus = Corpus(folder)
    batch = corpus.read(np.arange(len(corpus)))
    build_corpus(documents, tokenizer, tmp_path / "plain", dataclasses.replace(CONFIG, segmenter="none"), workers=1)
    plain = Corpus(tmp_path / "plain")
    expected = plain.read(np.arange(len(plain)))
    for name, values in expected.items():
        np.testing.assert_array_equal(batch[name], values)
    assert "continues" not in expected
    first = {tokenizer.pieces.index(word[0]) for word in WORDS} | {0, 2, 3}
    np.testing.assert_array_equal(batch["continues"], ~np.isin(batch["tokens"], list(first)))


def test_as_a_source(folder, tokenizer):
    """Training and held-out instances have them, in place of the tokenizer's, which knows of no words here."""
    task = Pretraining(folder)
    for source in (task.train(tokenizer), task.evaluations(tokenizer)["valid"]):
        assert source.read(np.arange(4))["continues"].any()
    assert not tokenizer.continues.any()


def test_whole_words_are_masked(folder, tokenizer):
    """All characters of a word are predicted, or none."""
    corpus = Corpus(folder)
    batch = corpus.read(np.arange(32)) | {"weight": np.ones(32, np.float32)}
    mlm = Mlm(max_predictions=8, rate=0.3, whole_word=True).for_vocabulary(tokenizer.vocab_size, (2, 3, 4))
    keys = jax.random.split(jax.random.key(0), 32)
    found = mlm.corrupt(keys, jax.tree.map(jnp.asarray, batch))
    chosen = np.zeros(batch["tokens"].shape, bool)
    for row, (places, weights) in enumerate(zip(found["mlm_positions"], found["mlm_weights"], strict=True)):
        chosen[row, np.asarray(places)[np.asarray(weights) > 0]] = True
    inside = batch["continues"][:, 1:] & (batch["tokens"][:, :-1] > 4)  # a segment can begin inside of a word
    assert chosen.sum() > 100
    np.testing.assert_array_equal(chosen[:, 1:][inside], chosen[:, :-1][inside])


def test_the_card_says_so(folder):
    """And one that says nonsense is damaged."""
    before = (folder / "card.json").read_text()
    card = json.loads(before)
    assert card["segmenter"] == "spaces" and card["dtype"] == "uint16"
    (folder / "card.json").write_text(json.dumps(card | {"segmenter": "x"}))
    with pytest.raises(ValueError, match="segmenter is 'x'"):
        Corpus(folder)
    (folder / "card.json").write_text(before)


def test_where_workers_read_the_text(documents, tokenizer, tmp_path):
    """Machines that read their parts of the text themselves find the same words."""
    text = "\n\n".join("\n".join(document.paragraphs) for document in documents)
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    files = TextFiles([tmp_path / "text.txt"], "sentences")
    build_corpus(files, tokenizer, tmp_path / "here", CONFIG, workers=1)
    build_corpus(files, tokenizer, tmp_path / "there", CONFIG, distribute=lambda work: map)
    for file in (tmp_path / "here").glob("*.*"):
        assert (tmp_path / "there" / file.name).read_bytes() == file.read_bytes(), file.name


def test_any_number_of_workers(folder, documents, tokenizer, tmp_path):
    """The same bytes from two processes."""
    build_corpus(documents, tokenizer, tmp_path / "two", CONFIG, workers=2)
    for file in folder.glob("*.*"):
        assert (tmp_path / "two" / file.name).read_bytes() == file.read_bytes(), file.name
