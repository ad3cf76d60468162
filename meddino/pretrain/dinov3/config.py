"""What the public trainer's configuration must say for a stage to be ours.

No key is invented: all stand in its `ssl_default_config.yaml`. An epoch is made one iteration long,
so that all its lengths in epochs are ours in iterations. Nothing here imports torch: a study is
checked with `refusals` before anything runs.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meddino.core.errors import MeddinoError
from meddino.models.architectures import Architecture
from meddino.pretrain.options import Head, PretrainOptions, StageOptions

DATASET = "CT3M:root="
"""How our dataset begins in the trainer's `train.dataset_path`; a path follows."""
ARCHITECTURES = {"vits16": "vit_small", "vitb16": "vit_base", "vitl16": "vit_large"}
"""The trainer's names of ours."""
NORMS = {1e-5: "layernormbf16", 1e-6: "layernorm"}
"""The trainer's names of layer norms, by epsilon; neither computes in bf16."""
FFN_RATIO = 4.0
STUDENT_TEMPERATURE = 0.1


def refusals(options: PretrainOptions) -> list[str]:
    """List what the public trainer cannot do of a stage, each as `key: why, and the remedy`."""
    stage = options.stage
    low, high = stage.masking.ratio
    between = [n for n in stage.snapshots if n % stage.checkpoint_every]
    problems = {
        "backbone": options.backbone not in ARCHITECTURES
        and f"the public trainer has no {options.backbone}; use one of {', '.join(ARCHITECTURES)}",
        "device": stage.device == "cpu" and "the public trainer needs a GPU; use auto or cuda",
        "objective.student_temperature": stage.objective.student_temperature != STUDENT_TEMPERATURE
        and f"it is fixed at {STUDENT_TEMPERATURE} in the public trainer",
        "start": stage.start == "own"
        and "the public trainer starts student and teacher from one checkpoint; use teacher",
        "masking.ratio": low == high and "the public trainer wants the second above the first",
        "checkpoint_every": bool(between)
        and f"the public trainer keeps no snapshot between checkpoints, such as {between[:1]};"
        f" use a divisor of {math.gcd(*stage.snapshots)}",
    }
    return [f"{key}: {problem}" for key, problem in problems.items() if problem]


def trainer_config(
    options: PretrainOptions,
    architecture: Architecture,
    *,
    dataset: Path,
    start: Path,
    gram: Path | None,
    gpus: int,
    workers: int,
) -> dict[str, Any]:
    """Write down a stage in the trainer's words.

    Args:
        options: the stage, without `refusals`.
        architecture: of all backbones.
        dataset: description that `meddino.pretrain.dinov3.dataset.CT3M` reads.
        start: folder that student and teacher start from.
        gram: folder of the Gram teacher, if the stage has one.
        gpus: number of processes, which share a batch.
        workers: processes that load data, for each GPU.

    Raises:
        MeddinoError: the batch does not divide by the GPUs, or the trainer has no such ViT.
    """
    stage = options.stage
    if stage.batch_size % gpus:
        raise MeddinoError(
            f"pretrain.stages.{options.name}.batch_size = {stage.batch_size}: does not divide by"
            f" {gpus} GPUs; change it, or choose GPUs with CUDA_VISIBLE_DEVICES"
        )
    return {
        "compute_precision": {"param_dtype": stage.precision},
        "dino": _dino(stage),
        "ibot": _ibot(stage),
        "gram": _gram(stage, gram),
        "student": _student(options, architecture, start),
        "train": _train(stage, dataset, gpus, workers),
        "optim": _optim(stage),
        "schedules": _schedules(stage),
        "crops": _crops(stage),
        "evaluation": {"eval_period_iterations": 0},
        "checkpointing": {
            "period": stage.checkpoint_every,
            "keep_every": math.gcd(*stage.snapshots),
            "max_to_keep": 2,
        },
    }


def _head(head: Head) -> dict[str, Any]:
    return {
        "head_n_prototypes": head.prototypes,
        "head_hidden_dim": head.hidden,
        "head_bottleneck_dim": head.bottleneck,
    }


def _dino(stage: StageOptions) -> dict[str, Any]:
    return {
        **_head(stage.dino_head),
        "loss_weight": stage.objective.dino,
        "global_ignore_diagonal": True,
        "koleo_loss_weight": stage.objective.koleo,
        "reweight_dino_local_loss": True,
        "local_loss_weight_schedule": _steady(stage.objective.dino_local),
    }


def _ibot(stage: StageOptions) -> dict[str, Any]:
    return {
        **_head(stage.ibot_head),
        "loss_weight": stage.objective.ibot,
        "mask_sample_probability": stage.masking.probability,
        "mask_ratio_min_max": list(stage.masking.ratio),
    }


