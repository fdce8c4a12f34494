"""The rows: what is measured, and who takes part."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.benchmarks.contest import OURS, Contestant, Row

TORCH = ("torch", "transformers")
# Rows of a batch by size of the model and length.
BATCHES = {
    ("tiny", 128): 64,
    ("tiny", 512): 16,
    ("mini", 128): 64,
    ("mini", 512): 16,
    ("base", 128): 16,
    ("base", 512): 8,
    ("large", 128): 8,
    ("large", 512): 2,
}
Given = Mapping[str, Any]


@dataclass(frozen=True)
class Inputs:
    """What is trained on and read; all of it can be made of the text that is on the machine."""

    text: tuple[str, ...] = ()
    """files of text; the documentation of the installed libraries if not given"""
    documents: int = 2000
    """of the text, the first this many are used"""
    tokenizer: Path | None = None
    """folder of a vocabulary; one of 8,192 pieces is trained on the text if not given"""
    model: Path | None = None
    """folder of an encoder for fine-tuning and embedding; if not given, one of the size of MiniLM with random weights
    and the above vocabulary"""
    sst2: tuple[Path, ...] = ()
    """train.tsv and dev.tsv of SST-2; sentences of the text and a made-up class if not given"""
    squad: tuple[Path, ...] = ()
    """one SQuAD JSON file or two, the second to evaluate; made-up questions about the text if not given"""
    finetune_steps: int = 100
    """of a fine-tuning run"""
    sentences: int = 10_000
    """that are embedded"""


def all_rows(folder: Path, inputs: Inputs) -> list[Row]:
    """All rows; what they need is made in `folder`."""
    text = {
        "folder": str(folder),
        "text": list(inputs.text),
        "limit": inputs.documents,
        "tokenizer": None if inputs.tokenizer is None else str(inputs.tokenizer),
    }
    model = text | {"model": None if inputs.model is None else str(inputs.model)}
    return [
        *pretraining(text),
        *gradients(text),
        *fine_tuning(model, inputs),
        *several_seeds(text, model, inputs),
        *prediction(model | {"count": inputs.sentences}),
        *preparation(text),
        *cold_start(text, folder / "warm-cache"),
    ]


def ours(name: str, **others: Any) -> Contestant:
    """One of `ours.py`."""
    return Contestant(OURS, f"tools.benchmarks.ours:{name}", **others)


def transformers(name: str, **others: Any) -> Contestant:
    """One of `with_transformers.py`."""
    return Contestant("transformers", f"tools.benchmarks.with_transformers:{name}", needs=TORCH, **others)


def prepared(name: str) -> str:
    """A function of `preparation.py`."""
    return f"tools.benchmarks.preparation:{name}"


def encoder(text: Given, size: str, length: int, dtype: str) -> Given:
    """The arguments of `preparation.pretraining`."""
    return {**text, "size": size, "length": length, "batch_size": BATCHES[size, length], "dtype": dtype}


def pretraining(text: Given) -> list[Row]:
    """Steps of MLM and NSP with all dropout; tiny models on two cores. On a GPU theirs is compiled, too."""
    theirs = [transformers("Training")]
    if shutil.which("nvidia-smi"):
        theirs.append(transformers("Training", variant="compiled", arguments={"compiled": True}))
    return [
        Row(
            f"pretrain-{size}-{length}{suffix}",
            "tokens",
            (ours("Training"), *theirs),
            prepare=prepared("pretraining"),
            arguments=encoder(text, size, length, dtype),
            threads=2 if size == "tiny" else 0,
            default=size != "large",
        )
        for size, length in BATCHES
        for dtype, suffix in (("float32", ""), ("bfloat16", "-bf16"))
    ]


def gradients(text: Given) -> list[Row]:
    """Forward and backward pass with all dropout and no update, in float32, beside others on JAX."""
    keras_hub = Contestant("keras-hub", "tools.benchmarks.with_keras_hub:Gradient", needs=("keras_hub",))
    torchax = Contestant("torchax", "tools.benchmarks.with_torchax:Gradient", needs=("torchax", *TORCH))
    return [
        Row(
            f"gradient-{size}-128",
            "tokens",
            (ours("Gradient"), keras_hub, torchax),
            prepare=prepared("pretraining"),
            arguments=encoder(text, size, 128, "float32"),
            threads=2 if size == "tiny" else 0,
        )
        for size in ("tiny", "base")
    ]


def fine_tuning(model: Given, inputs: Inputs) -> list[Row]:
    """Whole processes: start, compilation, steps, evaluation and saving; in float32."""
    return [
        Row(
            f"finetune-{task}",
            "tokens",
            (ours("WholeRun"), transformers("WholeRun")),
            prepare=prepared("fine_tuning"),
            arguments={**model, "task": task, "files": list(map(str, files)), "steps": inputs.finetune_steps},
            fresh=True,
        )
        for task, files in (("sst2", inputs.sst2), ("squad", inputs.squad))
    ]


def several_seeds(text: Given, model: Given, inputs: Inputs) -> list[Row]:
    """Five runs at once beside one of them: the ratio is that of their tokens per second."""
    contestants = ours("Training", variant="five seeds"), Contestant("one seed", "tools.benchmarks.ours:Training")
    note = "five seeds cost 5 / ratio of what one costs"
    tuning = {**model, "task": "sst2", "files": list(map(str, inputs.sst2)), "steps": inputs.finetune_steps, "seeds": 5}
    return [
        Row(
            "five-seeds-tiny-128",
            "tokens",
            contestants,
            prepare=prepared("pretraining"),
            arguments=encoder(text, "tiny", 128, "float32") | {"seeds": 5},
            note=note,
        ),
        Row(
            "five-seeds-sst2",
            "tokens",
            contestants,
            prepare=prepared("fine_tuning"),
            arguments=tuning,
            note=note,
        ),
    ]


def prediction(model: Given) -> list[Row]:
    """Embedding of sentences of mixed length, each side in its best dtype and, theirs, batch size."""
    target, needs = "tools.benchmarks.with_sentence_transformers:Embedding", ("sentence_transformers", *TORCH)
    choices = [("float32", 32), ("bfloat16", 32), ("bfloat16", 128)]
    return [
        Row(
            "embed",
            "sentences",
            (
                *(ours("Embedding", arguments={"dtype": dtype}, variant=dtype) for dtype in ("float32", "bfloat16")),
                *(
                    Contestant(
                        "sentence-transformers",
                        target,
                        {"dtype": dtype, "batch_size": size},
                        needs,
                        f"{dtype} by {size}",
                    )
                    for dtype, size in choices
                ),
            ),
            prepare=prepared("embedding"),
            arguments=model,
            steps=1,
        )
    ]


def preparation(text: Given) -> list[Row]:
    """From text to instances beside tokenizing alone; loading beside what the steps take."""
    tokenizers = Contestant("tokenizers", "tools.benchmarks.with_tokenizers:Encoding")
    corpora = [
        Row(
            name,
            "MB",
            (ours("Corpus", arguments={"dupe_factor": copies}), tokenizers),
            prepare=prepared("text_file"),
            arguments=text | {"limit": 5 * text["limit"]},  # worker processes are to work, not only to start
            steps=1,
        )
        for name, copies in (("corpus", 1), ("corpus-10-copies", 10))
    ]
    loading = [
        Row(
            f"load-{size}-128",
            "tokens",
            (ours("Loading"), Contestant("its steps", "tools.benchmarks.ours:Training")),
            prepare=prepared("loading"),
            arguments=encoder(text, size, 128, "bfloat16"),
            threads=2 if size == "tiny" else 0,
        )
        for size in ("tiny",)
    ]
    return [*corpora, *loading]


def cold_start(text: Given, cache: Path) -> list[Row]:
    """From the start of a process to the end of its first step."""
    warm = {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    return [
        Row(
            f"cold-start-{kind}-cache",
            "starts",
            (ours("FirstStep", environment=environment), transformers("FirstStep")),
            prepare=prepared("pretraining"),
            arguments=encoder(text, "tiny", 128, "float32"),
            fresh=True,
            rehearsals=rehearsals,
            threads=2,
        )
        for kind, environment, rehearsals in (("empty", {}, 0), ("warm", warm, 1))
    ]
