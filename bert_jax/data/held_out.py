"""What is trained on and what is held out of it, alike for all kinds of files: sources, shares, limits, names."""

import os
import re
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from bert_jax.data.tfds import PREFIX


@runtime_checkable
class Sources(Protocol):
    """The fields that say so, which `Tables`, `TaggedFiles` and `SquadFiles` have and explain."""

    train: str
    valid: tuple[str, ...]
    valid_share: float
    train_limit: int
    valid_limit: int
    draw_seed: int


def check_sources(data: Sources) -> None:
    """Raises ValueError for a limit or a share that no draw can have."""
    for name in ("train_limit", "valid_limit"):
        if getattr(data, name) < 0:
            raise ValueError(f"{name} {getattr(data, name)}: must be at least 1, or 0 for all")
    if not 0 < data.valid_share < 1:
        raise ValueError(f"valid_share {data.valid_share}: must be above 0 and below 1")


def split(data: Sources, examples: list, groups: Iterable[Hashable], kind: str) -> tuple[list, list]:
    """The examples of `train` to train on, and those to hold out, each in their order.

    The latter are none where `valid` is given, else those of `valid_share` of the groups, one group at least.

    Args:
        groups: of each example that which is on one side only, such as its document.
        kind: what groups are called.

    Raises ValueError where none would be left to train on.
    """
    if data.valid:
        return examples, []
    groups = list(groups)
    different = list(dict.fromkeys(groups))
    order = np.random.default_rng(data.draw_seed).permutation(len(different))
    held_out = {different[i] for i in order[: max(1, round(data.valid_share * len(different)))]}
    if len(held_out) == len(different):
        raise ValueError(f"{data.train}: {len(different)} {kind} are too few to hold some out: give valid")
    pairs = list(zip(examples, groups, strict=True))
    return (
        [example for example, group in pairs if group not in held_out],
        [example for example, group in pairs if group in held_out],
    )


def held_out(data: Sources, read: Callable[[str], list], rest: Callable[[], list]) -> dict[str, list]:
    """The held-out examples by the name of their evaluation, `valid_limit` of each.

    Args:
        read: a source of `valid`.
        rest: gives what `split` holds out of `train`, which is used where `valid` is not given.

    Raises ValueError for names that are not different, or that of training.
    """
    sources = list(dict.fromkeys(data.valid)) or [data.train]
    names = ["valid"] if len(sources) == 1 else [source_name(source) for source in sources]
    if len(set(names)) < max(len(names), len(data.valid)):
        raise ValueError(f"the names of the held-out sources are the same: {', '.join(data.valid)}")
    if "train" in names:
        raise ValueError(f"a held-out source cannot be called train, as training is: {', '.join(data.valid)}")
    return {
        name: draw(read(source) if data.valid else rest(), data.valid_limit, data.draw_seed, "valid_limit", source)
        for name, source in zip(names, sources, strict=True)
    }


def draw(items: list, limit: int, seed: int, name: str, source: str) -> list:
    """`limit` of the items, drawn at random without repeats; all for 0. Raises ValueError where there are fewer."""
    if not limit:
        return items
    if limit > len(items):
        raise ValueError(f"{name} {limit}: {source} has only {len(items)}")
    return [items[i] for i in np.random.default_rng(seed).permutation(len(items))[:limit]]


def source_parts(source: str) -> list[str]:
    """The sources that `a+b` names: a file may have a plus in its name, and a TFDS split be a sum (`train+test`)."""
    if os.path.exists(source):
        return [source]
    return re.split(rf"\+(?={PREFIX})" if source.startswith(PREFIX) else r"\+", source)


def source_name(source: str) -> str:
    """How a source is called in metrics and files: the split, or the file's name without the suffixes of its format
    (names like eng.testa and eng.testb are a custom); of `a+b` both, with the plus."""
    return "+".join(
        part.partition("@")[2]
        if part.startswith(PREFIX)
        else re.sub(r"(\.(tsv|csv|txt|jsonl?|conllu?|gz|xz))+$", "", Path(part).name)
        for part in source_parts(source)
    )
