"""DICOM files as scanners and programs write them, made in the test that needs them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from ct3m_data import body
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

SPACING = (2.5, 0.8, 0.9)  # slices, rows, columns
ORIGIN = (-10.0, -20.0, 30.0)
OFFSET = -1024


def stack(slices: int = 12, seed: int = 0) -> np.ndarray:
    """HU of a body, int16 (slices, rows, columns)."""
    return body(seed, (40, 36, slices)).T


def uid(*parts: object) -> str:
    """The same identity for the same parts."""
    return generate_uid(entropy_srcs=[str(part) for part in parts])


def header(kind: str, image: np.ndarray, **elements: Any) -> Dataset:
    """What classic and enhanced files have in common, and elements of one's own."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = kind
    values = {
        "SOPInstanceUID": uid("object", image.tobytes()),
        "Modality": "CT",
        "PatientID": "one",
        "StudyInstanceUID": uid("study"),
        "SeriesInstanceUID": uid("series"),
        "SeriesNumber": 3,
        "SeriesDescription": "Abdomen",
        "FrameOfReferenceUID": uid("frame of reference"),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": image.shape[-2],
        "Columns": image.shape[-1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "PixelData": image.astype("<i2").tobytes(),
        **elements,
    }
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = values["SOPInstanceUID"]
    return dataset


def place(number: float, step: Sequence[float] = (0, 0, SPACING[0])) -> list[float]:
    """Position of a slice."""
    return [start + number * part for start, part in zip(ORIGIN, step, strict=True)]


def slice_of(image: np.ndarray, number: int, **elements: Any) -> Dataset:
    """One slice (rows, columns) in HU as a classic CT file."""
    values = {
        "SOPInstanceUID": uid("slice", number, image.tobytes()),
        "InstanceNumber": number + 1,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImagePositionPatient": place(number),
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": list(SPACING[1:]),
        "SliceThickness": SPACING[0],
        "RescaleSlope": 1,
        "RescaleIntercept": OFFSET,
    }
    return header(CTImageStorage, image - OFFSET, **(values | elements))


def write(path: Path, dataset: Dataset, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=how.pop("enforce_file_format", True), **how)
    return path


def series(folder: Path, images: np.ndarray, name: str = "{:03d}.dcm", **elements: Any) -> Path:
    """A classic series, a file for each slice."""
    for number, image in enumerate(images):
        write(folder / name.format(number), slice_of(image, number, **elements))
    return folder


def item(**elements: Any) -> Items:
    """A sequence of one item."""
    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return Items([dataset])


def measures(spacing: Sequence[float] = SPACING) -> Items:
    return item(PixelSpacing=list(spacing[1:]), SliceThickness=spacing[0])


def rescale(slope: float = 1, intercept: float = OFFSET) -> Items:
    return item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="HU")


def group(number: float, stack_id: str = "1", **sequences: Any) -> Dataset:
    """Functional groups of one frame."""
    dataset = Dataset()
    dataset.PlanePositionSequence = item(ImagePositionPatient=place(number))
    dataset.FrameContentSequence = item(StackID=stack_id, InStackPositionNumber=int(number) + 1)
    for name, value in sequences.items():
        setattr(dataset, name, value)
    return dataset


def enhanced(
    images: np.ndarray, groups: Sequence[Dataset], shared: dict[str, Any] | None = None, **own: Any
) -> Dataset:
    """An enhanced CT: stored values of all frames, the groups of each, and those of all."""
    common = Dataset()
    sequences = {
        "PlaneOrientationSequence": item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        "PixelMeasuresSequence": measures(),
        "PixelValueTransformationSequence": rescale(),
        "CTImageFrameTypeSequence": item(FrameType=["ORIGINAL", "PRIMARY", "AXIAL", "NONE"]),
        **(shared or {}),
    }
    for name, value in sequences.items():
        if value is not None:
            setattr(common, name, value)
    return header(
        EnhancedCTImageStorage,
        images,
        NumberOfFrames=len(images),
        SharedFunctionalGroupsSequence=Items([common]),
        PerFrameFunctionalGroupsSequence=Items(list(groups)),
        **own,
    )


ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    JPEGLosslessSV1: imagecodecs.ljpeg_encode,
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEG2000Lossless: lambda image: imagecodecs.jpeg2k_encode(image, level=0, codecformat="j2k"),
    HTJ2KLossless: lambda image: imagecodecs.htj2k_encode(image, reversible=True),
}
COMPRESSIONS = (*ENCODERS, RLELossless)


def compressed(dataset: Dataset, syntax: str) -> Dataset:
    """The same images, compressed without loss."""
    if syntax == RLELossless:
        dataset.compress(RLELossless)
        return dataset
    shape = (-1, dataset.Rows, dataset.Columns)
    images = np.frombuffer(dataset.PixelData, "<u2").reshape(shape)
    dataset.PixelData = encapsulate([ENCODERS[syntax](image) for image in images])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset
