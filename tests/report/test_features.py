"""Dense features: similarities, colours that mean the same for all models, and the two verbs."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import ct3m_data as data
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from test_library_vit import hub_model, shaken
from test_probe import checkpoint, converted, squares
from torch import Tensor

from meddino.__main__ import main
from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.datasets.phantom.raw_layouts import _dicom
from meddino.datasets.phantom.scanner import Scan
from meddino.models import backbones
from meddino.models.export import FORMATS, export
from meddino.models.options import WeightsOptions
from meddino.models.vit import build
from meddino.models.weights import run as fetch_weights
from meddino.pretrain.crops import as_input
from meddino.report.figures import dense, feature_figures, maps, scenes
from meddino.report.figures.layers import telling_slice
from meddino.report.figures.scenes import Scene
from meddino.report.options import FeatureOptions, Features, FigureOptions

LOOK = FigureOptions(dpi=50)


class Fixed(NamedTuple):
    """A backbone whose tokens are those of the image's patches, turned and scaled."""

    matrix: Tensor
    patch_size: int

    def to(self, device: Any) -> "Fixed":
        return self

    def get_intermediate_layers(self, x: Tensor, **_: Any) -> tuple[Tensor]:
        side = self.patch_size
        patches = x[:, 0].unfold(1, side, side).unfold(2, side, side).flatten(3)
        means = torch.stack([patches.mean(-1), patches.std(-1), patches.amax(-1), patches[..., 0]])
        return (torch.einsum("dc,cbhw->bdhw", self.matrix, means),)


def fixed(matrix: Any, patch_size: int = 8, name: str = "fixed") -> backbones.Backbone:
    return backbones.Backbone(name, Fixed(torch.tensor(matrix).float(), patch_size), 1)


def rotation(size: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


@pytest.fixture
def scene() -> Scene:
    slice_hu = data.body(3, (60, 50, 1))[:, :, 0].T.astype(np.float32)
    return Scene(slice_hu[None], (0.9, 0.8), 0.45)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("vit") / "vit.pth", 0)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return data.save(tmp_path / "scan.nii.gz", data.body(1))


def run(*arguments: Any) -> int:
    return main(["features", *map(str, arguments)])


# ---- similarities and colours ------------------------------------------------------------------


def test_tokens_are_those_of_pretrainings_input(scene: Scene, vit: Path) -> None:
    found = dense.patch_tokens(backbones.load(vit), scene, 64, torch.device("cpu"))
    torch.manual_seed(0)
    model = build("vittiny8").eval()
    resizer = scenes.Resizer.of((50, 60), (0.9, 0.8), target_mm=0.45, size_px=64)
    hu = torch.from_numpy(np.rint(resizer(scene.values[0])).astype(np.int16))[None]
    with torch.no_grad():
        expected = model.forward_features(as_input(hu))["x_norm_patchtokens"][0]
    assert found.shape == (8, 8, 64)
    np.testing.assert_allclose(found.reshape(64, 64), expected.numpy(), atol=1e-5)


def test_similarity_is_the_cosine_with_the_chosen_patch() -> None:
    tokens = np.random.default_rng(0).normal(size=(5, 7, 9)).astype(np.float32)
    found = dense.similarity(tokens, (3, 2))
    chosen = tokens[3, 2]
    for row in range(5):
        for column in range(7):
            other = tokens[row, column]
            cosine = chosen @ other / np.sqrt((chosen @ chosen) * (other @ other))
            assert found[row, column] == pytest.approx(cosine, abs=1e-5)
    assert found[3, 2] == pytest.approx(1) and found.max() <= 1
    np.testing.assert_allclose(dense.similarity(7 * tokens, (3, 2)), found, atol=1e-6)


def test_components_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    tokens = np.random.default_rng(1).normal(size=(200, 12)) @ np.diag(np.arange(1, 13))
    expected = PCA(3, whiten=True, svd_solver="full").fit_transform(tokens)
    found = dense.principal(tokens).scores(tokens) * np.sqrt(199 / 200)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-8)


