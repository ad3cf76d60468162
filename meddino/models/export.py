"""The `export` verb: write a checkpoint's ViT as the public code, transformers or timm read it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from meddino.core.errors import MeddinoError
from meddino.core.files import atomic, write_json
from meddino.models import conversion, loading
from meddino.models.vit import VisionTransformer

FORMATS = ("dinov3", "transformers", "timm")


def export(vit: VisionTransformer, layout: str, output: Path) -> list[str]:
    """Write a ViT in the layout of another code.

    Args:
        vit: the ViT.
        layout: `dinov3` gives `backbone.pth`, a bare state dict under the public key names;
            `transformers` and `timm` give `model.safetensors` and `config.json`.
        output: folder; what else is in it stays.

    Returns:
        What the layout does not carry of this ViT, in words. timm never has the mask token, which
        only pretraining uses.

    Raises:
        MeddinoError: the layout cannot express this ViT, or the folder cannot be written.
    """
    if layout == "dinov3":
        with atomic(output / "backbone.pth") as temporary:
            torch.save(vit.state_dict(), temporary)
        eps = vit.architecture.norm_eps
        return [] if eps == 1e-5 else [f"its norms have an epsilon of {eps:g}, which is not stored"]
    convert = {"transformers": conversion.to_transformers, "timm": conversion.to_timm}[layout]
    state, config = convert(vit)
    with atomic(output / "model.safetensors") as temporary:
        save_file(state, temporary, {"format": "pt"})
    write_json(output / "config.json", config)
    return conversion.differences(vit)


def main(arguments: Sequence[str]) -> None:
    """Export a checkpoint from the command line.

    Raises:
        MeddinoError: the checkpoint cannot be read or exported.
    """
    parser = argparse.ArgumentParser(prog="python -m meddino export", description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, metavar="PATH", help="checkpoint")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    flags = parser.parse_args(arguments)
    vit = loading.load_backbone(flags.weights)
    try:
        lost = export(vit, flags.format, flags.output)
    except MeddinoError as error:
        raise MeddinoError(f"{flags.weights} as {flags.format}: {error}") from error
    for note in lost:
        print(f"note: {note}", file=sys.stderr)
    print(f"{flags.output} holds {flags.weights} for {flags.format}")
