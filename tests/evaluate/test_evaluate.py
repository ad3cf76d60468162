"""Metrics: parity with MONAI, DeepMind and nnU-Net, analytic surfaces, rules for the absent."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from meddino.core.errors import MeddinoError
from meddino.core.files import write_json
from meddino.evaluate import evaluate, scores, surface
from meddino.evaluate.options import EvaluateOptions, Evaluation, ScoresOptions
from meddino.finetune.options import ConfiguredBenchmark
from meddino.pipeline.options import options_json
from meddino.study import jobs
from meddino.study.model import load

SPACING = np.array([5.0, 0.8, 1.1])
OPTIONS = EvaluateOptions(benchmark="lits", method="nnunet", fold=0, evaluation=Evaluation())


def blob(seed: int, shift: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:12, :30, :28].astype(float)
    inside = np.zeros(z.shape, bool)
    for _ in range(2):
        cz, cy, cx = rng.uniform(4, 8), rng.uniform(10, 18), rng.uniform(10, 16) + shift
        rz, ry, rx = rng.uniform(1.5, 4), rng.uniform(3, 8), rng.uniform(3, 8)
        inside |= ((z - cz) / rz) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
    return inside


LABELS = {"one": 1, "two": 2, "three": 3}
MAPS = ["empty", "voxel", "full", "noise", "regions"]
CHANGES = ["same", "shifted", "speckled", *MAPS]


def label_map(kind: str, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """A map of up to three structures; most of them touch the picture's border."""
    found = np.zeros(shape, np.uint8)
    if kind == "voxel":
        found[tuple(rng.integers(shape))] = rng.integers(1, 4)
    if kind == "full":
        found[:] = rng.integers(1, 4)
    if kind == "noise":
        found = rng.integers(0, 4, shape).astype(np.uint8)
    if kind == "regions":
        smooth = [ndimage.gaussian_filter(rng.standard_normal(shape), 2) for _ in range(4)]
        found = np.argmax(smooth, axis=0).astype(np.uint8)
    return found


