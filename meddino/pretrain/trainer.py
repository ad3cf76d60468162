"""A stage in progress: batches in, steps, history, snapshots and checkpoints out."""

import math
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meddino.core.errors import MeddinoError, Stopped
from meddino.core.progress import track
from meddino.ct3m.loader import SliceLoader
from meddino.models import checkpoints, distributed, loading
from meddino.models.distributed import Team
from meddino.pretrain import checkpoint, sharing, views
from meddino.pretrain import engine as ssl
from meddino.pretrain.checkpoint import Source
from meddino.pretrain.engine import Part
from meddino.pretrain.meter import Meter, step_flops
from meddino.pretrain.options import PretrainOptions, Resolution, StageOptions
from meddino.pretrain.quality import signals

WATCHED_SLICES = 16
"""Slices, always the same, that the signals of collapse are taken of."""


class Trainer:
    """A stage in progress, in one of the processes of a team."""

    def __init__(
        self,
        options: PretrainOptions,
        index: Path,
        sources: dict[str, Source | None],
        team: Team,
    ) -> None:
        """Build the networks, load what the stage starts from, and open the data."""
        self.options, self.stage, self.team = options, options.stage, team
        self.places = spread(options, team)
        torch.manual_seed(self.stage.seed)
        self.origin = {key: source and source.origin() for key, source in sources.items()}
        init, gram = sources["init"], sources["gram_teacher"]
        architecture = checkpoint.architecture_of(options, init)
        self.engine = ssl.Engine(architecture, self.stage).to(team.device)
        if init is not None:
            _load(self.engine, init.content, str(init.path), self.stage.start)
        if self.engine.gram is not None:
            assert gram is not None, "checked before"
            teacher = loading.backbone_state(gram.content)
            loading.load_strictly(self.engine.gram, teacher, str(gram.path))
        self.engine.student.backbone.checkpointing = self.stage.activation_checkpointing
        blocks = self.engine.blocks()
        if self.stage.compile:
            for block in blocks:
                block.compile()
        self.model = sharing.share(
            self.engine, team, self.stage.sharding, blocks, methods=["targets"]
        )
        groups = ssl.parameter_groups(self.engine.student, self.stage.optim)
        # Unfused, AdamW takes a third of the step of a small ViT on a CPU.
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=self.stage.optim.betas, fused=True)
        self.loader = SliceLoader(index, batch_size=self.stage.batch_size, seed=self.stage.seed)
        self.iteration = 0
        self.history: list[dict[str, Any]] = []
        self.stop: int | None = None
        self.watched: Tensor | None = None

    def resume(self, state: Path) -> None:
        """Go on from a killed run's last checkpoint, if there is one."""
        saved = checkpoints.agreed(state, self.team)
        if saved is None:
            return
        checkpoint.restore(saved, self.engine.student, self.engine.teacher, self.optimizer)
        self.iteration, self.history = saved["iteration"], saved["history"]
        if self.team.leads:
            print(f"resumed at iteration {self.iteration}", file=sys.stderr, flush=True)

    def train(self, state: Path) -> None:
        """Run the iterations that are left, with checkpoints and snapshots in `state`."""
        stage, team = self.stage, self.team
        self.engine.train()
        meter = Meter(team.device, team.size)
        iterations = range(self.iteration, stage.iterations)
        steps: Any = iterations
        if team.leads:
            steps = track(iterations, f"{self.options.name}: pretraining", len(iterations))
        with distributed.on_signals(self._note), ThreadPoolExecutor(1) as ahead:
            batches = self._batches(ahead)
            for iteration in steps:
                resolution = views.draw_resolution(stage, iteration)
                values = self._step(iteration, resolution, next(batches))
                self.iteration = iteration + 1
                flops = step_flops(self.engine.student.backbone.architecture, stage, resolution)
                meter.step(stage.batch_size, flops * stage.batch_size)
                collapse = self._collapse_signals()
                if team.leads and (collapse or self._due(stage.log_every)):
                    speed = meter.read(stage.iterations - self.iteration)
                    self._log(values | collapse, speed)
                if self.iteration in stage.snapshots:
                    self._snapshot(state / f"{self.iteration:06d}.pth")
                if values["stop"] > 0:
                    self._checkpoint(state)
                    team.wait()  # those that end first have the others ended soon
                    raise Stopped(
                        f"{self.options.name}: stopped by a signal after iteration"
                        f" {self.iteration}; a checkpoint is kept, rerun to go on"
                    )
                if self._due(stage.checkpoint_every):
                    self._checkpoint(state)

    def _due(self, every: int) -> bool:
        """Whether it is time for what happens every `every` iterations and at the end."""
        return self.iteration % every == 0 or self.iteration == self.stage.iterations

    def _collapse_signals(self) -> dict[str, float]:
        """Signals of collapse, when they are due."""
        stage = self.stage
        wanted = self.team.leads and self._due(stage.quality_every)
        if not wanted or sharing.is_sharded(self.model):
            return {}
        if self.watched is None:
            watched = range(min(WATCHED_SLICES, stage.batch_size))
            self.watched = self.loader.batch(0, watched).to(self.team.device)
        with self._autocast():
            return signals(self.engine.teacher.backbone, self.watched, self.engine.gram)

    def _note(self, number: int, _: Any) -> None:
        """A signal came: stop after this iteration, when all processes can."""
        self.stop = number
        print(f"{signal.Signals(number).name}: stopping", file=sys.stderr, flush=True)

    def _batches(self, ahead: ThreadPoolExecutor) -> Iterator[list[Tensor]]:
        """Batches from the current iteration on; the next is read while one is trained on."""
        # Only from pinned memory does a copy to the GPU go on beside the computation.
        pinned = self.team.device.type == "cuda"

        def read(iteration: int) -> list[Tensor]:
            parts = [self.loader.batch(iteration, places) for places in self.places]
            return [part.pin_memory() if pinned else part for part in parts]

        coming: Future[list[Tensor]] = ahead.submit(read, self.iteration)
        for iteration in range(self.iteration, self.stage.iterations):
            batch = coming.result()
            if iteration + 1 < self.stage.iterations:
                coming = ahead.submit(read, iteration + 1)
            yield batch

    def _step(
        self, iteration: int, resolution: Resolution, batch: list[Tensor]
    ) -> dict[str, float]:
        """One iteration; everything random in it follows from the seed and its number."""
        stage = self.stage
        rate = ssl.set_rates(self.optimizer, stage, iteration)
        temperature = ssl.teacher_temperature(stage, iteration)
        self.optimizer.zero_grad(set_to_none=True)
        parts = [
            self._part(iteration, places.start, slices, resolution)
            for places, slices in zip(self.places, batch, strict=True)
        ]
        # The teacher first, for all parts: its assignments depend on the whole step.
        with self._autocast():
            targets = self.engine.targets(parts, temperature)
        sums: dict[str, Tensor] = {}
        for number, (part, target) in enumerate(zip(parts, targets, strict=True), start=1):
            # Gradients are exchanged once, with those of the last part.
            with sharing.apart(self.model, alone=number < len(parts)):
                with self._autocast():
                    losses = self.model(part, target)
                (losses["loss"] / len(parts)).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach()
        norms = self.engine.clip_gradients(stage.optim.clip_grad)
        means = {name: value / len(parts) for name, value in sums.items()}
        values = self._agree(means, norms)
        self._refuse_nan(values, iteration)
        self.optimizer.step()
        self.engine.update_teacher(ssl.momentum(stage, iteration))
        return {**values, "lr": rate}

    def _part(self, iteration: int, first: int, slices: Tensor, resolution: Resolution) -> Part:
        """A part of the step, from int16 slices (B, S, S), the first at a place of the batch."""
        return views.draw_part(
            slices.to(self.team.device, non_blocking=True),
            first,
            stage=self.stage,
            iteration=iteration,
            resolution=resolution,
            architecture=self.engine.student.backbone.architecture,
        )

    def _autocast(self) -> Any:
        if self.stage.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.team.device.type, torch.bfloat16)

    def _agree(self, losses: dict[str, Tensor], norms: dict[str, Tensor]) -> dict[str, float]:
        """Means over all processes, in one exchange; `stop` is above 0 if one was told to."""
        stop = torch.full((), float(self.stop is not None), device=self.team.device)
        norms = {f"grad_norm_{name}": value for name, value in norms.items()}
        named_values = {**losses, **norms, "stop": stop}
        values = self.team.mean(torch.stack([v.float() for v in named_values.values()]))
        return dict(zip(named_values, values.cpu().tolist(), strict=True))

    def _refuse_nan(self, values: dict[str, float], iteration: int) -> None:
        not_finite = [
            f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)
        ]
        if not_finite:
            raise MeddinoError(
                f"{self.options.name}: at iteration {iteration} {', '.join(not_finite)}; lower"
                f" pretrain.stages.{self.options.name}.optim.lr and rerun (the last checkpoint is"
                " kept)"
            )

    def _log(self, values: dict[str, float], speed: dict[str, float]) -> None:
        values = {key: value for key, value in values.items() if key != "stop"}
        self.history.append({"iteration": self.iteration, **values, **speed})
        printed = {k: v for k, v in values.items() if k != "lr"} | speed
        text = ", ".join(f"{key} {value:.4g}" for key, value in printed.items())
        print(f"iteration {self.iteration}: {text}", file=sys.stderr, flush=True)

    def _snapshot(self, path: Path) -> None:
        """Store what later stages and finetuning start from."""
        content = checkpoint.gathered(self.engine.student, self.engine.teacher)
        meta = {
            "stage": self.options.name,
            "iteration": self.iteration,
            "backbone": self.options.backbone,
            "norm_eps": self.engine.teacher.backbone.architecture.norm_eps,
            "origin": self.origin,
        }
        if self.team.leads:
            checkpoints.write(path, {**content, "meta": meta})

    def _checkpoint(self, state: Path) -> None:
        student = self.engine.student
        content = checkpoint.gathered(student, self.engine.teacher)
        content["optimizer"] = checkpoint.gathered_optimizer(student, self.optimizer)
        content |= {"iteration": self.iteration, "history": self.history}
        if self.team.leads:
            checkpoints.save(state, self.iteration, content)


