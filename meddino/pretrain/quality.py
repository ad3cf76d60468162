"""Signals that tell within minutes whether a backbone collapses or loses its dense features.

Losses do not: DINO's and iBOT's may stand still while features improve, and fall while they fade.
The training loop takes `signals` every `quality_every` iterations, of the teacher and always the
same few slices. It takes one forward pass of those slices (two with a reference), keeps no state,
draws no random numbers, and so changes nothing about the training.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from meddino.models.vit import VisionTransformer
from meddino.pretrain.crops import as_input
from meddino.pretrain.losses import full_precision


def rank_me(features: Tensor) -> float:
    """Effective rank of features: exp of the entropy of their singular values' shares.

    RankMe (Garrido et al. 2023, arXiv 2210.02885), which goes along with accuracy downstream; a
    fall means that features collapse into few directions.

    Args:
        features: (N, D); ranks compare for equal N and D only, and say most where N is far above D.

    Returns:
        From 1 (all features are multiples of one) to min(N, D); 1 as well where all are zero.

    Raises:
        ValueError: these are not N features, or not all are finite.
    """
    if features.ndim != 2 or not len(features) or not features.isfinite().all():
        raise ValueError(f"rank_me: needs finite features (N, D), not {tuple(features.shape)}")
    x = features.double()
    # The eigenvalues of the smaller Gram matrix are their squares, and far sooner there.
    gram = x.T @ x if len(x) > x.shape[1] else x @ x.T
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = singular / singular.sum().clamp(min=torch.finfo(singular.dtype).tiny)
    return float(torch.special.entr(shares).sum().exp())


def patch_similarity(patches: Tensor) -> float:
    """Mean cosine between different patches of an image.

    It climbs towards 1 as dense features fade: every patch then says the same.

    Args:
        patches: (B, N, D) with N of 2 or more.

    Returns:
        From -1 / (N - 1) to 1.
    """
    return float(_off_diagonal(patches).mean())


def patch_consistency(patches: Tensor, reference: Tensor) -> float:
    """How far the patches of an image are alike and unlike as in a reference.

    Gram anchoring (section 3.2) holds this up, and the other losses wear it down. It is the
    correlation of both backbones' cosines between patches, image by image, so that a rotation of
    features, or a spread of theirs, does not matter.

    Args:
        patches: (B, N, D) with N of 3 or more.
        reference: (B, N, D') of the same images on the same grid.

    Returns:
        Mean over images, from -1 to 1; an image counts as 0 where all patches are alike.
    """
    cosines, anchors = (
        x - x.mean(dim=1, keepdim=True) for x in map(_off_diagonal, (patches, reference))
    )
    return float(F.cosine_similarity(cosines, anchors, dim=1).mean())


@full_precision
def _off_diagonal(patches: Tensor) -> Tensor:
    """Cosines of all pairs of patches of an image: (B, N, D) to float32 (B, N * (N - 1) / 2)."""
    directions = F.normalize(patches.float(), dim=-1)
    cosines = directions @ directions.transpose(1, 2)
    count = patches.shape[1]
    rows, columns = torch.triu_indices(count, count, offset=1, device=patches.device)
    return cosines[:, rows, columns]


@torch.no_grad()
def signals(
    teacher: VisionTransformer, slices: Tensor, reference: VisionTransformer | None = None
) -> dict[str, float]:
    """Take all signals of a backbone in evaluation mode.

    Args:
        teacher: the backbone.
        slices: int16 (B, S, S) in HU, on its device; S is a multiple of its patches.
        reference: a backbone to compare with, such as the Gram teacher or the stage's start.

    Returns:
        `rank_patch` and `rank_cls` (RankMe of patch and class tokens), `patch_similarity`,
        `cls_similarity` (mean cosine between the class token and its patches, whose rise DINOv3
        reports where dense features fade), and with a reference `patch_consistency`.
    """
    images = as_input(slices)
    tokens = teacher.forward_features(images)
    cls, patches = tokens["x_norm_clstoken"], tokens["x_norm_patchtokens"]  # (B, D), (B, N, D)
    values = {
        "rank_patch": rank_me(patches.flatten(0, 1)),
        "rank_cls": rank_me(cls),
        "patch_similarity": patch_similarity(patches),
        "cls_similarity": float(F.cosine_similarity(cls[:, None], patches, dim=-1).mean()),
    }
    if reference is not None:
        anchor = reference.forward_features(images)["x_norm_patchtokens"]
        values["patch_consistency"] = patch_consistency(patches, anchor)
    return values
