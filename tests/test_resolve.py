"""From an experiment to what it stands for; what does not fit is found before anything is compiled or written."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from bert_jax.data.corpus import CorpusConfig, build_corpus
from bert_jax.data.documents import Document
from bert_jax.data.loader import TrainingBatches
from bert_jax.data.tables import Tables
from bert_jax.experiment import Experiment, claim_workdir
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.objectives.causal_lm import CausalLm
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.pretrained import Pretrained, load_architecture, write_learner
from bert_jax.resolve import check_heads, resolve
from bert_jax.tasks.classification import Classification
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.text.wordpiece import WordPiece
from bert_jax.train import train
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.optim import BertAdam
from bert_jax.training.sharding import MeshShape
from bert_jax.training.step import abstract_parameters
from bert_jax.training.workdir_lock import LOCK_FILE

ENCODER = Bert(num_layers=1, width=16, num_heads=2, mlp_width=16, max_length=32)


@pytest.fixture(scope="module")
def pretraining(tiny_corpus):
    """Pre-training on the tiny corpus."""
    return Experiment(
        task=Pretraining(tiny_corpus),
        learner=Multitask(ENCODER, {"mlm": Mlm(max_predictions=5), "nsp": Nsp()}),
        steps=10,
        batch_size=16,
        eval_batch_size=16,
    )


@pytest.fixture(scope="module")
def pretrained(pretraining, tmp_path_factory):
    """A workdir as a run leaves it, with parameters that were never trained: two checkpoints, the first is the best."""
    workdir, run = tmp_path_factory.mktemp("runs") / "pretrained", resolve(pretraining)
    claim_workdir(workdir, run.experiment)
    run.tokenizer.save(workdir / "tokenizer")
    write_learner(workdir, run.learner)
    shapes = nn.unbox(abstract_parameters(run.learner, run.example_batch))
    with Checkpoints(workdir / "checkpoints", best="valid/mlm/accuracy", mode="max") as checkpoints:
        for step, accuracy in ((1, 0.5), (2, 0.25)):
            params = jax.tree.map(lambda leaf, step=step: np.full(leaf.shape, step, np.float32), shapes)
            checkpoints.save(step, {"params": params, "step": np.int32(step)}, {"valid/mlm/accuracy": accuracy})
    return workdir


@pytest.fixture(scope="module")
def fine_tuning(pretrained):
    """A classifier from that workdir, of texts over its vocabulary."""
    folder = pretrained.parent
    for name in ("train", "valid"):
        rows = [{"text": 4 * f"{topic}l ", "label": topic} for topic in 8 * "abcd"]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Experiment(
        task=Classification(Tables(str(folder / "train.jsonl"), (str(folder / "valid.jsonl"),)), max_length=16),
        learner=Multitask(None, {"classify": Classify()}),
        init_from=pretrained,
        epochs=2.0,
        batch_size=8,
        eval_batch_size=16,
    )


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """`refused(experiment, message)`: training it ends with this message, having compiled and written nothing."""
    compiled = []

    def listen(event, *_, **__):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)

    def check(experiment, message, kind=ValueError):
        with pytest.raises(kind, match=message) as error:
            train(experiment, tmp_path / "workdir")
        assert compiled == []
        assert not (tmp_path / "workdir").exists()
        return str(error.value)

    yield check
    jax.monitoring.unregister_event_duration_listener(listen)


def change(experiment, **changes):
    return dataclasses.replace(experiment, **changes)


def with_encoder(experiment, **changes):
    return change(experiment, learner=experiment.learner.clone(encoder=ENCODER.clone(**changes)))


# ---- what fits -------------------------------------------------------------------------------------------------------


def test_pretraining_is_resolved(pretraining, tiny_corpus):
    """The vocabulary's size and special ids are filled in, sources opened, nothing to start from."""
    run = resolve(pretraining)
    assert run.tokenizer.vocab_size == 31
    assert run.learner.encoder.vocab_size == run.learner.objectives["mlm"].vocab_size == 31
    assert run.learner.objectives["mlm"].special_ids == (2, 3, 4)
    assert run.experiment == pretraining  # the record keeps what was asked for
    assert run.initial == {} and run.steps == 10
    batch = TrainingBatches(run.train_source, 16, pretraining.seed)[0]
    assert all((run.example_batch[name] == batch[name]).all() for name in batch)
    assert list(run.evaluations) == ["valid"] and dict(run.mesh.shape) == {"data": 8, "fsdp": 1, "tensor": 1}