@st.composite
def label_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reference, prediction, and spacing (mm)."""
    sides = (st.integers(1, 9), st.integers(1, 14), st.integers(1, 14))
    shape = draw(st.tuples(*sides))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    reference = label_map(draw(st.sampled_from(MAPS)), shape, rng)
    change = draw(st.sampled_from(CHANGES))
    predicted = label_map(change, shape, rng) if change in MAPS else reference
    if change == "shifted":
        predicted = np.roll(reference, rng.integers(-3, 4, 3), (0, 1, 2))
    if change == "speckled":
        predicted = np.where(rng.random(shape) < 0.1, label_map("noise", shape, rng), reference)
    spacings = [np.ones(3), SPACING, rng.uniform(0.3, 6, 3)]
    return reference, predicted, draw(st.sampled_from(spacings))


def scored(
    reference: np.ndarray, predicted: np.ndarray, spacing: np.ndarray, tolerance: float
) -> dict[str, dict[str, float]]:
    images = [sitk.GetImageFromArray(array) for array in (reference, predicted)]
    for image in images:
        image.SetSpacing(spacing[::-1].tolist())
    evaluation = Evaluation(tolerance_mm=tolerance)
    options = OPTIONS.model_copy(update={"evaluation": evaluation})
    return evaluate.score_case(*images, LABELS, options)


many = settings(deadline=None, max_examples=60)
tolerances = st.sampled_from([0.37, 1.0, 2.71])


@settings(deadline=None, max_examples=25)
@given(label_maps(), tolerances)
@pytest.mark.filterwarnings("ignore:.*may result in nan", "ignore:.*always_return_as_numpy")
def test_nsd_equals_monai(maps: tuple[np.ndarray, ...], tolerance: float) -> None:
    from monai.metrics import compute_surface_dice

    reference, predicted, spacing = maps
    found = scored(reference, predicted, spacing, tolerance)
    stacked = [
        torch.from_numpy(np.stack([array == label for label in LABELS.values()])[None])
        for array in (predicted, reference)
    ]
    for column, subvoxels in (("nsd_paper", False), ("nsd_area", True)):
        expected = compute_surface_dice(
            *stacked,
            [tolerance] * len(LABELS),
            include_background=True,
            spacing=spacing.tolist(),
            use_subvoxels=subvoxels,
        )[0]
        for (name, label), theirs in zip(LABELS.items(), expected.tolist(), strict=True):
            if (reference == label).any():
                assert found[name][column] == pytest.approx(theirs, abs=1e-6), column
            else:
                assert np.isnan(found[name]["nsd_paper"]), "left out, as by the authors' script"


@many
@given(label_maps(), tolerances)
def test_area_and_hd95_equal_deepmind(
    deepmind: Any, maps: tuple[np.ndarray, ...], tolerance: float
) -> None:
    reference, predicted, spacing = maps
    found = scored(reference, predicted, spacing, tolerance)
    for name, label in LABELS.items():
        masks = (reference == label, predicted == label)
        dsc = deepmind.compute_dice_coefficient(*masks)
        assert found[name]["dsc_area"] == pytest.approx(dsc, abs=1e-6, nan_ok=True)
        if not (masks[0].any() or masks[1].any()):
            assert np.isnan(found[name]["nsd_area"])
            continue
        distances = deepmind.compute_surface_distances(*masks, spacing)
        nsd = deepmind.compute_surface_dice_at_tolerance(distances, tolerance)
        assert found[name]["nsd_area"] == pytest.approx(nsd, abs=1e-6)
        if masks[0].any() and masks[1].any():
            # Where a percentile falls between two elements, rounding of areas decides.
            around = [deepmind.compute_robust_hausdorff(distances, 95 + d) for d in (-1e-6, 1e-6)]
            hd95 = found[name]["hd95_mm"]
            assert min(abs(hd95 - mm) for mm in around) < 1e-6
        else:
            assert np.isnan(found[name]["hd95_mm"])


@pytest.fixture(scope="module")
def deepmind() -> Any:
    """DeepMind's package, which asks numpy for names that are gone."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its names of scipy are old, too
        patch.setattr(np, "Inf", np.inf, raising=False)
        patch.setattr(np, "NaN", np.nan, raising=False)
        yield pytest.importorskip(
            "surface_distance", reason="surface-distance-based-measures is not installed"
        )


@many
@given(label_maps())
def test_dsc_equals_nnunet(maps: tuple[np.ndarray, ...]) -> None:
    from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn

    reference, predicted, spacing = maps
    found = scored(reference, predicted, spacing, 1.0)
    for name, label in LABELS.items():
        tp, fp, fn, _ = compute_tp_fp_fn_tn(reference == label, predicted == label, None)
        theirs = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn > 0 else np.nan
        assert found[name]["dsc_area"] == pytest.approx(theirs, nan_ok=True)


def test_dsc_of_files_equals_nnunet(tmp_path: Path) -> None:
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    make_run(tmp_path)
    files = [str(tmp_path / f"{folder}/c1.nii.gz") for folder in ("raw/labelsTr", "pred")]
    theirs = compute_metrics(*files, SimpleITKIO(), [1])["metrics"][1]["Dice"]
    images = (sitk.ReadImage(file) for file in files)
    assert evaluate.score_case(*images, {"liver": 1}, OPTIONS)["liver"]["dsc_area"] == theirs


@many
@given(label_maps(), tolerances, st.integers(1, 40))
def test_where_the_search_ends_changes_no_number(
    maps: tuple[np.ndarray, ...], tolerance: float, neighbours: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        expected = scored(*maps, tolerance)
        patch.setattr(surface, "NEIGHBOURS", neighbours)
        surface.shells.cache_clear()
        found = scored(*maps, tolerance)
    surface.shells.cache_clear()
    for name in LABELS:
        assert found[name] == pytest.approx(expected[name], abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.float32])
def test_labels_of_any_type_count_alike(kind: type) -> None:
    rng = np.random.default_rng(0)
    maps = [label_map("regions", (6, 12, 12), rng) for _ in range(2)]
    expected = scored(*maps, SPACING, 1.0)
    others = [array.astype(kind) for array in maps]
    if kind is not np.float32:
        others[1][maps[1] == 0] = 256 + 1  # no structure's, though its low byte is one's
    assert scored(*others, SPACING, 1.0) == expected