def test_colours_of_the_same_model_are_the_same_and_follow_a_turn(scene: Scene) -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(6, 4))
    turned = 2.5 * rotation(6, 1) @ base
    wider = np.vstack([turned, np.zeros((3, 4))])
    models = [fixed(base), fixed(base), fixed(turned), fixed(wider)]
    point = scene.centre()
    first, *others = maps.maps_of(scene, models, [64], point, "cpu")
    assert np.ptp(first.colours.reshape(-1, 3), axis=0).min() > 0.3, "each channel says something"
    for other in others:
        np.testing.assert_allclose(other.colours, first.colours, atol=1e-4)
    for other in others:
        np.testing.assert_allclose(other.similarity, first.similarity, atol=1e-5)


def test_models_of_other_patches_get_the_colours_of_the_first(scene: Scene) -> None:
    base = np.random.default_rng(0).normal(size=(6, 4))
    models = [fixed(base, 4), fixed(rotation(6, 3) @ base, 8)]
    fine, coarse = maps.maps_of(scene, models, [96], scene.centre(), "cpu")
    assert fine.colours.shape[:2] == (24, 24) and coarse.colours.shape[:2] == (12, 12)
    averaged = fine.colours.reshape(12, 2, 12, 2, 3).mean(axis=(1, 3))
    inside = scene.covered((12, 12))
    assert np.corrcoef(averaged[inside].ravel(), coarse.colours[inside].ravel())[0, 1] > 0.6


def test_larger_inputs_are_shown_by_the_components_of_the_first_size(scene: Scene) -> None:
    base = np.random.default_rng(0).normal(size=(6, 4))
    both = maps.maps_of(scene, [fixed(base)], [32, 64], scene.centre(), "cpu")
    tokens = dense.patch_tokens(fixed(base), scene, 32, torch.device("cpu"))
    (basis,) = dense.consistent([[tokens]], [scene])
    larger = dense.patch_tokens(fixed(base), scene, 64, torch.device("cpu"))
    np.testing.assert_array_equal(both[1].colours, basis.colours(larger))


def test_equal_and_few_tokens_have_the_colour_of_the_mean() -> None:
    same = np.ones((4, 4, 5))
    np.testing.assert_array_equal(dense.principal(same.reshape(-1, 5)).colours(same), 0.5)
    few = np.random.default_rng(0).normal(size=(2, 2))
    assert np.isfinite(dense.principal(few).colours(few)).all()


# ---- what is looked at -------------------------------------------------------------------------


def test_the_slice_with_most_body_and_its_centre_are_taken(tmp_path: Path) -> None:
    array = data.body(2)
    array[:, :, :6] = np.minimum(
        array[:, :, :6], np.where(np.arange(40) < 25, 100, -1000)[:, None, None]
    )
    array[:, :, 6][:2] = 40  # a table at the edge, apart from the body
    path = data.save(tmp_path / "a.nii.gz", array)
    scene = scenes.read_scene(path)
    np.testing.assert_array_equal(scene.values[0], array[:, :, 6].T)
    assert scene.spacing_mm == pytest.approx((0.8, 0.9)) and scene.target_mm == 0.45
    assert not scene.body[:, :2].any(), "the table is no body"
    assert scene.body[18, 30], "nor is a lung a hole"
    assert scene.centre() == pytest.approx((0.5, 0.5), abs=0.06)
    lowest = scenes.read_scene(path, 0)
    np.testing.assert_array_equal(lowest.values[0], array[:, :, 0].T)


def test_the_deepest_point_of_a_region_is_inside_it() -> None:
    ring = np.ones((9, 21), bool)
    ring[3:6, 3:18] = False
    ring[:, :2] = False
    y, x = scenes.innermost(ring)
    assert ring[int(y * 9), int(x * 21)]
    square = np.zeros((9, 9), bool)
    square[2:7, 4:9] = True
    assert scenes.innermost(square) == (4.5 / 9, 6.5 / 9)


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_pictures_are_standardised_as_photographs(tmp_path: Path, ending: str) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[..., 0] = 255
    path = tmp_path / f"a.{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(path))
    scene = scenes.read_scene(path)
    assert scene.body.all() and scene.centre() == pytest.approx((0.5, 0.5), abs=0.03)
    image = scene.input(16)
    assert image.shape == (1, 3, 16, 16)
    red, green, _ = image[0, :, 8, 8].tolist()
    assert red == pytest.approx((1 - 0.485) / 0.229, abs=0.05)
    assert green == pytest.approx(-0.456 / 0.224, abs=0.05)


