"""Marks and footnotes of rows that the paper does not have: 3D networks, and nnU-Net's presets."""

from meddino.report.options import TableOptions

MARKS = {"3d": "3D, not in the paper", "2d": "not in the paper"}
"""What stands beside the label of a row, by its kind."""
NOTES = {
    "3d": "nnU-Net's networks of volumes, which see neighbouring slices too. They have folds, loss,"
    " optimiser, rate and epochs of nnU-Net's 2D row; input, batch and spacing are planned for"
    " volumes, and training takes longer. The paper compares 2D networks alone, so that they say"
    " what its question leaves out and not which pretraining is better",
    "2d": "nnU-Net's ResEnc presets on slices, with the data, folds, optimiser and epochs of"
    " nnU-Net's 2D row and a larger network, input or batch",
}
"""What the footnote of a kind says."""


def mark(options: TableOptions, method: str) -> str:
    """What stands beside the label of a row; empty for the paper's kinds of methods."""
    return MARKS[options.beyond[method]] if method in options.beyond else ""


def marked(options: TableOptions, method: str) -> str:
    """The label of a row with its mark."""
    label, text = options.method_labels[method], mark(options, method)
    return f"{label} ({text})" if text else label


def notes(options: TableOptions) -> list[str]:
    """The footnotes of a table's marks."""
    kinds = set(options.beyond.values())
    return [f"{MARKS[kind]}: {text}." for kind, text in NOTES.items() if kind in kinds]
