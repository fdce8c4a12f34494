"""XLM-R from text to a folder of theirs: its vocabulary goes with RoBERTa's encoder through all that is done to it."""

import json

import jax
import numpy as np
import pytest

from bert_jax.data.corpus import CorpusConfig, build_corpus
from bert_jax.data.documents import Document
from bert_jax.experiment import Experiment
from bert_jax.interop.members import MEMBERS, member_of
from bert_jax.learners.multitask import Multitask
from bert_jax.models.roberta import Roberta
from bert_jax.objectives.mlm import Mlm
from bert_jax.pretrained import load
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.text.fairseq_sentencepiece import FairseqSentencePiece
from bert_jax.text.training import count_spaced, fairseq_sentencepiece_of_counts
from bert_jax.train import train
from bert_jax.training.optim import AdamW

WORDS = "кот сидит на ковре кошка спит под столом".split()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of a few steps."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("xlm")
    documents = [Document([" ".join(rng.choice(WORDS, 7)) for _ in range(8)], sentences=True) for _ in range(20)]
    counts = count_spaced(line for document in documents for line in document.paragraphs)
    tokenizer = fairseq_sentencepiece_of_counts(counts, 24, coverage=1.0)
    config = CorpusConfig(max_seq_length=32, dupe_factor=1, short_seq_prob=0.0, rows="full-sentences")
    build_corpus(documents, tokenizer, folder / "corpus", config, valid=documents[:4], workers=1)
    encoder = Roberta(num_layers=1, width=16, num_heads=2, mlp_width=32, max_length=32, scan=True)
    experiment = Experiment(
        task=Pretraining(folder / "corpus"),
        learner=Multitask(encoder, {"mlm": Mlm(max_predictions=5, activation="gelu", norm_epsilon=1e-5)}),
        optimizer=AdamW(),
        steps=3,
        batch_size=8,
        eval_batch_size=8,
    )
    train(experiment, folder / "run")
    return folder / "run"


def test_from_text_to_their_folder(workdir, tmp_path):
    """A run is opened with its tokenizer, answers on text, is saved as an xlm-roberta, and opened again as it was."""
    p = load(workdir)
    assert type(p.tokenizer) is FairseqSentencePiece and p.model.encoder.vocab_size == 24
    filled = p.fill_mask("кот [MASK] на ковре", top_k=2)[0]
    assert len(filled) == 2 and filled[0].probability >= filled[1].probability > 0
    p.save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("xlm-roberta", ["XLMRobertaForMaskedLM"])
    assert (tmp_path / "saved/sentencepiece.bpe.model").exists() and config["pad_token_id"] == p.tokenizer.pad_id
    again = load(tmp_path / "saved")
    assert again.tokenizer.fingerprint == p.tokenizer.fingerprint
    jax.tree.map(np.testing.assert_array_equal, again.params, p.params)


def test_who_is_who(workdir):
    """Of two members with one encoder, the tokenizer decides; an encoder alone is that of the other one, whose tensors
    have the same names."""
    tokenizer = load(workdir).tokenizer
    assert member_of(Roberta(), tokenizer) is MEMBERS["xlm-roberta"]
    assert member_of(Roberta()) is MEMBERS["roberta"]
    both = [MEMBERS[kind].encoder_table(Roberta()) for kind in ("roberta", "xlm-roberta")]
    assert both[0] == both[1]
