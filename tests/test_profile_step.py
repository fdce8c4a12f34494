"""The table of a step's time: what an instruction of a compiled program is put down to."""

import gzip
import json

import pytest

from tools.profile_step import OUTSIDE, belongs_to, executed, instructions

PROGRAM = """HloModule jit_step

%fused (p: f32[2,3], q: f32[3,4]) -> f32[2,4] {
  %p = f32[2,3]{1,0} parameter(0)
  ROOT %dot.1 = f32[2,4]{1,0} dot(%p, %q), metadata={op_name="jit(f)/jvp(M)/layers/mlp/widen/dot_general"}
}

ENTRY %main (a: f32[2,3]) -> f32[2,4] {
  %fusion.7 = f32[2,4]{1,0} fusion(%a, %b), kind=kCustom, calls=%fused
  ROOT %add.2 = f32[2,4]{1,0} add(%fusion.7, %c), metadata={op_name="jit(step)/add"}
}
"""
MODULES = {"encoder", "layers", "mlp", "widen"}


def test_instructions_have_the_text_and_the_name_of_what_is_fused_into_them():
    """A fusion without a name of its own has that of what it computes, and is known as a dot by it."""
    found = instructions(PROGRAM)
    assert found["add.2"][0] == "jit(step)/add"
    source, text = found["fusion.7"]
    assert source.endswith("mlp/widen/dot_general") and " dot(" in text
    assert belongs_to(source, text, MODULES) == ("layers/mlp/widen", "forward", "dot")


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("jit(step)/transpose(jvp(Multitask))/encoder/layers/mlp/mul", ("layers/mlp", "backward", "other")),
        ("jit(step)/jvp(Multitask)/encoder/layers/mlp/mul", ("layers/mlp", "forward", "other")),
        ("jit(step)/sub", (OUTSIDE, "", "other")),
    ],
)
def test_module_and_direction(source, want):
    """The gradient of a module is its backward part; what is in no module is none's."""
    assert belongs_to(source, "multiply(%a, %b)", MODULES) == want


def test_only_what_was_executed_counts(tmp_path):
    """Complete events of the trace, in milliseconds; JAX writes it some folders down."""
    events = [{"ph": "X", "name": "fusion.7", "dur": 1500}, {"ph": "M", "name": "process_name"}]
    (tmp_path / "plugins/profile").mkdir(parents=True)
    with gzip.open(tmp_path / "plugins/profile/perfetto_trace.json.gz", "wt") as file:
        json.dump({"traceEvents": events}, file)
    assert list(executed(tmp_path)) == [("fusion.7", 1.5)]
