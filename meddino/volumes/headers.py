"""What a DICOM file says of its frames: one for a classic file, many for an enhanced one.

Source: DICOM PS3.3, C.7.6.2 (image plane), C.7.6.16 (functional groups), C.11.1 (rescale).
"""

import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

Numbers = tuple[float, ...]

PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009)
"""Pixel data as whole numbers, in single, and in double precision."""
UNDEFINED = 0xFFFFFFFF
"""The length of an element that ends in a mark: of compressed pixel data."""
DEFER_BYTES = 1 << 16
"""Longer elements stay in the file until something asks for them."""
FLAT = 0.9
"""Cosine of the angle between rows and columns from which on they do not span a plane."""
MAX_SIDE = 1 << 13
"""Rows and columns that an image may have: four times those of any scanner."""
LOCALISER = {"LOCALIZER", "LOCALISER", "SCOUT", "TOPOGRAM", "SCANOGRAM", "SURVIEW"}
OBJECTS = "Image Storage"
"""In the names of all classes whose objects are images."""

TELLING = (
    "StackID", "TemporalPositionIndex", "TemporalPositionIdentifier", "AcquisitionNumber",
    "FrameAcquisitionNumber", "NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime",
    "TriggerTime", "EchoNumbers", "EffectiveEchoTime", "EchoTime", "DiffusionBValue",
    "InversionTime", "ConvolutionKernel", "KVP", "ImageType", "FrameType", "ComplexImageComponent",
    "SeriesNumber", "SeriesDescription", "ProtocolName", "FrameOfReferenceUID",
    "StudyInstanceUID", "PatientID", "AcquisitionTime",
)  # fmt: skip
"""Elements that may tell images of one place apart, the most telling first."""
_USED = (
    "SOPClassUID", "Modality", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription",
    "Rows", "Columns", "SamplesPerPixel", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept",
    "ImageType", "FrameType", "ModalityLUTSequence",
)  # fmt: skip
_TAGS = {tag_for_keyword(name): name for name in (*_USED, *TELLING)}

# What matters of its warnings is checked and worded here.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


class Damaged(Exception):
    """A file that ought to hold images and whose images cannot be used; says why."""


class NoImage(Exception):
    """A DICOM object without an image, such as a plan or a report; says of which kind."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One image of a DICOM file.

    Attributes:
        path: the file.
        number: of the image within the file, from 0 on.
        series: identity of its series (UID).
        modality: as CT; empty where the file does not say.
        kind: class of the object, and the parts of its image type that tell a localiser, a
            secondary capture or a derived image from a slice.
        size: rows and columns.
        colour: whether it has several values per pixel.
        spacing_mm: between rows, and between columns; None where it is missing, as the next two.
        orientation: directions of rows and of columns, six cosines, LPS.
        position: centre of the first pixel, mm, LPS.
        gap_mm: to the next slice, as the header has it, else the slice's thickness.
        slope: what stored values are multiplied by.
        intercept: what is added then.
        telling: values of `TELLING`.
        title: number and description of its series, for people.
    """

    path: Path
    number: int
    series: str
    modality: str
    kind: tuple[str, ...]
    size: tuple[int, int]
    colour: bool
    spacing_mm: Numbers | None
    orientation: Numbers | None
    position: Numbers | None
    gap_mm: float | None
    slope: float
    intercept: float
    telling: tuple[str, ...] = field(repr=False)
    title: str

    @property
    def localiser(self) -> bool:
        """Whether it is an overview, not a slice."""
        return any(part in LOCALISER for part in self.kind)

    @property
    def placed(self) -> bool:
        """Whether it says where its pixels lie."""
        return None not in (self.position, self.orientation, self.spacing_mm)

    @property
    def stack(self) -> str:
        """Which of a file's sets of frames it belongs to; empty for a classic file."""
        return self.telling[TELLING.index("StackID")]

    @property
    def patient(self) -> str:
        """Identity of the patient; empty where it was taken out."""
        return self.telling[TELLING.index("PatientID")]


def read_frames(path: Path) -> list[Frame]:
    """Read the headers of a DICOM file's images; pixels stay in the file.

    Raises:
        NoImage: it holds another object.
        Damaged: it is cut off, or its header cannot be used.
    """
    with warnings.catch_warnings(action="ignore"):
        return _read_frames(path)


def _read_frames(path: Path) -> list[Frame]:
    dataset = pydicom.dcmread(path, force=True, defer_size=DEFER_BYTES)
    common = _values(dataset)
    _check_pixels(dataset, common, path)
    count = int(dataset.get("NumberOfFrames") or 1)
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if count < 1 or len(groups) not in (0, count):
        raise Damaged(f"it has {count} frames and places of {len(groups)}")
    for shared in dataset.get("SharedFunctionalGroupsSequence") or []:
        common |= _grouped(shared)
    if not groups:
        # Of many frames without places of their own, the file's place can be that of one only.
        own: list[dict[str, Any]] = [{}] if count == 1 else [{"ImagePositionPatient": None}] * count
    else:
        own = [_grouped(group) for group in groups]
    return [_frame(path, number, common | values) for number, values in enumerate(own)]


