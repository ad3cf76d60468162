"""The `pretrain` verb: one stage of self-supervised pretraining, resumable to the bit."""

import json
import math
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, sha256, write_lines
from meddino.core.progress import track
from meddino.core.state import close_state, open_state
from meddino.ct3m.loader import SliceLoader
from meddino.models import weights
from meddino.models.architectures import Architecture, named
from meddino.models.device import choose
from meddino.pretrain import engine as ssl
from meddino.pretrain.crops import multi_crop
from meddino.pretrain.masks import draw_masks
from meddino.pretrain.options import PretrainOptions, Resolution

CHECKPOINT = "checkpoint.pt"
# Options that change how a stage is carried out, not what comes out.
CONDUCT = ("device", "log_every", "checkpoint_every")


def run(
    options: PretrainOptions,
    *,
    index: Path,
    init: Path | None = None,
    gram_teacher: Path | None = None,
    state: Path,
    output: Path,
) -> None:
    """Run one stage.

    Args:
        options: the stage.
        index: index of the slices.
        init: checkpoint that student and teacher start from. One of an earlier stage brings heads
            and student; published weights bring the backbone alone.
        gram_teacher: checkpoint whose teacher is the Gram teacher.
        state: folder of checkpoints; a killed run resumes there, and it is removed at the end.
        output: `history.jsonl`, written last (one line every `log_every` iterations); beside it
            appears `NNNNNN.pth` (teacher, student, meta) for each of the stage's snapshots.

    Raises:
        MeddinoError: a checkpoint does not fit or is not the one that the stage asks for, or a
            loss is no number; the last good state is kept.
    """
    stage = options.stage
    sources = {
        "init": _expected(stage.init, init, "init"),
        "gram_teacher": _expected(stage.gram_teacher, gram_teacher, "gram_teacher"),
    }
    inputs = {"index": index, "init": init, "gram_teacher": gram_teacher}
    identity = asdict(options)
    for key in CONDUCT:
        del identity["stage"][key]
    open_state(state, inputs, json.loads(json.dumps(identity)))
    if options.engine == "dinov3":
        # It loads half of torch.distributed, a second that every other stage would wait for.
        from meddino.pretrain.dinov3 import run as public

        history = public.train(options, index, sources, state, output)
    else:
        trainer = Trainer(options, index, sources)
        del sources  # as large as the networks, and no longer needed
        trainer.resume(state / CHECKPOINT)
        trainer.train(state / CHECKPOINT, output)
        history = trainer.history
    write_lines(output, history)
    close_state(state)


class Source(NamedTuple):
    """A checkpoint that the stage starts from, read once."""

    path: Path
    content: dict[str, Any]

    def origin(self) -> dict[str, Any]:
        """Where it comes from, for the record of the one that starts from it."""
        meta = self.content.get("meta", {})
        return {**{k: meta.get(k) for k in ("stage", "iteration")}, "sha256": sha256(self.path)}


def _expected(reference: str | None, path: Path | None, flag: str) -> Source | None:
    """Read a checkpoint; refuse a missing one, and one of another stage or iteration."""
    if (reference is None) != (path is None):
        given = "given" if path else "missing"
        raise MeddinoError(f"{flag}: the stage says {reference}, but a file is {given}")
    if reference is None or path is None:
        return None
    source = Source(path, weights.read(path))
    if "@" in reference:
        stage, _, iteration = reference.partition("@")
        meta = source.content.get("meta", {})
        found = (meta.get("stage"), meta.get("iteration"))
        if found != (stage, int(iteration)):
            raise MeddinoError(
                f"{path} is iteration {found[1]} of stage {found[0]}, but {flag} asks for "
                f"{reference}; give the right checkpoint"
            )
    return source


