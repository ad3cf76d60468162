# Names that the rules share. All logic is in the package, which is tested without Snakemake.
import os
import shlex
from pathlib import Path

from meddino.core import layers
from meddino.core.errors import MeddinoError
from meddino.pipeline.options import options_json, run_folder
from meddino.pipeline.verbs import VERBS
from meddino.study import jobs, paths, targets
from meddino.study.model import Study
from snakemake_interface_executor_plugins.settings import DeploymentMethod

# Refuses what Snakemake takes in silence, such as a key that is given twice.
layers.read(workflow.configfiles)
STUDY = Study.parse(config)
RESULTS, RESOURCES = STUDY.results, STUDY.resources

# With `--sdm apptainer` rules run in this image, with `--sdm conda` in the environment that they name.
IMAGE = os.environ.get("MEDDINO_IMAGE", "containers/meddino.sif")
CONTAINED = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
if CONTAINED and "://" not in IMAGE and not Path(IMAGE).exists():
    raise MeddinoError(f"{IMAGE} is not there: `make container`, or say MEDDINO_IMAGE")

# On a cluster, rules that train stay outside, as SLURM is not in the image, and put their jobs into it.
SUBMITS = workflow.non_local_exec
TRAINING_IMAGE = False if SUBMITS else IMAGE
APPTAINER = (
    f"{workflow.deployment_settings.apptainer_args} {IMAGE}"
    if CONTAINED and SUBMITS
    else ""
)


container: IMAGE


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


def grows(amount):
    """Memory or time: as much again with each attempt (`retries` in a profile)."""
    return lambda wildcards, attempt: amount * attempt


def quoted(files):
    return shlex.join([files] if isinstance(files, str) else files)


def flags(wildcards, input, without=()):
    """Inputs that differ from job to job, as flags."""
    return " ".join(
        f"--{key.replace('_', '-')} {quoted(files)}"
        for key, files in input.items()
        if key not in without
    )


def tables(suffixes=("csv", "md", "tex")):
    return expand(
        f"{RESULTS}/tables/{{table}}.{{suffix}}", table=STUDY.tables, suffix=suffixes
    )


def over_runs(pattern):
    """Fill `pattern` in for every finetuning run that a table asks for."""
    return [pattern.format(**run._asdict()) for run in targets.runs(STUDY)]


wildcard_constraints:
    dataset="|".join(STUDY.used_datasets()),
    benchmark="|".join(STUDY.benchmarks),
    method="|".join(STUDY.methods),
    table="|".join(STUDY.tables),
    source="|".join(targets.probed(STUDY)) or "none",
    chunk=r"\d+",
    size=r"\d+",
    fold=r"\d",
    id=r"\d+",
    configuration=r"2d\w*",
