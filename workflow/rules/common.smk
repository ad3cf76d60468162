# Names that the rules share. All logic is in the package, which is tested without Snakemake.
import shlex

from meddino.core import layers
from meddino.config import Study
from meddino.verbs import VERBS, options_json, run_folder

# Refuses what Snakemake takes in silence, such as a key that is given twice.
layers.read(workflow.configfiles)
STUDY = Study.parse(config)
RESULTS, RESOURCES = STUDY.results, STUDY.resources


def options(verb, *names, **fixed):
    """The verb's slice of the study: what the job is told, and what Snakemake tracks."""
    return lambda wildcards: options_json(
        STUDY, verb, **fixed, **{name: wildcards[name] for name in names}
    )


def revision(verb):
    return VERBS[verb].revision


def state(verb, *names, **fixed):
    """A folder for what a killed job resumes from: no output, since those are deleted on failure."""
    return lambda wildcards: run_folder(
        STUDY, verb, **fixed, **{name: wildcards[name] for name in names}
    )


def quoted(paths):
    return shlex.join([paths] if isinstance(paths, str) else paths)


def flags(wildcards, input, without=()):
    """Inputs that differ from job to job, as flags."""
    return " ".join(
        f"--{key.replace('_', '-')} {quoted(paths)}"
        for key, paths in input.items()
        if key not in without
    )


def tables(suffixes=("csv", "md", "tex")):
    return expand(
        f"{RESULTS}/tables/{{table}}.{{suffix}}", table=STUDY.tables, suffix=suffixes
    )


def over_runs(pattern):
    """Fill `pattern` in for every finetuning run that a table asks for."""
    return [pattern.format(**run._asdict()) for run in STUDY.runs()]


wildcard_constraints:
    dataset="|".join(STUDY.ct3m_and_benchmark_datasets()),
    benchmark="|".join(STUDY.benchmarks),
    method="|".join(STUDY.methods),
    table="|".join(STUDY.tables),
    source="|".join(STUDY.probed()) or "none",
    chunk=r"\d+",
    size=r"\d+",
    fold=r"\d",
    id=r"\d+",
    configuration=r"2d\w*",
