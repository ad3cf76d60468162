"""What fits a GPU, and what `auto` makes of it."""

from dataclasses import replace

import pytest
from places import ROOT

from meddino.models.architectures import named
from meddino.pretrain import budget
from meddino.pretrain.options import StageOptions
from meddino.study.model import load

GIB = 2**30
VITB = named("vitb16")
STAGES: dict[str, StageOptions] = load([ROOT / "config.yaml"]).pretrain.stages

# Peaks of whole steps of the study's stages, on tensors without content, where every tensor that
# lives is counted (benchmarks/RESULTS.md): stage, kind of batch, slices, GiB.
COUNTED = [
    ("stage1", 0, 32, 16.8),
    ("stage1", 0, 64, 29.9),
    ("stage2", 0, 32, 17.3),
    ("stage2", 0, 64, 30.5),
    ("stage3", 0, 8, 12.9),
    ("stage3", 0, 16, 21.7),
    ("stage3", 1, 8, 22.1),
    ("stage3", 4, 8, 31.9),
]


@pytest.mark.parametrize(("name", "kind", "slices", "counted"), COUNTED)
def test_the_estimate_is_a_little_above_what_was_counted(
    name: str, kind: int, slices: int, counted: float
) -> None:
    stage = STAGES[name]
    estimate = budget.step_bytes(VITB, stage, stage.resolutions[kind], slices) / GIB
    assert counted <= estimate <= 1.2 * counted


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("processes", [1, 3, 8, 16, 64])
@pytest.mark.parametrize("gigabytes", [24, 40, 80, 141])
def test_auto_fits_the_gpu(name: str, processes: int, gigabytes: int) -> None:
    stage, capacity = STAGES[name], gigabytes * 1e9
    if processes == 3:
        stage = replace(stage, batch_size=384)
    settled = budget.settled(stage, VITB, processes, capacity)
    parts = budget.parts_of(settled, processes)
    assert parts is not None and parts[0] * parts[1] * processes == stage.batch_size
    for resolution in stage.resolutions:
        again = budget.checkpoints(VITB, settled, resolution, parts[0], capacity)
        need = budget.step_bytes(VITB, settled, resolution, parts[0], again)
        assert need <= budget.USABLE * capacity
        plain = budget.step_bytes(VITB, settled, resolution, parts[0])
        assert again == (plain > budget.USABLE * capacity)


def test_larger_gpus_take_larger_parts_and_what_is_asked_for_stays() -> None:
    stage = replace(STAGES["stage1"], group_size=8)
    parts = [
        budget.parts_of(budget.settled(stage, VITB, 1, gigabytes * 1e9), 1)
        for gigabytes in (24, 40, 80, 141)
    ]
    slices = [part[0] for part in parts if part is not None]
    assert len(slices) == 4 and slices == sorted(slices) and slices[0] < slices[-1]
    asked = replace(stage, micro_batch=64, activation_checkpointing=False)
    assert budget.settled(asked, VITB, 1, 24e9) == asked
    assert not budget.checkpoints(VITB, asked, asked.resolutions[0], 64, 24e9)


def test_on_cpus_auto_takes_all_slices_of_a_process_and_computes_blocks_once() -> None:
    stage = STAGES["stage3"]
    assert budget.parts_of(budget.settled(stage, VITB, 8, None), 8) == (64, 1)
    assert not budget.checkpoints(VITB, stage, stage.resolutions[4], 64, None)
