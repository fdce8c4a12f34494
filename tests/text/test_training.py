"""Training a vocabulary: the same bytes every time, exactly the size asked for, and pieces that suit the text."""

import gzip
import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bert_jax.text import training
from bert_jax.text.tokenizer import load
from bert_jax.text.training import count_words, train_sentencepiece, train_wordpiece, usage
from tools import train_tokenizer

ROOT = Path(__file__).parents[2]
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def some_text():
    """Invented words, all equally frequent, so that many pairs of pieces tie."""
    rng = random.Random(0)
    words = 6 * ["".join(rng.choices("aeioubdfgklmnprst", k=rng.randint(2, 9))) for _ in range(600)]
    rng.shuffle(words)
    return [" ".join(words[i : i + 12]) + "." for i in range(0, len(words), 12)]


def run_tool(*arguments, **environment):
    """The command-line tool in a process of its own."""
    return subprocess.run(
        [sys.executable, ROOT / "tools/train_tokenizer.py", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(("kind", "file"), [("wordpiece", "vocab.txt"), ("sentencepiece", "spiece.model")])
def test_same_text_same_bytes(tmp_path, kind, file):
    """Fresh processes with other hash seeds and other numbers of threads write the same bytes."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(some_text()))
    digests = set()
    for threads in ("1", "2", "4"):
        output = tmp_path / threads
        environment = {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true", "PYTHONHASHSEED": threads}
        done = run_tool(text, "--output", output, "--kind", kind, "--vocab-size", "300", **environment)
        assert done.returncode == 0, done.stderr
        digests.add(hashlib.sha256((output / file).read_bytes()).hexdigest())
    assert len(digests) == 1
    assert load(output).vocab_size == 300


@pytest.mark.parametrize("train", [train_wordpiece, train_sentencepiece])
def test_order_of_the_texts_does_not_matter(train):
    """Only how often words occur counts, not where."""
    texts = some_text()
    shuffled = random.Random(1).sample(texts, len(texts))
    assert train(texts, 250).fingerprint == train(iter(shuffled), 250).fingerprint


def test_wordpiece_size_and_order():
    """Exactly the size asked for: special tokens first, then pieces by how often the text uses them."""
    texts = some_text()
    tokenizer = train_wordpiece(texts, 400)
    assert tokenizer.vocab_size == len(set(tokenizer.pieces)) == 400
    assert tokenizer.pieces[:5] == SPECIALS
    used = [0] * 400
    for ids in tokenizer.encode_batch(texts):
        for i in ids:
            used[i] += 1
    assert used[5:] == sorted(used[5:], reverse=True)
    assert used[tokenizer.unk_id] == 0


def test_every_word_over_the_alphabet_can_be_written():
    """Letters are pieces at the start and inside of words, so that unseen words are not unknown; marks stand alone."""
    tokenizer = train_wordpiece(["banana, banana. bandana 北 北"] * 2, 18, coverage=1.0)
    for word in ("nab", "dab", "aaa"):
        assert tokenizer.unk_id not in tokenizer.encode(word).ids
    assert {"##b", "##d", "d", ",", "北"} <= set(tokenizer.pieces)
    assert {"##,", "##北"}.isdisjoint(tokenizer.pieces)


def test_words_of_rare_characters_teach_nothing():
    """A character beyond the coverage is left out, and its words, which become [UNK], give no pieces; ASCII stays."""
    texts = ["ab ab ab ab ab ab"] * 50 + ["baéa baéa !"]
    tokenizer = train_wordpiece(texts, 11, lowercase=False, coverage=0.98)
    assert set(tokenizer.pieces) == {*SPECIALS, "a", "b", "##a", "##b", "ab", "!"}
    found = usage(tokenizer, count_words(texts, lowercase=False))
    assert (found.words, found.whole, found.tokens, found.unknown) == (303, 301, 303, 2)


def test_private_use_characters_are_never_learned():
    """They stay unknown even where the alphabet covers everything."""
    tokenizer = train_wordpiece(["ab a\ue000b \ue000"] * 3, 10, coverage=1.0)
    assert set(tokenizer.pieces) == {*SPECIALS, "a", "b", "##a", "##b", "ab"}
    assert tokenizer.tokens(tokenizer.encode("\ue000 ab").ids) == ["[UNK]", "ab"]


def test_sentencepiece_keeps_ascii():
    """The same for SentencePiece: whatever the coverage, ASCII is never unknown."""
    tokenizer = train_sentencepiece([*some_text(), "wow! é"], 250, coverage=0.98)
    assert tokenizer.unk_id not in tokenizer.encode("wow!").ids
    assert tokenizer.unk_id in tokenizer.encode("é").ids


def test_casing():
    """Uncased vocabularies hold neither capitals nor accents, cased ones do, and the tokenizer knows which it is."""
    texts = ["Él ÉL él El"] * 3
    assert "él" in train_wordpiece(texts, 19, lowercase=False, coverage=1.0).pieces
    uncased = train_wordpiece(texts, 10, coverage=1.0)
    assert set(uncased.pieces) == {*SPECIALS, "e", "l", "##e", "##l", "el"}
    assert uncased.lowercase
    assert "▁él" in train_sentencepiece(texts, 10, coverage=1.0).pieces


def test_words_are_counted_as_bert_splits_them(monkeypatch):
    """Counting distinct chunks first, in several rounds, changes no count."""
    monkeypatch.setattr(training, "DISTINCT_AT_ONCE", 1)
    counts = count_words(["The the\tTHE,\nthé", "a\u00a0the " + "x" * 201, ""], lowercase=True)
    assert counts == {"the": 5, ",": 1, "a": 1}


def test_a_frequent_word_counts_fully(monkeypatch):
    """A word handed to the library in several strings keeps its count."""
    texts = some_text()
    expected = train_wordpiece(texts, 300).fingerprint
    monkeypatch.setattr(training, "REPEATS_AT_ONCE", 2)
    assert train_wordpiece(texts, 300).fingerprint == expected


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "no words"),
        ([" \n"], {}, "no words"),
        (["abc abd"], {"vocab_size": 8}, "vocab_size is 8, but 5 special tokens and the 4 characters .* take 13"),
        (["ab ab ab"], {"vocab_size": 50, "coverage": 1.0}, "only 10 pieces .* ask for at most 10"),
        (["ab"], {"coverage": 0.0}, "coverage is 0.0"),
    ],
)
def test_wordpiece_errors(texts, options, message):
    """What cannot be trained is said with the numbers to change."""
    with pytest.raises(ValueError, match=message):
        train_wordpiece(texts, **{"vocab_size": 20, "coverage": 1.0} | options)


@pytest.mark.parametrize(
    ("texts", "size", "coverage", "message"),
    [([], 20, 1.0, "no words"), (["ab"], 20, 2.0, "coverage is 2.0"), (["ab ab"], 900, 1.0, "900 pieces")],
)
def test_sentencepiece_errors(texts, size, coverage, message):
    """The same for SentencePiece."""
    with pytest.raises(ValueError, match=message):
        train_sentencepiece(texts, size, coverage=coverage)


def test_tool_reads_archives_and_wikiextractor(tmp_path):
    """The tool unpacks, leaves out the `<doc>` lines, and prints a summary."""
    text = tmp_path / "wiki.gz"
    lines = ['<doc id="1" url="zzz" title="Zzz">', "Zzz", *some_text(), "</doc>"]
    text.write_bytes(gzip.compress("\n".join(lines).encode()))
    done = run_tool(text, "--output", tmp_path / "new/vocab", "--vocab-size", "200", "--cased")
    assert done.returncode == 0, done.stderr
    tokenizer = load(tmp_path / "new/vocab")
    assert (tokenizer.vocab_size, tokenizer.lowercase) == (200, False)
    assert "z" not in "".join(tokenizer.pieces)
    assert "200" in done.stdout
    assert "0.000% are [UNK]" in done.stdout
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["vocab"]


def test_tool_refuses_bad_input(tmp_path, monkeypatch, capsys):
    """Missing, empty, not UTF-8, too small, an output that exists: exit code 2, one line, nothing written."""
    good, empty, latin = tmp_path / "good.txt", tmp_path / "empty.txt", tmp_path / "latin.txt"
    good.write_text("\n".join(some_text()))
    empty.write_bytes(b"")
    latin.write_bytes(b"fine\ncaf\xe9\n")
    taken = tmp_path / "taken"
    taken.mkdir()
    cases = [
        ((tmp_path / "nowhere.txt",), "nowhere.txt: no such text file"),
        ((good, empty), "empty.txt is empty"),
        ((good, latin), "byte offset 8"),
        ((good, "--vocab-size", "9"), "raise vocab_size"),
        ((good, "--vocab-size", "99999"), "ask for at most"),
        ((good, "--output", taken), "is not overwritten"),
    ]
    for arguments, message in cases:
        output = () if "--output" in arguments else ("--output", tmp_path / "vocab")
        monkeypatch.setattr(sys, "argv", ["train_tokenizer.py", *map(str, (*arguments, *output))])
        assert train_tokenizer.main() == 2
        said = capsys.readouterr().err
        assert message in said and said.startswith("train_tokenizer: ") and said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "good.txt", "latin.txt", "taken"]
    assert not list(taken.iterdir())
