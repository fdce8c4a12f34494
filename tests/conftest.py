"""What all tests share: the platform, the compilation cache, and the real data where it is present."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Before jax is imported, and through the environment, so that processes started by a test inherit it. Compilation
# takes most of the time of a test: whatever was compiled is kept, however small it is and however quickly it was done.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache/jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402
import numpy as np  # noqa: E402

# Eight devices in this process, so that one and several can be compared in one test; one in processes it starts. With
# threads for all of them: `bert_jax.training.cpu_devices` says why.
os.environ.setdefault("NPROC", "32")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; a test that asks for it is skipped where it is absent."""
    folder = ROOT.parent / "shared/data"
    if not folder.is_dir():
        pytest.skip("needs the real data in ../shared/data, which is not here")
    return folder


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory) -> Path:
    """A corpus of rows of 32 with a vocabulary of 31 pieces. What there is to learn: the words of a document share
    their first letter, a to d, and have l, m or n as their second with frequencies 6 : 3 : 1."""
    # Here and not above: jaxtyping's hook, which checks the annotations, is not yet there when this file is imported.
    from bert_jax.data.corpus import CorpusConfig, build_corpus
    from bert_jax.data.documents import Document
    from bert_jax.text.training import train_wordpiece

    rng = np.random.default_rng(0)

    def document(topic: str) -> Document:
        words = [topic + last for last in "lmn"]
        return Document([" ".join(rng.choice(words, 7, p=[0.6, 0.3, 0.1])) for _ in range(10)], sentences=True)

    train, valid = [document(topic) for topic in 15 * "abcd"], [document(topic) for topic in 5 * "abcd"]
    tokenizer = train_wordpiece((line for text in train for line in text.paragraphs), vocab_size=31)
    folder = tmp_path_factory.mktemp("corpora") / "tiny"
    build_corpus(train, tokenizer, folder, CorpusConfig(max_seq_length=32, dupe_factor=4), valid=valid, workers=1)
    return folder


@pytest.fixture
def interrupted(monkeypatch):
    """`interrupted(experiment, workdir)`: a training that ends as by Ctrl-C, before its fifth step."""
    from bert_jax import train as train_module

    whole, calls = train_module.make_train_step, []

    def killed(*args):
        step = whole(*args)

        def until_five(state, batch):
            calls.append(batch)
            if len(calls) == 5:
                raise KeyboardInterrupt
            return step(state, batch)

        return until_five

    def run(experiment, workdir):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(train_module, "make_train_step", killed)
            train_module.train(experiment, workdir)

    return run
