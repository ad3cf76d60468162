"""The `pretrain` verb: one stage of self-supervised pretraining, resumable to the bit."""

import json
import math
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meddino.core.errors import MeddinoError, Stopped
from meddino.core.files import write_lines
from meddino.core.progress import track
from meddino.core.state import open_state
from meddino.ct3m.loader import SliceLoader
from meddino.models import checkpoints, distributed, loading
from meddino.models.distributed import Team
from meddino.pretrain import checkpoint, quality, sharing
from meddino.pretrain import engine as ssl
from meddino.pretrain.checkpoint import Source
from meddino.pretrain.crops import Crops, Draws, multi_crop
from meddino.pretrain.masks import draw_masks
from meddino.pretrain.meter import Meter, step_flops
from meddino.pretrain.options import PretrainOptions, Resolution, StageOptions

SHOWN = 16
"""Slices, always the same, that the signals of collapse are taken of."""

# Options that change how a stage is carried out, not what comes out.
CONDUCT = (
    "device",
    "log_every",
    "quality_every",
    "checkpoint_every",
    "processes",
    "sharding",
    "activation_checkpointing",
    "compile",
)


def run(
    options: PretrainOptions,
    *,
    index: Path,
    init: Path | None = None,
    gram_teacher: Path | None = None,
    state: Path,
    output: Path,
) -> None:
    """Run one stage, in a process for each GPU that a batch can be shared with (or under torchrun).

    Args:
        options: the stage.
        index: index of the slices.
        init: checkpoint that student and teacher start from. One of an earlier stage brings heads
            and student; published weights bring the backbone alone.
        gram_teacher: checkpoint whose teacher is the Gram teacher.
        state: folder of checkpoints, from which a killed run resumes, in any number of processes,
            and one whose output was lost is soon done again. Whoever has the output can remove it.
        output: `history.jsonl`, written last (one line every `log_every` iterations); beside it
            appears `NNNNNN.pth` (teacher, student, meta) for each of the stage's snapshots.

    Raises:
        MeddinoError: a checkpoint does not fit or is not the one that the stage asks for, or a
            loss is no number, or a signal asked to stop; the last good state is kept.
    """
    job = Job(options, index, init, gram_teacher, state, output)
    if options.engine == "dinov3":
        _train_publicly(job)
    else:
        stage = options.stage
        distributed.launch(
            _train,
            stage.device,
            stage.processes,
            job,
            divides=lambda size: _parts(stage, size) is not None,
        )


@dataclass(frozen=True)
class Job:
    """What `run` was given."""

    options: PretrainOptions
    index: Path
    init: Path | None
    gram_teacher: Path | None
    state: Path
    output: Path

    def sources(self) -> dict[str, Source | None]:
        """The checkpoints that the stage starts from, read and checked."""
        stage = self.options.stage
        sources = {
            "init": checkpoint.expected(stage.init, self.init, "init"),
            "gram_teacher": checkpoint.expected(
                stage.gram_teacher, self.gram_teacher, "gram_teacher"
            ),
        }
        if self.options.qkv_bias is None:
            return sources
        return {key: source and source.without_qkv_bias() for key, source in sources.items()}

    def open(self) -> None:
        """Make `state` a folder of this very stage."""
        identity = asdict(self.options)
        for key in CONDUCT:
            del identity["stage"][key]
        files = {"index": self.index, "init": self.init, "gram_teacher": self.gram_teacher}
        open_state(self.state, files, json.loads(json.dumps(identity)))


def _train(team: Team, job: Job) -> None:
    """What each process does."""
    sources = job.sources()
    if team.leads:
        job.open()
    team.wait()
    trainer = Trainer(job.options, job.index, sources, team)
    del sources  # as large as the networks, and no longer needed
    trainer.resume(job.state)
    trainer.train(job.state)
    if team.leads:
        # Not before the end: Snakemake deletes the outputs of a job that fails.
        for name in (f"{iteration:06d}.pth" for iteration in job.options.stage.snapshots):
            checkpoint.publish(job.state / name, job.output.with_name(name))
        write_lines(job.output, trainer.history)


