"""The `finetune` verb: train one method on one fold of a benchmark, within nnU-Net."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_lines
from meddino.core.state import open_state
from meddino.finetune.arrays import restore
from meddino.finetune.nnunet import folders, quiet
from meddino.finetune.options import FinetuneOptions
from meddino.finetune.presets import PAPER_PLANS, SLICES, VOLUMES

if TYPE_CHECKING:
    from meddino.models.distributed import Team

HISTORY = "history.jsonl"
# Options that change how a run is carried out, not its result: a run may resume with other values.
CONDUCT = {"training": {"checkpoint_every", "num_processes", "device", "compile"}}


def run(
    options: FinetuneOptions,
    *,
    preprocessed: Path,
    weights: Path | None = None,
    plans: Path | None = None,
    state: Path,
    output: Path,
) -> None:
    """Train one method on one fold, in one process or in several that share each batch.

    Args:
        options: the method and the length of training.
        preprocessed: `DatasetNNN_x/<configuration>.json`, from `preprocess`.
        weights: checkpoint of the ViT or of SegFormer's encoder; None for random weights.
        plans: those of volumes or of a ResEnc preset, from `replan`; None for `nnUNetPlans.json`.
            They lie beside `preprocessed`.
        state: folder of checkpoints. A killed run resumes from it, and one whose output was lost
            needs no training again. Once the output exists, it can be removed.
        output: `model.safetensors`, written last; beside it appear `model.json` (what it takes to
            rebuild the network) and `history.jsonl` (one line an epoch).

    Raises:
        MeddinoError: inputs and options do not belong together, the checkpoint does not fit, memory
            does not suffice, or a signal asked to stop; `state` keeps the progress until then.
    """
    plans = plans or preprocessed.parent / f"{PAPER_PLANS}.json"
    _check(options, preprocessed, plans, weights)
    restore(preprocessed, max(1, options.training.num_processes))
    from meddino.models.distributed import launch

    training = options.training
    inputs = (options, preprocessed, plans, weights, state, output)
    launch(_train, training.device, training.processes, *inputs)


def _train(
    team: "Team",
    options: FinetuneOptions,
    preprocessed: Path,
    plans: Path,
    weights: Path | None,
    state: Path,
    output: Path,
) -> None:
    """Train in one of the processes; only the first one writes."""
    from meddino.finetune import model
    from meddino.finetune.failures import explained
    from meddino.models.distributed import on_signals

    if team.leads:
        _open(options, preprocessed, plans, weights, state)
    team.wait()
    workers = -(-options.training.num_processes // team.size)
    with (
        quiet(),
        explained(*_advice(options)),
        folders(workers, preprocessed=preprocessed.parent.parent, results=state),
    ):
        trainer = _trainer(options, plans, team)
        trainer.state = state
        trainer.on_epoch = lambda history: _report(history, output)
        trainer.start(weights)
        if options.training.epochs > 0:
            with on_signals(trainer.stop_after_epoch):
                trainer.run_training()
        if team.leads:
            write_lines(output.parent / HISTORY, trainer.history)
            model.save(trainer, output)


def _open(
    options: FinetuneOptions,
    preprocessed: Path,
    plans: Path,
    weights: Path | None,
    state: Path,
) -> None:
    """Bind `state` to the options and inputs of this run."""
    inputs = {"plans": plans, "splits": plans.with_name("splits_final.json")}
    open_state(
        state,
        {**inputs, "preprocessed": preprocessed, "weights": weights},
        options.model_dump(mode="json", exclude=CONDUCT),
    )


def _check(options: FinetuneOptions, preprocessed: Path, plans: Path, weights: Path | None) -> None:
    """Refuse inputs that do not fit now, not after hours of training."""
    method, fold = options.method, options.fold
    marker = read_json(preprocessed)
    if marker["configuration"] != method.configuration:
        raise MeddinoError(
            f"{preprocessed} is configuration {marker['configuration']!r}, but the method trains "
            f"on {method.configuration!r}; preprocess that one"
        )
    if plans.stem != method.plans or plans.parent != preprocessed.parent:
        raise MeddinoError(
            f"{plans}: the method trains by {preprocessed.with_name(f'{method.plans}.json')}; give"
            " that one with --plans"
        )
    _, _, splits = (
        read_json(plans.with_name(name), f"{plans} and {preprocessed}")
        for name in (plans.name, "dataset.json", "splits_final.json")
    )
    if fold >= len(splits):
        raise MeddinoError(f"fold is {fold}, but the split has folds 0 to {len(splits) - 1}")
    for part, purpose in (("train", "train"), ("val", "validate")):
        if not splits[fold][part]:
            raise MeddinoError(
                f"fold {fold} has no case left to {purpose} on, since all were left out; see"
                " quarantine.json of the converted benchmark, repair the cases or choose other"
                " folds"
            )
    if (method.weights is None) != (weights is None):
        presence = "given" if weights else "missing"
        raise MeddinoError(f"weights: the method says {method.weights}, but a file is {presence}")
    if weights is not None and not weights.exists():
        raise MeddinoError(f"{weights} does not exist; run the stage that makes it")


def _trainer(options: FinetuneOptions, plans_file: Path, team: "Team") -> Any:
    """Build nnU-Net's trainer of the method, not yet started."""
    from meddino.finetune.settings import Settings, write_settings
    from meddino.finetune.trainer import StudyTrainer

    plans = read_json(plans_file)
    write_settings(plans, Settings(method=options.method, training=options.training))
    plans["continue_training"] = False  # nnU-Net insists on the key
    trainer = StudyTrainer(
        plans,
        options.method.configuration,
        options.fold,
        read_json(plans_file.with_name("dataset.json")),
        team.device,
    )
    slices = trainer.configuration_manager.batch_size
    if slices < team.size:
        raise MeddinoError(
            f"training.processes: {team.size} processes cannot share a batch of {slices}; start"
            f" fewer, or raise {_batch_key(options)}"
        )
    trainer.team = team
    return trainer


def _batch_key(options: FinetuneOptions) -> str:
    name = options.method.configuration
    sections = {SLICES: "", VOLUMES: "volumes."}
    return f"planning.{sections.get(name, f'configurations.{name}.')}batch_size"


def _advice(options: FinetuneOptions) -> tuple[str, str]:
    """Remedies where memory does not suffice, and where a process that augments has died."""
    memory = (
        f"lower {_batch_key(options)}, or share the batch among more GPUs with training.processes"
    )
    workers = (
        f"lower training.num_processes (now {options.training.num_processes}), give the job more"
        " memory, or its container more shared memory (/dev/shm)"
    )
    return memory, workers


def _report(history: list[dict[str, Any]], output: Path) -> None:
    """Rewrite the history after an epoch, and print its losses."""
    write_lines(output.parent / HISTORY, history)
    last = history[-1]
    dice = [value for value in last["pseudo_dice"] if value is not None]
    mean = sum(dice) / len(dice) if dice else float("nan")
    print(
        f"epoch {last['epoch']}: loss {last['train_loss']:.3f}, pseudo Dice {mean:.3f}, "
        f"{last['seconds']:.1f} s",
        file=sys.stderr,
        flush=True,
    )
