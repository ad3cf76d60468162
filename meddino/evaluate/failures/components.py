"""Lesions as connected components, and which of them a prediction hits."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

Mask = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CONNECTIVITY = np.ones((3, 3, 3), bool)
"""Voxels that share a face, an edge or a corner are of one lesion (26 neighbours), as in BraTS."""


class Overlap(NamedTuple):
    """The lesions of two masks, and how they overlap.

    Attributes:
        reference: voxels of each reference lesion, (R,).
        predicted: voxels of each predicted lesion, (P,).
        shared: voxels of each pair, (R, P).
    """

    reference: Integers
    predicted: Integers
    shared: Integers

    @property
    def iou(self) -> Floats:
        """Intersection over union of each pair, (R, P)."""
        union = self.reference[:, None] + self.predicted[None, :] - self.shared
        return self.shared / union


def components(mask: Mask) -> tuple[npt.NDArray[np.int32], int]:
    """Number the components of a mask (z, y, x) from 1 on; 0 is outside."""
    numbered, count = ndimage.label(mask, CONNECTIVITY, np.int32)
    return numbered, count


def overlap(reference: Mask, predicted: Mask) -> Overlap:
    """Lesions of two masks of the same shape (z, y, x)."""
    (first, references), (second, predictions) = components(reference), components(predicted)
    pairs = first.astype(np.int64) * (predictions + 1) + second
    counts = np.bincount(pairs.ravel(), minlength=(references + 1) * (predictions + 1))
    table = counts.reshape(references + 1, predictions + 1)
    return Overlap(table[1:].sum(axis=1), table[:, 1:].sum(axis=0), table[1:, 1:])


def matched(iou: Floats, least: float) -> Floats:
    """Match lesions one to one: as many pairs of at least `least` as can be, then the most IoU.

    Args:
        iou: of each pair, (R, P).
        least: IoU from which on a pair may be matched.

    Returns:
        IoU of each pair that is matched, 0 for the others, (R, P).
    """
    allowed = iou >= least
    # All that a matching can gain by IoU is less than what one more pair gains.
    gain = np.where(allowed, 1 + iou / (min(iou.shape) + 1), 0.0)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    result = np.zeros_like(iou)
    result[rows, columns] = np.where(allowed, iou, 0.0)[rows, columns]
    return result


def diameter_mm(volume_ml: npt.ArrayLike) -> Floats:
    """Diameter (mm) of a ball of a volume (ml)."""
    return np.asarray(np.cbrt(6000 * np.asarray(volume_ml, np.float64) / np.pi))