def _train(stage: StageOptions, dataset: Path, gpus: int, workers: int) -> dict[str, Any]:
    return {
        "dataset_path": f"{DATASET}{dataset}",
        "batch_size_per_gpu": stage.batch_size // gpus,
        "OFFICIAL_EPOCH_LENGTH": 1,
        "seed": stage.seed,
        # The trainer has a set of loading processes for each kind of batch.
        "num_workers": max(1, workers // len(stage.resolutions)),
        # Chooses the sampler that skips whole epochs at once when a run resumes.
        "cache_dataset": True,
        "checkpointing": stage.activation_checkpointing is not False,
        "checkpointing_full": stage.activation_checkpointing is not False,
        "compile": stage.compile,
    }


def _student(options: PretrainOptions, a: Architecture, start: Path) -> dict[str, Any]:
    if a.norm_eps not in NORMS or a.ffn_ratio != FFN_RATIO:
        raise MeddinoError(
            f"pretrain.stages.{options.name}.init: a ViT with norms of epsilon {a.norm_eps:g} and"
            f" ffn_ratio {a.ffn_ratio:g} is not one of the public trainer's; use engine meddino"
        )
    return {
        "arch": ARCHITECTURES[options.backbone],
        "patch_size": a.patch_size,
        "drop_path_rate": options.stage.drop_path,
        "layerscale": a.layerscale,
        "norm_layer": NORMS[a.norm_eps],
        "n_storage_tokens": a.storage_tokens,
        "qkv_bias": a.qkv_bias,
        "mask_k_bias": a.mask_k_bias,
        "untie_cls_and_patch_norms": a.untie_cls_norm,
        "untie_global_and_local_cls_norm": a.untie_local_cls_norm,
        "pos_embed_rope_base": a.rope_base,
        "pos_embed_rope_rescale_coords": options.stage.rope_rescale,
        "resume_from_teacher_chkpt": str(start),
    }


def _gram(stage: StageOptions, gram: Path | None) -> dict[str, Any]:
    if gram is None:
        return {"use_loss": False}
    return {
        "use_loss": True,
        "loss_weight": stage.objective.gram,
        "ckpt": str(gram),
        "rep_update": False,
        "normalized": True,
        "img_level": True,
    }


def _optim(stage: StageOptions) -> dict[str, Any]:
    o = stage.optim
    return {
        "epochs": stage.iterations,
        # `learning_rates` has applied the stage's rule; the trainer must not apply its own again.
        "scaling_rule": "none",
        "clip_grad": o.clip_grad,
        "layerwise_decay": o.layerwise_decay,
        "patch_embed_lr_mult": o.patch_embed_lr,
        "adamw_beta1": o.betas[0],
        "adamw_beta2": o.betas[1],
    }


def _schedules(stage: StageOptions) -> dict[str, Any]:
    """The trainer's second form of schedules, whose values are ours."""
    o, objective, total = stage.optim, stage.objective, stage.iterations
    peak, end = stage.learning_rates
    temperature, final_temperature = objective.teacher_temperature
    rise = objective.teacher_temperature_warmup
    return {
        "lr": {
            **_schedule(0.0, peak, end, o.warmup, total),
            "freeze_last_layer_epochs": o.freeze_last_layer,
        },
        "weight_decay": _steady(o.weight_decay),
        "momentum": _schedule(o.momentum[0], *o.momentum, 0, total),
        "teacher_temp": _schedule(temperature, final_temperature, final_temperature, rise, total),
    }


def _schedule(start: float, peak: float, end: float, warmup: int, total: int) -> dict[str, Any]:
    """Rise and cosine. A rise longer than the stage, which the trainer refuses, is cut short."""
    if warmup > total:
        reached = start + (peak - start) * total / warmup
        return _schedule(start, reached, reached, total, total)
    return {"start": start, "peak": peak, "end": end, "warmup_epochs": warmup}


def _steady(value: float) -> dict[str, Any]:
    return _schedule(value, value, value, 0, 1)


def _crops(stage: StageOptions) -> dict[str, Any]:
    """Sizes for the trainer, and for the record what it leaves to our own crops."""
    total = sum(resolution.ratio for resolution in stage.resolutions)
    return {
        "global_crops_scale": list(stage.augmentation.global_scale),
        "local_crops_scale": list(stage.augmentation.local_scale),
        "local_crops_number": stage.augmentation.local_crops,
        "horizontal_flips": stage.augmentation.flip,
        "global_crops_size": _each([r.global_px for r in stage.resolutions]),
        "local_crops_size": _each([r.local_px for r in stage.resolutions]),
        "gram_teacher_crops_size": _each([r.gram_px for r in stage.resolutions]),
        "global_local_crop_pairs_ratios": _each([r.ratio / total for r in stage.resolutions]),
        "gram_teacher_no_distortions": True,
    }


def _each(values: Sequence[Any]) -> Any:
    """One value, or the list of those of several resolutions."""
    return values[0] if len(values) == 1 else list(values)
