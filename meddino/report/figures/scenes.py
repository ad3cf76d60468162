"""Images as backbones see them: a slice of a CT volume or a picture, and points on it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from scipy import ndimage

from meddino.core.errors import MeddinoError
from meddino.pretrain.crops import normalise
from meddino.report.pixels import body, grey
from meddino.volumes import reader
from meddino.volumes.hounsfield import BODY_HU
from meddino.volumes.inputs import find
from meddino.volumes.resample import Resizer, linear

Point = tuple[float, float]
"""A place in an image: shares of the height from the top and of the width from the left."""

PICTURES = (".png", ".jpg", ".jpeg")
"""Ends of the names of images that are no CT."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation that standardise pictures, as in DINOv3's pretraining on photographs."""
SPACING_MM = 0.45
"""In-plane spacing that slices of CT are resampled to before they are resized (paper, 3.2)."""


@dataclass(frozen=True)
class Scene:
    """An image whose features are drawn.

    Attributes:
        values: float32 (channels, height, width): one of HU, or three from 0 to 255.
        spacing_mm: of pixels, (y, x); equal for pictures.
        target_mm: spacing that it is resampled to before it is resized.
        remarks: what is doubtful about the file that it comes from.
    """

    values: npt.NDArray[np.float32]
    spacing_mm: tuple[float, float] = (1.0, 1.0)
    target_mm: float = 1.0
    remarks: tuple[str, ...] = ()

    @property
    def ct(self) -> bool:
        """Whether values are HU."""
        return len(self.values) == 1

    @property
    def aspect(self) -> float:
        """Height of a pixel over its width."""
        return self.spacing_mm[0] / self.spacing_mm[1]

    @cached_property
    def body(self) -> npt.NDArray[np.bool_]:
        """The patient's pixels, bool (height, width); all of a picture's."""
        return body(self.values[0]) if self.ct else np.ones(self.values.shape[1:], bool)

    def input(self, size_px: int) -> torch.Tensor:
        """A backbone's input: the image stretched to a square, float32 (1, 3, size, size)."""
        shape: tuple[int, int] = self.values.shape[1:]
        resizer = Resizer.of(shape, self.spacing_mm, target_mm=self.target_mm, size_px=size_px)
        resized = torch.from_numpy(np.stack([resizer(channel) for channel in self.values]))
        if self.ct:
            return normalise(resized.round())[None].expand(-1, 3, -1, -1)
        mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
        return ((resized / 255 - mean) / std)[None]

    def shown(self, window_hu: tuple[float, float]) -> npt.NDArray[np.float32]:
        """RGB from 0 to 1, (height, width, 3), CT in a window (centre, width)."""
        if self.ct:
            return np.repeat(grey(self.values[0], window_hu)[..., None], 3, axis=2)
        return np.ascontiguousarray(self.values.transpose(1, 2, 0)) / np.float32(255)

    def covered(self, grid: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """The patches of a grid (rows, columns) that are half the patient or more.

        All patches, where none is.
        """
        rows, columns = (linear(n, k) for n, k in zip(self.body.shape, grid, strict=True))
        share = columns @ (rows @ self.body.astype(np.float64)).T
        mostly = share.T >= 0.5
        return np.asarray(mostly if mostly.any() else ~mostly)

    def centre(self) -> Point:
        """The pixel of the body that is closest to its centre of mass."""
        return innermost(self.body, deepest=False)


def innermost(mask: npt.NDArray[np.bool_], *, deepest: bool = True) -> Point:
    """A region's point that is farthest from its border, or its pixel closest to the middle."""
    inside = np.argwhere(mask)
    if deepest:
        depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), mask.shape)
    else:
        away = ((inside - inside.mean(axis=0)) ** 2).sum(axis=1)
        row, column = inside[int(away.argmin())]
    return (float(row) + 0.5) / mask.shape[0], (float(column) + 0.5) / mask.shape[1]


def read_scene(path: Path, slice_number: int | None = None) -> Scene:
    """Read a picture, or a slice of a CT volume.

    Args:
        path: PNG or JPEG; or a volume (NIfTI, MetaImage, NRRD), or a folder that holds one, or the
            files of one DICOM series.
        slice_number: counted from the feet, from 0 on; None for the slice with most body.

    Raises:
        MeddinoError: it cannot be read, is not in HU, or has no such slice.
    """
    if path.suffix.lower() in PICTURES:
        return Scene(_read_picture(path))
    inputs = find([path])
    (path, *others) = [*inputs.missing, *inputs.volumes]
    if path in inputs.missing:
        raise MeddinoError(f"{path} {inputs.missing[path]}, or draw another image")
    if others:
        raise MeddinoError(
            f"there are {len(others) + 1} volumes, such as {path} and {others[0]}; name one of them"
        )
    try:
        volume = reader.read(path)
    except reader.BadVolume as error:
        raise MeddinoError(f"{path}: {error.advised('draw another image')}") from error
    count = len(volume.array)
    if slice_number is None:
        slice_number = int(np.argmax([np.count_nonzero(plane > BODY_HU) for plane in volume.array]))
    elif not 0 <= slice_number < count:
        raise MeddinoError(
            f"{path} has slices 0 to {count - 1}, from the feet on, not {slice_number}"
        )
    values = volume.array[slice_number][None].astype(np.float32)
    _, y, x = volume.spacing_mm
    return Scene(values, (y, x), SPACING_MM, (*inputs.remarks(), *volume.remarks))


def _read_picture(path: Path) -> npt.NDArray[np.float32]:
    """Red, green and blue on the scale of 8 bits, float32 (3, height, width)."""
    if not path.is_file():
        raise MeddinoError(f"{path} does not exist; name a picture or a volume")
    try:
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError as error:
        raise MeddinoError(
            f"{path} cannot be read as a picture, it is truncated or damaged; make it again"
        ) from error
    top = np.iinfo(pixels.dtype).max
    channels = pixels[..., None] if pixels.ndim == 2 else pixels
    if channels.shape[-1] < 3:  # grey, maybe with transparency
        channels = np.repeat(channels[..., :1], 3, axis=2)
    values = np.moveaxis(channels[..., :3], 2, 0).astype(np.float32) * (255 / top)
    return np.ascontiguousarray(values)