class Trainer:
    """A stage in progress."""

    def __init__(
        self, options: PretrainOptions, index: Path, sources: dict[str, Source | None]
    ) -> None:
        """Build the networks, load what the stage starts from, and open the data."""
        self.options, self.stage = options, options.stage
        self.device = choose(self.stage.device)
        torch.manual_seed(self.stage.seed)
        self.origin = {key: source and source.origin() for key, source in sources.items()}
        init, gram = sources["init"], sources["gram_teacher"]
        self.engine = ssl.Engine(self._architecture(init), self.stage).to(self.device)
        if init is not None:
            _load(self.engine, init.content, str(init.path))
        if self.engine.gram is not None:
            assert gram is not None, "checked before"
            teacher = weights.backbone_state(gram.content)
            weights.load_strictly(self.engine.gram, teacher, str(gram.path))
        groups = ssl.parameter_groups(self.engine.student, self.stage.optim)
        # The fused kernel is a third of the step for a small ViT on a CPU otherwise.
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=self.stage.optim.betas, fused=True)
        self.loader = SliceLoader(index, batch_size=self.stage.batch_size, seed=self.stage.seed)
        self.iteration = 0
        self.history: list[dict[str, Any]] = []

    def _architecture(self, init: Source | None) -> Architecture:
        """That of the backbone's name, or of the checkpoint, which must be of the same size."""
        if init is None:
            return named(self.options.backbone)
        found = weights.architecture_of(init.content, str(init.path))
        weights.check_size(found, self.options.backbone, str(init.path), "pretrain.backbone")
        return found

    def resume(self, checkpoint: Path) -> None:
        """Go on from a killed run's last checkpoint, if there is one."""
        if not checkpoint.exists():
            return
        saved = torch.load(checkpoint, map_location=self.device, weights_only=True)
        self.engine.student.load_state_dict(saved["student"])
        self.engine.teacher.load_state_dict(saved["teacher"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.iteration, self.history = saved["iteration"], saved["history"]
        print(f"resumed at iteration {self.iteration}", file=sys.stderr, flush=True)

    def train(self, checkpoint: Path, output: Path) -> None:
        """Run the iterations that are left, with snapshots beside `output`."""
        stage = self.stage
        self.engine.train()
        left = range(self.iteration, stage.iterations)
        for iteration in track(left, f"{self.options.name}: pretraining", len(left)):
            started = time.monotonic()
            parts = self._step(iteration)
            self.iteration = iteration + 1
            if self.iteration % stage.log_every == 0 or self.iteration == stage.iterations:
                self._log(parts, time.monotonic() - started)
            if self.iteration in stage.snapshots:
                self._snapshot(output.with_name(f"{self.iteration:06d}.pth"))
            if self.iteration % stage.checkpoint_every == 0:
                self._checkpoint(checkpoint)

    def _step(self, iteration: int) -> dict[str, float]:
        """One iteration; everything random in it follows from the seed and its number."""
        stage = self.stage
        seed = [stage.seed, iteration]
        generator = torch.Generator().manual_seed(_mix(seed))
        torch.manual_seed(_mix([*seed, 1]))
        rng = np.random.default_rng([*seed, 2])
        resolution = draw_resolution(stage.resolutions, rng)
        slices = self.loader.batch(iteration).to(self.device, non_blocking=True)
        crops = multi_crop(slices, resolution, stage.augmentation, generator)
        side = resolution.global_px // self.engine.student.backbone.patch_size
        masks = draw_masks(
            len(crops.globals), (side, side), stage.masking.ratio, stage.masking.probability, rng
        ).to(self.device)
        rate = ssl.set_rates(self.optimizer, stage, iteration)
        with self._autocast():
            parts = self.engine(crops, masks, ssl.teacher_temperature(stage, iteration))
        values = {name: float(value.detach()) for name, value in parts.items()}
        self._refuse_nan(values, iteration)
        self.optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()
        norms = self.engine.clip_gradients(stage.optim.clip_grad)
        self._refuse_nan({f"gradient of {k}": v for k, v in norms.items()}, iteration)
        self.optimizer.step()
        self.engine.update_teacher(ssl.momentum(stage, iteration))
        return {**values, "lr": rate, "grad_norm": norms["backbone"]}

    def _autocast(self) -> Any:
        if self.stage.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _refuse_nan(self, values: dict[str, float], iteration: int) -> None:
        wrong = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            raise MeddinoError(
                f"{self.options.name}: at iteration {iteration} {', '.join(wrong)}; lower"
                f" pretrain.stages.{self.options.name}.optim.lr and rerun (the last checkpoint is"
                " kept)"
            )

    def _log(self, parts: dict[str, float], seconds: float) -> None:
        line = {"iteration": self.iteration, **parts, "seconds": round(seconds, 4)}
        self.history.append(line)
        shown = ", ".join(f"{k} {v:.3f}" for k, v in parts.items() if k not in ("lr", "grad_norm"))
        speed = self.stage.batch_size / max(seconds, 1e-9)
        print(
            f"iteration {self.iteration}: {shown}, {speed:.0f} img/s", file=sys.stderr, flush=True
        )

    def _snapshot(self, path: Path) -> None:
        """Store what later stages and finetuning start from."""
        meta = {
            "stage": self.options.name,
            "iteration": self.iteration,
            "backbone": self.options.backbone,
            "norm_eps": self.engine.teacher.backbone.architecture.norm_eps,
            "origin": self.origin,
        }
        content = {
            "teacher": self.engine.teacher.state_dict(),
            "student": self.engine.student.state_dict(),
            "meta": meta,
        }
        with atomic(path) as temporary:
            torch.save(content, temporary)

    def _checkpoint(self, path: Path) -> None:
        content = {
            "student": self.engine.student.state_dict(),
            "teacher": self.engine.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.iteration,
            "history": self.history,
        }
        with atomic(path) as temporary:
            torch.save(content, temporary)


def draw_resolution(resolutions: tuple[Resolution, ...], rng: np.random.Generator) -> Resolution:
    """Draw the kind of a batch by the given shares."""
    shares = np.array([resolution.ratio for resolution in resolutions])
    return resolutions[int(np.searchsorted(np.cumsum(shares / shares.sum()), rng.random()))]


def _mix(parts: list[int]) -> int:
    """One 63-bit seed from several numbers."""
    words = np.random.SeedSequence(parts).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1


def _load(engine: ssl.Engine, content: dict[str, Any], source: str) -> None:
    """Start student and teacher from a checkpoint: whole, or the backbone where that is all."""
    if "student" in content:
        for part in ("student", "teacher"):
            weights.load_strictly(getattr(engine, part), content[part], source)
        return
    state = weights.backbone_state(content)
    for network in (engine.student, engine.teacher):
        weights.load_strictly(network.backbone, state, source)
