"""Calibration of a softmax from histograms, and what is gained by setting cases aside.

All of a structure's voxels whose softmax for it is above `LEAST` count, whatever they are labelled.
So the choice depends on the network alone, and voxels of sure background, by far the most, do not
hide the others. That is the static calibration error of Nixon et al. (CVPR workshops 2019) with
their threshold.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LEAST = 0.01
"""Softmax above which a voxel counts (Nixon et al. 2019)."""


def histogram(
    softmax: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_], bins: int
) -> tuple[Integers, Integers, Floats]:
    """Sort voxels by their softmax into bins of equal width from 0 to 1.

    Args:
        softmax: of one structure, any shape.
        correct: whether a voxel is of the structure, the same shape.
        bins: their number.

    Returns:
        For each bin its voxels, those that are correct, and the sum of their softmax.
    """
    counted = softmax > LEAST
    values = softmax[counted].astype(np.float64)
    places = np.minimum((values * bins).astype(np.int64), bins - 1)
    count = np.bincount(places, minlength=bins).astype(np.int64)
    right = np.bincount(places[correct[counted]], minlength=bins).astype(np.int64)
    return count, right, np.asarray(np.bincount(places, values, bins), np.float64)


def expected_error(
    count: npt.ArrayLike, correct: npt.ArrayLike, confidence: npt.ArrayLike
) -> float:
    """Expected calibration error: |share correct - mean softmax|, averaged over voxels.

    Args:
        count: voxels of each bin.
        correct: those that are correct.
        confidence: sum of their softmax.

    Returns:
        From 0 to 1; NaN without voxels.
    """
    total = np.sum(count)
    gaps = np.abs(np.asarray(correct, np.float64) - np.asarray(confidence, np.float64))
    return float(gaps.sum() / total) if total else float("nan")


def overconfidence(
    count: npt.ArrayLike, correct: npt.ArrayLike, confidence: npt.ArrayLike
) -> float:
    """Mean softmax less the share that is correct, over all voxels; NaN without voxels."""
    total = np.sum(count)
    return float((np.sum(confidence) - np.sum(correct)) / total) if total else float("nan")


def soft_dice(mass: float, predicted_mass: float, predicted: int) -> float:
    """The DSC that the softmax expects of a prediction (Borges et al., arXiv 2402.10665).

    Args:
        mass: sum of the softmax of a structure over all voxels.
        predicted_mass: the same over the voxels that are predicted to be of it.
        predicted: number of these.

    Returns:
        From 0 to 1; NaN where nothing is predicted.
    """
    return 2 * predicted_mass / (mass + predicted) if predicted else float("nan")


def kept_means(values: Floats, order: Integers) -> Floats:
    """Mean of the first k values of an order, for each k from 1 on, (N,)."""
    return np.cumsum(values[order]) / np.arange(1, len(values) + 1)


def abstention(dsc: Floats, confidence: Floats) -> Mapping[str, Floats]:
    """Mean DSC of the cases that remain when the least confident are set aside.

    Args:
        dsc: of each case, (N,).
        confidence: of each case; those that are equally confident stay in their order.

    Returns:
        `confidence`, `oracle` (the worst are set aside first) and `random` (the mean of all
        orders), each for 1 to N cases that remain, (N,).
    """
    return {
        "confidence": kept_means(dsc, np.argsort(-confidence, kind="stable")),
        "oracle": kept_means(dsc, np.argsort(-dsc, kind="stable")),
        "random": np.full(len(dsc), dsc.mean()),
    }


def rejection_ratio(curves: Mapping[str, Floats]) -> float:
    """Share of the oracle's gain over a random order that confidence reaches.

    The area between two curves over the share of cases that remain (prediction rejection ratio,
    Malinin et al. 2020): 1 as the oracle, 0 as chance, below 0 worse. NaN where all cases have the
    same DSC.
    """
    gains = {name: curves[name].mean() - curves["random"].mean() for name in curves}
    return float(gains["confidence"] / gains["oracle"]) if gains["oracle"] > 0 else float("nan")