def spread(options: PretrainOptions, team: Team) -> list[range]:
    """Places of the batch that a process works on at once, for each of its parts of a step.

    Raises:
        MeddinoError: the batch cannot be divided so.
    """
    stage = options.stage
    parts = parts_of(stage, team.size)
    if parts is None:
        part_slices = stage.micro_batch or stage.batch_size // team.size
        raise MeddinoError(
            f"pretrain.stages.{options.name}: a batch of {stage.batch_size} slices cannot be shared"
            f" by {team.size} processes of {part_slices} slices at once in groups of"
            f" {stage.group}; change batch_size, micro_batch, group_size or processes"
        )
    slices, count = parts
    starts = ((part * team.size + team.rank) * slices for part in range(count))
    return [range(start, start + slices) for start in starts]


def parts_of(stage: StageOptions, processes: int) -> tuple[int, int] | None:
    """Slices of a part and parts of a process; None where so many cannot share the batch.

    Where there are more processes than groups, as many share each group.
    """
    process_slices, rest = divmod(stage.batch_size, processes)
    part_slices = min(stage.micro_batch or process_slices, process_slices)
    if rest or part_slices == 0 or process_slices % part_slices:
        return None
    shared = part_slices == process_slices and stage.group % part_slices == 0
    if part_slices % stage.group and not shared:
        return None
    return part_slices, process_slices // part_slices


def _load(engine: ssl.Engine, content: dict[str, Any], source: str, start: str) -> None:
    """Start student and teacher from a checkpoint: with heads where it has them."""
    if "student" in content:
        student = "student" if start == "own" else "teacher"
        loading.load_strictly(engine.student, content[student], source)
        loading.load_strictly(engine.teacher, content["teacher"], source)
        return
    state = loading.backbone_state(content)
    for network in (engine.student, engine.teacher):
        loading.load_strictly(network.backbone, state, source)
