"""The losses of DINOv3: DINO, iBOT, KoLeo, Gram anchoring, and Sinkhorn-Knopp assignments.

Equal in value and gradient to the public code (tests/golden). All of them compute in float32, even
under autocast, which would do their matrix products in half precision.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, NamedTuple, ParamSpec

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

P = ParamSpec("P")

SINKHORN_ITERATIONS = 3
"""Alternations of normalising prototypes and samples, as in SwAV and DINOv3. They do not converge:
prototypes come near to equal shares, which keeps all of them in use, and no nearer, so that samples
still go where they belong."""
PIECE_LOGITS = 2**27
"""Logits that are held at once (0.5 GB)."""
KEPT_LOGITS = 2**29
"""The teacher's logits of a step up to which they are kept (2 GB), and not computed each time that
they are needed."""


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


def exponentials(logits: Tensor) -> Tensor:
    """Exponentials of logits of any precision, float32 of the same shape."""
    # Logits are cosines times the norms of prototypes, so exp() cannot overflow in float32 at any
    # sane temperature, but would in half precision (exp(1 / 0.04) is 7e10). The public code
    # subtracts no maximum either.
    return logits.float().exp()


def shares(exponentials: Tensor, scales: Tensor) -> Tensor:
    """Exponentials (m, K) times the scales of prototypes (K,), with rows that sum to 1."""
    scaled = exponentials * scales
    return scaled.div_(scaled.sum(dim=1, keepdim=True))


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted sum of cross-entropies, and its slope by the logits.

    Args:
        logits: of C crops, (C, m, K) of any precision.
        target: shares of the classes, of each crop, float32 (m, K); rows sum to 1.
        weights: of the rows, float32 (C, m).

    Returns:
        Float32 scalar, and the precision and shape of the logits.
    """
    log_probs = F.log_softmax(logits, dim=-1, dtype=torch.float32)
    loss = -(weights * (target * log_probs).sum(dim=-1)).sum()
    slopes = log_probs.exp_().sub_(target).mul_(weights[..., None])
    return loss, slopes.to(logits.dtype)


class Kernels(NamedTuple):
    """What is done to each logit. On a GPU, compiling makes one pass of several."""

    exponentials: Callable[[Tensor], Tensor] = exponentials
    shares: Callable[[Tensor, Tensor], Tensor] = shares
    cross_entropy: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = cross_entropy

    def compiled(self) -> "Kernels":
        """The same, compiled when each is first called."""
        return Kernels(
            torch.compile(self.exponentials),
            torch.compile(self.shares),
            torch.compile(self.cross_entropy),
        )


PLAIN = Kernels()


