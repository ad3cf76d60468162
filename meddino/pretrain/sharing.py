"""How the processes of a team share an engine: whole parameters (DDP), or parts of them (FSDP2)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch.distributed as dist
from torch import Tensor, nn

from meddino.models.distributed import Team

Sharding = Literal["ddp", "fsdp"]


def share(
    engine: nn.Module,
    team: Team,
    sharding: Sharding,
    units: Sequence[nn.Module],
    methods: Sequence[str],
) -> nn.Module:
    """Make the gradients of an engine means over the team.

    Args:
        engine: the same on every process.
        team: the processes.
        sharding: whole parameters on each process (DDP), or a share of them (FSDP2).
        units: modules that FSDP2 gathers one at a time.
        methods: of the engine, beside `forward`, that compute with its parameters.

    Returns:
        What to call in place of the engine: itself, where no process group was made.
    """
    if not dist.is_initialized():
        return engine
    if sharding == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        # Said, since a torch that was built for GPUs else takes one also in a team on CPUs.
        mesh = init_device_mesh(team.device.type, (team.size,))
        for unit in units:
            fully_shard(unit, mesh=mesh)
        fully_shard(engine, mesh=mesh)
        for method in methods:
            register_fsdp_forward_method(engine, method)
        return engine
    gpu = [team.device] if team.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(
        engine, device_ids=gpu, broadcast_buffers=False, gradient_as_bucket_view=True
    )


@contextmanager
def apart(model: nn.Module, alone: bool) -> Iterator[None]:
    """Let gradients add up in each process without an exchange, if `alone`."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        with model.no_sync() if alone else nullcontext():
            yield
        return
    if callable(exchange := getattr(model, "set_requires_gradient_sync", None)):  # of FSDP2
        exchange(not alone)
    yield


def local_tensors(parameters: Any) -> list[Tensor]:
    """The part of each parameter that this process holds."""
    return [p.to_local() if hasattr(p, "to_local") else p for p in parameters]
