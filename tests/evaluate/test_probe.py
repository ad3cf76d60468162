"""The probe: labels of patches, fair samples, clean errors, and that pretraining beats chance."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ct3m_data as data
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, write_json
from meddino.ct3m import index
from meddino.ct3m.options import IndexOptions
from meddino.datasets.options import FolderLayout
from meddino.datasets.phantom.scanner import Protocol, scan
from meddino.evaluate import probe
from meddino.evaluate.options import Probe, ProbeOptions
from meddino.models.options import WeightsOptions
from meddino.models.vit import build
from meddino.models.weights import run as fetch_weights
from meddino.pretrain import pretrain
from meddino.pretrain.crops import as_input, normalise
from meddino.pretrain.options import (
    Augmentation,
    Head,
    Objective,
    Optimisation,
    PretrainOptions,
    Resolution,
    StageOptions,
)

OPTIONS = ProbeOptions(
    source="random",
    variant="none",
    backbone="vittiny8",
    spacing_mm=1.0,
    fold=0,
    probe=Probe(benchmark="toy", slices_px=64, slices_per_case=2, patches_per_class=40),
)


def squares(cases: int = 4, structures: int = 2) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels (z, y, x): squares of two organs of different HU, in noise."""
    rng = np.random.default_rng(0)
    for _ in range(cases):
        label = np.zeros((4, 80, 80), np.uint8)
        y, x = rng.integers(0, 20, 2)
        label[1:4, y : y + 40, x : x + 30] = 1
        label[1:4, y + 5 : y + 35, x + 30 : x + 50] = 2
        hu = np.array([-900, 60, 150])[label] + rng.normal(0, 20, label.shape)
        label[label > structures] = 0
        yield hu.astype(np.int16), label


