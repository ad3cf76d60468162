"""A stage in progress: batches in, steps, history, snapshots and checkpoints out."""

import math
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meddino.core.errors import MeddinoError, Stopped
from meddino.core.progress import track
from meddino.ct3m.loader import SliceLoader
from meddino.models import checkpoints, distributed, loading, transfer
from meddino.models.checkpoints import Writer
from meddino.models.distributed import Team
from meddino.pretrain import budget, checkpoint, sharing, views
from meddino.pretrain import engine as ssl
from meddino.pretrain.checkpoint import Source
from meddino.pretrain.meter import Meter, step_flops
from meddino.pretrain.options import PretrainOptions, Resolution
from meddino.pretrain.views import Drawn

WATCHED_SLICES = 16
"""Slices, always the same, that the signals of collapse are taken of."""


class Batch(NamedTuple):
    """What a process works on in an iteration."""

    resolution: Resolution
    parts: list[Callable[[], Drawn]]
    """What brings each part to the device."""


class Losses(NamedTuple):
    """Losses of an iteration, which a GPU may still be computing."""

    iteration: int
    rate: float
    read: Callable[[], dict[str, float]]
    """Wait for them."""


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
        init, gram = sources["init"], sources["gram_teacher"]
        architecture = checkpoint.architecture_of(options, init)
        self.memory = budget.smallest_memory(team)
        stage = budget.settled(options.stage, architecture, team.size, self.memory)
        self.options, self.stage, self.team = replace(options, stage=stage), stage, team
        self.places = spread(self.options, team)
        torch.manual_seed(self.stage.seed)
        self.origin = {key: source and source.origin() for key, source in sources.items()}
        self.engine = ssl.Engine(architecture, self.stage).to(team.device)
        if init is not None:
            _load(self.engine, init.content, str(init.path), self.stage.start)
        if self.engine.gram is not None:
            assert gram is not None, "checked before"
            teacher = loading.backbone_state(gram.content)
            loading.load_strictly(self.engine.gram, teacher, str(gram.path))
        if self.stage.compile:
            self.engine.compile_parts()
        self.model = sharing.share(
            self.engine,
            team,
            self.stage.sharding,
            self.engine.blocks(),
            methods=["targets", "signals"],
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
        architecture = self.engine.student.backbone.architecture
        unread: deque[Losses] = deque()
        values = {"stop": 0.0}
        steps: Any = iterations
        if team.leads:
            steps = track(iterations, f"{self.options.name}: pretraining", len(iterations))
        with (
            distributed.on_signals(self._note),
            ThreadPoolExecutor(1) as ahead,
            checkpoints.writer() as writer,
        ):
            batches = self._batches(ahead)
            for iteration in steps:
                batch = next(batches)
                unread.append(self._step(iteration, batch))
                self.iteration = iteration + 1
                flops = step_flops(architecture, stage, batch.resolution, team.size)
                meter.step(stage.batch_size, flops * stage.batch_size)
                while len(unread) > (0 if self._due_now() or values["stop"] > 0 else lag(team)):
                    values = self._settle(unread.popleft())
                collapse = self._collapse_signals()
                if team.leads and (collapse or self._due(stage.log_every)):
                    speed = meter.read(stage.iterations - self.iteration)
                    self._log(values | collapse, speed)
                stopping = values["stop"] > 0
                self._store(state, writer, stopping)
                if stopping:
                    writer.wait()
                    team.wait()  # those that end first have the others ended soon
                    raise Stopped(
                        f"{self.options.name}: stopped by a signal after iteration"
                        f" {self.iteration}; a checkpoint is kept, rerun to go on"
                    )

    def _due(self, every: int) -> bool:
        """Whether it is time for what happens every `every` iterations and at the end."""
        return self.iteration % every == 0 or self.iteration == self.stage.iterations

    def _due_now(self) -> bool:
        """Whether this iteration is to be logged, looked at or kept."""
        stage = self.stage
        periods = (stage.log_every, stage.quality_every, stage.checkpoint_every)
        return any(map(self._due, periods)) or self.iteration in stage.snapshots

    def _collapse_signals(self) -> dict[str, float]:
        """Signals of collapse, when they are due: all processes compute the same.

        Under FSDP none could without the others' parameters, and under DDP the others would wait.
        """
        stage = self.stage
        if not self._due(stage.quality_every):
            return {}
        if self.watched is None:
            watched = range(min(WATCHED_SLICES, stage.batch_size))
            self.watched = self.loader.batch(0, watched).to(self.team.device)
        with self._autocast():
            return self.engine.signals(self.watched)

    def _note(self, number: int, _: Any) -> None:
        """A signal came: stop after this iteration, when all processes can."""
        self.stop = number
        print(f"{signal.Signals(number).name}: stopping", file=sys.stderr, flush=True)

    def _batches(self, ahead: ThreadPoolExecutor) -> Iterator[Batch]:
        """Batches from the current iteration on; the next is made while one is trained on."""
        coming: Future[Batch] = ahead.submit(self._batch, self.iteration)
        for iteration in range(self.iteration, self.stage.iterations):
            batch = coming.result()
            if iteration + 1 < self.stage.iterations:
                coming = ahead.submit(self._batch, iteration + 1)
            yield batch

    def _batch(self, iteration: int) -> Batch:
        """Read what this process works on in an iteration, and draw all that is random in it."""
        resolution = views.draw_resolution(self.stage, iteration)
        draw = partial(
            views.draw_part,
            stage=self.stage,
            iteration=iteration,
            resolution=resolution,
            architecture=self.engine.student.backbone.architecture,
        )
        parts = [draw(self.loader.batch(iteration, places), places.start) for places in self.places]
        return Batch(resolution, [transfer.packed(part, self.team.device) for part in parts])

    def _step(self, iteration: int, batch: Batch) -> Losses:
        """One iteration; everything random in it follows from the seed and its number."""
        stage = self.stage
        rate = ssl.set_rates(self.optimizer, stage, iteration)
        temperature = ssl.teacher_temperature(stage, iteration)
        self.optimizer.zero_grad(set_to_none=True)
        backbone = self.engine.student.backbone
        backbone.checkpointing = budget.checkpoints(
            backbone.architecture, stage, batch.resolution, len(self.places[0]), self.memory
        )
        parts = [bring().part(stage, batch.resolution) for bring in batch.parts]
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
        read = self._agree(means, norms)
        self.optimizer.step()
        self.engine.update_teacher(ssl.momentum(stage, iteration))
        return Losses(iteration, rate, read)

    def _autocast(self) -> Any:
        if self.stage.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.team.device.type, torch.bfloat16)

    def _agree(
        self, losses: dict[str, Tensor], norms: dict[str, Tensor]
    ) -> Callable[[], dict[str, float]]:
        """Means over all processes, in one exchange; `stop` is above 0 if one was told to."""
        stop = torch.full((), float(self.stop is not None), device=self.team.device)
        norms = {f"grad_norm_{name}": value for name, value in norms.items()}
        named_values = {**losses, **norms, "stop": stop}
        values = self.team.mean(torch.stack([v.float() for v in named_values.values()]))
        read = transfer.fetched(values)
        return lambda: dict(zip(named_values, read(), strict=True))

    def _settle(self, losses: Losses) -> dict[str, float]:
        """Read the losses of an iteration, wait for it, and refuse what is no number."""
        values = losses.read()
        not_finite = [
            f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)
        ]
        if not_finite:
            raise MeddinoError(
                f"{self.options.name}: at iteration {losses.iteration} {', '.join(not_finite)};"
                f" lower pretrain.stages.{self.options.name}.optim.lr and rerun (the last"
                " checkpoint is kept)"
            )
        return {**values, "lr": losses.rate}

    def _log(self, values: dict[str, float], speed: dict[str, float]) -> None:
        values = {key: value for key, value in values.items() if key != "stop"}
        self.history.append({"iteration": self.iteration, **values, **speed})
        printed = {k: v for k, v in values.items() if k != "lr"} | speed
        text = ", ".join(f"{key} {value:.4g}" for key, value in printed.items())
        print(f"iteration {self.iteration}: {text}", file=sys.stderr, flush=True)

    def _store(self, state: Path, writer: Writer, stopping: bool) -> None:
        """Gather what is due, all processes together; the first writes it while they go on.

        Raises:
            MeddinoError: what was due before could not be written.
        """
        stage, student = self.stage, self.engine.student
        writer.check()
        snapshot_due = self.iteration in stage.snapshots
        checkpoint_due = stopping or self._due(stage.checkpoint_every)
        if not (snapshot_due or checkpoint_due):
            return
        writer.wait()  # before there are two copies
        networks = checkpoint.gathered(student, self.engine.teacher)
        snapshot = {**networks, "meta": self._meta()} if snapshot_due else None
        resumable: dict[str, Any] | None = None
        if checkpoint_due:
            optimizer = checkpoint.gathered_optimizer(student, self.optimizer)
            progress = {"iteration": self.iteration, "history": list(self.history)}
            resumable = {**networks, "optimizer": optimizer, **progress}
        if self.team.leads:
            writer.start(partial(_write, state, self.iteration, snapshot, resumable))

    def _meta(self) -> dict[str, Any]:
        """What a snapshot says of itself."""
        return {
            "stage": self.options.name,
            "iteration": self.iteration,
            "backbone": self.options.backbone,
            "norm_eps": self.engine.teacher.backbone.architecture.norm_eps,
            "origin": self.origin,
        }


