"""The `weights` verb: put a published checkpoint where the study looks for it, checked."""

import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, sha256
from meddino.datasets import clients
from meddino.datasets.download import download
from meddino.datasets.sources import LOCAL, local_path
from meddino.models import conversion, loading
from meddino.models.options import DINOV3, SEGFORMER, WeightsOptions

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
CONFIG = "config.json"
STANDINS = Path(__file__).parent / "standins"
"""Small ViTs that come with the package, made by `make standin`, in the form of transformers."""


def run(options: WeightsOptions, *, output: Path) -> None:
    """Obtain one checkpoint, check it, and store what a network starts from.

    Args:
        options: where it is, and what it must be.
        output: `<name>.pth`, a state dict with what tensors do not tell under `meta`: a ViT's under
            the public key names, SegFormer's encoder under ours, a library's under its own.

    Raises:
        MeddinoError: it cannot be had, its checksum is another, or it is of another network.
    """
    try:
        source = _obtain(options, output)
        _check(options, output.stem, source)
        content = _content(options.kind, source)
    finally:
        _download_path(options, output).unlink(missing_ok=True)
        shutil.rmtree(_hub_folder(output), ignore_errors=True)
    with atomic(output) as temporary:
        torch.save(content, temporary)


def _content(kind: str, source: Path) -> dict[str, Any]:
    """What is stored of a checkpoint of a kind."""
    if kind == DINOV3:
        vit = loading.load_backbone(source)
        return {**vit.state_dict(), "meta": {"norm_eps": vit.architecture.norm_eps}}
    if kind == SEGFORMER:
        from meddino.models.segformer import encoder_state

        tensors = {k: v for k, v in loading.read(source).items() if isinstance(v, Tensor)}
        return {**encoder_state(tensors, str(source)), "meta": {"kind": kind}}
    from meddino.models import library_vit

    description, tensors = library_vit.read_checkpoint(kind, source)
    return {**tensors, "meta": {"kind": kind, "description": description}}


def _download_path(options: WeightsOptions, output: Path) -> Path:
    # A checkpoint's reader goes by the suffix of its file.
    suffix = Path(options.url or "").suffix
    return output.with_name(f".tmp-{output.stem}.original{suffix}")


def _hub_folder(output: Path) -> Path:
    return output.with_name(f".tmp-{output.stem}.hub")


def _obtain(options: WeightsOptions, output: Path) -> Path:
    """The published checkpoint: where it lies already, or downloaded beside `output`."""
    name = output.stem
    if options.standin is not None:
        return loading.file_of(STANDINS / options.standin)
    if options.hub is not None:
        return _from_hub(options.hub, name, _hub_folder(output))
    if options.url is not None and not options.url.startswith(LOCAL):
        local = _download_path(options, output)
        output.parent.mkdir(parents=True, exist_ok=True)
        download(options.url, local, resume=options.sha256 is not None)
        return local
    if options.url is None and options.file is None:
        raise MeddinoError(
            f"weights.{name}: {options.how or 'no source is known'}; then put the path of the file"
            f" or folder under weights.{name}.file in the configuration (or, for a model on"
            f" Hugging Face, owner/name under weights.{name}.hub)"
        )
    source = Path(options.file) if options.file else local_path(options.url or "")
    if not source.exists():
        raise MeddinoError(
            f"weights.{name}: {options.file or options.url} does not exist; {options.how}"
        )
    return loading.file_of(source)


def _from_hub(reference: str, name: str, folder: Path) -> Path:
    """Bring the weights of a model on Hugging Face to a folder, with a `config.json` beside them.

    Args:
        reference: owner/name[@revision][:file].
        name: the entry of `weights`, for messages.
        folder: where the files go; what is there is replaced.

    Returns:
        The file of the weights.
    """
    address, _, file = reference.partition(":")
    repo, _, revision = address.partition("@")
    # Kept where the client fails, so that it resumes.
    scratch = folder.with_name(f"{folder.name}.client")

    def bring() -> str:
        hub = clients.hub()
        held = hub.list_repo_files(repo, revision=revision or None)
        weights = _choose_weights(held, file, f"weights.{name}: {address}")
        config = str(PurePosixPath(weights).with_name(CONFIG))
        for path in (weights, *([config] if config in held else [])):
            hub.hf_hub_download(repo, path, revision=revision or None, local_dir=scratch)
        return weights

    remedy = (
        f"accept its terms on huggingface.co and log in with `hf auth login`, or give what you"
        f" have as weights.{name}.file"
    )
    weights = clients.patiently(bring, f"weights.{name}: {address} on Hugging Face", remedy)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(scratch, folder)
    return folder / weights


def _choose_weights(held: list[str], file: str, source: str) -> str:
    """The file of the weights among those of a repository.

    Args:
        held: all files of the repository.
        file: the one that the reference names, or "".
        source: the repository, for messages.

    Raises:
        MeddinoError: the named one is absent, or there are none or several.
    """
    weights = sorted(path for path in held if path.endswith(WEIGHT_SUFFIXES))
    if file:
        if file not in held:
            raise MeddinoError(
                f"{source} holds no {file}, but {', '.join(weights) or 'no weights at all'}"
            )
        return file
    # save_pretrained may have written the same weights twice, and the first is the better one.
    if CONFIG in held and (standard := [path for path in conversion.FILES if path in held]):
        return standard[0]
    if not weights:
        raise MeddinoError(f"{source} holds no weights ({', '.join(WEIGHT_SUFFIXES)})")
    if len(weights) > 1:
        raise MeddinoError(
            f"{source} holds several files of weights: {', '.join(weights)}; name one behind the"
            f" reference, as in {source.rpartition(' ')[2]}:{weights[0]}"
        )
    return weights[0]


def _check(options: WeightsOptions, name: str, local: Path) -> None:
    if options.sha256 is None:
        return
    try:
        digest = sha256(local)
    except OSError as error:
        raise MeddinoError(
            f"weights.{name}: {local} cannot be read ({error}); mend that, or set"
            f" weights.{name}.file to a copy"
        ) from error
    if digest != options.sha256:
        raise MeddinoError(
            f"weights.{name}: SHA-256 of {options.url or options.file or options.hub} is {digest},"
            f" expected {options.sha256}; it is damaged or another version: obtain it again"
        )
