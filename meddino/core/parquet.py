"""Parquet files of earlier stages, small enough for memory."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from meddino.core.errors import MeddinoError


def read_frame(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a whole file, or some of its columns; checksums of pages are compared where it has any.

    Raises:
        MeddinoError: it is absent, cut off or damaged.
    """
    names = None if columns is None else list(columns)
    try:
        return pq.read_table(path, columns=names, page_checksum_verification=True).to_pandas()
    except FileNotFoundError as error:
        raise MeddinoError(f"{path} does not exist; run the stage that makes it") from error
    except (OSError, ValueError) as error:
        raise MeddinoError(f"{path} cannot be read ({error}); delete it and rerun") from error
