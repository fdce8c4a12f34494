"""What the contestants of a row have in common: text, the very same batches and initial weights, and the loss that they
must begin with. Each function runs in a process of its own and returns what JSON can say."""

import hashlib
import itertools
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from bert_jax.data import docstrings
from bert_jax.data.corpus import CorpusConfig, build_corpus
from bert_jax.data.documents import Document, TextFiles, as_document
from bert_jax.data.loader import TrainingBatches
from bert_jax.data.packing import Layout
from bert_jax.data.squad import SquadFiles
from bert_jax.data.tables import Tables
from bert_jax.experiment import Experiment, encode
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert, bert
from bert_jax.nn.dot import compute_dtype
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.objectives.span import Span
from bert_jax.pretrained import Pretrained, load
from bert_jax.resolve import Resolved, resolve
from bert_jax.tasks.answering import Answering
from bert_jax.tasks.classification import Classification
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.text import tokenizer as tokenizers
from bert_jax.text.sentences import split_sentences
from bert_jax.text.tokenizer import Tokenizer
from bert_jax.text.training import train_wordpiece
from bert_jax.training.flops import dot_flops, peak_flops
from bert_jax.training.optim import AdamW
from bert_jax.training.sharding import Together
from bert_jax.training.step import abstract_parameters, make_init, state_shardings

IGNORED = -100  # transformers' mark for a token that is not predicted
VOCABULARY = 8192  # pieces, where no tokenizer is given
PREDICTIONS = {128: 20, 512: 76}  # at most, in a row of this length
# More steps than a contest has: the learning rate, which then hardly moves, is the same for all.
TOTAL_STEPS = 100_000


def documents(text: Sequence[str], limit: int) -> Iterator[Document]:
    """The first documents of some files; without any, the docstrings of the installed libraries."""
    source = TextFiles(text) if text else (as_document(module.paragraphs) for module in docstrings.read())
    return itertools.islice(source, limit)


def vocabulary(folder: Path, text: Sequence[str], limit: int, given: str | None) -> Tokenizer:
    """The tokenizer that was given, or one trained on the text, which stays in `folder`."""
    if given:
        return tokenizers.load(given)
    own = folder / f"vocabulary-{_digest(text, limit)}"
    if not own.exists():
        lines = (paragraph for document in documents(text, limit) for paragraph in document.paragraphs)
        train_wordpiece(lines, VOCABULARY).save(own)
    return tokenizers.load(own)


def corpus(folder: Path, text: Sequence[str], limit: int, given: str | None, length: int) -> Path:
    """A corpus of rows of `length`; one that is there already is taken."""
    tokenizer = vocabulary(folder, text, limit, given)
    output = folder / f"corpus-{length}-{_digest(text, limit, tokenizer.fingerprint)}"
    if not output.exists():
        config = CorpusConfig(max_seq_length=length, dupe_factor=1, valid_fraction=0.02)
        build_corpus(documents(text, limit), tokenizer, output, config)
    return output


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def pretraining(
    folder: str,
    text: Sequence[str],
    limit: int,
    tokenizer: str | None,
    size: str,
    length: int,
    batch_size: int,
    dtype: str,
    seeds: int = 1,
    batches: int = 24,
) -> dict[str, Any]:
    """An experiment for us; for the peers masked batches and initial weights, and what we find their loss to be.

    Args:
        folder: of all that is made.
        text, limit: files and how many of their documents.
        tokenizer: folder of a vocabulary.
        size: of the encoder, a name of `bert_jax.models.bert.SIZES`.
        length, batch_size: of the batches.
        dtype: of the dots.
        seeds: trained at once.
        batches: for the peers, which read them again and again.
    """
    work = Path(folder)
    experiment = Experiment(
        task=Pretraining(corpus(work, text, limit, tokenizer, length)),
        learner=Multitask(bert(size, dtype=dtype), {"mlm": Mlm(max_predictions=PREDICTIONS[length]), "nsp": Nsp()}),
        optimizer=AdamW(learning_rate=1e-4, warmup=0, decay_all=False),
        steps=TOTAL_STEPS,
        batch_size=batch_size,
    )
    run = resolve(experiment)
    start = work / f"start-{size}-{length}-{dtype}"
    params = save_start(run, start)
    order = TrainingBatches(run.train_source, batch_size, experiment.seed)
    corrupt = jax.jit(lambda step, batch: run.learner.corrupt(jax.random.key(0), step, batch))
    masked = [jax.device_get(corrupt(step, order[step])) for step in range(batches)]
    file = work / f"batches-{size}-{length}-{batch_size}.npz"
    theirs = [batch | {"labels": labels(batch)} for batch in masked]
    names = ("tokens", "segments", "lengths", "pair_label", "labels", "mlm_positions", "mlm_labels", "mlm_weights")
    np.savez(file, **{name: np.stack([batch[name] for batch in theirs]) for name in names})
    given = {"start": str(start), "batches": str(file), "dtype": dtype, "loss": first_loss(run, params, masked[0])}
    lengths = np.concatenate([batch["lengths"] for batch in masked])
    return {
        "ours": {"experiment": encode(replace(experiment, seeds=seeds))},
        "peers": given if seeds == 1 else {"experiment": encode(experiment)},
        "padding": 1 - float(lengths.mean()) / length,
    } | speed(run, lengths)


