"""Every member of the family does what BERT does here: trains, is opened, packs, resumes, is split over devices and
trained with several seeds at once."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.data.corpus import CorpusConfig, build_corpus
from bert_jax.data.documents import Document
from bert_jax.experiment import Experiment
from bert_jax.handover import extend_positions
from bert_jax.learners.distill import Distill
from bert_jax.learners.electra import GeneratorDiscriminator
from bert_jax.learners.mpnet import MaskedPermuted
from bert_jax.learners.multitask import Multitask
from bert_jax.models.albert import Albert
from bert_jax.models.bert import Bert
from bert_jax.models.distilbert import DistilBert, distilbert
from bert_jax.models.electra import Electra
from bert_jax.models.fnet import Fnet
from bert_jax.models.gpt2 import Gpt2
from bert_jax.models.modernbert import ModernBert
from bert_jax.models.mpnet import Mpnet
from bert_jax.models.roberta import Roberta, roberta
from bert_jax.models.xlnet import Xlnet
from bert_jax.objectives.causal_lm import CausalLm
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.ngrams import Ngrams
from bert_jax.objectives.plm import Plm
from bert_jax.objectives.rtd import Rtd
from bert_jax.objectives.sbo import Sbo
from bert_jax.objectives.spans import Spans
from bert_jax.pretrained import Pretrained, load, load_experiment
from bert_jax.resolve import resolve
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.text.bpe import END_OF_TEXT
from bert_jax.text.training import train_bpe
from bert_jax.train import train
from bert_jax.training.checkpoint import restore_params
from bert_jax.training.log import read_metrics
from bert_jax.training.optim import BertAdam
from bert_jax.training.sharding import MeshShape

STDDEV = 0.1  # larger than BERT's: at this width it learns sooner
STEPS, CHECKPOINT_EVERY = 24, 4
SIZES = {"num_layers": 2, "width": 32, "num_heads": 2, "mlp_width": 64, "max_length": 32, "init_stddev": STDDEV}
SIZES["scan"] = True  # compiles faster
MEMBERS = ("roberta", "distilbert", "distilled", "albert", "modernbert", "electra", "gpt2", "spanbert", "fnet", "mpnet")
MEMBERS += ("xlnet",)
# The tests of a member share its runs, and so one process.
EACH = [pytest.param(name, marks=pytest.mark.xdist_group(f"family-{name}")) for name in MEMBERS]


def topics():
    """What the tiny corpus has to learn: documents for training and held out."""
    rng = np.random.default_rng(0)

    def document(topic):
        words = [topic + last for last in "lmn"]
        return Document([" ".join(rng.choice(words, 7, p=[0.6, 0.3, 0.1])) for _ in range(10)], sentences=True)

    return [document(topic) for topic in 15 * "abcd"], [document(topic) for topic in 5 * "abcd"]


@pytest.fixture(scope="module")
def bpe_corpus(tmp_path_factory):
    """It through byte-level BPE."""
    train, valid = topics()
    tokenizer = train_bpe((line for text in train for line in text.paragraphs), vocab_size=272)
    folder = tmp_path_factory.mktemp("corpora") / "bpe"
    build_corpus(train, tokenizer, folder, CorpusConfig(max_seq_length=32, dupe_factor=4), valid=valid, workers=1)
    return folder


@pytest.fixture(scope="module")
def rows_corpus(tmp_path_factory):
    """It through byte-level BPE, in rows of one segment."""
    train, valid = topics()
    tokenizer = train_bpe((line for text in train for line in text.paragraphs), vocab_size=272)
    folder = tmp_path_factory.mktemp("corpora") / "rows"
    config = CorpusConfig(max_seq_length=32, dupe_factor=1, short_seq_prob=0.0, rows="full-sentences")
    build_corpus(train, tokenizer, folder, config, valid=valid, workers=1)
    return folder


@pytest.fixture(scope="module")
def stream_corpus(tmp_path_factory):
    """It through GPT-2's tokenizer, in one stream."""
    train, valid = topics()
    lines = (line for text in train for line in text.paragraphs)
    tokenizer = train_bpe(lines, vocab_size=268, specials=(END_OF_TEXT,))
    folder = tmp_path_factory.mktemp("corpora") / "stream"
    config = CorpusConfig(max_seq_length=32, dupe_factor=1, short_seq_prob=0.0, rows="stream")
    build_corpus(train, tokenizer, folder, config, valid=valid, workers=1)
    return folder


