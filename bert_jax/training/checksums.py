"""Checkpoints that were damaged after they were written: found, said, and put aside so that nothing is lost.

The arrays of a checkpoint have no checksums of their own: a bit that flips in them would be read as a weight. So each
checkpoint carries a file of the sizes and SHA-256 digests of all others, which is written before the checkpoint gets
its name. Against a bad disk, a copy that was cut short and a hand that slipped; not against a forger.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHECKSUMS_FILE = "checksums.json"
# Orbax still adds the time to the one and writes the other when the digests are made. Of the first what matters is
# compared, the second nobody reads.
METADATA_FILE, _COMMITTED_FILE = "_CHECKPOINT_METADATA", "commit_success.txt"
_LISTED = 5  # files listed at most in one message


def steps_in(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by their step, ascending, whole or not."""
    found = folder.iterdir() if folder.is_dir() else ()
    return dict(sorted((int(path.name), path) for path in found if path.name.isdigit() and path.is_dir()))


def write_checksums(checkpoint: Path, about: Mapping[str, Any]) -> None:
    """Writes the digests of all files of a checkpoint that is otherwise complete.

    `about` is what Orbax keeps as the checkpoint's `custom_metadata`.
    """
    files = {
        str(path.relative_to(checkpoint)): {"bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.relative_to(checkpoint) not in (Path(METADATA_FILE), Path(_COMMITTED_FILE))
    }
    record = {"custom_metadata": dict(about), "files": files}
    (checkpoint / CHECKSUMS_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def damage(checkpoint: Path) -> str:
    """What is wrong with the files of a checkpoint, "" if nothing is. All of them are read.

    Of one that has no digests, as earlier versions wrote it, only what must be there is looked at.
    """
    if not any(checkpoint.iterdir()):
        return "the folder is empty"
    try:
        about = json.loads((checkpoint / METADATA_FILE).read_bytes())["custom_metadata"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{METADATA_FILE} cannot be read: {error!r}"
    if not (checkpoint / CHECKSUMS_FILE).exists():
        wanted = ("default/_METADATA", "default/manifest.ocdbt", "default/d")
        return _listing([f"{name} is missing" for name in wanted if not (checkpoint / name).exists()])
    try:
        record = json.loads((checkpoint / CHECKSUMS_FILE).read_bytes())
        if record["custom_metadata"] != about:
            return f"{METADATA_FILE} is not what was saved"
        return _listing([f"{n} {why}" for n, was in record["files"].items() if (why := _change(checkpoint / n, was))])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{CHECKSUMS_FILE} cannot be read: {error!r}"


def put_damaged_aside(folders: Sequence[Path]) -> list[str]:
    """Finds the checkpoints that are damaged and renames them to `<step>.damaged`, so that a run goes on from the one
    before.

    Args:
        folders: of the checkpoints of one run, or of several that go on together.

    Returns a warning for each. Raises ValueError, and renames nothing, where there is then no step left that all have.
    """
    found = [steps_in(folder) for folder in folders]
    faults = {path: why for steps in found for path in steps.values() if (why := damage(path))}
    if not faults:
        return []
    whole = [{step for step, path in steps.items() if path not in faults} for steps in found]
    said = [f"checkpoint {path} is damaged: {why}" for path, why in faults.items()]
    if not set.intersection(*whole):
        raise ValueError(
            "no whole checkpoint to go on from; nothing was changed. To start anew take another --workdir.\n  "
            + "\n  ".join(said)
        )
    return [f"{text}; it is put aside as {_put_aside(path)}" for path, text in zip(faults, said, strict=True)]


def _put_aside(path: Path) -> str:
    aside, number = path.with_name(f"{path.name}.damaged"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    path.rename(aside)
    return aside.name


def _change(path: Path, was: Mapping[str, Any]) -> str:
    if not path.is_file():
        return "is missing"
    if (size := path.stat().st_size) != was["bytes"]:
        return f"has {size:,} bytes, and had {was['bytes']:,} when it was saved"
    return "" if _digest(path) == was["sha256"] else "has other contents than were saved (SHA-256)"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listing(faults: list[str]) -> str:
    more = [f"and {len(faults) - _LISTED} files more"] if len(faults) > _LISTED else []
    return ", ".join(faults[:_LISTED] + more)
