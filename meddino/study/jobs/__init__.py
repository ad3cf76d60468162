"""What each job depends on: its options and its inputs, one module for each file of rules."""

from meddino.study.jobs import (
    backbones,
    data,
    failures,
    finetune,
    label_curve,
    pretrain,
    report,
    transfer,
)
from meddino.study.model import Study

__all__ = [
    "backbones",
    "data",
    "failures",
    "finetune",
    "label_curve",
    "needs_quota",
    "pretrain",
    "report",
    "transfer",
]


def needs_quota(study: Study) -> bool:
    """Whether rules of workflow/rules/quota.smk have jobs: something is freed, or took its turn."""
    return not study.keep_raw or finetune.in_turn(study)
