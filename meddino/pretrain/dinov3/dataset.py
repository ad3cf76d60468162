"""CT-3M as a dataset of the public trainer.

Its own augmentation is for photographs of 8 bit and mostly fixed. So of the transform that it hands
over only the sizes are used: crops are cut and changed as our own engine does, in HU.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from meddino.core.files import read_json, write_json
from meddino.ct3m import codec
from meddino.ct3m.cells import read_cells, reading
from meddino.pretrain.crops import Draws, multi_crop
from meddino.pretrain.options import Augmentation, Resolution

# The trainer makes a dataset of an index for each resolution.
_read_cells = lru_cache(maxsize=1)(read_cells)


def describe(path: Path, index: Path, augmentation: dict[str, Any]) -> None:
    """Write the file that `CT3M` is made from."""
    write_json(path, {"index": str(index.resolve()), "augmentation": augmentation})


class CT3M(torch.utils.data.Dataset[tuple[dict[str, list[torch.Tensor]], tuple[()]]]):
    """Slices of an index, each as the crops that the trainer collates."""

    def __init__(
        self,
        root: str,
        transform: Any,
        target_transform: Callable[[Any], Any] | None = None,
        transforms: Any = None,
    ) -> None:
        """Open it, as the trainer's `make_dataset` does.

        Args:
            root: a file of `describe`.
            transform: the trainer's augmentation, asked for `global_crops_size`,
                `local_crops_size` and `gram_teacher_crops_size` (px, or None).
            target_transform: unused; slices have no targets.
            transforms: unused.

        Raises:
            MeddinoError: the index is absent, unreadable or empty.
        """
        described = read_json(Path(root))
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in described["augmentation"].items()
        }
        self.augmentation = Augmentation(**values)
        self.resolution = Resolution(
            global_px=transform.global_crops_size,
            local_px=transform.local_crops_size,
            gram_px=transform.gram_teacher_crops_size,
        )
        self._cells = _read_cells(Path(described["index"]))

    def __len__(self) -> int:
        """Number of slices."""
        return len(self._cells)

    def __getitem__(self, number: int) -> tuple[dict[str, list[torch.Tensor]], tuple[()]]:
        """Crops of a slice: float32 (3, side, side) each, drawn by torch's own generator.

        The trainer seeds it, differently in each process that loads.

        Raises:
            MeddinoError: a shard is absent or damaged.
        """
        slices = torch.from_numpy(self.hounsfield(number))[None]
        seed = int(torch.randint(2**62, ()))
        crops = multi_crop(slices, self.resolution, self.augmentation, Draws([seed], 1))
        views = {"global_crops": list(crops.globals), "local_crops": list(crops.locals)}
        if crops.gram is not None:
            views["gram_teacher_crops"] = list(crops.gram)
        return views, ()

    def hounsfield(self, number: int) -> npt.NDArray[np.int16]:
        """A slice: int16 (side, side) in HU."""
        cells = self._cells
        packed = cells.read(range(number, number + 1))
        with reading(cells.shard(number)):
            image: npt.NDArray[np.int16] = codec.decode(packed, (cells.side, cells.side))[0]
        return image
