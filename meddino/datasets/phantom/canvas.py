"""The picture being painted: intensities, structures, and smooth random fields."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from meddino.datasets.phantom.shapes import Array, Grid, Shape
from meddino.datasets.phantom.tissues import Structure, Tissues

Fill = float | Callable[[Grid, Array], Array]
WARP_PERIOD_MM = 420.0
WARP_MODES = 5


class Canvas:
    """One patient on one grid; shapes are painted over each other, the last one wins.

    Attributes:
        grid: the voxels in the patient's own frame.
        tissues: intensities of this case.
        image: float32 [z, y, x], intensity.
        truth: uint8 [z, y, x], `Structure`.
        texture: float32 [z, y, x], a random field of zero mean and unit variance.
    """

    def __init__(
        self,
        axes: tuple[Array, Array, Array],
        tissues: Tissues,
        blur_mm: float,
        rng: np.random.Generator,
    ) -> None:
        """Begin with air.

        Args:
            axes: z, y, x of slices, rows and columns in the patient's frame, ascending (mm).
            tissues: intensities.
            blur_mm: width over which a surface passes from one tissue to the other (mm).
            rng: source of the deformation and the texture.
        """
        z, y, x = np.meshgrid(*axes, indexing="ij")
        x, y, z = (c + a * smooth_field(axes, rng) for c, a in ((x, 4.0), (y, 3.0), (z, 4.0)))
        self.grid = Grid(axes, x, y, z)
        self.tissues = tissues
        self.image: Array = np.full(x.shape, tissues.air, np.float32)
        self.truth: NDArray[np.uint8] = np.zeros(x.shape, np.uint8)
        self.texture = mottle(axes, rng)
        self._blur = np.float32(blur_mm)

    def paint(
        self, shape: Shape, fill: Fill, structure: Structure | None = None, grain: float = 1.0
    ) -> None:
        """Fill a shape; its rim is a mixture with what was there (partial volume).

        Args:
            shape: what to fill.
            fill: an intensity, or a function of the grid and the texture there.
            structure: what the voxels inside become; None leaves them as they are.
            grain: strength of the texture, for an intensity.
        """
        box = self.grid.box(shape.low, shape.high)
        part = self.grid.crop(box)
        if part.x.size == 0:
            return
        distance = shape.distance(part)
        share = np.clip(np.float32(0.5) - distance / self._blur, 0, 1)
        texture, image = self.texture[box], self.image[box]
        if callable(fill):
            value = fill(part, texture)
        else:
            value = np.float32(fill) + np.float32(grain * self.tissues.mottle) * texture
        image += share * (value - image)
        if structure is not None:
            self.truth[box][distance < 0] = structure


def smooth_field(axes: tuple[Array, Array, Array], rng: np.random.Generator) -> Array:
    """A smooth random field of about unit variance: few cosines along every axis, [z, y, x]."""
    order = np.arange(WARP_MODES)
    z, y, x = (
        np.cos(
            np.pi * (axis[:, None] / WARP_PERIOD_MM * order + rng.uniform(0, 2, WARP_MODES))
        ).astype(np.float32)
        for axis in axes
    )
    decay = 1.0 / (1 + order[:, None, None] + order[:, None] + order) ** 1.2
    weights = (rng.standard_normal((WARP_MODES,) * 3) * decay).astype(np.float32)
    weights *= np.float32(np.sqrt(8) / np.linalg.norm(decay))
    field: Array = np.einsum("abc,zc->abz", weights.transpose(1, 2, 0), z)
    return np.ascontiguousarray(np.einsum("abz,ya,xb->zyx", field, y, x, optimize=True))


def mottle(axes: tuple[Array, Array, Array], rng: np.random.Generator) -> Array:
    """Texture of tissue: blobs of some millimetres, of unit variance, [z, y, x]."""
    shape = (len(axes[0]), len(axes[1]), len(axes[2]))
    step_mm = float(axes[2][1] - axes[2][0])
    white = rng.standard_normal(shape, dtype=np.float32)
    fy, fx = np.fft.fftfreq(shape[1]) / step_mm, np.fft.rfftfreq(shape[2]) / step_mm
    f2 = (fy[:, None] ** 2 + fx**2).astype(np.float32)
    gain = np.exp(-f2 / np.float32(2 * 0.045**2)) + np.float32(0.25) * np.exp(-f2 / 0.02)
    field = np.fft.irfft2(np.fft.rfft2(white) * gain, s=shape[1:]).astype(np.float32)
    # Slices share a part of their neighbour's texture; the first one has none, hence its factor.
    field[1:] = 0.6 * field[1:] + 0.4 * field[:-1]
    field[0] *= np.float32(np.hypot(0.6, 0.4))
    scaled: Array = field / np.float32(field.std())
    return scaled
