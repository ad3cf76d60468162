"""Decoders of compressed DICOM pixels, as a plugin of pydicom: imagecodecs, behind a check.

GDCM, pydicom's usual choice, ends the process on some damaged code, and is not given lossy JPEG of
12 bits.

Sources: ITU-T T.81, B.2.2 (JPEG), T.87, C.2.2 (JPEG-LS), T.800, A.5.1 (JPEG 2000).
"""

import struct
from typing import NamedTuple

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.pixels.decoders import base

JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
JPEG_2000 = (
    uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K,
)  # fmt: skip

DECODER_DEPENDENCIES: dict[str, tuple[str, ...]] = {
    syntax: ("imagecodecs",) for syntax in (*JPEG, *JPEG_LS, *JPEG_2000)
}
"""What pydicom asks a plugin: which encodings it decodes, and what it needs for that."""
NAME = "meddino"
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""Markers that begin a frame: of each process of JPEG, and of JPEG-LS."""


class Stated(NamedTuple):
    """What code says of the image that it holds."""

    bits: int
    rows: int
    columns: int
    samples: int


def is_available(syntax: str) -> bool:
    """Whether an encoding can be decoded; pydicom asks."""
    return syntax in DECODER_DEPENDENCIES


def decode(code: bytes, runner: base.DecodeRunner) -> bytes:
    """Decode one image; pydicom calls it, and corrects signs and unused bits afterwards.

    Args:
        code: of one image.
        runner: what the DICOM header says of it.

    Returns:
        Values in as many bytes as the header allocates.

    Raises:
        ValueError: the code is none, or holds another image than the header says. Decoders would
            ask for memory and time for whatever damaged code claims.
    """
    syntax = runner.transfer_syntax
    stated = of_jpeg_2000(code) if syntax in JPEG_2000 else of_jpeg(code)
    expected = (runner.rows, runner.columns, runner.samples_per_pixel)
    if stated[1:] != expected or not 2 <= stated.bits <= runner.bits_allocated:
        raise ValueError(f"compressed pixels are of {stated}, not {expected}")
    if syntax in JPEG_2000:
        values = imagecodecs.jpeg2k_decode(code)
    elif syntax in JPEG_LS:
        values = imagecodecs.jpegls_decode(code)
    else:
        values = imagecodecs.jpeg_decode(code)
    return np.asarray(values).astype(f"<i{runner.bits_allocated // 8}").tobytes()


def of_jpeg(code: bytes) -> Stated:
    """Find the frame header of JPEG or JPEG-LS.

    Raises:
        ValueError: there is none.
    """
    place = 2
    while code[:2] == b"\xff\xd8" and place + 10 <= len(code) and code[place] == 0xFF:
        marker, length = code[place + 1], int.from_bytes(code[place + 2 : place + 4], "big")
        if marker in FRAMES:
            bits, rows, columns, samples = struct.unpack(">BHHB", code[place + 4 : place + 10])
            return Stated(bits, rows, columns, samples)
        place += 2 + length
    raise ValueError("compressed pixels are no JPEG")


def of_jpeg_2000(code: bytes) -> Stated:
    """Find the size of an image in JPEG 2000, a bare code stream or one in a JP2 file.

    Raises:
        ValueError: there is none.
    """
    start = code.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(code) < start + 43:
        raise ValueError("compressed pixels are no JPEG 2000")
    right, bottom, left, top = struct.unpack(">4I", code[start + 8 : start + 24])
    samples = int.from_bytes(code[start + 40 : start + 42], "big")
    return Stated((code[start + 42] & 0x7F) + 1, bottom - top, right - left, samples)


for _syntax in DECODER_DEPENDENCIES:
    base.get_decoder(_syntax).add_plugin(NAME, (__name__, "decode"))