def test_area_of_boxes_and_balls() -> None:
    spacing = np.array([2.0, 0.5, 0.5])
    box = np.zeros((20, 60, 60), bool)
    box[5:15, 10:50, 20:40] = True
    _, element = surface.Pair(box, box, spacing).area_surfaces(1.0)
    exact = 2 * (20 * 20 + 20 * 10 + 20 * 10)
    assert element.total == pytest.approx(exact, rel=0.08), "edges are rounded off"
    z, y, x = np.mgrid[-30:31, -30:31, -30:31]
    ball = z**2 + y**2 + x**2 < 25**2
    element, _ = surface.Pair(ball, ball, np.ones(3)).area_surfaces(1.0)
    assert element.total == pytest.approx(4 * np.pi * 25**2, rel=0.12)


def test_area_of_corners_and_planes() -> None:
    table = surface.areas((3.0, 1.0, 1.0))
    assert table[0] == table[255] == 0
    np.testing.assert_allclose(
        table, table[::-1], rtol=1e-6, err_msg="inside out, the same surface"
    )
    assert table[0b110] == pytest.approx(2 * table[0b10]), "corners across a face: each its own cut"
    assert table[1] == pytest.approx(table[128]), "a corner, wherever it is"
    plane = sum(1 << bit for bit in (0, 1, 2, 3))
    assert table[plane] == pytest.approx(1.0), "a plane across z, of 1 x 1 mm"


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.floats(0.1, 8))
def test_nsd_is_symmetric_rises_with_tolerance_and_is_1_for_equals(seed: int, mm: float) -> None:
    a, b = blob(seed), blob(seed + 1)
    there, back, same = (surface.Pair(*masks, SPACING) for masks in ((a, b), (b, a), (a, a)))
    for name in ("area_surfaces", "voxel_surfaces"):
        forth, hither, equal = (getattr(pair, name)(mm + 1) for pair in (there, back, same))
        assert surface.nsd(*forth, mm) == pytest.approx(surface.nsd(*hither, mm))
        assert surface.nsd(*forth, mm) <= surface.nsd(*forth, mm + 1) + 1e-12
        assert surface.nsd(*equal, mm) == pytest.approx(1.0)
    assert surface.hd95(*same.area_surfaces(mm)) == 0


def test_a_shift_shows_as_its_distance() -> None:
    a = np.zeros((8, 40, 40), bool)
    a[2:6, 10:20, 10:20] = True
    b = np.roll(a, 5, axis=1)
    assert surface.hd95(*surface.Pair(a, b, SPACING).area_surfaces(1.0)) == pytest.approx(5 * 0.8)


def test_absent_structures() -> None:
    some, none = blob(1), np.zeros((12, 30, 28), bool)
    missed = evaluate.score(some, none, SPACING, 1.0, 1.0)
    assert missed["dsc_paper"] == missed["nsd_paper"] == missed["dsc_area"] == 0
    assert missed["volume_difference_ml"] == -missed["reference_ml"] < 0
    invented = evaluate.score(none, some, SPACING, 1.0, 1.0)
    assert np.isnan(invented["dsc_paper"]) and np.isnan(invented["nsd_paper"])
    assert invented["dsc_area"] == invented["nsd_area"] == 0
    assert np.isnan(invented["hd95_mm"])
    assert invented["volume_difference_ml"] == invented["predicted_ml"] > 0
    neither = evaluate.score(none, none, SPACING, 1.0, 1.0)
    assert np.isnan(neither["dsc_area"]) and neither["reference_ml"] == 0
    assert neither["volume_difference_ml"] == 0


def test_a_structure_s_own_tolerance_is_that_of_protocol_area_alone() -> None:
    a, b = (blob(3, shift).astype(np.uint8) for shift in (0, 2))
    images = [sitk.GetImageFromArray(array) for array in (a, b, a)]
    strict = evaluate.score_case(*images[:2], {"liver": 1}, OPTIONS)["liver"]
    wide = OPTIONS.model_copy(update={"tolerances_mm": {"liver": 4.0}})
    found = evaluate.score_case(*images[:2], {"liver": 1}, wide)["liver"]
    assert found["nsd_area"] > strict["nsd_area"] + 0.1
    assert {**found, "nsd_area": 0} == {**strict, "nsd_area": 0}


