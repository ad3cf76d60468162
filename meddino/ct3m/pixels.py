"""How a slice becomes the bytes of a shard and back: a lossless filter, after which Zstandard wins.

Neighbours resemble each other, so what is stored is each pixel's difference from the one to its
left. All low bytes come first, then all high bytes, which are nearly all zero. That takes a third
off the size, and more off the time to compress. Foretelling from the row above as well would take
off up to a tenth more where slices were enlarged, nothing elsewhere, and double the time to decode.
"""

import numpy as np
import numpy.typing as npt

BIAS = 128
"""Added to differences: small ones of either sign then have a high byte of zero."""
BYTES_PER_PIXEL = 2


def encode(image: npt.NDArray[np.int16]) -> bytes:
    """Filter one slice, int16 (height, width), into 2 x height x width bytes."""
    difference = image + np.int16(BIAS)  # wraps around where it must, as the sums of `decode` do
    difference[:, 1:] -= image[:, :-1]
    words = difference.view(np.uint16)
    planes = np.empty((BYTES_PER_PIXEL, *image.shape), np.uint8)
    planes[0] = words & 0xFF
    planes[1] = words >> 8
    return planes.tobytes()


def decode(planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """Undo `encode` for n slices: uint8 (n, 2, height, width) to int16 (n, height, width)."""
    import torch  # sums four times as fast as NumPy; whoever only encodes does without

    words = planes[:, 1].astype(np.uint16)
    words <<= 8
    words |= planes[:, 0]
    images = words.view(np.int16)
    images -= BIAS
    sums = torch.from_numpy(images)
    torch.cumsum(sums, -1, dtype=torch.int16, out=sums)
    return images
