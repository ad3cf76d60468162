"""The `weights` verb: put a published checkpoint where the study looks for it, checked."""

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
        output: `<name>.pth`, a state dict with what tensors do not tell under `meta`.

    Raises:
        MeddinoError: it cannot be had, its checksum is another, or it is no DINOv3 ViT.
    """
    try:
        source = _obtain(options, output)
        _check(options, output.stem, source)
        vit = weights.load_backbone(source)
    finally:
        _download_path(options, output).unlink(missing_ok=True)
    content = {**vit.state_dict(), "meta": {"norm_eps": vit.architecture.norm_eps}}
    with atomic(output) as temporary:
        torch.save(content, temporary)


def _download_path(options: WeightsOptions, output: Path) -> Path:
    # A checkpoint's reader goes by the suffix of its file.
    suffix = Path(options.url or "").suffix
    return output.with_name(f".tmp-{output.stem}.original{suffix}")


def _obtain(options: WeightsOptions, output: Path) -> Path:
    """The published checkpoint: where it lies already, or downloaded beside `output`."""
    name = output.stem
    if options.url is not None and not options.url.startswith(LOCAL):
        local = _download_path(options, output)
        output.parent.mkdir(parents=True, exist_ok=True)
        download(options.url, local, resume=options.sha256 is not None)
        return local
    if options.url is None and options.file is None:
        raise MeddinoError(
            f"weights.{name}: {options.how or 'no source is known'}; then put the path of the file"
            f" or folder under weights.{name}.file in the configuration"
        )
    source = Path(options.file) if options.file else local_path(options.url or "")
    if not source.exists():
        raise MeddinoError(
            f"weights.{name}: {options.file or options.url} does not exist; {options.how}"
        )
    return weights.file_of(source)


def _check(options: WeightsOptions, name: str, local: Path) -> None:
    if options.sha256 is None:
        return
    try:
        found = sha256(local)
    except OSError as error:
        raise MeddinoError(
            f"weights.{name}: {local} cannot be read ({error}); mend that, or set"
            f" weights.{name}.file to a copy"
        ) from error
    if found != options.sha256:
        raise MeddinoError(
            f"weights.{name}: SHA-256 of {options.url or options.file} is {found}, expected "
            f"{options.sha256}; it is damaged or another version: obtain it again"
        )
