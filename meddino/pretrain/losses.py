"""The losses of DINOv3: DINO, iBOT, KoLeo, Gram anchoring, and Sinkhorn-Knopp assignments.

Equal in value and gradient to the public code (tests/golden). All of them compute in float32, even
under autocast, which would do their matrix products in half precision.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

P = ParamSpec("P")

SINKHORN_ITERATIONS = 3
"""Alternations of normalising prototypes and samples, as in SwAV and DINOv3. They do not converge:
prototypes come near to equal shares, which keeps all of them in use, and no nearer, so that samples
still go where they belong."""
PIECE_LOGITS = 2**27
"""Logits that Sinkhorn-Knopp holds at once (0.5 GB), less than a part's losses take anyway."""


def full_precision(measure: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Compute a loss or a measure of features without autocast."""

    @wraps(measure)
    def computed(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return measure(*args, **kwargs)

    return computed


def _sum_over_processes(x: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(x)
    return x


@torch.no_grad()
def prototype_scales(
    samples: Tensor,
    project: Callable[[Tensor], Tensor],
    temperature: float,
) -> Tensor:
    """Sinkhorn-Knopp: scales of prototypes by which each gets an equal share of all samples.

    The assignments are exp(logits / temperature), scaled by a factor of each prototype and one of
    each sample. The latter follow from the former, so that prototypes' scales are all there is to
    keep: logits are computed piece by piece, once an iteration, and never held together.

    Args:
        samples: of this process, (n, d); the shares are equal over all processes' samples.
        project: maps samples (m, d) to the teacher's logits (m, K).
        temperature: of the teacher.

    Returns:
        float32 (K,), for `assign`.
    """
    prototypes = project(samples[:0]).shape[1]
    scales: Tensor | None = None
    for _ in range(SINKHORN_ITERATIONS):
        totals = torch.zeros(prototypes, device=samples.device)
        for piece in samples.split(max(1, PIECE_LOGITS // prototypes)):
            totals += _prototype_totals(project(piece), temperature, scales)
        scales = 1 / (prototypes * _sum_over_processes(totals))
    assert scales is not None, "there is at least one iteration"
    return scales


def _exponentials(logits: Tensor, temperature: float) -> Tensor:
    # Logits are cosines times the norms of prototypes, so exp() cannot overflow in float32 at any
    # sane temperature, but would in half precision (exp(1 / 0.04) is 7e10). The public code
    # subtracts no maximum either.
    return (logits.float() / temperature).exp_()


@full_precision
def _prototype_totals(logits: Tensor, temperature: float, scales: Tensor | None) -> Tensor:
    """Sums over samples (K,) of logits (m, K); by `scales`, each sample's row is made to sum to 1.

    Without them, in the first iteration, samples weigh what their exponentials do.
    """
    q = _exponentials(logits, temperature)
    return q.sum(dim=0) if scales is None else (1 / (q @ scales)) @ q


@torch.no_grad()
@full_precision
def assign(logits: Tensor, temperature: float, scales: Tensor) -> Tensor:
    """Assignments (m, K) of samples by logits (m, K) and `prototype_scales`; rows sum to 1."""
    q = _exponentials(logits, temperature).mul_(scales)
    return q.div_(q.sum(dim=1, keepdim=True))


@full_precision
def dino_loss(
    student_logits: Tensor,
    teacher_probs: Tensor,
    student_temp: float = 0.1,
    ignore_diagonal: bool = False,
) -> Tensor:
    """Mean cross-entropy of every student crop against every teacher crop of the same image.

    Args:
        student_logits: (S, B, K) of S crops.
        teacher_probs: assignments (T, B, K).
        student_temp: temperature of the student.
        ignore_diagonal: leave out pairs of a crop with itself (student's s and teacher's s).

    Returns:
        Scalar.
    """
    log_probs = F.log_softmax(student_logits.float() / student_temp, dim=-1)
    pairs = -torch.einsum("sbk,tbk->st", log_probs, teacher_probs.float())  # (S, T)
    images = student_logits.shape[1]
    if not ignore_diagonal:
        return pairs.sum() / (pairs.numel() * images)
    same = min(pairs.shape)
    off = pairs.sum() - pairs.diagonal().sum()
    return off / ((pairs.numel() - same) * images)


@full_precision
def ibot_loss(
    student_logits: Tensor,
    teacher_probs: Tensor,
    masks: Tensor,
    masks_weight: Tensor | None = None,
    student_temp: float = 0.1,
) -> Tensor:
    """Cross-entropy of masked patches, each image's patches weighing one together.

    Args:
        student_logits: (M, K) of the masked patches, image by image.
        teacher_probs: assignments (M, K) of the same patches.
        masks: bool (B, N) of all images; those without a masked patch count as zero.
        masks_weight: (M,); None is one over the masked patches of the image.
        student_temp: temperature of the student.

    Returns:
        Scalar.
    """
    if masks_weight is None:
        masks_weight = mask_weights(masks)
    log_probs = F.log_softmax(student_logits.float() / student_temp, dim=-1)
    losses = -(teacher_probs.float() * log_probs).sum(dim=-1)  # (M,)
    # Over all images, as the public code: those without a hidden patch count as zero.
    return (losses * masks_weight).sum() / len(masks)


def mask_weights(masks: Tensor) -> Tensor:
    """One over the masked patches of its image, for every masked patch: bool (B, N) to (M,)."""
    counts = masks.sum(dim=1, keepdim=True).clamp(min=1)
    return (1.0 / counts).expand_as(masks)[masks]


@full_precision
def koleo_loss(x: Tensor) -> Tensor:
    """Kozachenko-Leonenko regulariser: mean -log distance to the nearest neighbour.

    Args:
        x: features (B, D) of different images; the neighbours are sought within this process.

    Returns:
        Scalar.
    """
    x = F.normalize(x.float(), dim=-1, eps=1e-8)
    with torch.no_grad():
        similarity = x @ x.T  # (B, B)
        similarity.fill_diagonal_(-1)  # nobody is their own neighbour
        nearest = similarity.argmax(dim=1)
    # As the public code: epsilon inside the distance, and again inside the logarithm.
    distances = F.pairwise_distance(x, x[nearest], p=2, eps=1e-8)
    return -(distances + 1e-8).log().mean()


@full_precision
def gram_loss(
    student: Tensor,
    teacher: Tensor,
    img_level: bool = True,
    normalize: bool = True,
    remove_neg: bool = False,
    remove_only_teacher_neg: bool = False,
) -> Tensor:
    """Mean squared difference of the patches' similarities (section 3.2; DINOv3, section 4.2).

    Args:
        student: patch tokens (B, N, D).
        teacher: patch tokens (B, N, D) of the Gram teacher.
        img_level: similarities within each image, or within the whole batch.
        normalize: compare directions only.
        remove_neg: count negative similarities as zero on both sides.
        remove_only_teacher_neg: count them as zero where the teacher's are negative.

    Returns:
        Scalar.
    """
    student, teacher = student.float(), teacher.float()
    if normalize:
        student, teacher = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    if not img_level:
        student, teacher = student.flatten(0, 1), teacher.flatten(0, 1)
    # (B, N, N), or (B*N, B*N) of the whole batch
    similarity, target = student @ student.transpose(-1, -2), teacher @ teacher.transpose(-1, -2)
    if remove_neg:
        similarity, target = similarity.clamp(min=0), target.clamp(min=0)
    elif remove_only_teacher_neg:
        # The target is clipped first in the public code, so the student's side is never changed.
        target = target.clamp(min=0)
    return F.mse_loss(similarity, target)


def resize_features(patches: Tensor, grid: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Resize patch tokens as a map, bicubic: (B, h*w, D) to (B, h'*w', D).

    Done before they are normalised, as DINOv3 does with the Gram teacher's features.
    """
    features = patches.transpose(1, 2).unflatten(2, grid).float()
    resized = F.interpolate(features, size=to, mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2)
