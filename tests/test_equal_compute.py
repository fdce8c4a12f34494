"""What `experiments/family.py` compares costs the same."""

import importlib.util
import sys
from pathlib import Path
from statistics import fmean

import pytest

from bert_jax.data.corpus import CorpusConfig, build_corpus
from bert_jax.data.documents import Document
from bert_jax.data.loader import TrainingBatches
from bert_jax.data.packing import Layout
from bert_jax.resolve import resolve
from bert_jax.text.training import train_wordpiece
from bert_jax.train import speed_limit

FILE = Path(__file__).resolve().parents[1] / "experiments/family.py"


@pytest.fixture(scope="module")
def family():
    spec = importlib.util.spec_from_file_location("example_family", FILE)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_variants_have_the_compute_of_bert(family, tmp_path):
    """Steps times the multiplications of a step, over corpora with rows of very different lengths."""
    texts = [Document([f"low lower{' new newest' * (i % 9)}" for i in range(40)], sentences=True) for _ in range(6)]
    tokenizer = train_wordpiece((line for text in texts for line in text.paragraphs), 28)
    for name, kind in {
        "pairs": {"short_seq_prob": 0.5},
        "order": {"pairs": "order"},
        "rows": {"rows": "full-sentences", "short_seq_prob": 0.0},
    }.items():
        config = CorpusConfig(max_seq_length=family.ROW, dupe_factor=3 if name != "rows" else 1, **kind)
        build_corpus(texts, tokenizer, tmp_path / name, config, valid=texts[:2], workers=1)
    arguments = family.Arguments(tmp_path, tmp_path, tmp_path, tmp_path, steps=1000)
    found = family.variants(arguments)
    assert set(family.HIDDEN) <= set(found) and found["bert"].steps == 1000
    whole = {name: of_a_run(experiment) for name, experiment in found.items()}
    assert len({experiment.steps for experiment in found.values()}) > 5
    for name, flops in whole.items():
        assert flops == pytest.approx(whole["bert"], rel=0.02), name


def of_a_run(experiment):
    """The multiplications of all its steps, by those of some other batches, laid out for one device."""
    run = resolve(experiment)
    flops, _ = speed_limit(run)
    layout = Layout.of(run.train_source, experiment.padding)
    batches = TrainingBatches(run.train_source, experiment.batch_size, seed=1)
    return experiment.steps * fmean(flops(batch) for i in range(30) for batch in layout([batches[i]]))
