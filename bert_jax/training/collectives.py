"""What devices exchange in a step, read from the compiled program."""

import dataclasses
import math
import re
from collections.abc import Iterator

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One of a compiled step.

    Attributes:
        kind: of `KINDS`.
        payload: bytes of the whole array, as it is after an all-gather and before a reduce-scatter.
        group: devices that take part.
        times: in a step; more than 1 in a loop.
    """

    kind: str
    payload: int
    group: int
    times: int = 1

    @property
    def wire(self) -> float:
        """Bytes that each device sends for it, by a ring: of an all-reduce 2 (n - 1) / n times the payload."""
        share = (self.group - 1) / self.group
        return self.times * self.payload * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


def collectives(program: str) -> list[Collective]:
    """Those of a compiled HLO module, each as often as its loop runs.

    Raises ValueError where a loop that holds one does not say how often it runs, or a group cannot be read.
    """
    bodies, entry = _computations(program)

    def of(name: str, times: int) -> Iterator[Collective]:
        for line in bodies.get(name, ()):
            found = re.search(rf" ({'|'.join(KINDS)})(?:-start)?\(", line)
            if found:
                yield _collective(line, found[1], times)
            for called, many in _called(line):
                inner = list(of(called, times * (many or 1)))
                if inner and many is None:
                    raise ValueError(f"a loop with collectives does not say how often it runs: {line.strip()[:120]}")
                yield from inner

    return [one for one in of(entry, 1) if one.group > 1]


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by name, and the name of the entry."""
    bodies: dict[str, list[str]] = {}
    current = entry = ""
    for line in program.splitlines():
        if started := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            current = started[2]
            bodies[current] = []
            entry = current if started[1] else entry
        elif current:
            bodies[current].append(line)
    return bodies, entry


def _called(line: str) -> Iterator[tuple[str, int | None]]:
    """Computations that a line runs, and how often; None if it does not say."""
    if " while(" in line:
        trips = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
        yield re.search(r"body=%?([\w.\-]+)", line)[1], int(trips[1]) if trips else None
    for name in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line):
        yield name, 1
    for names in re.findall(r"(?:branch_computations|called_computations)=\{([^}]*)\}", line):
        yield from ((name.strip().lstrip("%"), 1) for name in names.split(","))


def _collective(line: str, kind: str, times: int) -> Collective:
    result = line.split(" = ", 1)[1].split(f" {kind}", 1)[0]
    sizes = [
        BYTES[dtype] * math.prod(int(size) for size in shape.split(",") if size)
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result)
    ]
    group = _group(line)
    payload = sum(sizes) * (group if kind == "reduce-scatter" else 1)
    return Collective(kind, payload, group, times)


def _group(line: str) -> int:
    """Devices of a group: `mesh['a'=4,'b'=2] {'a'}`, `[2,4]<=[8]` or `{{0,1},{2,3}}`."""
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = dict(re.findall(r"'([^']*)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']*)'", named[2]))
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", line):
        return int(iota[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(listed[1].split(","))
    if " collective-permute" in line:
        return 2
    raise ValueError(f"cannot read who takes part in {line.strip()[:160]}")
