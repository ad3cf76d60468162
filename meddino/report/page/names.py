"""The printed names of a study: methods in their order, benchmarks, stages and checkpoints."""

from collections.abc import Iterable

from meddino.report.options import ReportOptions


def ordered_methods(options: ReportOptions, methods: Iterable[str]) -> list[str]:
    """Keys of methods in the configuration's order; methods that it does not name come last."""
    used = set(methods)
    return [name for name in options.order if name in used] + sorted(used - set(options.order))


def method_labels(options: ReportOptions, methods: Iterable[str]) -> list[str]:
    """Names of methods, in order: each has the colour of its place in all charts."""
    return [options.methods.get(name, name) for name in ordered_methods(options, methods)]


def stage_label(options: ReportOptions, stage: str) -> str:
    """A stage or published weights."""
    return options.stages.get(stage, stage)


def benchmark_label(options: ReportOptions, benchmark: str) -> str:
    """A benchmark."""
    return options.benchmarks.get(benchmark, benchmark)


def checkpoint_label(options: ReportOptions, name: str) -> str:
    """A probed model: `stage@iteration`, the key of weights, or `random`."""
    stage, at, iteration = name.partition("@")
    if at:
        return f"{stage_label(options, stage)} at {int(iteration):,}"
    return "random initialisation" if name == "random" else stage_label(options, stage)
