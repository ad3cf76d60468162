"""What a model of CT and MR may take for MR, and what it must refuse."""

from pathlib import Path

import ct3m_data as data
import dicom_data
import numpy as np
import pytest

from meddino.volumes import hounsfield, reader
from meddino.volumes.reader import BadVolume

CT = data.body(shape=(64, 64, 12)).T.astype(np.float32)


def magnetic() -> np.ndarray:
    """Intensities of MR: background of noise, tissues far apart, coils that see near parts best."""
    random = np.random.default_rng(0)
    tissue = np.linspace(150, 900, 6)[_blocks(CT.shape)]
    values = np.where(CT > -200, tissue, 0) * np.linspace(1.4, 0.6, CT.shape[2])
    noise = random.normal(0, 12, (2, *CT.shape))
    return np.rint(np.hypot(values + noise[0], noise[1])).astype(np.float32)


def _blocks(shape: tuple[int, ...]) -> np.ndarray:
    z, y, x = np.indices(shape)
    return (x // 9 + 2 * (y // 11) + z // 5) % 6


def offset_lost() -> np.ndarray:
    return CT + 1024


def offset_lost_beside_padding() -> np.ndarray:
    array = CT + 1024
    array[:, :, :6] = -2000
    return array


def label_map() -> np.ndarray:
    return np.where(CT > -200, 1 + _blocks(CT.shape) // 3, 0) * 40.0


def normalised() -> np.ndarray:
    return (CT - CT.mean()) / CT.std()


def clipped() -> np.ndarray:
    return np.rint((np.clip(CT, -160, 40) + 160) / 200 * 255)


def emission() -> np.ndarray:
    array = np.where(CT > -200, 900, 20) * np.random.default_rng(1).gamma(15, 1 / 15, CT.shape)
    array[4:7, 20:28, 20:28] *= 15
    return array


def constant() -> np.ndarray:
    return np.full(CT.shape, 300.0)


REFUSED = {
    offset_lost: r"As MR: is a CT whose offset of -1024 was lost",
    offset_lost_beside_padding: r"as CT: is not in HU: no value below 0.*As MR: has negative",
    label_map: r"As MR: is a label map",
    normalised: r"As MR: is normalised",
    clipped: r"As MR: is in 8-bit grey values, clipped",
    emission: r"As MR: is mostly empty but for few bright voxels, as PET is",
    constant: r"As MR: is constant",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_what_is_neither_ct_nor_mr_is_refused(tmp_path: Path, make: object) -> None:
    array = make()  # type: ignore[operator]
    path = data.save(tmp_path / "a.nii.gz", array.astype(np.float32).T)
    with pytest.raises(BadVolume, match=REFUSED[make]):  # type: ignore[index]
        reader.read_ct_or_mr(path)


def test_ct_and_mr_are_told_by_values_and_the_choice_is_said(tmp_path: Path) -> None:
    ct = reader.read_ct_or_mr(data.save(tmp_path / "ct.nii.gz", CT.astype(np.int16).T))
    assert (ct.modality, ct.remarks, ct.array.dtype) == ("CT", (), np.int16)
    mr = reader.read_ct_or_mr(data.save(tmp_path / "mr.nii.gz", magnetic().T))
    assert (mr.modality, mr.array.dtype) == ("MR", np.float32)
    assert mr.remarks[0].startswith("taken as MR: is not in HU")


def test_dicom_is_taken_by_its_modality(tmp_path: Path) -> None:
    """No CT is taken for MR: a lost offset stays an error."""
    values = magnetic()[:, :40, :36].astype(np.int16)
    own = {"RescaleIntercept": 0, "RescaleSlope": 1, "PixelRepresentation": 1}
    for modality in ("MR", "CT", "PT"):
        for number, image in enumerate(values):
            slice_ = dicom_data.slice_of(image, number, Modality=modality, **own)
            slice_.PixelData = image.tobytes()
            dicom_data.write(tmp_path / f"{modality}/{number}", slice_)
    volume = reader.read_ct_or_mr(tmp_path / "MR")
    assert (volume.modality, volume.remarks) == ("MR", ())
    np.testing.assert_array_equal(volume.array, values)
    with pytest.raises(BadVolume, match="offset of -1024 was lost"):
        reader.read_ct_or_mr(tmp_path / "CT")
    with pytest.raises(BadVolume, match="modality PT, not CT or MR"):
        reader.read_ct_or_mr(tmp_path / "PT")


def test_an_offset_subtracted_twice_is_noticed_by_what_is_darker_than_air() -> None:
    bone = CT.copy()
    bone[:, 28:36, 28:36] = 1000  # soft tissue, were the offset right
    hounsfield.check_hu(bone)
    with pytest.raises(BadVolume, match="darker than air"):
        hounsfield.check_hu(bone - 1024)
    padded = bone.copy()
    padded[:, :, :10] = -3024
    hounsfield.check_hu(padded)