def pieces(samples: int, prototypes: int) -> Iterator[slice]:
    """Samples whose logits are held at once."""
    step = max(1, PIECE_LOGITS // prototypes)
    return (slice(start, start + step) for start in range(0, samples, step))


def are_kept(samples: int, prototypes: int) -> bool:
    """Whether the logits of so many samples of the teacher are kept during a step."""
    return samples * prototypes <= KEPT_LOGITS


@dataclass(frozen=True)
class Assignments:
    """Sinkhorn-Knopp's assignments of samples to prototypes, which are computed piece by piece.

    They are exp(logits / temperature), scaled by a factor of each prototype and one of each sample.
    The latter follow from the former. All assignments of a step would fill a GPU: 10 GB in stage 1
    and 90 GB in stage 3 (ViT-B).
    """

    samples: Tensor
    """The teacher's, divided by its temperature, (n, d)."""
    scales: Tensor
    """Of prototypes, float32 (K,)."""
    kept: Tensor | None
    """Exponentials of the samples' logits, float32 (n, K), unless they are too many."""
    kernels: Kernels

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    def split(self, sizes: Sequence[int]) -> list["Assignments"]:
        """Those of the first so many samples, of the next, and so on."""
        none = [None] * len(sizes)
        kept = none if self.kept is None else self.kept.split(list(sizes))
        pairs = zip(self.samples.split(list(sizes)), kept, strict=True)
        return [replace(self, samples=samples, kept=kept) for samples, kept in pairs]

    @torch.no_grad()
    def of(self, rows: slice, prototypes: Tensor) -> Tensor:
        """Assignments of some samples, float32 (m, K); rows sum to 1.

        Args:
            rows: the samples.
            prototypes: of the teacher, (K, d).
        """
        if self.kept is not None:
            return self.kernels.shares(self.kept[rows], self.scales)
        logits = F.linear(self.samples[rows], prototypes)
        return self.kernels.shares(self.kernels.exponentials(logits), self.scales)


@torch.no_grad()
def sinkhorn(
    samples: Tensor, prototypes: Tensor, temperature: float, kernels: Kernels = PLAIN
) -> Assignments:
    """Assign samples to prototypes, so that each gets an equal share of them (Sinkhorn-Knopp).

    Args:
        samples: of this process, as the teacher's head compares them to prototypes, (n, d); the
            shares are equal over all processes' samples.
        prototypes: (K, d).
        temperature: of the teacher.
        kernels: as they are, or compiled.
    """

    def q(rows: slice) -> Tensor:
        return kernels.exponentials(F.linear(samples[rows], prototypes))

    # Divided here and not as logits, of which there are hundreds of times as many numbers.
    samples = samples / temperature
    shape = (len(samples), len(prototypes))
    kept = None
    if are_kept(*shape):
        kept = torch.empty(shape, device=samples.device)
        for rows in pieces(*shape):
            kept[rows] = q(rows)
    scales: Tensor | None = None
    for _ in range(SINKHORN_ITERATIONS):
        totals = torch.zeros(shape[1], device=samples.device)
        for rows in pieces(*shape):
            totals += _prototype_totals(q(rows) if kept is None else kept[rows], scales)
        scales = 1 / (shape[1] * _sum_over_processes(totals))
    assert scales is not None, "there is at least one iteration"
    return Assignments(samples, scales, kept, kernels)


@full_precision
def _prototype_totals(q: Tensor, scales: Tensor | None) -> Tensor:
    """Sums over samples (K,) of exponentials (m, K), each sample made to weigh 1 by `scales`.

    Without them, in the first iteration, samples weigh what their exponentials do.
    """
    return q.sum(dim=0) if scales is None else (1 / (q @ scales)) @ q


class _PrototypeLoss(torch.autograd.Function):
    """Cross-entropies of samples over prototypes, with logits held for one piece at a time.

    The slopes are taken on the way forward, so that no logits are kept for the way back: those of
    a part would be most of what a step holds and moves.
    """

    @staticmethod
    def forward(
        ctx: Any,
        samples: Tensor,
        prototypes: Tensor,
        targets: Iterable[tuple[slice, Tensor]],
        weights: Tensor,
        kernels: Kernels,
    ) -> Tensor:
        """See `_prototype_loss`; samples are in the precision of the matrix products."""
        matrix = prototypes.to(samples.dtype)
        sample_slopes, matrix_slopes = torch.empty_like(samples), torch.zeros_like(prototypes)
        total = torch.zeros((), device=samples.device)
        for rows, target in targets:
            # A target of fewer samples is that of one crop after the other.
            crops = (-1, len(target))
            logits = (samples[rows] @ matrix.T).unflatten(0, crops)
            loss, slopes = kernels.cross_entropy(logits, target, weights[rows].unflatten(0, crops))
            total += loss
            slopes = slopes.flatten(0, 1)
            sample_slopes[rows] = slopes @ matrix
            matrix_slopes += slopes.T @ samples[rows]
        ctx.save_for_backward(sample_slopes, matrix_slopes)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the slopes."""
        sample_slopes, matrix_slopes = ctx.saved_tensors
        return sample_slopes * slope, matrix_slopes * slope, None, None, None


def _prototype_loss(
    samples: Tensor,
    prototypes: Tensor,
    targets: Iterable[tuple[slice, Tensor]],
    weights: Tensor,
    temperature: float,
    kernels: Kernels,
) -> Tensor:
    """Weighted sum of the cross-entropies of samples over prototypes.

    Args:
        samples: the student's (n, d).
        prototypes: (K, d).
        targets: samples and their assignments, float32 (m, K), piece by piece.
        weights: of the samples, float32 (n,).
        temperature: of the student.
        kernels: as they are, or compiled.
    """
    samples, device = samples / temperature, samples.device.type
    if torch.is_autocast_enabled(device):
        samples = samples.to(torch.get_autocast_dtype(device))
    loss: Tensor = _PrototypeLoss.apply(  # type: ignore[no-untyped-call]
        samples, prototypes, targets, weights, kernels
    )
    return loss


def dino_loss(
    student: Tensor,
    prototypes: Tensor,
    target: Tensor,
    student_temp: float = 0.1,
    ignore_diagonal: bool = False,
    kernels: Kernels = PLAIN,
) -> Tensor:
    """Mean cross-entropy of every student crop against every teacher crop of the same image.

    Args:
        student: what the head compares to prototypes, (S, B, d) of S crops.
        prototypes: (K, d).
        target: the teacher's assignments (T, B, K).
        student_temp: temperature of the student.
        ignore_diagonal: leave out pairs of a crop with itself; student and teacher then have the
            same crops.
        kernels: as they are, or compiled.

    Returns:
        Scalar.
    """
    crops, images = student.shape[:2]
    # The cross-entropy is linear in the target, so that a crop needs one: the mean of its pairs'.
    mean = target.mean(dim=0)
    step = 1 if ignore_diagonal else max(1, PIECE_LOGITS // mean.numel())
    targets = (
        (
            slice(crop * images, (crop + step) * images),
            _mean_of_others(target, crop) if ignore_diagonal else mean,
        )
        for crop in range(0, crops, step)
    )
    weights = torch.full((crops * images,), 1 / (crops * images), device=student.device)
    return _prototype_loss(
        student.flatten(0, 1), prototypes, targets, weights, student_temp, kernels
    )


def _mean_of_others(target: Tensor, crop: int) -> Tensor:
    """Mean (B, K) of the assignments (T, B, K) of all crops but one."""
    others = [*target[:crop], *target[crop + 1 :]]
    return torch.stack(others).mean(dim=0)


def ibot_loss(
    student: Tensor,
    prototypes: Tensor,
    targets: Iterable[tuple[slice, Tensor]],
    masks: Tensor,
    masks_weight: Tensor | None = None,
    student_temp: float = 0.1,
    kernels: Kernels = PLAIN,
) -> Tensor:
    """Cross-entropy of masked patches, each image's patches weighing one together.

    Args:
        student: what the head compares to prototypes, (M, d) of the masked patches, image by image.
        prototypes: (K, d).
        targets: patches and their assignments, (m, K), piece by piece.
        masks: bool (B, N) of all images; those without a masked patch count as zero.
        masks_weight: (M,); None is one over the masked patches of the image.
        student_temp: temperature of the student.
        kernels: as they are, or compiled.

    Returns:
        Scalar.
    """
    if masks_weight is None:
        masks_weight = mask_weights(masks)
    # Over all images, as the public code: those without a hidden patch count as zero.
    weights = masks_weight / len(masks)
    return _prototype_loss(student, prototypes, targets, weights, student_temp, kernels)


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
