"""Bytes of collectives, read from a made-up program and from what the compiler makes of simple ones."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax.training.collectives import Collective, collectives
from bert_jax.training.sharding import MeshShape

PROGRAM = """HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %all-gather.1 = f32[8,4]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %t = (s32[], f32[8,4]) tuple(%i, %all-gather.1)
}

%condition (p: (s32[], f32[8,4])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: f32[2,3]) -> f32[2,3] {
  %all-reduce.1 = (f32[2,3]{1,0}, bf16[5]{0}, /*index=2*/f32[]) all-reduce(%a, %b, %c), replica_groups=mesh['x'=2,'y'=4] {'x','y'}, to_apply=%add
  %while.1 = (s32[], f32[8,4]) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"12"}}
  %reduce-scatter.1 = f32[2]{0} reduce-scatter(%d), replica_groups={{0,1},{2,3}}, dimensions={0}, to_apply=%add
  %all-reduce.2 = f32[7]{0} all-reduce(%e), replica_groups=mesh['x'=1,'y'=8] {'x'}, to_apply=%add
  ROOT %all-to-all.1 = (f32[2]{0}, f32[2]{0}) all-to-all(%f, %g), replica_groups={{0,1}}
}
"""  # noqa: E501


def test_collectives_of_a_program():
    """Tuples are summed, dtypes have their bytes, a loop counts as often as it runs, a group of one device counts not,
    and the payload of a reduce-scatter is what goes in."""
    assert sorted(collectives(PROGRAM), key=lambda one: one.kind) == [
        Collective("all-gather", 8 * 4 * 4, 4, 12),
        Collective("all-reduce", 6 * 4 + 5 * 2 + 4, 8),
        Collective("all-to-all", 16, 2),
        Collective("reduce-scatter", 2 * 4 * 2, 2),
    ]


def test_a_loop_that_does_not_say_how_often_it_runs():
    """Counting it once would be wrong without a word."""
    with pytest.raises(ValueError, match="does not say how often it runs"):
        collectives(PROGRAM.replace('"known_trip_count":{"n":"12"}', ""))
    with pytest.raises(ValueError, match="cannot read who takes part"):
        collectives(PROGRAM.replace("replica_groups={{0,1}}", ""))


def test_bytes_on_the_wire_by_a_ring():
    """The textbook's shares of the payload, for four devices."""
    wires = {
        kind: Collective(kind, 100, 4).wire for kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")
    }
    assert wires == {"all-reduce": 150.0, "all-gather": 75.0, "reduce-scatter": 75.0, "all-to-all": 75.0}
    assert Collective("collective-permute", 100, 2, times=3).wire == 300.0


@pytest.mark.parametrize("kind", ["all-gather", "all-reduce"])
def test_the_compiler_does_what_theory_says(kind):
    """A sum over split rows all-reduces its whole result; a split array that all need is gathered, both once."""
    mesh = MeshShape().build()
    split, whole = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("data", None))
    if kind == "all-gather":
        function, shape = (lambda x: x * 2), (8, 128)
    else:
        function, shape = (lambda x: x.T @ x), (64, 32)
    program = jax.jit(function, in_shardings=split, out_shardings=whole).lower(jnp.zeros(shape)).compile().as_text()
    (found,) = collectives(program)
    assert found == Collective(kind, 4096, 8)
