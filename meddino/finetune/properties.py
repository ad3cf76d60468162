"""nnU-Net's pickled properties of a preprocessed case, read without running what a pickle holds."""

import pickle
from typing import Any

from meddino.core.errors import MeddinoError

PLAIN = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *(
        (f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
}
"""What nnU-Net 2.8.1 stores beside Python's own numbers, tuples, lists and dictionaries."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PLAIN:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which could run code")
        return super().find_class(module, name)


def load_pickle(file: str, mode: str = "rb") -> Any:
    """Read a case's `.pkl` in the place of the function that nnU-Net calls.

    Raises:
        MeddinoError: it is damaged, or holds more than numbers and arrays.
    """
    try:
        with open(file, mode) as handle:
            return _Plain(handle).load()
    except FileNotFoundError as error:
        raise MeddinoError(f"{file} does not exist; {REMEDY}") from error
    except Exception as error:  # damaged bytes are instructions, and raise nearly anything
        raise MeddinoError(f"{file} cannot be read safely ({error}); {REMEDY}") from error


REMEDY = "delete the marker of this configuration (such as 2d.json) in the folder above, and rerun"