def test_grey_pictures_of_16_bits_span_the_same_range(tmp_path: Path) -> None:
    pixels = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    sitk.WriteImage(sitk.GetImageFromArray(pixels), str(tmp_path / "a.png"))
    values = scenes.read_scene(tmp_path / "a.png").values
    assert values.shape == (3, 20, 20) and values.max() == 255


# ---- models ------------------------------------------------------------------------------------


def test_every_layout_of_a_checkpoint_gives_the_same_tokens(scene: Scene, tmp_path: Path) -> None:
    model = shaken(build("vits16", depth=2, norm_eps=1e-6))
    torch.save({"teacher": model.state_dict(), "meta": {"norm_eps": 1e-6}}, tmp_path / "own.pth")
    torch.save(
        {"teacher": model.state_dict(), "meta": {"stage": "s", "iteration": 7, "norm_eps": 1e-6}},
        tmp_path / "000007.pth",
    )
    paths = [tmp_path / "own.pth", tmp_path / "000007.pth"]
    for layout in set(FORMATS) - {"dinov3"}:
        export(model, layout, tmp_path / layout)
        paths.append(tmp_path / layout)
    loaded = [backbones.load(path) for path in paths]
    assert [each.name for each in loaded][:2] == ["own", "s@7"]
    assert {each.name for each in loaded[2:]} == {"timm", "transformers"}
    first, *others = (dense.patch_tokens(each, scene, 64, torch.device("cpu")) for each in loaded)
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-4)


def test_vits_of_libraries_load_from_folders_and_from_what_weights_made(
    scene: Scene, tmp_path: Path
) -> None:
    folder = tmp_path / "dinov2"
    model = hub_model("dinov2", folder)
    made = tmp_path / "made.pth"
    kind = f"transformers:{folder}"
    fetch_weights(WeightsOptions(file=str(folder), kind=kind), output=made)
    there, stored = backbones.load(folder), backbones.load(made)
    assert (there.name, stored.name) == ("dinov2", "made")
    one, other = (
        dense.patch_tokens(each, scene, 60, torch.device("cpu")) for each in (there, stored)
    )
    assert one.shape[:2] == (4, 4), "56 px are the closest multiple of its patches of 14 px"
    np.testing.assert_array_equal(one, other)
    with torch.no_grad():
        image = scene.input(56)
        expected = model(pixel_values=image, interpolate_pos_encoding=True).last_hidden_state
    np.testing.assert_allclose(one.reshape(16, 64), expected[0, 1:].numpy(), atol=1e-4)


def test_a_folder_of_timm_is_known_by_its_config(scene: Scene, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    name = "vit_tiny_patch16_224"
    model = shaken(timm.create_model(name, pretrained=False, num_classes=3))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": name}))
    found = dense.patch_tokens(backbones.load(tmp_path), scene, 224, torch.device("cpu"))
    with torch.no_grad():
        expected = model.forward_features(scene.input(224))[0, 1:]
    np.testing.assert_allclose(found.reshape(196, -1), expected.numpy(), atol=1e-4)


# ---- the verb `features` -----------------------------------------------------------------------


def test_the_verb_writes_pictures_and_numbers_to_equal_bytes(
    volume: Path, vit: Path, tmp_path: Path
) -> None:
    other = checkpoint(tmp_path / "other.pth", 1, stage="stage1", iteration=9)
    arguments = ("--model", vit, "--model", f"b={other}", "--model", other, volume)
    arguments += ("--size", 64, "--size", 128, "--dpi", 50)
    outputs = [tmp_path / "out/a", tmp_path / "out/b"]
    for output in outputs:
        assert run(*arguments, "--output", output, "--at", "0.4,0.6", "--slice", 3) == 0
    for kind, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("npz", b"PK")):
        one, again = (output.with_suffix(f".{kind}").read_bytes() for output in outputs)
        assert one.startswith(start) and one == again
    numbers = np.load(tmp_path / "out/a.npz")
    assert numbers["models"].tolist() == ["vit", "b", "stage1@9"]
    assert numbers["sizes_px"].tolist() == [64, 128] and numbers["point"].tolist() == [0.4, 0.6]
    assert numbers["similarity_0_0"].shape == (8, 8)
    assert numbers["components_2_1"].shape == (16, 16, 3)
    assert numbers["similarity_0_0"][3, 4] == pytest.approx(1)
    assert numbers["similarity_1_1"][6, 9] == pytest.approx(1)
    np.testing.assert_array_equal(numbers["components_1_0"], numbers["components_2_0"])


