"""Values that change with the iteration."""

import math


def linear_warmup_cosine(
    iteration: int, *, start: float, peak: float, end: float, warmup: int, total: int
) -> float:
    """DINOv3's schedule: a linear rise that stops short of the peak, then a cosine down to `end`.

    Args:
        iteration: from 0.
        start: first value.
        peak: value of the first iteration after the warm-up.
        end: value of iteration total - 1, and of all later ones.
        warmup: iterations of the rise.
        total: iterations in all.
    """
    if iteration < warmup:
        return start + (peak - start) * iteration / warmup
    last = max(total - warmup - 1, 1)
    share = min((iteration - warmup) / last, 1.0)
    return end + (peak - end) * (1 + math.cos(math.pi * share)) / 2