def _train_publicly(job: Job) -> None:
    """Leave the stage to the public trainer."""
    # It loads half of torch.distributed, a second that every other stage would wait for.
    from meddino.pretrain.dinov3 import run as public

    sources = job.sources()
    job.open()
    history = public.train(job.options, job.index, sources, job.state, job.output)
    write_lines(job.output, history)


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
        self.slices, self.parts = _spread(options, team)
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
        self.model = sharing.share(self.engine, team, self.stage.sharding, blocks)
        groups = ssl.parameter_groups(self.engine.student, self.stage.optim)
        # The fused kernel is a third of the step for a small ViT on a CPU otherwise.
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=self.stage.optim.betas, fused=True)
        self.loader = SliceLoader(
            index,
            batch_size=self.slices,
            seed=self.stage.seed,
            rank=team.rank,
            world_size=team.size,
        )
        self.iteration = 0
        self.history: list[dict[str, Any]] = []
        self.stop: int | None = None
        self.shown: Tensor | None = None

    def resume(self, state: Path) -> None:
        """Go on from a killed run's last checkpoint, if there is one."""
        saved = checkpoints.newest(state)
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
        left = range(self.iteration, stage.iterations)
        steps: Any = left
        if team.leads:
            steps = track(left, f"{self.options.name}: pretraining", len(left))
        with distributed.on_signals(self._note), ThreadPoolExecutor(1) as ahead:
            batches = self._batches(ahead)
            for iteration in steps:
                resolution = self._resolution(iteration)
                values = self._step(iteration, resolution, next(batches))
                self.iteration = iteration + 1
                flops = step_flops(self.engine.student.backbone.architecture, stage, resolution)
                meter.step(stage.batch_size, flops * stage.batch_size)
                quality = self._quality()
                if team.leads and (quality or self._due(stage.log_every)):
                    speed = meter.read(stage.iterations - self.iteration)
                    self._log(values | quality, speed)
                if self.iteration in stage.snapshots:
                    self._snapshot(state / f"{self.iteration:06d}.pth")
                if values["stop"] > 0:
                    self._checkpoint(state)
                    raise Stopped(
                        f"{self.options.name}: stopped by a signal after iteration"
                        f" {self.iteration}; a checkpoint is kept, rerun to go on"
                    )
                if self._due(stage.checkpoint_every):
                    self._checkpoint(state)

    def _due(self, every: int) -> bool:
        """Whether something that is done every so many iterations, and at the end, is now."""
        return self.iteration % every == 0 or self.iteration == self.stage.iterations

    def _quality(self) -> dict[str, float]:
        """Signals of collapse, when they are due."""
        stage = self.stage
        sharded = self.team.size > 1 and stage.sharding == "fsdp"
        if not (self.team.leads and self._due(stage.quality_every)) or sharded:
            return {}
        if self.shown is None:
            self.shown = self.loader.batch(0)[:SHOWN].to(self.team.device)
        with self._autocast():
            return quality.signals(self.engine.teacher.backbone, self.shown, self.engine.gram)

    def _note(self, number: int, _: Any) -> None:
        """A signal came: stop after this iteration, when all processes can."""
        self.stop = number
        print(f"{signal.Signals(number).name}: stopping", file=sys.stderr, flush=True)

    def _batches(self, ahead: ThreadPoolExecutor) -> Iterator[list[Tensor]]:
        """Batches from the current iteration on; the next is read while one is trained on."""
        pinned = self.team.device.type == "cuda"

        def read(iteration: int) -> list[Tensor]:
            steps = range(iteration * self.parts, (iteration + 1) * self.parts)
            parts = [self.loader.batch(step) for step in steps]
            return [part.pin_memory() if pinned else part for part in parts]

        coming: Future[list[Tensor]] = ahead.submit(read, self.iteration)
        for iteration in range(self.iteration, self.stage.iterations):
            batch = coming.result()
            if iteration + 1 < self.stage.iterations:
                coming = ahead.submit(read, iteration + 1)
            yield batch

    def _resolution(self, iteration: int) -> Resolution:
        rng = np.random.default_rng([self.stage.seed, iteration, 2])
        return draw_resolution(self.stage.resolutions, rng)

    def _step(
        self, iteration: int, resolution: Resolution, batch: list[Tensor]
    ) -> dict[str, float]:
        """One iteration; everything random in it follows from the seed and its number."""
        stage = self.stage
        torch.manual_seed(_mix([stage.seed, iteration, 1, self.team.rank]))
        rate = ssl.set_rates(self.optimizer, stage, iteration)
        temperature = ssl.teacher_temperature(stage, iteration)
        self.optimizer.zero_grad(set_to_none=True)
        names: list[str] = []
        total: Tensor | None = None
        for number, part in enumerate(batch):
            crops, masks = self._views(iteration, number, part, resolution)
            with sharing.apart(self.model, number + 1 < self.parts):
                with self._autocast():
                    losses = self.model(crops, masks, temperature)
                (losses["loss"] / self.parts).backward()
            names = list(losses)
            values = torch.stack([value.detach() for value in losses.values()]) / self.parts
            total = values if total is None else total + values
        norms = self.engine.clip_gradients(stage.optim.clip_grad)
        assert total is not None, "there is at least one part"
        found = self._agree(dict(zip(names, total, strict=True)), norms)
        self._refuse_nan(found, iteration)
        self.optimizer.step()
        self.engine.update_teacher(ssl.momentum(stage, iteration))
        return {**found, "lr": rate}

    def _views(
        self, iteration: int, number: int, slices: Tensor, resolution: Resolution
    ) -> tuple[Crops, Tensor]:
        """Crops and masks of a part of the batch, drawn group by group."""
        stage = self.stage
        first = (number * self.team.size + self.team.rank) * self.slices // stage.group
        groups = range(first, first + len(slices) // stage.group)
        draws = Draws([_mix([stage.seed, iteration, 0, group]) for group in groups], len(slices))
        hu = slices.to(self.team.device, non_blocking=True)
        crops = multi_crop(hu, resolution, stage.augmentation, draws)
        side = resolution.global_px // self.engine.student.backbone.patch_size
        masks = [
            draw_masks(
                ssl.GLOBAL_CROPS * stage.group,
                (side, side),
                stage.masking.ratio,
                stage.masking.probability,
                np.random.default_rng([stage.seed, iteration, 2, group]),
            ).unflatten(0, (ssl.GLOBAL_CROPS, stage.group))
            for group in groups
        ]
        return crops, torch.cat(masks, dim=1).flatten(0, 1)

    def _autocast(self) -> Any:
        if self.stage.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.team.device.type, torch.bfloat16)

    def _agree(self, losses: dict[str, Tensor], norms: dict[str, Tensor]) -> dict[str, float]:
        """Means over all processes, in one exchange; `stop` is above 0 if one was told to."""
        stop = torch.tensor(float(self.stop is not None), device=self.team.device)
        norms = {f"grad_norm_{name}": value for name, value in norms.items()}
        named_values = {**losses, **norms, "stop": stop}
        values = self.team.mean(torch.stack([v.float() for v in named_values.values()]))
        return dict(zip(named_values, values.tolist(), strict=True))

    def _refuse_nan(self, values: dict[str, float], iteration: int) -> None:
        wrong = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            raise MeddinoError(
                f"{self.options.name}: at iteration {iteration} {', '.join(wrong)}; lower"
                f" pretrain.stages.{self.options.name}.optim.lr and rerun (the last checkpoint is"
                " kept)"
            )

    def _log(self, values: dict[str, float], speed: dict[str, float]) -> None:
        values = {key: value for key, value in values.items() if key != "stop"}
        self.history.append({"iteration": self.iteration, **values, **speed})
        shown = {k: v for k, v in values.items() if k != "lr"} | speed
        text = ", ".join(f"{key} {value:.4g}" for key, value in shown.items())
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