def loading(**arguments: Any) -> dict[str, Any]:
    """The experiment of `pretraining`, for those who load its batches and those who train on them."""
    found = pretraining(**arguments, batches=1)
    return {"ours": found["ours"], "peers": found["ours"]}


def fine_tuning(
    folder: str,
    text: Sequence[str],
    limit: int,
    tokenizer: str | None,
    model: str | None,
    task: str,
    files: Sequence[str],
    steps: int,
    seeds: int = 1,
) -> dict[str, Any]:
    """Likewise for fine-tuning, with the files that both read.

    Args:
        folder, text, limit, tokenizer, seeds: as of `pretraining`.
        model: folder to start from; without one an encoder of the size of MiniLM with random weights.
        task: sst2 or squad.
        files: to train on and, if there is a second one, to evaluate: TSV of SST-2, or SQuAD JSON, of which 2,000
            questions are taken; made of the text if not given.
        steps: of the whole run.
    """
    work = Path(folder)
    start = Path(model) if model else minilm(work, text, limit, tokenizer)
    made = made_questions if task == "squad" else made_sentences
    train, *valid = map(str, files or made(work, text, limit))
    experiment = fine_tuned(task, train, valid, bool(files), steps, start)
    run = resolve(experiment)
    begun = work / f"start-{task}"
    params = save_start(run, begun)
    experiment = replace(experiment, init_from=begun)
    first = TrainingBatches(run.train_source, experiment.batch_size, experiment.seed)
    tokens = sum(float(first[step]["lengths"].sum()) for step in range(steps))
    rows = run.train_source.read(np.arange(8)) | {"weight": np.ones(8, np.float32)}
    examples = work / f"examples-{task}.json"
    examples.write_text(json.dumps(as_given(task, run)))
    given = {
        "start": str(begun),
        "examples": str(examples),
        "task": task,
        "steps": steps,
        "batch_size": experiment.batch_size,
        "first_tokens": [row[:length].tolist() for row, length in zip(rows["tokens"], rows["lengths"], strict=True)],
        "loss": first_loss(run, params, rows),
        "tokens": tokens,
    }
    ours = {"experiment": encode(replace(experiment, seeds=seeds, steps=TOTAL_STEPS if seeds > 1 else steps))}
    if seeds > 1:
        return {"ours": ours, "peers": {"experiment": encode(replace(experiment, steps=TOTAL_STEPS))}}
    return {"ours": ours | {"tokens": tokens}, "peers": given}


def fine_tuned(task: str, train: str, valid: list[str], given: bool, steps: int, start: Path) -> Experiment:
    """The experiment; of files that were `given` a part is taken for squad."""
    if task == "squad":
        data = SquadFiles(train, tuple(valid), train_limit=2000 if given else 0, valid_limit=100 if given else 0)
        experiment = Experiment(
            task=Answering(data), learner=Multitask(None, {"span": Span()}), batch_size=8, steps=steps, init_from=start
        )
    else:
        data = Tables(train, tuple(valid), text_columns=("sentence",))
        experiment = Experiment(
            task=Classification(data, max_length=64, name="SST-2"),
            learner=Multitask(None, {"classify": Classify()}),
            batch_size=32,
            steps=steps,
            init_from=start,
        )
    optimizer = AdamW(learning_rate=5e-5, warmup=0.1, decay_all=False)
    return replace(
        experiment, optimizer=optimizer, dropout=0.1, dtype="float32", eval_every=10**9, checkpoint_every=10**9
    )