def test_fine_tuning_takes_encoder_tokenizer_and_weights(fine_tuning, pretrained):
    """The encoder's parameters of the latest or the best checkpoint; the heads are new; the record is complete."""
    for checkpoint, value in (("latest", 2.0), ("best", 1.0)):
        run = resolve(change(fine_tuning, init_checkpoint=checkpoint))
        assert list(run.initial) == ["encoder"]
        assert all((leaf == value).all() for leaf in jax.tree.leaves(run.initial))
    assert run.learner.encoder == ENCODER.clone(vocab_size=31) == run.experiment.learner.encoder
    assert run.learner.objectives["classify"].num_classes == 4
    assert run.tokenizer.fingerprint == load_architecture(pretrained).tokenizer.fingerprint
    assert run.steps == 8  # 32 examples, 8 a batch, twice
    assert run.example_batch["tokens"].shape == (8, 16)


def test_the_dropout_of_fine_tuning(fine_tuning):
    """An encoder that was trained without dropout is fine-tuned with it, and the record says so; else as trained."""
    for asked, wanted in ((None, 0.1), (0.25, 0.25), (0.0, 0.0)):
        run = resolve(change(fine_tuning, dropout=asked))
        for encoder in (run.learner.encoder, run.experiment.learner.encoder):
            assert encoder.dropout == encoder.attention_dropout == wanted
        assert run.experiment.dropout is None and resolve(run.experiment).learner == run.learner


def test_the_dtype_of_fine_tuning(fine_tuning):
    """The encoder's operands are rounded as asked for this run, and the record says so; else as it was trained."""
    for asked, wanted in ((None, "auto"), ("bfloat16", "bfloat16")):
        run = resolve(change(fine_tuning, dtype=asked))
        assert run.learner.encoder.dtype == run.experiment.learner.encoder.dtype == wanted
        assert run.experiment.dtype is None


def test_random_weights_take_the_architecture_only(fine_tuning, pretrained):
    """The from-scratch baseline is the same model over the same vocabulary, and needs no checkpoint."""
    run = resolve(change(fine_tuning, random_weights=True))
    assert run.initial == {} and run.learner == resolve(fine_tuning).learner
    assert load_architecture(pretrained).params is None


def test_continued_pretraining_takes_the_heads_too(pretraining, pretrained):
    """Every part that both have, by name."""
    run = resolve(change(pretraining, init_from=pretrained))
    assert sorted(run.initial) == ["encoder", "objectives_mlm", "objectives_nsp"]


# ---- what does not fit -----------------------------------------------------------------------------------------------


def test_rows_longer_than_the_position_table(refused, pretraining, fine_tuning):
    """For a corpus and for labelled files."""
    message = r"the train data has rows of 32 tokens, but the encoder takes 31 \(max_length\)"
    refused(with_encoder(pretraining, max_length=31), message)
    task = dataclasses.replace(fine_tuning.task, max_length=64)
    refused(change(fine_tuning, task=task), "the train data has rows of 64 tokens, .* the encoder takes 32")


def test_heads_that_compute_otherwise(refused, pretraining, pretrained):
    """A head is not put on weights that were trained for another activation, epsilon or decoder; the flag is named."""
    for changes, flag in (
        ({"activation": "gelu"}, "--learner.objectives.mlm.activation gelu_tanh"),
        ({"norm_epsilon": 1e-5}, "--learner.objectives.mlm.norm-epsilon 1e-12"),
        ({"tied": False}, "--learner.objectives.mlm.tied True"),
    ):
        learner = Multitask(ENCODER, {"mlm": Mlm(max_predictions=5, **changes)})
        refused(change(pretraining, init_from=pretrained, learner=learner), f"give {flag}")


