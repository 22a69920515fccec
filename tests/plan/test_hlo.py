"""Collectives of a partitioned program are found with their bytes, groups and rounds."""

from __future__ import annotations

import pytest

from sage_jax.plan.hlo import Collective, array_bytes, collectives, moved_by_kind

PROGRAM = """HloModule jit_train_step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (param: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %param = (s32[], bf16[4,8]{1,0}) parameter(0)
  %local = bf16[1,8]{1,0} slice(%param)
  %gathered = bf16[4,8]{1,0} all-gather(%local), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}
  %reduced = bf16[4,8]{1,0} all-reduce(%gathered), replica_groups=[2,4]<=[8], to_apply=%add
  %part = bf16[1,8]{1,0} dynamic-slice(%reduced, %zero), dynamic_slice_sizes={1,8}
  ROOT %out = (s32[], bf16[4,8]{1,0}) tuple(%next, %gathered)
}

%condition (param.1: (s32[], bf16[4,8])) -> pred[] {
  %param.1 = (s32[], bf16[4,8]{1,0}) parameter(0)
  %counter = s32[] get-tuple-element(%param.1), index=0
  %limit = s32[] constant(5)
  ROOT %below = pred[] compare(%counter, %limit), direction=LT
}

ENTRY %main (p: f32[16]) -> f32[16] {
  %p = f32[16]{0} parameter(0)
  %looped = (s32[], bf16[4,8]{1,0}) while(%init), condition=%condition, body=%body
  %norm = f32[] all-reduce(%p), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %alone = f32[16]{0} all-gather(%p), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, dimensions={0}
  %scattered = f32[2]{0} reduce-scatter(%p), dimensions={0}, to_apply=%add
  ROOT %moved = f32[16]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
}
"""


def test_each_collective_has_its_bytes_group_and_rounds() -> None:
    assert sorted(collectives(PROGRAM, 8), key=lambda one: (one.kind, one.group)) == [
        Collective("all-gather", 64, 4, 5),
        Collective("all-reduce", 4, 8, 1),
        Collective("collective-permute", 64, 8, 1),
        Collective("reduce-scatter", 64, 4, 5),  # an all-reduce of which only a slice is used
        Collective("reduce-scatter", 64, 8, 1),
    ]


def test_an_all_reduce_that_is_used_whole_stays_one() -> None:
    whole = PROGRAM.replace("  ROOT %out", "  %used = bf16[4,8]{1,0} negate(%reduced)\n  ROOT %out")
    assert Collective("all-reduce", 64, 4, 5) in collectives(whole, 8)


@pytest.mark.parametrize(
    ("kind", "moved"),
    [
        ("all-gather", 300.0),  # each device sends its quarter to the three others
        ("reduce-scatter", 300.0),
        ("all-reduce", 600.0),
        ("all-to-all", 300.0),
        ("collective-permute", 400.0),
    ],
)
def test_bytes_sent_are_those_of_the_ring_algorithm(kind: str, moved: float) -> None:
    assert Collective(kind, 400, 4, 1).moved == moved
    assert Collective(kind, 400, 4, 3).moved == 3 * moved


def test_bytes_are_summed_by_kind() -> None:
    assert moved_by_kind(collectives(PROGRAM, 8)) == {
        "all-gather": 5 * 48,
        "reduce-scatter": 5 * 48 + 56,
        "all-reduce": 7,
        "collective-permute": 64,
    }


@pytest.mark.parametrize(
    ("text", "size"),
    [("f32[2,3]{1,0}", 24), ("(bf16[4]{0}, pred[])", 9), ("s4[3]", 2), ("f8e4m3fn[5]", 5), ("s32[]", 4), ("u8[0]", 0)],
)
def test_bytes_of_types(text: str, size: int) -> None:
    assert array_bytes(text) == size