def as_given(task: str, run: Resolved) -> dict[str, list]:
    """The texts of both splits, in our order, for those who encode them themselves."""
    data = run.experiment.task.data
    rows = {"train": data.train_rows, "valid": next(iter(data.valid_rows.values()))}
    if task == "squad":
        return {split: [row.fields for row in of_split] for split, of_split in rows.items()}
    classes = {name: number for number, name in enumerate(run.experiment.task.classes)}
    return {
        split: [{"text": row.fields["sentence"], "label": classes[row.fields["label"]]} for row in of_split]
        for split, of_split in rows.items()
    }


def embedding(
    folder: str, text: Sequence[str], limit: int, tokenizer: str | None, model: str | None, count: int
) -> dict[str, Any]:
    """A model and sentences of the text, with our vectors of the first of them.

    Args:
        folder, text, limit, tokenizer: as of `pretraining`.
        model: folder; without one an encoder of the size of MiniLM with random weights.
        count: sentences.
    """
    work = Path(folder)
    start = Path(model) if model else minilm(work, text, limit, tokenizer)
    file = work / f"sentences-{_digest(text, limit, count)}.json"
    if not file.exists():
        sentences = list(itertools.islice(split_all(documents(text, limit)), count))
        random.Random(0).shuffle(sentences)
        file.write_text(json.dumps(sentences))
    first = load(str(start)).embed(json.loads(file.read_text())[:32])
    given = {"start": str(start), "sentences": str(file)}
    return {"ours": given, "peers": given | {"vectors": first.tolist()}}


def text_file(folder: str, text: Sequence[str], limit: int, tokenizer: str | None) -> dict[str, Any]:
    """The text as one file, not compressed, one paragraph a line and documents marked, and a tokenizer."""
    work = Path(folder)
    own = vocabulary(work, text, limit, tokenizer)
    saved = work / f"tokenizer-{own.fingerprint[:12]}"
    if not saved.exists():
        own.save(saved)
    file = work / f"text-{_digest(text, limit)}.txt"
    if not file.exists():
        write_text(file, documents(text, limit))
    given = {"file": str(file), "tokenizer": str(saved), "megabytes": file.stat().st_size / 1e6}
    return {"ours": given, "peers": given}


# ---- parts of the above ----


def save_start(run: Resolved, folder: Path) -> Any:
    """The parameters that a run starts from, which are written into a folder that transformers opens."""
    plain = optax.identity()  # no moments, which would take twice the memory of the parameters
    alone = state_shardings(run.learner, plain, run.example_batch, run.mesh)
    init = make_init(run.learner, plain, alone, Together(run.mesh))
    params = init(np.uint32(run.experiment.seed), run.example_batch).params | run.initial
    if folder.exists():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    Pretrained(run.learner, jax.device_get(params), run.tokenizer).save(folder, format="hf")
    return params


def first_loss(run: Resolved, params: Any, batch: Mapping[str, np.ndarray]) -> float:
    """The loss of a batch without dropout, as the training step's layout computes it."""
    (batch,) = Layout.of(run.train_source, run.experiment.padding)([batch])
    loss = jax.jit(lambda params, batch: run.learner.loss_of(run.learner.apply({"params": params}, batch, False)))
    return float(loss(params, batch))


