"""The `probe` verb: how well the frozen patch tokens of a backbone tell organs apart.

The usual probe of self-supervised features (DINO, DINOv2, DINOv3), on single patches: no network is
trained, so the scores depend on the pretraining alone and take seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import f1_score, recall_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_json
from meddino.core.progress import track
from meddino.evaluate.options import ProbeOptions
from meddino.models import backbones as checkpoint_of
from meddino.models import library_vit, loading
from meddino.models.architectures import library_of
from meddino.models.device import choose
from meddino.models.vit import VisionTransformer, build
from meddino.pretrain.crops import as_input
from meddino.volumes import reader
from meddino.volumes.resample import Resizer

BATCH = 16
SHRINKAGE = 1.0
"""Ridge penalty of the linear classifier, on standardised tokens of thousands of patches."""

Labels = npt.NDArray[np.uint8]


class Slices(NamedTuple):
    """Axial slices, and the structure that fills most of each patch."""

    images: npt.NDArray[np.int16]
    """(N, S, S) in HU."""
    labels: Labels
    """(N, patches), row by row."""


@dataclass(frozen=True)
class Sample:
    """Patches of some cases: up to a number of each class."""

    images: npt.NDArray[np.int16]
    """(N, S, S) in HU."""
    places: npt.NDArray[np.int64]
    """(M,) indices of patches, counted through all slices; ascending."""
    labels: Labels
    """(M,)."""


def run(
    options: ProbeOptions, *, dataset: Path, splits: Path, checkpoints: list[Path], output: Path
) -> None:
    """Probe one backbone or several.

    Patches of training cases fit a k-NN (cosine) and a linear classifier (ridge regression, which
    has a closed form: nothing to tune, nothing random); patches of validation cases test them. Each
    class counts the same: the scores are mean recall (balanced accuracy) and mean F1 on the same
    number of patches of each class, or on all of a class that has fewer.

    Args:
        options: what is probed, and how.
        dataset: `dataset.json` of a converted benchmark, beside its images and labels.
        splits: its `splits_final.json`.
        checkpoints: of the backbones; none for a random initialisation.
        output: a JSON of `variant`, `classes`, `patches`, and for each backbone in `scores` its
            `name` and for `knn` and `linear` `balanced_accuracy`, `macro_f1` and `recall`.

    Raises:
        MeddinoError: a checkpoint or a volume cannot be used, or patches show a single class only.
    """
    device = choose(options.probe.device)
    # The first one tells the patch, whose size decides which patches there are.
    models = backbones(options, checkpoints)
    first = next(models)
    names = ["background", *(n for n, v in read_json(dataset)["labels"].items() if v != 0)]
    fold = read_json(splits)[options.fold]
    samples = [
        draw(
            read_slices(dataset, fold[part], options, first[1].patch_size),
            options.probe.patches_per_class,
            seed,
        )
        for part, seed in (("train", [options.probe.seed, 0]), ("val", [options.probe.seed, 1]))
    ]
    classes = np.intersect1d(samples[0].labels, samples[1].labels)
    if len(classes) < 2:
        raise MeddinoError(
            f"{dataset.parent}: patches of fold {options.fold} show a single class in training or"
            " validation cases; take another probe.benchmark, or more probe.slices_px"
        )
    training, validation = (_only(sample, classes) for sample in samples)
    scores = [
        {"name": name, **probe(vit.to(device), training, validation, names, options)}
        for name, vit in chain([first], models)
    ]
    results = {
        "variant": options.variant,
        "classes": [names[label] for label in classes],
        "patches": {"train": len(training.labels), "val": len(validation.labels)},
        "scores": scores,
    }
    write_json(output, results)


def backbones(options: ProbeOptions, checkpoints: list[Path]) -> Iterator[tuple[str, Any]]:
    """Load the backbones one by one, each with its name: `stage@iteration` or the file's.

    Yields:
        Name, and a ViT of ours or a library's, in evaluation mode.

    Raises:
        MeddinoError: a checkpoint is of another ViT than the options say.
    """
    ours = library_of(options.backbone) is None
    if not checkpoints:
        torch.manual_seed(options.probe.seed)
        if ours:
            yield options.source, build(options.backbone).eval()
        else:
            yield options.source, library_vit.build(library_vit.describe(options.backbone)).eval()
    for path in checkpoints:
        name, vit, _ = checkpoint_of.load(path)
        if isinstance(vit, VisionTransformer) != ours:
            raise MeddinoError(f"{path} is no checkpoint for {options.backbone}; run weights again")
        if ours:
            key = "pretrain.backbone, or as backbone of the method that starts from it"
            loading.check_size(vit.architecture, options.backbone, str(path), key)
        yield name, vit


def read_slices(dataset: Path, cases: list[str], options: ProbeOptions, patch_px: int) -> Slices:
    """Read slices of each case that show a structure, resampled as for pretraining.

    Their side is the closest to `slices_px` that holds whole patches of `patch_px`.

    Raises:
        MeddinoError: an image or its label cannot be used, or no slice shows a structure.
    """
    files = read_json(dataset)["dataset"]
    size_px = patch_px * max(1, round(options.probe.slices_px / patch_px))
    images, labels = [], []
    for case in track(cases, f"{options.source}: reading slices", len(cases)):
        volume, label = reader.read_labelled(
            dataset.parent / files[case]["images"][0], dataset.parent / files[case]["label"]
        )
        resizer = Resizer.of(
            label.shape[1:],
            volume.spacing_mm[1:],
            target_mm=options.spacing_mm,
            size_px=size_px,
        )
        labelled_slices = np.flatnonzero(label.any(axis=(1, 2)))
        for z in _spread(labelled_slices, options.probe.slices_per_case):
            images.append(np.rint(resizer(volume.array[z])).astype(np.int16))
            labels.append(patch_labels(label[z], size_px, patch_px).ravel())
    if not images:
        raise MeddinoError(f"{dataset.parent}: no slice of {len(cases)} cases shows a structure")
    return Slices(np.stack(images), np.stack(labels))


def _spread(numbers: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """At most `count` of ascending numbers, evenly spread."""
    steps = np.linspace(0, len(numbers) - 1, min(count, len(numbers)))
    return numbers[np.rint(steps).astype(np.int64)]


def patch_labels(label: npt.NDArray[Any], size_px: int, patch_px: int) -> Labels:
    """The most frequent label of each patch of a slice, after stretching it to a square.

    Args:
        label: whole numbers (height, width).
        size_px: side of the square.
        patch_px: side of a patch; a remainder that fills no patch is cut off.

    Returns:
        uint8 (size_px // patch_px, size_px // patch_px); the lowest of equally frequent labels.
    """
    side = size_px // patch_px
    rows, columns = (
        ((np.arange(side * patch_px) + 0.5) * length / size_px).astype(np.int64)
        for length in label.shape
    )
    # (side, patch_px, side, patch_px): rows of patches, rows in a patch, and so for columns
    pixels = label[rows[:, None], columns].reshape(side, patch_px, side, patch_px)
    counts = [(pixels == value).sum(axis=(1, 3)) for value in range(int(label.max()) + 1)]
    return np.argmax(counts, axis=0).astype(np.uint8)


def draw(slices: Slices, per_class: int, seed: list[int]) -> Sample:
    """Draw up to `per_class` patches of each class."""
    rng = np.random.default_rng(seed)
    flat = slices.labels.ravel()
    places = [
        rng.permutation(np.flatnonzero(flat == value))[:per_class] for value in np.unique(flat)
    ]
    chosen = np.sort(np.concatenate(places))
    return Sample(slices.images, chosen, flat[chosen])


def _only(sample: Sample, classes: Labels) -> Sample:
    """Keep the patches of some classes."""
    mask = np.isin(sample.labels, classes)  # (M,)
    return Sample(sample.images, sample.places[mask], sample.labels[mask])


def probe(
    vit: Any,
    training: Sample,
    validation: Sample,
    names: list[str],
    options: ProbeOptions,
) -> dict[str, Any]:
    """Score a backbone: `knn` and `linear`, each as in `run`."""
    train_tokens, val_tokens = (tokens(vit, sample) for sample in (training, validation))  # (M, C)
    neighbours = min(options.probe.neighbours, len(train_tokens))
    classifiers = {
        "knn": KNeighborsClassifier(neighbours, metric="cosine", weights="distance"),
        "linear": make_pipeline(
            StandardScaler(), RidgeClassifier(SHRINKAGE, class_weight="balanced")
        ),
    }
    return {
        name: _score(
            classifier.fit(train_tokens, training.labels).predict(val_tokens),
            validation.labels,
            names,
        )
        for name, classifier in classifiers.items()
    }


def _score(predicted: Labels, truth: Labels, names: list[str]) -> dict[str, Any]:
    classes = np.unique(truth)
    recall = recall_score(truth, predicted, labels=classes, average=None)
    return {
        "balanced_accuracy": float(recall.mean()),
        "macro_f1": float(f1_score(truth, predicted, labels=classes, average="macro")),
        "recall": {
            names[label]: float(value) for label, value in zip(classes, recall, strict=True)
        },
    }


@torch.no_grad()
def tokens(vit: Any, sample: Sample) -> npt.NDArray[np.float32]:
    """The sampled patches' tokens after the last norm, (M, C)."""
    device = next(vit.parameters()).device
    patches = (sample.images.shape[-1] // vit.patch_size) ** 2
    depth = len(vit.blocks) if isinstance(vit, VisionTransformer) else vit.depth
    batches = []
    for start in range(0, len(sample.images), BATCH):
        first, last = np.searchsorted(sample.places, np.array([start, start + BATCH]) * patches)
        if first == last:
            continue
        hu = torch.from_numpy(sample.images[start : start + BATCH]).to(device)  # (B, S, S)
        # (B, patches, C)
        (features,) = vit.get_intermediate_layers(as_input(hu), [depth - 1], reshape=False)
        inside = torch.from_numpy(sample.places[first:last] - start * patches).to(device)
        batches.append(features.flatten(0, 1)[inside].float().cpu())
    return torch.cat(batches).numpy()
