"""The `finetune` verb: train one method on one fold of a benchmark, within nnU-Net."""

import sys
from pathlib import Path
from typing import Any

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_lines
from meddino.core.state import close_state, open_state
from meddino.finetune.nnunet import folders, quiet
from meddino.finetune.options import FinetuneOptions
from meddino.finetune.plan import PLANS
from meddino.models.device import choose

HISTORY = "history.jsonl"
# Options that change how a run is carried out, not what comes out: a run may resume across them.
CONDUCT = {"training": {"checkpoint_every", "num_processes", "device", "compile"}}


def run(
    options: FinetuneOptions,
    *,
    preprocessed: Path,
    weights: Path | None = None,
    state: Path,
    output: Path,
) -> None:
    """Train one method on one fold.

    Args:
        options: the method and the length of training.
        preprocessed: `DatasetNNN_x/<configuration>.json`, from `preprocess`.
        weights: checkpoint of the ViT or of SegFormer's encoder; None for random weights.
        state: folder of checkpoints; a killed run resumes there, and it is removed at the end.
        output: `model.safetensors`, written last; beside it appear `model.json` (what it takes to
            rebuild the network) and `history.jsonl` (one line an epoch).

    Raises:
        MeddinoError: inputs and options do not belong together, or the checkpoint does not fit.
    """
    _check(options, preprocessed, weights)
    from meddino.finetune import model

    folder = preprocessed.parent
    inputs = {"plans": folder / f"{PLANS}.json", "splits": folder / "splits_final.json"}
    open_state(
        state,
        {**inputs, "preprocessed": preprocessed, "weights": weights},
        options.model_dump(mode="json", exclude=CONDUCT),
    )
    with (
        quiet(),
        folders(options.training.num_processes, preprocessed=folder.parent, results=state),
    ):
        trainer = _trainer(options, folder, weights)
        trainer.state = state
        trainer.on_epoch = lambda history: _report(history, output)
        if options.training.epochs > 0:
            trainer.run_training()
        write_lines(output.parent / HISTORY, trainer.history)
        model.save(trainer, output)
    close_state(state)


def _check(options: FinetuneOptions, preprocessed: Path, weights: Path | None) -> None:
    """Find out now, and not after hours of training, that something does not fit."""
    method, fold = options.method, options.fold
    marker = read_json(preprocessed)
    if marker["configuration"] != method.configuration:
        raise MeddinoError(
            f"{preprocessed} is configuration {marker['configuration']!r}, but the method trains "
            f"on {method.configuration!r}; preprocess that one"
        )
    splits = read_json(preprocessed.parent / "splits_final.json")
    if fold >= len(splits):
        raise MeddinoError(f"fold is {fold}, but the split has folds 0 to {len(splits) - 1}")
    if (method.weights is None) != (weights is None):
        given = "given" if weights else "missing"
        raise MeddinoError(f"weights: the method says {method.weights}, but a file is {given}")
    if weights is not None and not weights.exists():
        raise MeddinoError(f"{weights} does not exist; run the stage that makes it")


def _trainer(options: FinetuneOptions, folder: Path, weights: Path | None) -> Any:
    """nnU-Net's trainer with a network that starts from `weights`."""
    from meddino.finetune.settings import Settings, write_settings
    from meddino.finetune.snapshot import seed_everything, unwrapped
    from meddino.finetune.trainers.trainer import MeddinoTrainer
    from meddino.finetune.vit import read_start, start_of
    from meddino.models.weights import load_strictly

    plans = read_json(folder / f"{PLANS}.json")
    vit, tensors = read_start(weights, options.method)
    settings = Settings(method=options.method, training=options.training, vit=vit)
    write_settings(plans, settings)
    plans["continue_training"] = False  # nnU-Net insists on the key
    seed_everything(options.training.seed)
    trainer = MeddinoTrainer(
        plans,
        options.method.configuration,
        options.fold,
        read_json(folder / "dataset.json"),
        choose(options.training.device),
    )
    trainer.initialize()
    if weights is not None:
        load_strictly(start_of(unwrapped(trainer.network)), tensors, str(weights))
    return trainer


def _report(history: list[dict[str, Any]], output: Path) -> None:
    """Rewrite the history after an epoch, and say how far training is."""
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
