"""What torchrun starts, once a GPU: the public trainer, which is told of one more dataset."""

from typing import Any

from meddino.pretrain.dinov3.config import DATASET
from meddino.pretrain.dinov3.dataset import CT3M


def main() -> None:
    """Run the trainer; its own flags are on the command line."""
    from dinov3.data import loaders
    from dinov3.train import train

    known = loaders._parse_dataset_str

    def parse(dataset: str) -> tuple[Any, dict[str, Any]]:
        if dataset.startswith(DATASET):
            return CT3M, {"root": dataset.removeprefix(DATASET)}
        found: tuple[Any, dict[str, Any]] = known(dataset)
        return found

    loaders._parse_dataset_str = parse
    train.main()


if __name__ == "__main__":
    main()