def experiment_of(corpus, learner, **overrides):
    return Experiment(
        task=Pretraining(corpus, valid_limit=40),
        learner=learner,
        optimizer=BertAdam(learning_rate=5e-3, b2=0.98, schedule_steps=max(STEPS, overrides.get("steps", 0))),
        **{"steps": STEPS, "batch_size": 32, "eval_batch_size": 32, "log_every": 1, "eval_every": STEPS}
        | {"checkpoint_every": CHECKPOINT_EVERY}
        | overrides,
    )


def mlm(**fields):
    return {"mlm": Mlm(max_predictions=5, init_stddev=STDDEV, activation="gelu", **fields)}


@pytest.fixture(scope="module")
def teacher(tiny_corpus, tmp_path_factory):
    """The workdir of a BERT of three layers that has learned something."""
    workdir = tmp_path_factory.mktemp("teacher") / "run"
    learner = Multitask(Bert(**SIZES | {"num_layers": 3}, activation="gelu"), mlm())
    train(experiment_of(tiny_corpus, learner, steps=60, checkpoint_every=60), workdir)
    return workdir


class OnDemand(dict):
    """What is made when it is first asked for: a process that tests one member trains no other."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def __missing__(self, name):
        self[name] = self.make(name)
        return self[name]


@pytest.fixture(scope="module")
def experiments(request):
    of = request.getfixturevalue
    found = {
        "roberta": lambda: experiment_of(of("bpe_corpus"), Multitask(Roberta(**SIZES), mlm(norm_epsilon=1e-5))),
        "distilbert": lambda: experiment_of(of("tiny_corpus"), Multitask(DistilBert(**SIZES), mlm())),
        "distilled": lambda: experiment_of(
            of("tiny_corpus"), Distill(DistilBert(**SIZES), mlm()), init_from=of("teacher")
        ),
        "gpt2": lambda: experiment_of(of("stream_corpus"), Multitask(Gpt2(**SIZES), {"lm": CausalLm(transform=False)})),
        "electra": lambda: experiment_of(
            of("tiny_corpus"),
            GeneratorDiscriminator(
                Electra(**SIZES, embedding_width=16),
                mlm(mask_share=1.0, random_share=0.0) | {"rtd": Rtd(init_stddev=STDDEV)},
            ),
        ),
        "albert": lambda: experiment_of(
            of("tiny_corpus"),
            Multitask(
                Albert(**SIZES, embedding_width=16, activation="gelu", dropout=0.1, pooler=False),
                mlm(masking=Ngrams()),
            ),
        ),
        "spanbert": lambda: experiment_of(
            of("rows_corpus"),
            Multitask(
                Bert(**SIZES, activation="gelu", pooler=False),
                mlm(masking=Spans()) | {"sbo": Sbo(init_stddev=STDDEV)},
            ),
        ),
        "fnet": lambda: experiment_of(
            of("tiny_corpus"), Multitask(Fnet(**SIZES | {"num_heads": 1}, activation="gelu"), mlm()), padding="full"
        ),
        "mpnet": lambda: experiment_of(
            of("bpe_corpus"), MaskedPermuted(Mpnet(**SIZES), mlm(norm_epsilon=1e-5, whole_word=True))
        ),
        "xlnet": lambda: experiment_of(
            of("tiny_corpus"), Multitask(Xlnet(**SIZES), {"plm": Plm(max_predictions=5, init_stddev=STDDEV)})
        ),
        "modernbert": lambda: experiment_of(
            of("tiny_corpus"),
            Multitask(ModernBert(**SIZES, dropout=0.1, window=4), mlm(norm_epsilon=1e-5, use_bias=False)),
        ),
    }
    return OnDemand(lambda name: found[name]())


@pytest.fixture(scope="module")
def finished(experiments, tmp_path_factory):
    """The workdir of each, trained without interruption."""
    folder = tmp_path_factory.mktemp("family")

    def trained(name):
        train(experiments[name], folder / name)
        return folder / name

    return OnDemand(trained)


def losses(workdir):
    return [line["train/loss"] for line in read_metrics(workdir / "metrics.jsonl") if "train/loss" in line]


def assert_same_parameters(a, b, tolerance=0.0):
    a, b = (restore_params(folder / "checkpoints", None) for folder in (a, b))
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance), a, b)


@pytest.mark.parametrize("name", EACH)
def test_it_learns(finished, name):
    """The loss falls by a quarter, and further than what single tokens tell would take it."""
    found = losses(finished[name])
    assert np.mean(found[-3:]) < 0.75 * found[0]


@pytest.mark.parametrize("name", EACH)
def test_it_is_opened(experiments, finished, tmp_path, name):
    """A run is opened as its encoder and heads, `hidden` is the encoder's last; saved for others and opened again, it
    computes the same."""
    p = load(finished[name])
    learner = experiments[name].learner
    heads = getattr(learner, "as_multitask", lambda: learner)().objectives
    parts = {f"objectives_{head}" for head in heads if head != "lm"}  # which has no parameters
    assert type(p.model) is Multitask and p.params.keys() - {"encoder"} == parts
    assert type(p.model.encoder) is type(learner.encoder)
    mask = (np.arange(9) < np.array([[9], [5]])).astype(np.int32)
    tokens = np.where(mask, np.random.default_rng(0).integers(5, 30, mask.shape), p.tokenizer.pad_id).astype(np.int32)
    found = p(tokens, np.zeros_like(tokens), mask)
    given = {"params": p.params["encoder"]}, {"tokens": tokens, "lengths": mask.sum(1, dtype=np.int32)}
    encoded = p.model.encoder.apply(*jax.tree.map(jnp.asarray, given))
    np.testing.assert_allclose(found["hidden"], encoded.hidden, atol=1e-5)
    p.save(tmp_path / "saved", heads=[head for head in heads if head != "sbo"])  # transformers has none
    again = load(tmp_path / "saved")
    assert again.model.encoder == p.model.encoder.clone(scan=False)  # how it is computed is not of the model
    assert again.tokenizer.fingerprint == p.tokenizer.fingerprint
    assert again.params.keys() == p.params.keys() - {"objectives_sbo"}
    jax.tree.map(np.testing.assert_array_equal, again.params, {name: p.params[name] for name in again.params})
    for key, value in again(tokens, mask=mask).items():
        np.testing.assert_allclose(value, found[key], atol=1e-5)  # unrolled, where the run was in a loop
    if "mlm" in heads:
        assert p.fill_mask("al [MASK] al", top_k=1)[0][0].probability > 0


@pytest.mark.parametrize("name", EACH)
def test_it_resumes(experiments, finished, tmp_path, interrupted, name):
    """Interrupted and started again it ends at the same parameters, to the bit."""
    interrupted(experiments[name], tmp_path / "run")
    train(experiments[name], tmp_path / "run")
    assert_same_parameters(tmp_path / "run", finished[name])


@pytest.mark.parametrize("name", EACH)
def test_it_is_the_same_however_it_is_computed(experiments, finished, tmp_path, name):
    """Padded rows in place of packed ones, parameters split over devices, micro-batches, and a second seed in the same
    program, all at once: the same losses, with dropout, but for rounding, which updates make larger; those of the other
    seed are others. Members that cannot pack are padded in both."""
    packs = experiments[name].learner.encoder.ignores_padding
    assert experiments[name].padding == ("packed" if packs else "full") and packs == (name != "fnet")
    change = {"padding": "full", "mesh": MeshShape(data=2, fsdp=4), "accumulate": 2, "seeds": 2}
    train(dataclasses.replace(experiments[name], steps=8, eval_every=8, **change), tmp_path / "both")
    first, second = (losses(folder) for folder in sorted((tmp_path / "both").glob("seed-*")))
    np.testing.assert_allclose(first, losses(finished[name])[:8], rtol=2e-4)
    assert not np.allclose(second, first, rtol=1e-3)


@pytest.mark.parametrize("padding", ["packed", "trimmed"])
def test_what_cannot_pack_refuses(experiments, padding):
    """What computes padding as any token says so before compilation."""
    with pytest.raises(ValueError, match=r'computes padding as any token, .* set padding to "full"'):
        resolve(dataclasses.replace(experiments["fnet"], padding=padding))


@pytest.mark.parametrize("name", EACH)
def test_scan_and_remat(experiments, name):
    """One traced layer, computed again in the backward pass: the same loss and gradient."""
    run = resolve(experiments[name])
    params = jax.tree.map(jnp.asarray, run.initial)
    batch = jax.jit(run.learner.corrupt)(jax.random.key(0), 0, run.example_batch)
    if not params:
        params = nn.unbox(jax.jit(run.learner.init)(jax.random.key(1), batch)["params"])

    def loss_and_gradient(encoder):
        learner = run.learner.clone(encoder=encoder)

        def loss(params):
            metrics = learner.apply({"params": params}, batch, True, rngs={"dropout": jax.random.key(2)})
            return learner.loss_of(metrics)

        return jax.jit(jax.value_and_grad(loss))(params)

    encoder = run.learner.encoder
    found = [loss_and_gradient(encoder.clone(scan=False)), loss_and_gradient(encoder.clone(scan=True, remat="full"))]
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found[0][1], found[1][1])


# ---- what is particular to one ---------------------------------------------------------------------------------------


def test_positions_of_roberta_begin_at_two():
    """The first token has the third row of the table, in a row of its own, packed, and with given positions; the first
    two rows are of none."""
    encoder = Roberta(vocab_size=40, **SIZES)
    batch = {"tokens": jnp.full((2, 5), 7)}
    params = nn.unbox(encoder.init(jax.random.key(0), batch)["params"])
    table = params["embeddings"]["positions"]["table"]
    assert table.shape == (34, 32)

    def hidden(table, **more):
        changed = params | {"embeddings": params["embeddings"] | {"positions": {"table": table}}}
        return encoder.apply({"params": changed}, jax.tree.map(jnp.asarray, batch | more)).hidden

    plain = hidden(table)
    np.testing.assert_array_equal(plain, hidden(table.at[:2].set(9.0)))
    assert not np.allclose(plain, hidden(table.at[2].set(9.0)))
    positions = np.broadcast_to(np.arange(5, dtype=np.int32), (2, 5))
    np.testing.assert_allclose(plain, hidden(table, positions=positions), atol=1e-6)
    np.testing.assert_array_equal(plain, hidden(table, segments=np.ones((2, 5), np.int32)))


@pytest.mark.parametrize("how", ["copied", "new"])
def test_more_positions_for_roberta(how):
    """The rows of no token stay where they are, and are not repeated."""
    table = np.arange(12.0, dtype=np.float32).reshape(6, 2)
    params = {"encoder": {"embeddings": {"positions": {"table": table}}}}
    found = extend_positions(params, 9, how, 0.02, 0, first=2)["encoder"]["embeddings"]["positions"]["table"]
    np.testing.assert_array_equal(found[:6], table)
    assert found.shape == (9, 2) and (how == "new" or np.array_equal(found[6:], table[2:5]))


@pytest.mark.xdist_group("family-distilled")
def test_the_student_begins_as_its_teacher(experiments, teacher):
    """Embeddings without segments, the first and the last layer of three, the head; and all of it has the right
    shape."""
    run, source = resolve(experiments["distilled"]), load(teacher).params
    student = run.initial["encoder"]
    assert set(student) == {"embeddings", "layers"} and set(student["embeddings"]) == {"words", "positions", "norm"}
    chosen = jax.tree.map(lambda leaf: leaf[np.array([0, 2])], source["encoder"]["layers"])
    jax.tree.map(np.testing.assert_array_equal, student["layers"], chosen)
    words = source["encoder"]["embeddings"]["words"]
    np.testing.assert_array_equal(student["embeddings"]["words"]["table"], words["table"])
    jax.tree.map(np.testing.assert_array_equal, run.initial["objectives_mlm"], source["objectives_mlm"])
    jax.tree.map(np.testing.assert_array_equal, run.initial["teacher"], source["encoder"])


@pytest.mark.parametrize("field", ["frozen_layers", "reinitialised_layers"])
@pytest.mark.xdist_group("family-albert")
def test_layers_that_are_shared(experiments, finished, field):
    """There is one, however often it is applied: two cannot be frozen or begun anew, and one can."""
    base = dataclasses.replace(experiments["albert"], init_from=finished["albert"])
    change = {
        "frozen_layers": lambda count: {"optimizer": BertAdam(frozen_layers=count)},
        "reinitialised_layers": lambda count: {"reinitialised_layers": count},
    }[field]
    resolve(dataclasses.replace(base, **change(1)))
    with pytest.raises(ValueError, match=f"{field} 2, but the encoder has only 1 layers with parameters of their own"):
        resolve(dataclasses.replace(base, **change(2)))


@pytest.mark.xdist_group("family-albert")
def test_shared_layers_are_not_distilled(experiments, finished):
    """Neither as the teacher's nor as the student's: there are none to choose from."""
    albert, student = load(finished["albert"]), Distill(DistilBert(**SIZES), mlm())
    with pytest.raises(ValueError, match="layers of the teacher share their parameters"):
        student.starting_from(albert.model, albert.params)
    shared = Distill(albert.model.encoder, mlm())
    with pytest.raises(ValueError, match="layers of the student share their parameters"):
        shared.starting_from(Multitask(DistilBert(**SIZES), mlm()), {})


@pytest.mark.xdist_group("family-electra")
def test_the_generator_of_electra(experiments, finished, tmp_path):
    """It is in the checkpoints of a run, predicts what is masked, and is opened by others as a masked LM; the run
    itself is opened as the discriminator, which says of each token whether it fits."""
    workdir = finished["electra"]
    learner, params = load_experiment(workdir).learner, restore_params(workdir / "checkpoints", None)
    generator = Pretrained(*learner.generator_alone(params), load(workdir).tokenizer)
    generator.save(tmp_path / "generator")
    again = load(tmp_path / "generator")
    encoder = again.model.encoder
    assert list(again.model.objectives) == ["mlm"] and (encoder.width, encoder.vocab_size) == (8, 31)
    found, expected = (own.fill_mask("al [MASK] al", top_k=2)[0] for own in (again, generator))
    assert [one.token for one in found] == [one.token for one in expected]
    np.testing.assert_allclose(*([one.probability for one in own] for own in (found, expected)), rtol=1e-5)
    p = load(workdir)
    tokens = np.array([p.tokenizer.encode_pair("al am bn al", max_length=32).ids])
    assert p(tokens)["rtd_logits"].shape == tokens.shape


@pytest.mark.xdist_group("family-xlnet")
def test_memory_of_xlnet(experiments, tmp_path):
    """Rows in chunks that remember: the same losses, with dropout, where parameters are split over devices, rows cut to
    what a batch needs and computed in micro-batches; a run is opened with it, and is not saved for those whose memory
    is another."""

    def run(name, **overrides):
        encoder = Xlnet(**SIZES, chunk=8, memory=8)
        learner = Multitask(encoder, {"plm": Plm(max_predictions=2, chunk=8, init_stddev=STDDEV)})
        changed = {"learner": learner, "steps": 4, "eval_every": 4} | overrides
        train(dataclasses.replace(experiments["xlnet"], **changed), tmp_path / name)
        return losses(tmp_path / name)

    straight = run("straight", padding="full")
    split = run("split", padding="trimmed", mesh=MeshShape(data=2, fsdp=4), accumulate=2)
    np.testing.assert_allclose(split, straight, rtol=2e-4)
    p = load(tmp_path / "straight")
    assert (p.model.encoder.chunk, p.model.encoder.memory) == (8, 8)
    with pytest.raises(ValueError, match="chunk is 8, and their xlnet has no other than 0: format bert_jax keeps it"):
        p.save(tmp_path / "saved")


@pytest.mark.xdist_group("family-modernbert")
def test_no_positions_to_extend(experiments, finished):
    """ModernBERT has no table of them, and says what to give instead."""
    more = {"init_from": finished["modernbert"], "extend_positions": "copied"}
    with pytest.raises(ValueError, match="ModernBert has no position table to extend: give its encoder a max_length"):
        resolve(dataclasses.replace(experiments["modernbert"], **more))


def test_layers_of_the_paper():
    """Of 12 layers those that the original's script takes."""
    assert np.round(np.linspace(0, 11, 6)).astype(int).tolist() == [0, 2, 4, 7, 9, 11]
    assert (distilbert("base").num_layers, distilbert("base").width) == (6, 768)
    assert (roberta("large").num_layers, roberta("large").num_heads) == (24, 16)