def phantoms(cases: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Phantom CT of as many patients, with spleen, kidneys, liver and stomach."""
    protocol = Protocol(
        size_px=64,
        slices=20,
        noise_hu=12.0,
        bottom_mm=(-150.0, -140.0),
        padding=-1024,
        mr=False,
        lesions=False,
    )
    rng = np.random.default_rng(seed)
    for _ in range(cases):
        made = scan(protocol, rng)
        yield made.image, np.where(np.isin(made.truth, (1, 2, 3, 6, 7)), made.truth, 0)


def converted(
    folder: Path, volumes: Iterator[tuple[np.ndarray, np.ndarray]], validation: int = 1
) -> Path:
    """Cases in nnU-Net's layout, the first of them for validation."""
    names = []
    for number, arrays in enumerate(volumes):
        names.append(f"c{number}")
        for name, array in zip(
            (f"imagesTr/c{number}_0000", f"labelsTr/c{number}"), arrays, strict=True
        ):
            path = folder / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    entries = {
        name: {"images": [f"imagesTr/{name}_0000.nii.gz"], "label": f"labelsTr/{name}.nii.gz"}
        for name in names
    }
    labels = {"background": 0, "liver": 1, "spleen": 2} | {f"x{i}": i for i in range(3, 20)}
    write_json(folder / "dataset.json", {"labels": labels, "dataset": entries})
    write_json(
        folder / "splits_final.json", [{"train": names[validation:], "val": names[:validation]}]
    )
    return folder / "dataset.json"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(tmp_path_factory.mktemp("Dataset001_toy"), squares())


def run(dataset: Path, output: Path, *checkpoints: Path, **changes: Any) -> dict[str, Any]:
    probe.run(
        OPTIONS.model_copy(update=changes),
        dataset=dataset,
        splits=dataset.with_name("splits_final.json"),
        checkpoints=list(checkpoints),
        output=output,
    )
    found: dict[str, Any] = read_json(output)
    return found


def checkpoint(path: Path, seed: int, **meta: Any) -> Path:
    torch.manual_seed(seed)
    torch.save({"teacher": build("vittiny8").state_dict(), "meta": meta}, path)
    return path


def test_labels_of_patches_are_those_of_most_pixels() -> None:
    label = np.zeros((8, 8), np.uint8)
    label[:4, :4] = 3
    label[:, 6:] = 1
    assert probe.patch_labels(label, 8, 4).tolist() == [[3, 0], [0, 0]], "ties go to the lowest"
    assert probe.patch_labels(label, 16, 8).tolist() == [[3, 0], [0, 0]], "whatever the size"
    assert probe.patch_labels(label, 8, 2)[:, 3].tolist() == [1, 1, 1, 1]
    assert probe.patch_labels(label[:, :4], 8, 4).tolist() == [[3, 3], [0, 0]], "stretched"
    assert probe.patch_labels(label, 9, 4).shape == (2, 2), "a rest is cut off"


def test_samples_are_even_over_classes_and_follow_the_seed() -> None:
    labels = np.repeat(np.array([[0, 1, 2]], np.uint8), [90, 7, 3], axis=1)
    slices = probe.Slices(np.zeros((1, 80, 80), np.int16), labels)
    sample = probe.draw(slices, 5, [0])
    assert np.bincount(sample.labels).tolist() == [5, 5, 3]
    assert (np.diff(sample.places) > 0).all()
    assert np.array_equal(labels.ravel()[sample.places], sample.labels)
    assert np.array_equal(probe.draw(slices, 5, [0]).places, sample.places)
    assert not np.array_equal(probe.draw(slices, 5, [1]).places, sample.places)


def test_tokens_are_those_of_the_places() -> None:
    torch.manual_seed(0)
    vit = build("vittiny8").eval()
    images = (
        np.random.default_rng(0).integers(-900, 900, (probe.BATCH + 3, 32, 32)).astype(np.int16)
    )
    places = np.array([0, 5, 16 * probe.BATCH - 1, 16 * probe.BATCH, 16 * (probe.BATCH + 2) + 7])
    found = probe.tokens(vit, probe.Sample(images, places, np.zeros(5, np.uint8)))
    for token, place in zip(found, places, strict=True):
        alone = normalise(torch.from_numpy(images[place // 16]))[None, None]
        (patches,) = vit.get_intermediate_layers(alone.expand(-1, 3, -1, -1))
        np.testing.assert_allclose(token, patches[0, place % 16].detach(), atol=1e-5)


def test_a_probe_names_what_it_saw_and_repeats_to_the_byte(dataset: Path, tmp_path: Path) -> None:
    found = run(dataset, tmp_path / "a.json")
    run(dataset, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert found["classes"] == ["background", "liver", "spleen"]
    (score,) = found["scores"]
    assert score["name"] == "random"
    for kind in ("knn", "linear"):
        assert 0.6 < score[kind]["balanced_accuracy"] <= 1, "HU alone tell these organs apart"
        recall = score[kind]["recall"]
        assert list(recall) == found["classes"]
        assert np.mean(list(recall.values())) == pytest.approx(score[kind]["balanced_accuracy"])


def test_checkpoints_of_one_job_are_named_and_scored_each(dataset: Path, tmp_path: Path) -> None:
    paths = [
        checkpoint(tmp_path / "000003.pth", 0, stage="stage1", iteration=3),
        checkpoint(tmp_path / "dinov3.pth", 1),
    ]
    first, second = run(dataset, tmp_path / "a.json", *paths, source="stage1")["scores"]
    assert (first["name"], second["name"]) == ("stage1@3", "dinov3")
    (random,) = run(dataset, tmp_path / "b.json")["scores"]
    assert first["linear"] == random["linear"], "both are the weights of seed 0"
    assert first["knn"] != second["knn"] or first["linear"] != second["linear"]


def test_a_librarys_vit_is_probed_on_whole_patches_of_its_own(
    dataset: Path, tmp_path: Path
) -> None:
    """Of 14 px, which 64 px are no multiple of: slices are resized to 70 px."""
    import timm

    name = "vit_small_patch14_dinov2"
    size = {"embed_dim": 64, "depth": 2, "num_heads": 2}
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, img_size=70, **size).eval()
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    hub = tmp_path / "hub"
    hub.mkdir()
    torch.save(state, hub / "pytorch_model.bin")
    write_json(hub / "config.json", {"architecture": name, "model_args": size | {"img_size": 70}})
    weights = tmp_path / "tiny.pth"
    fetch_weights(WeightsOptions(file=str(hub), kind=f"timm:{name}"), output=weights)

    changes = {"backbone": f"timm:{name}", "source": "tiny"}
    slices = probe.read_slices(dataset, ["c0"], OPTIONS.model_copy(update=changes), 14)
    assert slices.images.shape[1:] == (70, 70) and slices.labels.shape[1] == 25
    places = np.array([3, 30])
    (_, vit), *_ = probe.backbones(OPTIONS.model_copy(update=changes), [weights])
    sample = probe.Sample(slices.images, places, np.zeros(2, np.uint8))
    with torch.no_grad():
        x = as_input(torch.from_numpy(slices.images[:2]))
        expected = model.forward_features(x)[:, 1:].flatten(0, 1)[places]
    np.testing.assert_allclose(probe.tokens(vit, sample), expected, atol=1e-5)
    (score,) = run(dataset, tmp_path / "a.json", weights, **changes)["scores"]
    assert score["name"] == "tiny" and 0 < score["linear"]["balanced_accuracy"] <= 1
    unseen = {"backbone": "timm:test_vit", "source": "random_tiny"}
    (random,) = run(dataset, tmp_path / "b.json", **unseen)["scores"]
    assert random["name"] == "random_tiny"
    with pytest.raises(MeddinoError, match=r"tiny\.pth is no checkpoint for vittiny8"):
        run(dataset, tmp_path / "x.json", weights)


def test_what_cannot_be_probed_is_named(dataset: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.pth"
    torch.save({"teacher": build("vittiny8", depth=2).state_dict()}, small)
    with pytest.raises(MeddinoError, match=r"small\.pth is no vittiny8.*pretrain\.backbone"):
        run(dataset, tmp_path / "x.json", small)
    with pytest.raises(MeddinoError, match="no slice of 3 cases shows"):
        run(converted(tmp_path / "empty", squares(structures=0)), tmp_path / "x.json")
    broken = converted(tmp_path / "broken", squares())
    (broken.parent / "imagesTr/c1_0000.nii.gz").write_bytes(b"junk")
    with pytest.raises(MeddinoError, match=r"c1_0000\.nii\.gz"):
        run(broken, tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def pretrained(images: Path, folder: Path, seed: int) -> Path:
    """A snapshot of some twenty seconds of pretraining on the slices of some scans."""
    layout = FolderLayout(images=("*.nii.gz",), case=r"^(?P<case>[^.]+)")
    data.run(images, folder, sizes_px=(64,), dataset=layout, spacing_mm=1.0)
    slices = folder / "index.64.parquet"
    index.run(IndexOptions(size_px=64), reports=[folder / "0.json"], output=slices)
    head = Head(prototypes=64, hidden=128, bottleneck=48)
    stage = StageOptions(
        slices_px=64,
        iterations=160,
        snapshots=(160,),
        batch_size=16,
        resolutions=(Resolution(global_px=48, local_px=24),),
        optim=Optimisation(
            lr=3e-3, warmup=10, layerwise_decay=1.0, patch_embed_lr=1.0, momentum=(0.9, 0.97)
        ),
        objective=Objective(teacher_temperature=(0.02, 0.02)),
        augmentation=Augmentation(local_crops=2),
        dino_head=head,
        ibot_head=head,
        seed=seed,
    )
    pretrain.run(
        PretrainOptions(name="stage1", backbone="vittiny8", stage=stage),
        index=slices,
        state=folder / "state",
        output=folder / "history.jsonl",
    )
    return folder / "000160.pth"


def gains(folder: Path, seed: int) -> dict[str, float]:
    """What pretraining adds to the balanced accuracy of a random initialisation."""
    dataset = converted(folder / "Dataset001_phantom", phantoms(14, seed), validation=4)
    scans = folder / "scans"
    scans.mkdir()
    for number in range(4, 14):
        name = f"c{number}_0000.nii.gz"
        (scans / name).symlink_to(dataset.parent / "imagesTr" / name)
    changes = {"slices_px": 128, "slices_per_case": 20, "patches_per_class": 400, "seed": seed}
    asked = OPTIONS.probe.model_copy(update=changes)
    (random,) = run(dataset, folder / "random.json", probe=asked)["scores"]
    checkpoint = pretrained(scans, folder / "ct3m", seed)
    (learned,) = run(dataset, folder / "learned.json", checkpoint, probe=asked)["scores"]
    return {
        kind: learned[kind]["balanced_accuracy"] - random[kind]["balanced_accuracy"]
        for kind in ("knn", "linear")
    }


def test_pretraining_on_phantoms_beats_random_weights(tmp_path: Path) -> None:
    # The k-NN takes longer: it follows in the demo, whose chain is more than twice as long.
    assert gains(tmp_path, seed=0)["linear"] > 0.05
