"""The made-up scanner: where the patient lies in the image, noise, padding, storage as integers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meddino.datasets.phantom.anatomy import Habitus, paint_patient
from meddino.datasets.phantom.canvas import Canvas
from meddino.datasets.phantom.shapes import Array
from meddino.datasets.phantom.tissues import ct_tissues, mr_tissues

CT_RANGE = (-1024, 3071)
# The highest slice, in the patient's frame; the slices span from there to the protocol's bottom.
TOP_MM = (125.0, 150.0)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one case is scanned."""

    size_px: int
    slices: int
    noise_hu: float
    field_mm: float | None = None
    """Side of the image (mm); None fits it to the patient."""
    bottom_mm: tuple[float, float]
    """Range of the lowest slice, in the patient's frame (mm)."""
    padding: int | None
    """Value outside the scanner's circle, or None where the square is filled."""
    mr: bool
    lesions: bool


@dataclass(frozen=True)
class Scan:
    """One case: image int16 and truth uint8 [z, y, x], in LPS; spacing z, y, x and origin (mm)."""

    image: NDArray[np.int16]
    truth: NDArray[np.uint8]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]


def scan(protocol: Protocol, rng: np.random.Generator) -> Scan:
    """Make a patient and scan it."""
    scale, habitus = float(rng.uniform(0.9, 1.06)), Habitus.draw(rng)
    # Fitted to the patient, as on a real scanner; now and then it cuts the flanks.
    fitted_mm = habitus.width * scale * float(rng.uniform(0.95, 1.18))
    field_mm = fitted_mm if protocol.field_mm is None else protocol.field_mm
    top = float(rng.uniform(*TOP_MM)) * scale
    bottom = float(rng.uniform(*protocol.bottom_mm)) * scale
    pixel = round(field_mm / protocol.size_px, 6)
    thick = round((top - bottom) / (protocol.slices - 1), 3)
    shift_x, shift_y = rng.uniform(-9, 9), rng.uniform(-6, 14)
    centred = (np.arange(protocol.size_px) - (protocol.size_px - 1) / 2) * pixel
    z = bottom + np.arange(protocol.slices) * thick
    axes = tuple(
        (axis / scale).astype(np.float32) for axis in (z, centred + shift_y, centred + shift_x)
    )
    tissues = mr_tissues(rng) if protocol.mr else ct_tissues(rng)
    canvas = Canvas((axes[0], axes[1], axes[2]), tissues, 1.25 * pixel / scale, rng)
    paint_patient(canvas, habitus, rng, protocol.lesions)
    image = canvas.image
    strength = protocol.noise_hu * float(rng.uniform(0.6, 1.5))
    if protocol.mr:
        strength = tissues.liver * strength / 250
    image += strength * _noise(image.shape, centred, rng)
    stored = np.abs(image) if protocol.mr else np.clip(image, *CT_RANGE)
    pixels = np.rint(stored).astype(np.int16)
    truth = canvas.truth
    if protocol.padding is not None:
        outside = np.hypot(centred[:, None], centred) > field_mm / 2
        pixels[:, outside] = protocol.padding
        truth[:, outside] = 0
    # The origin is arbitrary on a real scanner: it is where the table stood.
    start = (round(float(centred[0] + shift_x), 3), round(float(centred[0] + shift_y), 3))
    origin = (start[0], start[1], round(bottom + float(rng.integers(-900, 300)), 3))
    return Scan(pixels, truth, (thick, pixel, pixel), origin)


def _noise(
    shape: tuple[int, ...], centred: NDArray[np.floating], rng: np.random.Generator
) -> Array:
    """Noise of filtered back-projection: grainy in plane, strongest where the body is thickest.

    Unit standard deviation at the centre, [z, y, x].
    """
    white = rng.standard_normal(shape, dtype=np.float32)
    fy, fx = np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2])
    f = np.hypot(fy[:, None], fx).astype(np.float32)
    gain = (f + np.float32(0.04)) * np.exp(-((f / np.float32(0.3)) ** 2))
    noise = np.fft.irfft2(np.fft.rfft2(white) * gain, s=shape[1:]).astype(np.float32)
    far = np.hypot(centred[:, None], centred).astype(np.float32)
    profile = np.float32(0.45) + np.float32(0.55) * np.exp(-((far / np.float32(115)) ** 2))
    scaled: Array = noise * (profile / np.float32(noise.std()))
    return scaled