@pytest.mark.xdist_group("family-distilled")
def test_the_teacher_stays(finished, teacher):
    """It is in the checkpoints, so that a run continues without the teacher's folder, and it is what it was: neither
    gradient nor weight decay; the optimizer has no moments of it."""
    kept, source = restore_params(finished["distilled"] / "checkpoints", None), load(teacher).params
    jax.tree.map(np.testing.assert_array_equal, kept["teacher"], source["encoder"])
    jax.tree.map(np.testing.assert_array_equal, kept["teacher_head"], source["objectives_mlm"])
    words = (tree["encoder"]["embeddings"]["words"]["table"] for tree in (kept, source))
    assert not np.array_equal(*words)


@pytest.mark.parametrize(
    ("student", "objectives", "message"),
    [
        ({"width": 16}, None, "the student has width 16, which the teacher with 32"),
        ({"num_layers": 4}, None, "the student has num_layers 4, which the teacher with 3"),
        ({"max_length": 64}, None, "the student has max_length 64, which the teacher with 32"),
        ({}, {}, "one objective, 'mlm', and not none"),
    ],
)
@pytest.mark.xdist_group("family-distilled")
def test_what_cannot_be_distilled(experiments, student, objectives, message):
    """Said before anything is compiled."""
    learner = Distill(DistilBert(**SIZES | student), mlm() if objectives is None else objectives)
    with pytest.raises(ValueError, match=message):
        resolve(dataclasses.replace(experiments["distilled"], learner=learner))


@pytest.mark.xdist_group("family-distilled")
def test_distillation_needs_a_teacher(experiments):
    """Without a checkpoint to start from there is none; nor is one without its weights."""
    with pytest.raises(ValueError, match="the teacher has no weights"):
        resolve(dataclasses.replace(experiments["distilled"], random_weights=True))
    with pytest.raises(ValueError, match="there is no teacher: give init_from"):
        resolve(dataclasses.replace(experiments["distilled"], init_from=None))
