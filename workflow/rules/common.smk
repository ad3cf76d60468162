# Names that the rules share. All logic is in the package, which is tested without Snakemake.
import os
import shlex
from pathlib import Path

from meddino.cli.estimate import Estimator, Figures
from meddino.core import layers
from meddino.core.errors import MeddinoError
from meddino.pipeline.options import options_json, run_folder, selectors, to_json
from meddino.pipeline.verbs import VERBS
from meddino.study import jobs, paths, targets
from meddino.study.model import Study
from snakemake_interface_executor_plugins.settings import DeploymentMethod

# Refuses what Snakemake takes in silence, such as a key that is given twice.
layers.read(workflow.configfiles)
STUDY = Study.parse(config)
ESTIMATOR = Estimator(STUDY, Figures.read())


pathvars:
    results=STUDY.results,
    resources=STUDY.resources,


# With `--sdm apptainer` rules run in this image, with `--sdm conda` in the environment that they name.
IMAGE = os.environ.get("MEDDINO_IMAGE", "containers/meddino.sif")
CONTAINED = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
if CONTAINED and "://" not in IMAGE and not Path(IMAGE).exists():
    raise MeddinoError(f"{IMAGE} is not there: `make container`, or say MEDDINO_IMAGE")


container: IMAGE


def params_of(verb, **fixed):
    """What a job of a verb depends on besides files, for Snakemake to track.

    Wildcards pick the verb's part of the study by their names, where `fixed` does not.
    """

    def options(wildcards):
        names = [name for name in selectors(verb) if name not in fixed]
        picked = {name: wildcards[name] for name in names}
        return options_json(STUDY, verb, **picked, **fixed)

    return {"verb": verb, "options": options, "revision": VERBS[verb].revision}


def passes_of(piece):
    """Options of fetching and freeing, for a job that does both; `piece` names what it fetches."""
    return {
        "fetch": lambda wildcards: to_json(piece(wildcards).fetch),
        "free": lambda wildcards: to_json(piece(wildcards).free),
        "raw": lambda wildcards: piece(wildcards).manifest,
        "receipt": lambda wildcards: piece(wildcards).receipt,
    }


def state(verb, *names, **fixed):
    """A folder for what a killed job resumes from: no output, since those are deleted on failure."""
    return lambda wildcards: run_folder(
        STUDY, verb, **fixed, **{name: wildcards[name] for name in names}
    )


def limit(resource):
    """The most that a profile allows a job, such as `max_mem_mb` among its default-resources."""
    limits = workflow.resource_settings.default_resources or {}
    name = f"max_{resource}"
    return limits[name].value if name in limits else float("inf")


def grows(mem_mb):
    """Memory (MB): as much again with each attempt (`retries` in a profile), up to the limit."""
    return lambda wildcards, attempt: min(mem_mb * attempt, limit("mem_mb"))


def asks(rule, mem_mb):
    """Memory, and the time that `cost` expects with a margin: more with each attempt.

    And one `step`, of which profiles/slurm allows a group one at a time.
    """

    def minutes(wildcards, threads, attempt):
        expected = ESTIMATOR.minutes(rule, dict(wildcards.items()), threads)
        return min(expected * attempt, limit("runtime"))

    return {"mem_mb": grows(mem_mb), "runtime": minutes, "step": 1}


def flags(wildcards, input):
    """Named inputs as flags of the command; for the others a job only waits."""
    return " ".join(
        f"--{name.replace('_', '-')} {shlex.join([files] if isinstance(files, str) else files)}"
        for name, files in input.items()
    )


# Every other rule is this one with a verb, files and options of its own.
rule verb:
    conda:
        "../../envs/meddino.yaml"
    params:
        files=flags,
    shell:
        "python -m meddino {params.verb} --options {params.options:q} {params.files}"
        " --output {output[0]:q} > {log:q} 2>&1"


# Rules that train run where Snakemake runs, or submit a job and wait for it there.
TRAIN = (
    "python -m meddino submit --folder {params.state:q}.job --sbatch={resources.sbatch:q}"
    " --apptainer={resources.apptainer:q} -- {params.verb} --options {params.options:q}"
    " {params.files} --state {params.state:q} --output {output[0]:q} > {log:q} 2>&1"
    " && rm -rf {params.state:q}"
)


def submits(rule):
    """Whether a profile gives a rule flags of sbatch, so that it waits for a job of its own."""
    return "sbatch" in workflow.resource_settings.overwrite_resources.get(rule, {})


def training_image(rule):
    """Where a rule that trains runs: outside where it submits, as SLURM is not in the image."""
    return False if submits(rule) else IMAGE


def training_resources(rule, mem_mb):
    """Resources of a rule that trains: next to nothing where it waits for its job."""
    if not submits(rule):
        return {"mem_mb": grows(mem_mb), "sbatch": "", "apptainer": ""}
    image = f"{workflow.deployment_settings.apptainer_args} {IMAGE}"
    return {"mem_mb": 200, "sbatch": "", "apptainer": image if CONTAINED else ""}


wildcard_constraints:
    dataset="|".join(STUDY.used_datasets()),
    benchmark="|".join(STUDY.benchmarks),
    method="|".join(STUDY.methods),
    table="|".join(STUDY.tables),
    source="|".join([*targets.probed(STUDY), *targets.probed_backbones(STUDY)])
    or "none",
    chunk=r"\d+",
    size=r"\d+",
    fold=r"\d",
    id=r"\d+",
    configuration=r"2d\w*",