def labels(batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """The tokens that are predicted [B, L], and IGNORED at all other places."""
    found = np.full(batch["tokens"].shape, IGNORED, np.int32)
    rows, places = np.nonzero(batch["mlm_weights"])
    found[rows, batch["mlm_positions"][rows, places]] = batch["mlm_labels"][rows, places]
    return found


def speed(run: Resolved, lengths: np.ndarray) -> dict[str, float]:
    """Flop of training for each token of rows of these lengths, none of it on padding, and what the devices reach.

    Training is three times the dots of the forward pass; those of a row are a polynomial of second degree in its
    length, which three lengths determine.
    """
    longest = run.train_source.max_length
    known = [longest // 2, longest * 3 // 4, longest]
    learner, params = run.learner, nn.unbox(abstract_parameters(run.learner, run.example_batch))

    def forward(params: Any, row: Mapping[str, Any]) -> Any:
        return learner.apply({"params": params}, learner.corrupt(jax.random.key(0), 0, row), False)

    def dots(length: int) -> int:
        row = {name: array[:1] for name, array in run.example_batch.items() if name != "packing"}
        row = {name: array[:, :length] if array.ndim > 1 else array for name, array in row.items()}
        return dot_flops(forward, params, row)

    dots_of = np.polynomial.Polynomial.fit(known, [dots(length) for length in known], 2)
    peak = peak_flops(jax.devices()[0], compute_dtype(learner.encoder.dtype)) * jax.device_count()
    return {"flops_per_unit": 3.0 * float(dots_of(lengths).sum()) / int(lengths.sum()), "peak": peak}


def write_text(file: Path, found: Iterable[Document]) -> None:
    """One paragraph a line, between <doc> and </doc>; the file appears whole or not at all."""
    partial = file.with_suffix(".partial")
    with open(partial, "w", encoding="utf-8") as out:
        for number, document in enumerate(found):
            lines = [paragraph.replace("\n", " ") for paragraph in document.paragraphs]
            out.write("\n".join([f'<doc id="{number}" title="">', *lines, "</doc>", ""]))
    partial.rename(file)


def minilm(folder: Path, text: Sequence[str], limit: int, tokenizer: str | None) -> Path:
    """An encoder of the size of MiniLM-L6 with random weights, and a vocabulary of the text."""
    own = vocabulary(folder, text, limit, tokenizer)
    start = folder / f"minilm-{own.fingerprint[:12]}"
    if not start.exists():
        encoder = Bert(own.vocab_size, num_layers=6, width=384, num_heads=12, mlp_width=1536)
        learner = Multitask(encoder, {})
        batch = {"tokens": np.zeros((1, 8), np.int32), "lengths": np.full(1, 8, np.int32)}
        params = nn.unbox(jax.jit(lambda: learner.init(jax.random.key(0), batch, False)["params"])())
        Pretrained(learner, jax.device_get(params), own).save(start, format="hf")
    return start


def split_all(found: Iterable[Document]) -> Iterator[str]:
    """The sentences of documents."""
    for document in found:
        for paragraph in document.paragraphs:
            yield from [paragraph] if document.sentences else split_sentences(paragraph)


def made_sentences(folder: Path, text: Sequence[str], limit: int) -> tuple[Path, ...]:
    """Sentences of the text in the layout of SST-2; the class is whether a sentence has a comma."""
    files = tuple(folder / f"sentences-{_digest(text, limit)}-{split}.tsv" for split in ("train", "valid"))
    if files[-1].exists():
        return files
    words = (" ".join(sentence.split()) for sentence in split_all(documents(text, limit)))
    rows = [f"{sentence}\t{int(',' in sentence)}\n" for sentence in itertools.islice(words, 10_872) if sentence]
    random.Random(0).shuffle(rows)
    for file, part in zip(files, (rows[872:], rows[:872]), strict=True):
        file.write_text("sentence\tlabel\n" + "".join(part), encoding="utf-8")
    return files


def made_questions(folder: Path, text: Sequence[str], limit: int) -> tuple[Path, ...]:
    """Questions in the layout of SQuAD: the first words of a sentence, answered by its last; 60 to 250 words a text."""
    files = tuple(folder / f"questions-{_digest(text, limit)}-{split}.json" for split in ("train", "valid"))
    if files[-1].exists():
        return files
    rng, articles = random.Random(0), []
    for number, document in enumerate(documents(text, limit)):
        sentences = [sentence for sentence in split_all([document]) if len(sentence.split()) > 9]
        words = rng.randint(60, 250)
        context, chosen = "", []
        while sentences and len(context.split()) < words:
            chosen.append(sentences.pop(0))
            context = " ".join(chosen)
        if not chosen:
            continue
        asked = rng.choice(chosen)
        answer = " ".join(asked.rsplit(" ", 3)[1:])
        answers = [{"text": answer, "answer_start": context.index(asked) + len(asked) - len(answer)}]
        question = {"id": str(number), "question": " ".join(asked.split()[:6]) + " what?", "answers": answers}
        articles.append({"title": str(number), "paragraphs": [{"context": context, "qas": [question]}]})
    held_out = max(1, len(articles) // 10)
    for file, part in zip(files, (articles[held_out:], articles[:held_out]), strict=True):
        file.write_text(json.dumps({"data": part}), encoding="utf-8")
    return files
