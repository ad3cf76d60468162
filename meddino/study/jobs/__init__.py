"""What each job depends on: its options and its inputs, one module for each file of rules."""

from meddino.study.jobs import data, finetune, pretrain, report

__all__ = ["data", "finetune", "pretrain", "report"]
