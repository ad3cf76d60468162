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
def sinkhorn_knopp(logits: Tensor, temperature: float, n_iterations: int = 3) -> Tensor:
    """Assign samples to prototypes so that each prototype gets an equal share.

    Args:
        logits: teacher's, (N, K), of this process; the shares are equal over all processes.
        temperature: of the teacher.
        n_iterations: alternations of normalising prototypes and samples (DINOv3: 3).

    Returns:
        Assignments (N, K); every row sums to 1.
    """
    # Logits are cosines times the norms of prototypes, so exp() cannot overflow in float32 at any
    # sane temperature, but would in half precision (exp(1 / 0.04) is 7e10). The public code
    # subtracts no maximum either.
    q = (logits.float() / temperature).exp()
    samples = _sum_over_processes(torch.tensor(float(len(q)), device=q.device))
    prototypes = q.shape[1]
    q = q / _sum_over_processes(q.sum())
    # Thrice, as in SwAV and DINOv3, is not to convergence: prototypes only come near to equal
    # shares, which keeps them all in use, while every sample still says what it looks like.
    for _ in range(n_iterations):
        q = q / _sum_over_processes(q.sum(dim=0, keepdim=True)) / prototypes
        q = q / q.sum(dim=1, keepdim=True) / samples
    return q * samples


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