@pytest.mark.parametrize(("there", "here"), [("gelu", "tanh"), ("tanh", "last_tanh"), ("gelu_norm", "mean_gelu_norm")])
def test_heads_that_read_otherwise(there, here):
    """Nor on weights of another way to read a text, though their shapes agree."""
    start, learner = (Multitask(ENCODER, {"classify": Classify(2, hidden=hidden)}) for hidden in (there, here))
    with pytest.raises(ValueError, match=f"give --learner.objectives.classify.hidden {there}"):
        check_heads(learner, Pretrained(start, None, None))
    check_heads(start, Pretrained(start, None, None))


def test_a_head_without_a_transform():
    """Its activation and epsilon are read by nothing, and may be any."""
    start, learner = (Multitask(ENCODER, {"lm": CausalLm(activation=x, transform=False)}) for x in ("relu", "gelu"))
    check_heads(learner, Pretrained(start, None, None))


def test_other_corpora_are_evaluated_too(refused, pretraining, tiny_corpus, tmp_path):
    """Their held-out splits under their folders' names; one of another vocabulary, or called `valid`, is refused."""
    shutil.copytree(tiny_corpus, tmp_path / "old")
    run = resolve(change(pretraining, task=Pretraining(tiny_corpus, also=(tmp_path / "old",))))
    assert list(run.evaluations) == ["valid", "old"] and len(run.evaluations["old"]) == len(run.evaluations["valid"])
    shutil.copytree(tiny_corpus, tmp_path / "valid")
    for also in ((tmp_path / "valid",), (tmp_path / "old", tmp_path / "old")):
        refused(change(pretraining, task=Pretraining(tiny_corpus, also=also)), "need names of their own")


def test_a_corpus_of_another_vocabulary(refused, pretraining, pretrained, tmp_path):
    """Than that of the run to start from, even if of the same size; both are told apart and the remedy is named."""
    tokenizer = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(26))])
    text = [Document(["w1 w2", "w3 w4"], sentences=True)] * 3
    build_corpus(text, tokenizer, tmp_path / "other", CorpusConfig(max_seq_length=32), valid=text, workers=1)
    experiment = change(pretraining, task=Pretraining(tmp_path / "other"), init_from=pretrained)
    said = refused(experiment, "the data was prepared with another vocabulary than .*pretrained was trained with")
    assert tokenizer.fingerprint[:12] in said and "31 pieces" in said and f"{pretrained}/tokenizer" in said
    also = change(pretraining, task=Pretraining(pretraining.task.corpus, also=(tmp_path / "other",)))
    refused(also, "other was prepared with another vocabulary")


def test_a_vocabulary_that_the_model_contradicts(refused, pretraining):
    """Sizes given by hand that are not the tokenizer's."""
    refused(with_encoder(pretraining, vocab_size=30522), "the encoder has vocab_size 30522, but the tokenizer has 31")
    objectives = {"mlm": Mlm(vocab_size=30, max_predictions=5)}
    learner = pretraining.learner.clone(objectives=objectives)
    refused(change(pretraining, learner=learner), "Mlm has vocab_size 30 .*but the tokenizer has 31")


def test_a_batch_that_the_devices_cannot_share(refused, pretraining):
    """The training batch, the evaluation batch, and a mesh that does not match the devices."""
    refused(change(pretraining, batch_size=12), "batch_size 12 is not divisible by the 8 devices")
    refused(change(pretraining, eval_batch_size=4), "batch_size 4 is not divisible by the 8 devices")
    refused(change(pretraining, mesh=MeshShape(data=3)), "does not make the 8 devices here")
    refused(change(pretraining, mesh=MeshShape(tensor=4)), "axis of size 31 cannot be split over tensor = 4")


def test_a_checkpoint_of_another_shape(refused, pretraining, pretrained):
    """Names and shapes of what differs, there and here; what agrees is not listed."""
    experiment = with_encoder(change(pretraining, init_from=pretrained), mlp_width=24, num_layers=2)
    said = refused(experiment, "the checkpoint to start from has another shape")
    assert "encoder/layers/mlp/widen/kernel: (1, 16, 16) there, (2, 16, 24) wanted" in said
    assert "encoder/layers/attention_norm/scale: (1, 16) there, (2, 16) wanted" in said
    assert "embeddings" not in said and "objectives" not in said
    learner = Multitask(ENCODER.clone(pooler=False, max_length=40), {"mlm": Mlm(max_predictions=5)})
    said = refused(change(pretraining, init_from=pretrained, learner=learner), "another shape")
    assert "encoder/pooler/kernel: (16, 16) there, none wanted" in said
    assert "encoder/embeddings/positions/table: (32, 16) there, (40, 16) wanted" in said