def _write(
    state: Path,
    iteration: int,
    snapshot: dict[str, Any] | None,
    resumable: dict[str, Any] | None,
) -> None:
    """Write what later stages and finetuning start from, and what a killed run resumes from.

    In this order: a run that resumed after a snapshot would not make it any more.
    """
    if snapshot is not None:
        checkpoints.write(state / f"{iteration:06d}.pth", snapshot)
    if resumable is not None:
        checkpoints.save(state, iteration, resumable)


def lag(team: Team) -> int:
    """Iterations whose losses are read later; a GPU stands still while it is asked for them."""
    return 1 if team.device.type == "cuda" else 0


def spread(options: PretrainOptions, team: Team) -> list[range]:
    """Places of the batch that a process works on at once, for each of its parts of a step.

    Raises:
        MeddinoError: the batch cannot be divided so.
    """
    stage = options.stage
    parts = budget.parts_of(stage, team.size)
    if parts is None:
        process_slices = stage.batch_size // team.size
        part_slices = budget.wanted(stage, process_slices)
        raise MeddinoError(
            f"pretrain.stages.{options.name}: a batch of {stage.batch_size} slices cannot be shared"
            f" by {team.size} processes of {part_slices} slices at once in groups of"
            f" {stage.group}; change batch_size, micro_batch, group_size or processes"
        )
    slices, count = parts
    starts = ((part * team.size + team.rank) * slices for part in range(count))
    return [range(start, start + slices) for start in starts]


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
