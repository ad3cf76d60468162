"""What the slices that were pretrained on are called."""

PAPER = "CT-3M"
"""The paper's name for them."""
OWN = "Pretraining data"
"""Their name where data of one's own are among them."""


def variant_label(corpus: str, variant: str) -> str:
    """A variant of the slices: the one with all of them bears the paper's name in CT-3M alone."""
    return "all" if variant == "paper" and corpus != PAPER else variant
