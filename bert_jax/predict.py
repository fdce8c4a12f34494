"""Predicts on text: python -m bert_jax.predict SOURCE TASK [--input FILE] [--output FILE] [options of the task]

    fill-mask  the likeliest tokens for each [MASK]             --top-k
    embed      a vector of each text                            --pooling --layer --normalise
    classify   the class of each text or pair of texts
    multilabel the labels of each text or pair of texts, any number of them
    regress    the number for each text or pair of texts
    tag        the class of each word
    answer     the spans of a context that answer a question    --top-k --max-answer-length --stride
                                                                --no-answer-threshold
    score      pseudo-log-likelihood, in nats                   --normalise

Input is one text a line; or, where the name of the file ends in .jsonl or `--format jsonl` says so, one JSON object a
line: {"text": ...}, for pairs to classify {"text": ..., "text_pair": ...}, for words to tag {"words": [...]}. Questions
always are: {"question": ..., "context": ...}. Files may be .gz or .xz. Other fields of an object are left alone.

Output is one JSON object for each line of the input, in its order: {"masks": [[{"token", "probability", "text"}, ...],
...]}, {"embedding": [...]}, {"label", "probabilities"}, {"labels": [...], "probabilities"}, {"value"}, {"words":
[{"word", "label", "probability", "start", "end"}, ...]}, {"answers": [{"text", "score", "probability", "start", "end"},
...]}, or {"score"}. Bad input ends it with one line that names the file and the line; an output file is then not
written.

    python -m bert_jax.predict runs/sst2 classify --input reviews.txt --output labels.jsonl
    echo "The capital of France is [MASK]." | python -m bert_jax.predict google-bert/bert-base-uncased fill-mask
"""

import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TextIO

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from bert_jax.data.documents import numbered_lines
from bert_jax.experiment import one_line_errors
from bert_jax.inference.inputs import BadInput
from bert_jax.nn.dot import ComputeDtype
from bert_jax.pretrained import Pretrained, load
from bert_jax.training.work_memory import keep_work_memory

# Lines that are read, predicted and written at a time: enough to sort them by length, few enough for any memory.
CHUNK = 8192
STANDARD = "-"


@dataclass(frozen=True)
class Arguments:
    """What the command line says; an option that is None has the default of the method, which stands in brackets."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """workdir of a run, folder of a checkpoint, or name on the Hugging Face hub"""
    task: Annotated[
        Literal["fill-mask", "embed", "classify", "multilabel", "regress", "tag", "answer", "score"],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="TASK"),
    ]
    """fill-mask, embed, classify, multilabel, regress, tag, answer, or score"""
    input: str = STANDARD
    """file to read, - for standard input"""
    output: str = STANDARD
    """file to write, which must not exist; - for standard output"""
    format: Literal["auto", "lines", "jsonl"] = "auto"
    """of the input; auto is jsonl for questions and for names that end in .jsonl, else lines"""
    checkpoint: Literal["latest", "best"] = "latest"
    """of a workdir"""
    dtype: ComputeDtype | None = None
    """of the operands of the dots, the model's own if not given; bfloat16 is twice as fast where the CPU has it"""
    top_k: int | None = None
    """fill-mask: tokens for each mask (5); answer: spans for each question (1)"""
    pooling: Literal["mean", "cls", "pooled"] | None = None
    """embed: mean over all tokens, the state of [CLS], or what the pooler makes of it (mean)"""
    layer: int | None = None
    """embed: 0 for the embeddings, 1 for the first layer, -1 for the last (-1)"""
    normalise: bool = False
    """embed: vectors of length 1; score: per token"""
    max_answer_length: int | None = None
    """answer: tokens of an answer, at most (30)"""
    stride: int | None = None
    """answer: tokens between the starts of the windows of a long context (128)"""
    no_answer_threshold: float | None = None
    """answer: begin with "no answer" where it scores above the best span by more than this (never)"""


class Task(NamedTuple):
    """A method of `Pretrained`, its options on the command line, and a line of output from one of its results."""

    method: str
    options: tuple[str, ...]
    fields: Callable[[Any], dict[str, Any]]


def _dicts(results: Sequence[Any]) -> list[dict[str, Any]]:
    return [result._asdict() for result in results]


def _numbers(vector: np.ndarray) -> list[float]:
    return [float(str(x)) for x in vector]  # the fewest digits that read as the same float32


TASKS = {
    "fill-mask": Task("fill_mask", ("top_k",), lambda masks: {"masks": [_dicts(fillings) for fillings in masks]}),
    "embed": Task("embed", ("pooling", "layer", "normalise"), lambda vector: {"embedding": _numbers(vector)}),
    "classify": Task("classify", (), lambda classified: classified._asdict()),
    "multilabel": Task("multilabel", (), lambda labelled: labelled._asdict()),
    "regress": Task("regress", (), lambda value: {"value": value}),
    "tag": Task("tag", (), lambda words: {"words": _dicts(words)}),
    "answer": Task(
        "answer",
        ("top_k", "max_answer_length", "stride", "no_answer_threshold"),
        lambda spans: {"answers": _dicts(spans)},
    ),
    "score": Task("pseudo_log_likelihood", ("normalise",), lambda score: {"score": score}),
}
OPTIONS = sorted({option for task in TASKS.values() for option in task.options})