def test_classes_that_the_head_contradicts(refused, fine_tuning):
    """A number of classes given by hand that is not that of the labels."""
    learner = Multitask(None, {"classify": Classify(num_classes=3)})
    refused(change(fine_tuning, learner=learner), "num_classes 3, but .*train.jsonl has the 4 labels a, b, c, d")


def test_a_label_outside_the_classes(refused, fine_tuning, tmp_path):
    """File and line of the held-out row."""
    (tmp_path / "valid.jsonl").write_text('{"text": "al", "label": "a"}\n{"text": "al", "label": "e"}\n')
    data = dataclasses.replace(fine_tuning.task.data, valid=(str(tmp_path / "valid.jsonl"),))
    refused(change(fine_tuning, task=Classification(data)), r"valid\.jsonl, line 2: label 'e' is none of the classes")


def test_files_that_are_missing(refused, pretraining, fine_tuning, tmp_path):
    """The corpus, the labelled file, the run to start from, its checkpoints."""
    gone = tmp_path / "gone"
    tables = Tables(str(gone / "a.tsv"), (str(gone / "b.tsv"),))
    for experiment, message in (
        (change(pretraining, task=Pretraining(gone)), "gone is not a finished corpus folder"),
        (change(fine_tuning, task=Classification(tables)), r"gone/a\.tsv: no such file"),
        (change(fine_tuning, init_from=gone), "gone is not a folder"),
    ):
        refused(experiment, message, FileNotFoundError)


def test_a_run_without_checkpoints(refused, fine_tuning, pretrained, tmp_path):
    """There is nothing to start from yet; its architecture can be taken all the same."""
    for name in ("learner.json", "tokenizer/vocab.txt", "tokenizer/tokenizer_config.json"):
        path = tmp_path / "young" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((pretrained / name).read_bytes())
    experiment = change(fine_tuning, init_from=tmp_path / "young")
    refused(experiment, "no folder of checkpoints at .*young/checkpoints", FileNotFoundError)
    assert resolve(change(experiment, random_weights=True)).initial == {}


def test_a_metric_that_no_evaluation_has(refused, pretraining):
    """A misspelt `best_metric` would be missed only after the first evaluation; those there are named."""
    said = refused(change(pretraining, best_metric="valid/mlm/acuracy"), "none of the metrics of an evaluation")
    assert "valid/mlm/accuracy" in said and "valid/nsp/loss" in said
    assert resolve(change(pretraining, best_metric="valid/nsp/loss")).steps == 10


def test_a_warm_up_as_long_as_the_run(refused, pretraining):
    """And other values that the optimizer does not take."""
    refused(change(pretraining, optimizer=BertAdam(warmup=10)), "warm-up of 10 steps leaves nothing of 10 steps")


def test_a_corpus_built_anew_with_another_vocabulary(pretraining, tmp_path):
    """The same command, whose data has changed under it: the run's own tokenizer and everything else stays."""
    claim_workdir(tmp_path, pretraining)
    WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "x"]).save(tmp_path / "tokenizer")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match=r"tokenizer/vocab\.txt exists with other content"):
        train(pretraining, tmp_path)
    (tmp_path / LOCK_FILE).unlink()  # it is held while a run is under way, and stays
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_workdir_of_something_else_is_not_touched(pretraining, tmp_path):
    """Refused before any work, too, and left as it is."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path} is not empty and holds no run")):
        train(pretraining, Path(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_micro_batches_that_cannot_be(pretraining, refused):
    """Of a batch that does not divide; and with dropout that does not know its rows."""
    message = r"batch_size 16 does not make 3 micro-batches \(accumulate\) on 8 devices .* take a multiple of 24"
    refused(change(pretraining, accumulate=3), message)
    bits = with_encoder(pretraining, dropout_bits="jax")
    refused(change(bits, accumulate=2), "accumulate needs dropout_bits 'hash'")
    assert resolve(change(pretraining, accumulate=2)).experiment.accumulate == 2
