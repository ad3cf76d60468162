"""Metrics: parity with MONAI, analytic surfaces, and the rules for absent structures."""

from pathlib import Path

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
from meddino.evaluate import merge, score, surface
from meddino.evaluate.options import EvaluateOptions, Evaluation, ScoresOptions

SPACING = np.array([5.0, 0.8, 1.1])


def blob(seed: int, shift: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:12, :30, :28].astype(float)
    inside = np.zeros(z.shape, bool)
    for _ in range(2):
        cz, cy, cx = rng.uniform(4, 8), rng.uniform(10, 18), rng.uniform(10, 16) + shift
        rz, ry, rx = rng.uniform(1.5, 4), rng.uniform(3, 8), rng.uniform(3, 8)
        inside |= ((z - cz) / rz) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
    return inside


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tolerance", [1.0, 2.0])
def test_protocol_of_the_paper_equals_monai(seed: int, tolerance: float) -> None:
    from monai.metrics import compute_surface_dice

    reference, predicted = blob(seed), blob(seed, shift=seed % 3) ^ blob(seed + 50)
    tensors = [torch.from_numpy(np.stack([~m, m])[None]) for m in (predicted, reference)]
    expected = float(
        compute_surface_dice(
            *tensors, [tolerance], spacing=SPACING.tolist(), distance_metric="euclidean"
        )
    )
    found = score.score(reference, predicted, SPACING, tolerance)
    assert found["nsd_paper"] == pytest.approx(expected, abs=1e-6)
    expected = float(
        compute_surface_dice(*tensors, [tolerance], spacing=SPACING.tolist(), use_subvoxels=True)
    )
    assert found["nsd_area"] == pytest.approx(expected, abs=1e-6)
    both = 2 * (reference & predicted).sum() / (reference.sum() + predicted.sum())
    assert found["dsc_paper"] == pytest.approx(both)


@pytest.mark.parametrize("seed", range(4))
def test_ragged_masks_at_the_picture_s_border_equal_monai_too(seed: int) -> None:
    from monai.metrics import compute_surface_dice

    rng = np.random.default_rng(seed)
    shape = (9, 20, 22)
    reference = ndimage.gaussian_filter(rng.standard_normal(shape), 2) > 0
    predicted = reference ^ (rng.random(shape) < 0.1)
    assert reference[0].any() and reference[:, :, -1].any(), "the border is reached"
    tensors = [torch.from_numpy(np.stack([~m, m])[None]) for m in (predicted, reference)]
    found = score.score(reference, predicted, SPACING, 1.0)
    for column, subvoxels in (("nsd_paper", False), ("nsd_area", True)):
        expected = float(
            compute_surface_dice(*tensors, [1.0], spacing=SPACING.tolist(), use_subvoxels=subvoxels)
        )
        assert found[column] == pytest.approx(expected, abs=1e-6)


def test_area_of_boxes_and_balls() -> None:
    spacing = np.array([2.0, 0.5, 0.5])
    box = np.zeros((20, 60, 60), bool)
    box[5:15, 10:50, 20:40] = True
    _, element = surface.area_surfaces(box, box, spacing)
    exact = 2 * (20 * 20 + 20 * 10 + 20 * 10)
    assert element.area.sum() == pytest.approx(exact, rel=0.08), "edges are rounded off"
    z, y, x = np.mgrid[-30:31, -30:31, -30:31]
    ball = z**2 + y**2 + x**2 < 25**2
    element, _ = surface.area_surfaces(ball, ball, np.ones(3))
    assert element.area.sum() == pytest.approx(4 * np.pi * 25**2, rel=0.12)


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
    for surfaces in (surface.area_surfaces, surface.voxel_surfaces):
        forth, back = surfaces(a, b, SPACING), surfaces(b, a, SPACING)
        assert surface.nsd(*forth, mm) == pytest.approx(surface.nsd(*back, mm))
        assert surface.nsd(*forth, mm) <= surface.nsd(*forth, mm + 1) + 1e-12
        assert surface.nsd(*surfaces(a, a, SPACING), mm) == pytest.approx(1.0)
    assert surface.hd95(*surface.area_surfaces(a, a, SPACING)) == 0


def test_a_shift_shows_as_its_distance() -> None:
    a = np.zeros((8, 40, 40), bool)
    a[2:6, 10:20, 10:20] = True
    b = np.roll(a, 5, axis=1)
    assert surface.hd95(*surface.area_surfaces(a, b, SPACING)) == pytest.approx(5 * 0.8)


def test_absent_structures() -> None:
    some, none = blob(1), np.zeros((12, 30, 28), bool)
    missed = score.score(some, none, SPACING, 1.0)
    assert missed["dsc_paper"] == missed["nsd_paper"] == missed["dsc_area"] == 0
    invented = score.score(none, some, SPACING, 1.0)
    assert np.isnan(invented["dsc_paper"]) and np.isnan(invented["nsd_paper"])
    assert invented["dsc_area"] == invented["nsd_area"] == 0
    assert np.isnan(invented["hd95_mm"])
    neither = score.score(none, none, SPACING, 1.0)
    assert np.isnan(neither["dsc_area"]) and neither["reference_ml"] == 0


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


OPTIONS = EvaluateOptions(benchmark="lits", method="nnunet", fold=0, evaluation=Evaluation())


def test_a_run_is_scored_and_merged(tmp_path: Path) -> None:
    where = make_run(tmp_path)
    score.run(OPTIONS, **where, output=tmp_path / "a.parquet")
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert list(table["case"]) == ["c1", "c2"]
    assert set(table["structure"]) == {"liver"}
    assert table["dsc_paper"].between(0.5, 1).all()
    other = OPTIONS.model_copy(update={"method": "segformer"})
    score.run(other, **where, output=tmp_path / "b.parquet")
    files = [tmp_path / "b.parquet", tmp_path / "a.parquet"]
    merge.run(ScoresOptions(), scores=files, output=tmp_path / "all.parquet")
    assert (
        list(pd.read_parquet(tmp_path / "all.parquet")["method"])
        == ["nnunet"] * 2 + ["segformer"] * 2
    )
    with pytest.raises(MeddinoError, match="c1 of lits is scored twice for nnunet"):
        merge.run(ScoresOptions(), scores=[files[1]] * 2, output=tmp_path / "all.parquet")
    pd.DataFrame({"case": ["c1"]}).to_parquet(files[0])
    with pytest.raises(MeddinoError, match=r"b\.parquet holds no scores"):
        merge.run(ScoresOptions(), scores=files, output=tmp_path / "all.parquet")
    files[0].write_bytes(b"half")
    with pytest.raises(MeddinoError, match=r"b\.parquet cannot be read"):
        merge.run(ScoresOptions(), scores=files, output=tmp_path / "all.parquet")


def test_predictions_elsewhere_or_missing_are_refused(tmp_path: Path) -> None:
    where = make_run(tmp_path, origin=3.0)
    with pytest.raises(MeddinoError, match=r"pred/c1\.nii\.gz lies on another grid"):
        score.run(OPTIONS, **where, output=tmp_path / "a.parquet")
    (tmp_path / "pred/c1.nii.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(MeddinoError, match=r"pred/c1\.nii\.gz is missing or damaged"):
        score.run(OPTIONS, **where, output=tmp_path / "a.parquet")
    write_json(where["predictions"], {"cases": [], "fold": 0})
    with pytest.raises(MeddinoError, match=r"done\.json names no cases, so fold 0 of lits"):
        score.run(OPTIONS, **where, output=tmp_path / "a.parquet")
    assert not (tmp_path / "a.parquet").exists()
