"""The `weights` verb: put a published checkpoint where the study looks for it, checked."""

import shutil
from pathlib import Path

import torch

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, sha256
from meddino.datasets.download import download
from meddino.datasets.sources import LOCAL, local_path
from meddino.models import weights
from meddino.models.options import WeightsOptions


def run(options: WeightsOptions, *, output: Path) -> None:
    """Obtain one checkpoint, check it, and store its ViT under the public key names.

    Args:
        options: where it is.
        output: `<name>.pth`, a plain state dict.

    Raises:
        MeddinoError: it cannot be had, its checksum is another, or it is no DINOv3 ViT.
    """
    # A checkpoint's reader goes by the suffix of its file.
    suffix = Path(options.url or options.file or "").suffix
    local = output.with_name(f".tmp-{output.stem}.original{suffix}")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        _obtain(options, output.stem, local)
        _check(options, output.stem, local)
        vit = weights.load_backbone(local)
    finally:
        local.unlink(missing_ok=True)
    with atomic(output) as temporary:
        torch.save(vit.state_dict(), temporary)


def _obtain(options: WeightsOptions, name: str, local: Path) -> None:
    try:
        if options.url is not None and not options.url.startswith(LOCAL):
            download(options.url, local, resume=options.sha256 is not None)
        elif options.url is not None:
            shutil.copyfile(local_path(options.url), local)
        elif options.file is not None:
            shutil.copyfile(options.file, local)
        else:
            raise MeddinoError(
                f"weights.{name}: {options.how or 'no source is known'}; then put the file's path"
                f" under weights.{name}.file in the configuration"
            )
    except FileNotFoundError as error:
        raise MeddinoError(
            f"weights.{name}: {options.file or options.url} does not exist; {options.how}"
        ) from error
    except OSError as error:
        raise MeddinoError(
            f"weights.{name}: {options.file or options.url} cannot be read ({error}); mend that, or"
            f" set weights.{name}.file to a copy"
        ) from error


def _check(options: WeightsOptions, name: str, local: Path) -> None:
    if options.sha256 is None:
        return
    found = sha256(local)
    if found != options.sha256:
        raise MeddinoError(
            f"weights.{name}: SHA-256 of {options.url or options.file} is {found}, expected "
            f"{options.sha256}; it is damaged or another version: obtain it again"
        )
