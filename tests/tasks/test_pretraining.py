"""Pre-training on a corpus: its splits as sources, and what a model reaches that ignores its input."""

import math
from collections import Counter

import numpy as np
import pytest

from bert_jax.data.corpus import Corpus, CorpusConfig, build_corpus
from bert_jax.data.documents import Document
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.text.wordpiece import WordPiece

TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##c"])


def test_sources(tiny_corpus):
    """Both splits with the corpus's own tokenizer; `valid_limit` spreads its instances over the whole split."""
    task = Pretraining(tiny_corpus, valid_limit=10)
    tokenizer = task.tokenizer()
    train, valid = task.train(tokenizer), task.evaluations(tokenizer)["valid"]
    assert tokenizer.fingerprint == Corpus(tiny_corpus).card["fingerprint"]
    assert (len(train), len(valid)) == (len(Corpus(tiny_corpus)), 10)
    assert train.max_length == valid.max_length == 32
    held_out = Corpus(tiny_corpus, "valid")
    wanted = held_out.read(np.arange(10) * len(held_out) // 10)
    for name, array in valid.read(np.arange(10)).items():
        np.testing.assert_array_equal(array, wanted[name] if name in wanted else array)
    for limit in (0, 10**6):
        everything = Pretraining(tiny_corpus, valid_limit=limit).evaluations(tokenizer)["valid"]
        assert everything.read(np.arange(len(everything)))["example"].tolist() == list(range(len(held_out)))


def test_continues_marks_the_pieces_inside_words(tmp_path):
    """For whole-word masking: True exactly at ##c."""
    documents = [Document(["ac b", "b ac"], sentences=True)] * 3
    build_corpus(documents, TOKENIZER, tmp_path / "corpus", CorpusConfig(max_seq_length=16, dupe_factor=1), workers=1)
    source = Pretraining(tmp_path / "corpus").train(TOKENIZER)
    batch = source.read(np.arange(len(source)))
    assert batch["continues"].dtype == bool and batch["continues"].any()
    np.testing.assert_array_equal(batch["continues"], batch["tokens"] == TOKENIZER.pieces.index("##c"))


def test_baselines_counted_by_hand(tiny_corpus):
    """Entropy of the training tokens and labels in nats, share of the commonest ones held out; no [CLS], [SEP]."""
    task = Pretraining(tiny_corpus, valid_limit=0)
    tokenizer = task.tokenizer()
    counts, labels = {}, {}
    for split in ("train", "valid"):
        corpus = Corpus(tiny_corpus, split)
        batch = corpus.read(np.arange(len(corpus)))
        rows = zip(batch["tokens"].tolist(), batch["lengths"].tolist(), strict=True)
        counts[split] = Counter(token for tokens, length in rows for token in tokens[:length])
        labels[split] = float(np.mean(batch["pair_label"]))
        del counts[split][tokenizer.cls_id], counts[split][tokenizer.sep_id]
    total = sum(counts["train"].values())
    entropy = -sum(count / total * math.log(count / total) for count in counts["train"].values())
    most = counts["train"].most_common(1)[0][0]
    random = labels["train"]
    valid = task.evaluations(tokenizer)["valid"]
    assert task.baselines(task.train(tokenizer), valid) == pytest.approx(
        {
            "mlm/loss": entropy,
            "mlm/accuracy": counts["valid"][most] / sum(counts["valid"].values()),
            "nsp/loss": -random * math.log(random) - (1 - random) * math.log(1 - random),
            "nsp/accuracy": labels["valid"] if random > 0.5 else 1 - labels["valid"],
        }
    )
    assert task.rows({}, valid) == []


def test_no_corpus(tmp_path):
    """A missing folder, and a corpus without held-out split, are said with what to do."""
    with pytest.raises(FileNotFoundError, match=r"nothing is not a finished corpus folder.*tools/prepare_corpus\.py"):
        Pretraining(tmp_path / "nothing").tokenizer()
    build_corpus([Document(["a", "b"], sentences=True)] * 2, TOKENIZER, tmp_path / "corpus", workers=1)
    with pytest.raises(ValueError, match="no split 'valid', only train; a held-out split is made with"):
        Pretraining(tmp_path / "corpus").evaluations(TOKENIZER)


@pytest.mark.parametrize("name", ["train", "valid"])
def test_no_other_corpus_is_called_as_a_split(tmp_path, name):
    """Its metrics would be taken for those of training, or of the corpus itself."""
    with pytest.raises(ValueError, match=r"need names of their own, not train or valid: .*here"):
        Pretraining(tmp_path, also=(tmp_path / "here" / name,)).evaluations(TOKENIZER)
