"""What torchrun starts, once a GPU: the public trainer, with CT-3M among its datasets."""

from typing import Any

from meddino.pretrain.dinov3.config import DATASET
from meddino.pretrain.dinov3.dataset import CT3M


def main() -> None:
    """Run the trainer; its own flags are on the command line."""
    from dinov3.data import loaders
    from dinov3.train import train

    parse_public = loaders._parse_dataset_str

    def parse(dataset: str) -> tuple[Any, dict[str, Any]]:
        if dataset.startswith(DATASET):
            return CT3M, {"root": dataset.removeprefix(DATASET)}
        parsed: tuple[Any, dict[str, Any]] = parse_public(dataset)
        return parsed

    loaders._parse_dataset_str = parse
    train.main()


if __name__ == "__main__":
    main()
