"""The `pretrain` verb: one stage of self-supervised pretraining, resumable to the bit."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from meddino.core.files import write_lines
from meddino.core.state import open_state
from meddino.models import distributed
from meddino.models.distributed import Team
from meddino.models.memory import enough_memory
from meddino.pretrain import checkpoint
from meddino.pretrain.budget import parts_of
from meddino.pretrain.checkpoint import Source
from meddino.pretrain.options import PretrainOptions
from meddino.pretrain.trainer import Trainer

# Options that change how a stage runs and not its result: a killed run may resume with others.
CONDUCT = (
    "micro_batch",
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
    """Run one stage, in a process for each GPU that can share its batch (or under torchrun).

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
            divides=lambda processes: parts_of(stage, processes) is not None,
        )


@dataclass(frozen=True)
class Job:
    """The arguments of `run`, as they are sent to each process."""

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
    stage = f"pretrain.stages.{job.options.name}"
    advice = f"lower {stage}.micro_batch, or set {stage}.activation_checkpointing: true"
    with enough_memory(advice):
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
    """Run the stage with the public trainer."""
    # It imports half of torch.distributed: a second that every other stage would wait for.
    from meddino.pretrain.dinov3 import run as public

    sources = job.sources()
    job.open()
    history = public.train(job.options, job.index, sources, job.state, job.output)
    write_lines(job.output, history)
