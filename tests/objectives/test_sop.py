"""Sentence-order prediction: its corpus, its loss, and that a corpus of other labels is refused."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.data.corpus import Corpus, CorpusConfig, build_corpus
from bert_jax.data.documents import Document
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.albert import Albert
from bert_jax.models.encoded import Encoded
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.ngrams import Ngrams
from bert_jax.objectives.nsp import Nsp
from bert_jax.objectives.sop import Sop
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.text.wordpiece import WordPiece
from bert_jax.train import train
from bert_jax.training.log import read_metrics
from bert_jax.training.optim import BertAdam

TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"])


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """The same text, sentences a b c d e f g h in this order, with labels of either kind."""
    folder = tmp_path_factory.mktemp("corpora")
    documents = [Document([" ".join(3 * letter) for letter in "abcdefgh"], sentences=True)] * 40
    for pairs in ("next", "order"):
        config = CorpusConfig(max_seq_length=27, dupe_factor=2, short_seq_prob=0.0, pairs=pairs)
        build_corpus(documents, TOKENIZER, folder / pairs, config, valid=documents[:5], workers=1)
    return folder


def test_labels_say_which_segment_is_first(corpora):
    """In every row the text goes on from A to B, or from B to A where the label is 1; the card has the shares."""
    corpus = Corpus(corpora / "order")
    batch = corpus.read(np.arange(len(corpus)))
    for tokens, segment, swapped in zip(batch["tokens"], batch["segments"], batch["pair_label"], strict=True):
        a, b = (tokens[(tokens > 4) & (segment == number)] for number in (0, 1))
        first, second = (b, a) if swapped else (a, b)
        assert [*first, *second] == list(np.repeat(np.arange(5, 13), 3))
    card = corpus.card["splits"]["train"]
    assert corpus.pairs == "order" and card["random_next"] == 0 and not corpus.card["warnings"]
    assert 0.3 < card["swapped"] < 0.7 and card["swapped"] == pytest.approx(batch["pair_label"].mean())


def test_the_right_corpus_is_asked_for(corpora):
    """An objective over labels of the other kind is an error before anything is compiled, also on a second corpus; the
    baseline has the objective's name."""
    learner = Multitask(None, {"sop": Sop()})
    task = Pretraining(corpora / "order")
    assert task.prepare(learner) is learner
    source = task.train(TOKENIZER)
    found = task.baselines(source, task.evaluations(TOKENIZER)["valid"])
    assert {"sop/loss", "sop/accuracy"} <= set(found) and 0.5 < found["sop/loss"] <= math.log(2)
    with pytest.raises(ValueError, match=r"'next' of a pair, and the objective 'sop' is about 'order'.*--pairs order"):
        Pretraining(corpora / "next").prepare(learner)
    with pytest.raises(ValueError, match="objective 'nsp' is about 'next'"):
        task.prepare(Multitask(None, {"nsp": Nsp()}))
    with pytest.raises(ValueError, match="next say 'next' of a pair"):
        dataclasses.replace(task, also=(corpora / "next",)).prepare(learner)


def test_rows_that_are_no_pairs_have_no_labels():
    """Said before the text is read."""
    with pytest.raises(ValueError, match="rows doc-sentences are no pairs, set rows to pairs"):
        CorpusConfig(rows="doc-sentences", pairs="order", dupe_factor=1, short_seq_prob=0.0)


def test_a_run_learns_the_order(corpora, tmp_path):
    """Of a text that has but one: both objectives in one run, from the corpus to the evaluation."""
    sizes = {"num_layers": 2, "width": 32, "num_heads": 2, "mlp_width": 64, "max_length": 27, "init_stddev": 0.1}
    encoder = Albert(**sizes, embedding_width=16, scan=True)
    mlm = Mlm(max_predictions=4, init_stddev=0.1, masking=Ngrams())
    experiment = Experiment(
        task=Pretraining(corpora / "order"),
        learner=Multitask(encoder, {"mlm": mlm, "sop": Sop(init_stddev=0.1)}),
        optimizer=BertAdam(learning_rate=5e-3, b2=0.98),
        steps=60, batch_size=32, eval_batch_size=16, log_every=10, eval_every=60, checkpoint_every=60,
    )  # fmt: skip
    train(experiment, tmp_path / "run")
    found = {name: value for line in read_metrics(tmp_path / "run/metrics.jsonl") for name, value in line.items()}
    assert found["valid/sop/accuracy"] > 0.9 and found["valid/mlm/accuracy"] > 0.2


def test_loss_by_hand():
    """Two classes over the pooled output; rows of weight 0 count for nothing."""
    rng = np.random.default_rng(0)
    pooled, kernel, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 4), (4, 2), (2,)))
    hidden, table = jnp.zeros((3, 1, 4), jnp.float32), jnp.zeros((5, 4), jnp.float32)
    encoded = Encoded(hidden, jnp.asarray(pooled), table, {})
    params = jax.tree.map(jnp.asarray, {"output": {"kernel": kernel, "bias": bias}})
    batch = {"pair_label": jnp.array([1, 0, 1]), "weight": jnp.array([1.0, 1.0, 0.0])}
    found = jax.jit(lambda batch: Sop().apply({"params": params}, encoded, batch, True))(batch)
    logits = pooled @ kernel + bias
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(3), [1, 0, 1]]
    np.testing.assert_allclose(found["loss"].value, losses[:2].mean(), rtol=1e-5)
    assert found["accuracy"].count == 2
    outputs = Sop().apply({"params": params}, encoded, method="outputs")
    np.testing.assert_allclose(outputs["sop_logits"], logits, rtol=1e-5)
