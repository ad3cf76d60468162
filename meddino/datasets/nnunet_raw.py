"""A folder in nnU-Net's raw layout as a dataset and a benchmark, by its `dataset.json`.

Layout of nnU-Net 2 (`documentation/dataset_format.md`), and of nnU-Net 1 and the Decathlon, whose
`labels` map values to names and whose channels are called `modality`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from meddino.core.errors import MeddinoError
from meddino.core.formats import VOLUMES

KEY = "nnunet"
"""The key of a dataset that names such a folder."""
DESCRIPTION = "dataset.json"
PLACES = ("folder", "mirror", "sources")
"""Keys of a dataset that name another place."""


INSTEAD = "`folder`, `images`, `labels` and `case` in place of `nnunet`"


class Described(NamedTuple):
    """What a folder says of itself: values of a dataset's entry and of a benchmark's."""

    dataset: dict[str, Any]
    benchmark: dict[str, Any]
    number: int | None
    """nnU-Net's number, where the folder's name has one."""


def dataset(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of a dataset; one that names a folder of nnU-Net's is completed from it.

    Raises:
        MeddinoError: the folder cannot be used, or the entry names another place, too.
    """
    if entry.get(KEY) is None:
        return dict(entry)
    if others := [key for key in PLACES if entry.get(key)]:
        raise MeddinoError(f"datasets.{name}: give `{KEY}` or `{others[0]}`, not both")
    described = describe(f"datasets.{name}.{KEY}", entry[KEY])
    return {**described.dataset, **{k: v for k, v in entry.items() if k != KEY}}


def describe(source: str, folder: Any) -> Described:
    """Read what a folder's `dataset.json` says.

    Args:
        source: the key that names the folder, for messages.
        folder: its path, as a configuration has it.

    Raises:
        MeddinoError: it is no such folder, or one of several channels, of regions, or of pictures.
    """
    root = Path(str(folder)).expanduser()
    content = _read(root / DESCRIPTION, source)
    _refuse_elsewhere(content, source)
    ending, channel = _ending(content, source), _channel(content, source)
    title = re.sub(r"^(Dataset|Task)\d+_", "", root.resolve().name)
    number = re.match(r"(?:Dataset|Task)(\d+)_", root.resolve().name)
    labels = _labels(content, source)
    is_ct = channel.casefold() == "ct"
    escaped = re.escape(ending)
    entry = {
        "title": title,
        "folder": str(folder),
        "images": [f"imagesTr/*_0000{ending}"],
        "labels": [f"labelsTr/*{ending}"],
        "case": rf"^(?:imagesT[rs]/(?P<case>.+)_0000|labelsT[rs]/(?P<label>.+)){escaped}$",
    }
    benchmark = {"label": title, "labels": labels, "channel": "CT" if is_ct else channel}
    if not is_ct:
        entry["mr_cases"], benchmark["modalities"] = ".*", ["MR"]
    if type(content.get("numTraining")) is int and content["numTraining"] > 0:
        entry["volumes"] = content["numTraining"]
    return Described(entry, benchmark, int(number[1]) if number else None)


def _read(path: Path, source: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MeddinoError(
            f"{source}: {path} cannot be read ({reason}); name a folder in nnU-Net's raw layout,"
            " such as nnUNet_raw/Dataset042_Liver"
        ) from error
    if not isinstance(content, dict):
        raise MeddinoError(f"{source}: {path} holds no description of a dataset of nnU-Net's")
    return content


def _refuse_elsewhere(content: Mapping[str, Any], source: str) -> None:
    """nnU-Net 2 may be told where each image lies, which patterns cannot say."""
    cases = content.get("dataset")
    for case in cases.values() if isinstance(cases, Mapping) else ():
        for path in case.get("images", ()) if isinstance(case, Mapping) else ():
            if Path(path).parent != Path("imagesTr"):
                raise MeddinoError(
                    f"{source}: its {DESCRIPTION} places images elsewhere than in imagesTr, such as"
                    f" {path}; describe the dataset by {INSTEAD}"
                )


def _ending(content: Mapping[str, Any], source: str) -> str:
    ending = str(content.get("file_ending", ".nii.gz"))
    if ending.lower() not in VOLUMES:
        raise MeddinoError(
            f"{source}: its files end in {ending}; volumes are read, in {', '.join(VOLUMES)}"
        )
    return ending


def _channel(content: Mapping[str, Any], source: str) -> str:
    """The name of its one channel."""
    channels = content.get("channel_names", content.get("modality"))
    names = [*map(str, channels.values())] if isinstance(channels, Mapping) else []
    if len(names) == 1:
        return names[0]
    if not names:
        raise MeddinoError(f"{source}: its {DESCRIPTION} names no channel under `channel_names`")
    raise MeddinoError(
        f"{source}: it has {len(names)} channels ({', '.join(names)}), and images of one are"
        " read; to take one, describe the dataset by "
        f'{INSTEAD}, with `images` such as ["imagesTr/*_0000.nii.gz"]'
    )


def _labels(content: Mapping[str, Any], source: str) -> dict[str, list[int]]:
    """Structure -> its value."""
    labels = content.get("labels")
    if not isinstance(labels, Mapping):
        raise MeddinoError(f"{source}: its {DESCRIPTION} names no structures under `labels`")
    if labels and all(str(key).isdecimal() for key in labels):  # of nnU-Net 1
        labels = {str(name): int(value) for value, name in labels.items()}
    regions = [str(name) for name, value in labels.items() if isinstance(value, list)]
    if regions or content.get("regions_class_order"):
        raise MeddinoError(
            f"{source}: its labels are regions that overlap ({', '.join(regions)}), which are not"
            f" supported; describe the dataset by {INSTEAD}, and under `benchmarks` the structures"
            " that make up the regions"
        )
    if "ignore" in labels:
        raise MeddinoError(
            f"{source}: it has voxels to ignore (label {labels['ignore']}), which is not supported;"
            f" describe the dataset by {INSTEAD}, and the benchmark without them"
        )
    if wrong := [name for name, value in labels.items() if type(value) is not int]:
        raise MeddinoError(f"{source}: label {wrong[0]!r} of its {DESCRIPTION} is no whole number")
    return {str(name): [value] for name, value in labels.items() if value != 0}