def _spread(options: PretrainOptions, team: Team) -> tuple[int, int]:
    """Slices that a process works on at once, and how many times it does so in a step.

    Raises:
        MeddinoError: the batch cannot be divided so.
    """
    stage = options.stage
    parts = _parts(stage, team.size)
    if parts is None:
        at_once = stage.micro_batch or stage.batch_size // team.size
        raise MeddinoError(
            f"pretrain.stages.{options.name}: a batch of {stage.batch_size} slices cannot be shared"
            f" by {team.size} processes of {at_once} slices at once in groups of"
            f" {stage.group}; change batch_size, micro_batch, group_size or processes"
        )
    return parts


def _parts(stage: StageOptions, size: int) -> tuple[int, int] | None:
    """`_spread` for `size` processes; None where the batch cannot be divided so."""
    mine, rest = divmod(stage.batch_size, size)
    at_once = min(stage.micro_batch or mine, mine)
    if rest or at_once == 0 or mine % at_once or at_once % stage.group:
        return None
    return at_once, mine // at_once


def draw_resolution(resolutions: tuple[Resolution, ...], rng: np.random.Generator) -> Resolution:
    """Draw the kind of a batch by the given shares."""
    shares = np.array([resolution.ratio for resolution in resolutions])
    return resolutions[int(np.searchsorted(np.cumsum(shares / shares.sum()), rng.random()))]


def _mix(parts: list[int]) -> int:
    """One 63-bit seed from several numbers."""
    words = np.random.SeedSequence(parts).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1


def _load(engine: ssl.Engine, content: dict[str, Any], source: str, start: str) -> None:
    """Start student and teacher from a checkpoint: whole, or the backbone where that is all."""
    if "student" in content:
        student = "student" if start == "own" else "teacher"
        loading.load_strictly(engine.student, content[student], source)
        loading.load_strictly(engine.teacher, content["teacher"], source)
        return
    state = loading.backbone_state(content)
    for network in (engine.student, engine.teacher):
        loading.load_strictly(network.backbone, state, source)
