"""Signals of collapse: whether a GPU gives the CPU's, and what they cost."""

import torch

from gpu_checks.bench import Bench, exact, largest_of
from gpu_checks.outcomes import Figures, Missed
from gpu_checks.stages import BACKBONE
from gpu_checks.timing import median_seconds
from meddino.ct3m.loader import SliceLoader
from meddino.models import loading
from meddino.models.vit import VisionTransformer, build
from meddino.pretrain.quality import signals

TOLERANCE = 1e-2
"""Largest relative difference: a rank counts directions that hardly anything stretches along."""
SLICES = 12


def collapse(bench: Bench) -> Figures:
    """Seconds by size of the slices, those of the eigenvalues alone, and the CPU's values."""
    exact()
    backbone = "vittiny8" if bench.small else BACKBONE
    vit = build(backbone).eval()
    loading.load_strictly(vit, loading.read(bench.weights(backbone)), "the bench's weights")
    sizes = (32,) if bench.small else (256, 512)
    slices = {px: SliceLoader(bench.index(px), batch_size=SLICES, seed=0).batch(0) for px in sizes}
    reference = signals(vit, slices[sizes[0]])
    vit.to(bench.device)
    taken = signals(vit, slices[sizes[0]].to(bench.device))
    difference, name = largest_of(taken, reference)
    figures: Figures = {"difference": difference, "of": name, "rank_patch": taken["rank_patch"]}
    for px in sizes:
        figures[f"seconds_{px}_px"] = _seconds(vit, slices[px].to(bench.device), bench)
    figures["eigvalsh_ms"] = {
        device: _eigvalsh_ms(vit.embed_dim, device)
        for device in dict.fromkeys((bench.device, "cpu"))
    }
    if difference > TOLERANCE:
        raise Missed(f"{name} differs by {difference:.2g} from the CPU's", figures)
    return figures


def _seconds(vit: VisionTransformer, slices: torch.Tensor, bench: Bench) -> float:
    return median_seconds(lambda: signals(vit, slices), bench.device, repeats=3, warmups=1)


def _eigvalsh_ms(width: int, device: str) -> float:
    """Of a symmetric matrix in float64, as the ranks take them."""
    x = torch.randn(width, 2 * width, device=device, dtype=torch.float64)
    gram = x @ x.T
    return 1000 * median_seconds(lambda: torch.linalg.eigvalsh(gram), device, repeats=3, warmups=1)