def _values(dataset: Dataset) -> dict[str, Any]:
    """The elements that are used, by their names. What cannot be understood is left out."""
    values = {}
    for tag in list(dataset.keys()):
        name = _TAGS.get(int(tag))
        if name is None:
            continue
        try:
            value = dataset[tag].value
        except Exception:  # whatever a damaged value makes its converter raise
            value = None
        if value is not None and value != "":
            values[name] = value
    return values


def _grouped(group: Dataset) -> dict[str, Any]:
    """The same of the functional groups of one frame, or of those that all frames share."""
    values: dict[str, Any] = {}
    for element in group:
        if element.VR == "SQ" and element.value:
            values |= _values(element.value[0])
    return values


def _check_pixels(dataset: Dataset, values: Mapping[str, Any], path: Path) -> None:
    modality = _text(values.get("Modality"))
    held = next((tag for tag in PIXELS if tag in dataset), None)
    if held is None:
        uid = values.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
        name = str(getattr(uid, "name", ""))
        if name and OBJECTS not in name:
            raise NoImage(modality or name)
        raise Damaged("it ends before its pixels")
    element: Any = dataset.get_item(held, keep_deferred=True)
    packed = dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    if element.length != UNDEFINED and not packed:
        missing = element.value_tell + element.length - path.stat().st_size
        if missing > 0:
            raise Damaged(f"it is cut off, {missing} bytes are missing")


def _frame(path: Path, number: int, values: Mapping[str, Any]) -> Frame:
    if "ModalityLUTSequence" in values:
        raise Damaged("its values are coded by a table (Modality LUT), not by a slope")
    rows, columns = (_number(values, name, 0) for name in ("Rows", "Columns"))
    if not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE):
        raise Damaged(f"it has {rows:g} rows and {columns:g} columns")
    slope, intercept = _number(values, "RescaleSlope", 1), _number(values, "RescaleIntercept", 0)
    if slope == 0:
        raise Damaged("its rescale slope is 0")
    types = [part.upper() for part in _parts(values.get("FrameType", values.get("ImageType")))]
    return Frame(
        path=path,
        number=number,
        series=_text(values.get("SeriesInstanceUID")),
        modality=_text(values.get("Modality")).upper(),
        kind=(_text(values.get("SOPClassUID")), *types[:3]),
        size=(int(rows), int(columns)),
        colour=_number(values, "SamplesPerPixel", 1) != 1,
        spacing_mm=_spacing(values.get("PixelSpacing")),
        orientation=_orientation(values.get("ImageOrientationPatient")),
        position=_numbers(values.get("ImagePositionPatient"), 3),
        gap_mm=_length(values.get("SpacingBetweenSlices")) or _length(values.get("SliceThickness")),
        slope=slope,
        intercept=intercept,
        telling=tuple(_text(values.get(name)) for name in TELLING),
        title=_title(values),
    )


def _title(values: Mapping[str, Any]) -> str:
    number, description = (_text(values.get(x)) for x in ("SeriesNumber", "SeriesDescription"))
    named = f"number {number}" if number else "without a number"
    return f'{named} "{description}"' if description else named


def _parts(value: Any) -> list[str]:
    """The values of an element that may have several."""
    several = isinstance(value, list | tuple | pydicom.multival.MultiValue)
    return [str(part) for part in (value if several else [] if value is None else [value])]


def _text(value: Any) -> str:
    """A value as one line without anything that a terminal would obey."""
    text = "\\".join(_parts(value))
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:80]


def _numbers(value: Any, count: int) -> Numbers | None:
    try:
        numbers = tuple(float(part) for part in _parts(value))
    except ValueError:
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _spacing(value: Any) -> Numbers | None:
    numbers = _numbers(value, 2)
    return numbers if numbers and min(numbers) > 0 else None


def _orientation(value: Any) -> Numbers | None:
    """Six cosines; None where they do not span a plane."""
    numbers = _numbers(value, 6)
    if numbers is None:
        return None
    row, column = numbers[:3], numbers[3:]
    product = sum(a * b for a, b in zip(row, column, strict=True))
    lengths = math.hypot(*row) * math.hypot(*column)
    return numbers if abs(product) < FLAT * lengths else None


def _number(values: Mapping[str, Any], name: str, default: float) -> float:
    if name not in values:
        return default
    numbers = _numbers(values[name], 1)
    if numbers is None:
        raise Damaged(f"its {name} is no number ({_text(values[name])})")
    return numbers[0]


def _length(value: Any) -> float | None:
    numbers = _numbers(value, 1)
    return abs(numbers[0]) if numbers and numbers[0] else None