def test_text_of_a_pdf_is_text(volume: Path, vit: Path, tmp_path: Path) -> None:
    assert run(volume, "--model", f"Zebra={vit}", "--size", 64, "--output", tmp_path / "a") == 0
    content = (tmp_path / "a.pdf").read_bytes()
    assert b"/Subtype /Type3" not in content and b"/FontFile2" in content
    assert b"CreationDate" not in content and b"Matplotlib" not in content


def test_pictures_and_dicom_are_images_too(
    vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(pixels), "slice.png")
    assert run("slice.png", "--model", vit, "--size", 32, "--patch", "1,3") == 0
    numbers = np.load("slice.features.npz")
    assert numbers["similarity_0_0"][1, 3] == pytest.approx(1)
    image = np.ascontiguousarray(data.body(1).T)
    made = Scan(image, np.zeros(image.shape, np.uint8), (2.5, 0.8, 0.9), (0.0, 0.0, 0.0))
    series = tmp_path / "series"
    series.mkdir()
    for number, path in enumerate(_dicom(made, "a", tmp_path)):
        shutil.copy(path, series / f"{number}.dcm")
    assert run(series, "--model", vit, "--size", 32, "--output", "d") == 0
    assert Path("d.npz").exists()


def test_what_cannot_be_drawn_is_one_clear_error(
    volume: Path, vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junk = tmp_path / "junk.png"
    junk.write_bytes(b"junk")
    unet = tmp_path / "unet.pth"
    torch.save({"conv.weight": torch.zeros(1)}, unet)
    grey = data.save(tmp_path / "grey.nii.gz", np.abs(data.body(1)))
    bad: list[tuple[list[Any], str]] = [
        ([tmp_path / "absent.nii.gz", "--model", vit], "absent.nii.gz does not exist"),
        ([tmp_path / "absent.png", "--model", vit], "absent.png does not exist"),
        ([junk, "--model", vit], "junk.png cannot be read"),
        ([grey, "--model", vit], "grey.nii.gz: is not in HU"),
        ([volume, "--model", tmp_path / "absent.pth"], "absent.pth does not exist"),
        ([volume, "--model", junk], "junk.png is not a checkpoint"),
        ([volume, "--model", unet], "unet.pth: the state dict is no DINOv3 ViT"),
        ([volume, "--model", vit, "--model", vit], "two models are called vit"),
        ([volume, "--model", vit, "--slice", 10], "slices 0 to 9"),
        ([volume, "--model", vit, "--size", 64, "--patch", "8,0"], "--patch 8,0: both must be"),
        ([volume, "--model", vit, "--patch", "x"], "--patch x: give two numbers"),
        ([volume, "--model", vit, "--at", "1.0,0.2"], "--at 1.0,0.2: both must be"),
        ([volume, "--model", vit, "--size", 4096], "--size 4096: must be from 16 to 2048"),
    ]
    for arguments, message in bad:
        assert run(*arguments, "--output", tmp_path / "out/x") == 2
        printed = capsys.readouterr().err
        assert message in printed and "Traceback" not in printed
        assert printed.splitlines()[-1].startswith("meddino features: ")
    assert not (tmp_path / "out").exists()


def test_the_image_itself_is_not_replaced(
    vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)
    image = tmp_path / "a.png"
    sitk.WriteImage(sitk.GetImageFromArray(pixels), str(image))
    before = image.read_bytes()
    assert run(image, "--model", vit, "--output", tmp_path / "a") == 2
    assert "would be replaced" in capsys.readouterr().err
    assert image.read_bytes() == before


# ---- the figures of a study --------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("features")
    dataset = converted(folder / "Dataset001_toy", squares(5), validation=4)
    checkpoints = [checkpoint(folder / f"{seed}.pth", seed) for seed in range(3)]
    splits = dataset.with_name("splits_final.json")
    return {"dataset": dataset, "splits": splits, "checkpoints": checkpoints}


def options(**changes: Any) -> FeatureOptions:
    return FeatureOptions(
        models=("DINOv3", "stage 1", "stage 2"),
        spacing_mm=1.0,
        fold=0,
        features=Features(images=2, sizes_px=(32, 64), device="cpu"),
        figures=LOOK,
    ).model_copy(update=changes)


def test_a_studys_figures_are_described_and_repeat_to_the_byte(
    study: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        feature_figures.run(options(), **study, output=tmp_path / name / "figures.json")
    entries = read_json(tmp_path / "a/figures.json")
    assert [entry["file"] for entry in entries] == [
        "similarity.png",
        "components.png",
        "resolution.png",
    ]
    for entry in entries:
        assert entry["section"] == "Features" and entry["title"]
        for kind in (".png", ".pdf"):
            one, again = (
                (tmp_path / name / entry["file"]).with_suffix(kind).read_bytes() for name in "ab"
            )
            assert one == again
    similarity, _, resolution = (entry["caption"] for entry in entries)
    assert "64 x 64 px" in similarity and "Case c1" in similarity
    assert "(1 liver, 2 spleen)" in similarity and "Fig. 4" in similarity
    assert "before (stage 1) and after (stage 2)" in resolution and "Fig. 1" in resolution


def test_views_are_chosen_by_rule(study: dict[str, Any]) -> None:
    assert feature_figures._spread(4, 2) == [1, 3]
    assert feature_figures._spread(3, 12) == [0, 1, 2]
    view = feature_figures.read_view(study["dataset"], "c1", 1.0)
    label = sitk.GetArrayFromImage(
        sitk.ReadImage(str(study["dataset"].parent / "labelsTr/c1.nii.gz"))
    )
    number = telling_slice(label)
    assert [mark.structure for mark in view.marks] == ["liver", "spleen"]
    for value, mark in enumerate(view.marks, 1):
        y, x = (int(share * 80) for share in mark.point)
        assert label[number, y, x] == value
    image = study["dataset"].parent / "imagesTr/c1_0000.nii.gz"
    np.testing.assert_array_equal(
        view.scene.values[0], sitk.GetArrayFromImage(sitk.ReadImage(str(image)))[number]
    )


def test_one_point_an_organ_is_marked_and_no_more_than_eight(tmp_path: Path) -> None:
    label = np.zeros((3, 60, 60), np.uint8)
    for value in range(1, 11):  # ten structures, the first two the smallest
        label[1, 6 * (value - 1) : 6 * value - 1, 2 : 10 + 4 * value] = value
    label[2, :, :] = 1  # more voxels, but a single structure
    image = np.full(label.shape, 40, np.int16)
    image[:, 0] = -1000
    dataset = converted(tmp_path / "Dataset001_toy", [(image, label), (image, label * 0)], 2)
    view = feature_figures.read_view(dataset, "c0", 1.0)
    assert [mark.structure for mark in view.marks] == [f"x{value}" for value in range(3, 11)]
    for value, mark in enumerate(view.marks, 3):
        assert label[1, int(mark.point[0] * 60), int(mark.point[1] * 60)] == value
    (body,) = feature_figures.read_view(dataset, "c1", 1.0).marks
    assert body.structure == "the body"


def test_a_single_checkpoint_has_nothing_before_it(study: dict[str, Any], tmp_path: Path) -> None:
    files = {**study, "checkpoints": study["checkpoints"][:1]}
    output = tmp_path / "figures.json"
    feature_figures.run(options(models=("stage 1",)), **files, output=output)
    assert [entry["file"] for entry in read_json(output)] == ["similarity.png", "components.png"]


def test_a_damaged_volume_or_checkpoint_is_named(study: dict[str, Any], tmp_path: Path) -> None:
    broken = converted(tmp_path / "Dataset001_toy", squares(5), validation=4)
    (broken.parent / "imagesTr/c1_0000.nii.gz").write_bytes(b"junk")
    with pytest.raises(MeddinoError, match=r"c1_0000\.nii\.gz"):
        feature_figures.run(options(), **{**study, "dataset": broken}, output=tmp_path / "x.json")
    (tmp_path / "bad.pth").write_bytes(b"junk")
    files = {**study, "checkpoints": [tmp_path / "bad.pth"]}
    with pytest.raises(MeddinoError, match=r"bad\.pth"):
        feature_figures.run(options(models=("x",)), **files, output=tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()