def predict(arguments: Arguments) -> None:
    """Reads, predicts and writes; what can be wrong before the first line is found before the model is opened."""
    task, options = TASKS[arguments.task], {}
    for name in OPTIONS:
        value = getattr(arguments, name)
        if value is not None and value is not False:
            if name not in task.options:
                raise ValueError(f"--{name.replace('_', '-')} is no option of {arguments.task}")
            options[name] = value
    if arguments.task == "answer" and arguments.format == "lines":
        raise ValueError("answer reads objects with question and context, not lines of text")
    if arguments.input != STANDARD and not Path(arguments.input).exists():
        raise FileNotFoundError(f"{arguments.input}: no such file")
    if arguments.output != STANDARD and Path(arguments.output).exists():
        raise FileExistsError(f"{arguments.output} exists: choose another name, nothing is overwritten")
    if not (folder := Path(arguments.output).parent).is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: {arguments.output} cannot be written")
    opened = load(arguments.source, arguments.checkpoint, arguments.dtype)
    _apply(opened, arguments.task, [], options)  # a head that is missing, an option that is out of range
    with _output(arguments.output) as file, _progress(arguments.input) as advance:
        items = _items(arguments)
        while chunk := list(itertools.islice(items, CHUNK)):
            try:
                results = _apply(opened, arguments.task, [item for _, item in chunk], options)
            except BadInput as error:
                raise ValueError(f"{_place(arguments.input, chunk[error.index][0])}: {error.reason}") from error
            file.writelines(json.dumps(task.fields(result), ensure_ascii=False) + "\n" for result in results)
            file.flush()
            advance(len(chunk))


def _apply(opened: Pretrained, name: str, items: list, options: dict[str, Any]) -> list | np.ndarray:
    method = getattr(opened, TASKS[name].method)
    if name == "answer":
        return method([question for question, _ in items], [context for _, context in items], **options)
    return method(items, **options)


# ---- lines in --------------------------------------------------------------------------------------------------------


def _items(arguments: Arguments) -> Iterator[tuple[int, Any]]:
    """(line number, what the predictor takes) of each line."""
    suffixes = [suffix for suffix in Path(arguments.input).suffixes if suffix not in (".gz", ".xz")]
    as_json = arguments.format == "jsonl" or arguments.task == "answer"
    as_json |= arguments.format == "auto" and suffixes[-1:] == [".jsonl"]
    for number, line in _lines(arguments.input):
        if not as_json:
            yield number, line
            continue
        try:
            yield number, _item(json.loads(line), arguments.task)
        except ValueError as error:  # also of json.loads
            kind = "not JSON: " if isinstance(error, json.JSONDecodeError) else ""
            raise ValueError(f"{_place(arguments.input, number)}: {kind}{error}") from None


def _item(fields: Any, task: str) -> Any:
    """What the predictor takes, from a JSON value. Raises ValueError where a field is missing or of another type."""
    if not isinstance(fields, dict):
        raise ValueError(f"a JSON object is wanted, not {type(fields).__name__}")
    names = ("question", "context") if task == "answer" else ("text",)
    if task in ("classify", "multilabel", "regress") and "text_pair" in fields:
        names = ("text", "text_pair")
    if task == "tag" and "words" in fields:
        words = fields["words"]
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError("field 'words' is no list of strings")
        return words
    for name in names:
        if not isinstance(fields.get(name), str):
            found = f"is {type(fields[name]).__name__}" if name in fields else "is missing"
            raise ValueError(f"field {name!r} {found}, a string is wanted; there are {', '.join(map(repr, fields))}")
    values = tuple(fields[name] for name in names)
    return values if len(values) > 1 else values[0]


def _lines(name: str) -> Iterator[tuple[int, str]]:
    if name != STANDARD:
        yield from numbered_lines(Path(name))
        return
    for number, raw in enumerate(sys.stdin.buffer, 1):
        try:
            yield number, raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            reason = f"not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start} of the line"
            raise ValueError(f"{_place(name, number)}: {reason}") from error


def _place(name: str, number: int) -> str:
    return f"{'standard input' if name == STANDARD else name}, line {number}"


# ---- lines out -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _output(name: str) -> Iterator[TextIO]:
    """Standard output, or a file that appears when it is complete and not before."""
    if name == STANDARD:
        yield sys.stdout
        return
    path = Path(name)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "x", encoding="utf-8") as file:
            yield file
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal behind standard error; where there is none, nothing."""
    console = Console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as bars:
        counted = shown and name != STANDARD and Path(name).is_file()  # a pipe can be read only once
        bar = bars.add_task("", total=sum(1 for _ in numbered_lines(Path(name))) if counted else None)
        yield lambda count: bars.advance(bar, count)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; bad input ends with one line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that a temporary file is removed
    keep_work_memory()
    with one_line_errors(ImportError):
        try:
            predict(tyro.cli(Arguments, args=argv, prog="python -m bert_jax.predict", description=__doc__))
        except BrokenPipeError:  # whoever read the output wants no more, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
