"""Hugging Face transformers on PyTorch."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tools.benchmarks.checks import check_loss, masked_batches

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
# Their gelu_new is a formula of several operations; this one is the same function in one.
SETTINGS = {
    "dtype": torch.float32,
    "attn_implementation": "sdpa",
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def start_torch(dtype: str) -> dict[str, Any]:
    """Sets the number of threads; versions for the record."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    return {"torch": torch.__version__, "transformers": transformers.__version__, "dtype": dtype, "device": device}


def device_memory() -> dict[str, int]:
    """The most bytes of an accelerator's memory that were in use; nothing on a CPU."""
    return {"peak_memory": torch.cuda.max_memory_allocated()} if DEVICE.type == "cuda" else {}


class Training:
    """Pre-training steps of BertForPreTraining with AdamW (fused), SDPA attention and dropout.

    Args:
        start: folder of the initial weights.
        batches: file of masked batches, which are read again and again; each is cut to its longest row.
        dtype: float32, or bfloat16 by autocast.
        loss: of the first batch without dropout.
        compiled: by torch.compile, which wants batches of one shape: they then keep all their columns.
    """

    def __init__(self, start: str, batches: str, dtype: str, loss: float, compiled: bool = False):
        self.facts = start_torch(dtype)
        self._dtype, self._at = dtype, 0
        self._model = transformers.BertForPreTraining.from_pretrained(start, **SETTINGS).to(DEVICE)
        self._batches = [inputs(batch, trim=not compiled) for batch in masked_batches(batches)]
        self._model.eval()
        with torch.no_grad():
            check_loss(loss, self._loss(self._batches[0][1]).item(), dtype)
        self._model.train()
        if compiled:
            self._model.compile()
        self._optimizer = optimizer_of(self._model)
        self.facts["parameters"] = sum(parameter.numel() for parameter in self._model.parameters())

    def run(self, steps: int) -> dict[str, Any]:
        """Trains; `work` is the tokens that are no padding."""
        work = 0
        for _ in range(steps):
            tokens, batch = self._batches[self._at % len(self._batches)]
            self._at += 1
            work += tokens
            self._optimizer.zero_grad()
            loss = self._loss(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            self._optimizer.step()
        return {"work": work, "loss": loss.item()} | device_memory()  # .item() waits for the device

    def _loss(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self._dtype == "bfloat16"):
            return self._model(**{name: array.to(DEVICE) for name, array in batch.items()}).loss


class FirstStep(Training):
    """One step of pre-training from the start of the process."""

    def run(self, steps: int) -> dict[str, Any]:
        return super().run(1) | {"work": 1.0}


class WholeRun:
    """Fine-tuning from texts to a saved and evaluated model, as their examples do it: texts are encoded at first, a
    batch is as wide as its longest row.

    Args:
        start: folder of the initial weights, head included.
        examples: JSON file with the examples of both splits.
        task: sst2 or squad.
        steps, batch_size: of the run.
        first_tokens: that we encode the first examples as.
        loss: of these, without dropout.
        tokens: of all steps, as we count them.
    """

    def __init__(
        self,
        start: str,
        examples: str,
        task: str,
        steps: int,
        batch_size: int,
        first_tokens: list[list[int]],
        loss: float,
        tokens: float,
    ):
        self.facts = start_torch("float32")
        self._start, self._task, self._steps, self._batch_size = start, task, steps, batch_size
        self._first_tokens, self._first_loss, self._tokens = first_tokens, loss, tokens
        self._examples = json.loads(Path(examples).read_text())

    def run(self, steps: int) -> dict[str, Any]:
        """One run; the part is its steps without the first quarter, as long as if all had been as fast."""
        tokenizer = transformers.AutoTokenizer.from_pretrained(self._start)
        kind, encode, metric = TASKS[self._task]
        model = kind.from_pretrained(self._start, **SETTINGS).to(DEVICE)
        train, valid = (encode(tokenizer, self._examples[split]) for split in ("train", "valid"))
        collate = transformers.DataCollatorWithPadding(tokenizer)
        self._check(model, train, collate)
        optimizer = optimizer_of(model, 5e-5)
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, self._steps // 10, self._steps)
        loader = torch.utils.data.DataLoader(train, self._batch_size, shuffle=True, drop_last=True, collate_fn=collate)
        model.train()
        done, began = 0, time.perf_counter()
        while done < self._steps:
            for batch in loader:
                optimizer.zero_grad()
                loss = model(**batch.to(DEVICE)).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                done += 1
                if done == max(1, self._steps // 4):
                    loss.item()
                    first, began = done, time.perf_counter()
                if done == self._steps:
                    break
        last = loss.item()
        alone = (time.perf_counter() - began) * self._steps / max(1, done - first)
        found = metric(model, torch.utils.data.DataLoader(valid, 256, collate_fn=collate))
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
        return {"work": self._tokens, "parts": {"steps alone": alone}, "loss": last, "metrics": found}

    def _check(self, model: torch.nn.Module, train: list[dict[str, Any]], collate: Callable) -> None:
        """Raises ValueError where the first examples, or their loss, are not what we have."""
        first = train[: len(self._first_tokens)]
        if [example["input_ids"] for example in first] != self._first_tokens:
            raise ValueError("the first examples are encoded in another way than ours: that is not the same work")
        model.eval()
        with torch.no_grad():  # one by one: their loss of a span takes padding for text
            found = [model(**collate([example]).to(DEVICE)).loss.item() for example in first]
        check_loss(self._first_loss, sum(found) / len(found), "float32")


def encode_sentences(tokenizer: Any, examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Labelled texts for their sequence classification."""
    encoded = tokenizer([example["text"] for example in examples], truncation=True, max_length=64)
    columns = {name: encoded[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    columns["labels"] = [example["label"] for example in examples]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def encode_questions(tokenizer: Any, examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Windows of questions and contexts for their question answering, as their example run_qa.py makes them. A window
    begins 128 tokens behind the one before it, as in the original; theirs is told how many both share, which depends on
    the question's length."""
    lengths = [len(ids) for ids in tokenizer([x["question"] for x in examples], add_special_tokens=False)["input_ids"]]
    found: list[list[dict[str, Any]]] = [[] for _ in examples]
    for length in sorted(set(lengths)):
        numbers = [i for i, own in enumerate(lengths) if own == length]
        encoded = tokenizer(
            [examples[i]["question"] for i in numbers],
            [examples[i]["context"] for i in numbers],
            truncation="only_second",
            max_length=384,
            stride=384 - 3 - length - 128,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for i, number in enumerate(encoded["overflow_to_sample_mapping"]):
            text, start = examples[numbers[number]]["answers"][0]
            of_context = [at for at, part in enumerate(encoded.sequence_ids(i)) if part == 1]
            offsets = encoded["offset_mapping"][i]
            first = [at for at in of_context if offsets[at][0] <= start < offsets[at][1]]
            last = [at for at in of_context if offsets[at][0] < start + len(text) <= offsets[at][1]]
            window = {name: encoded[name][i] for name in ("input_ids", "token_type_ids", "attention_mask")}
            places = (first[0], last[0]) if first and last else (0, 0)
            window |= dict(zip(("start_positions", "end_positions"), places, strict=True))
            found[numbers[number]].append(window)
    return [window for windows in found for window in windows]


def accuracy(model: torch.nn.Module, batches: Any) -> dict[str, float]:
    """The share of texts whose likeliest class is theirs."""
    model.eval()
    with torch.no_grad():
        right = [(model(**batch.to(DEVICE)).logits.argmax(-1) == batch["labels"]).float() for batch in batches]
    return {"accuracy": torch.cat(right).mean().item()}


def exact(model: torch.nn.Module, batches: Any) -> dict[str, float]:
    """The share of windows whose likeliest first and last token are those of the answer."""
    model.eval()
    right = []
    with torch.no_grad():
        for batch in batches:
            found = model(**batch.to(DEVICE))
            first = found.start_logits.argmax(-1) == batch["start_positions"]
            right.append((first & (found.end_logits.argmax(-1) == batch["end_positions"])).float())
    return {"exact": torch.cat(right).mean().item()}


TASKS = {
    "sst2": (transformers.AutoModelForSequenceClassification, encode_sentences, accuracy),
    "squad": (transformers.AutoModelForQuestionAnswering, encode_questions, exact),
}


def optimizer_of(model: torch.nn.Module, learning_rate: float = 1e-4) -> torch.optim.Optimizer:
    """AdamW in one pass, as their Trainer makes it; norms and biases have no decay."""
    named = list(model.named_parameters())
    spared = [parameter for name, parameter in named if "LayerNorm" in name or name.endswith("bias")]
    others = [parameter for name, parameter in named if not ("LayerNorm" in name or name.endswith("bias"))]
    groups = [{"params": others, "weight_decay": 0.01}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def inputs(batch: Mapping[str, np.ndarray], trim: bool) -> tuple[int, dict[str, torch.Tensor]]:
    """How many tokens are no padding, and a batch as their model takes it, as wide as its longest row if trimmed."""
    width = int(batch["lengths"].max()) if trim else batch["tokens"].shape[1]
    mask = np.arange(width) < batch["lengths"][:, None]
    arrays = {
        "input_ids": batch["tokens"][:, :width],
        "token_type_ids": batch["segments"][:, :width],
        "attention_mask": mask,
        "labels": batch["labels"][:, :width],
        "next_sentence_label": batch["pair_label"],
    }
    return int(mask.sum()), {name: torch.from_numpy(array.astype(np.int64)) for name, array in arrays.items()}