def test_tolerances_reach_evaluation_and_nothing_before_it(root: Path) -> None:
    study = load([root / "config.yaml", root / "profiles/demo/study.yaml"])
    benchmark = study.benchmarks["amos22"]
    assert benchmark.tolerances_mm["liver"] == 5.0 and "aorta" in benchmark.tolerances_mm
    told = jobs.report.evaluate_options(study, "amos22", "nnunet", "0").tolerances_mm
    assert set(told) == set(benchmark.structures), "of the structures that count"
    assert "tolerances" not in options_json(study, "convert", benchmark="amos22")
    with pytest.raises(ValueError, match=r"tolerances_mm: 'livre' is not one of spleen"):
        ConfiguredBenchmark.model_validate(
            benchmark.model_dump() | {"tolerances_mm": {"livre": 5.0}}
        )


def write(path: Path, mask: np.ndarray, origin: float = 0.0) -> None:
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(SPACING[::-1].tolist())
    image.SetOrigin((origin, 0.0, 0.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def make_run(folder: Path, origin: float = 0.0) -> dict[str, Path]:
    for number in (1, 2):
        write(folder / f"raw/labelsTr/c{number}.nii.gz", blob(number))
        write(folder / f"pred/c{number}.nii.gz", blob(number, shift=1), origin)
    write_json(folder / "pred/done.json", {"cases": ["c1", "c2"], "fold": 0})
    write_json(folder / "raw/dataset.json", {"labels": {"background": 0, "liver": 1}})
    return {"predictions": folder / "pred/done.json", "dataset": folder / "raw/dataset.json"}


def test_a_run_is_scored_and_merged(tmp_path: Path) -> None:
    where = make_run(tmp_path)
    evaluate.run(OPTIONS, **where, output=tmp_path / "a.parquet")
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert list(table["case"]) == ["c1", "c2"]
    assert set(table["structure"]) == {"liver"}
    assert table["dsc_paper"].between(0.5, 1).all()
    other = OPTIONS.model_copy(update={"method": "segformer"})
    evaluate.run(other, **where, output=tmp_path / "b.parquet")
    files = [tmp_path / "b.parquet", tmp_path / "a.parquet"]
    scores.run(ScoresOptions(), scores=files, output=tmp_path / "all.parquet")
    assert (
        list(pd.read_parquet(tmp_path / "all.parquet")["method"])
        == ["nnunet"] * 2 + ["segformer"] * 2
    )
    with pytest.raises(MeddinoError, match="c1 of lits is scored twice for nnunet"):
        scores.run(ScoresOptions(), scores=[files[1]] * 2, output=tmp_path / "all.parquet")
    pd.DataFrame({"case": ["c1"]}).to_parquet(files[0])
    with pytest.raises(MeddinoError, match=r"b\.parquet holds no scores"):
        scores.run(ScoresOptions(), scores=files, output=tmp_path / "all.parquet")
    files[0].write_bytes(b"half")
    with pytest.raises(MeddinoError, match=r"b\.parquet cannot be read"):
        scores.run(ScoresOptions(), scores=files, output=tmp_path / "all.parquet")


def test_predictions_elsewhere_or_missing_are_refused(tmp_path: Path) -> None:
    where = make_run(tmp_path, origin=3.0)
    with pytest.raises(MeddinoError, match=r"pred/c1\.nii\.gz lies on another grid"):
        evaluate.run(OPTIONS, **where, output=tmp_path / "a.parquet")
    (tmp_path / "pred/c1.nii.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(MeddinoError, match=r"pred/c1\.nii\.gz is missing, cut off or damaged"):
        evaluate.run(OPTIONS, **where, output=tmp_path / "a.parquet")
    write_json(where["predictions"], {"cases": [], "fold": 0})
    with pytest.raises(MeddinoError, match=r"done\.json names no cases, so fold 0 of lits"):
        evaluate.run(OPTIONS, **where, output=tmp_path / "a.parquet")
    assert not (tmp_path / "a.parquet").exists()
