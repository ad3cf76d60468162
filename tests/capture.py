"""A dry run that writes down how SLURM's executor would submit every job, at each attempt.

The lines are made by snakemake-executor-plugin-slurm itself. `run_snakemake` knows this module as
an executor: `--executor capture`. A line of JSON for each job goes to the file that CAPTURED names.
"""

import json
import os
from types import SimpleNamespace
from typing import Any

from snakemake.executors.dryrun import Executor as DryRun
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry
from snakemake_interface_executor_plugins.settings import CommonSettings

CAPTURED = "MEDDINO_TEST_CAPTURED"
"""Environment variable: the file that is appended to."""
ATTEMPTS = (1, 2, 3)
"""A first try and as many more as the profile's `retries`."""

common_settings = CommonSettings(
    non_local_exec=True,  # so that groups ask for what they would ask a cluster for
    dryrun_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
)


class Executor(DryRun):
    """Takes all jobs, also local ones, and runs none."""

    def __init__(self, workflow: Any, logger: Any) -> None:
        super().__init__(workflow, logger)
        plugins = ExecutorPluginRegistry().plugins
        plugins["local"] = plugins["capture"]

    def run_job(self, job: Any) -> None:
        if not job.is_local or job.resources.get("sbatch"):
            with open(os.environ[CAPTURED], "a", encoding="utf-8") as file:
                for job.attempt in ATTEMPTS:
                    file.write(json.dumps(_submission(job)) + "\n")
            job.attempt = 1
        super().run_job(job)


def _submission(job: Any) -> dict[str, Any]:
    """How a job is submitted; one that submits itself has flags of its own."""
    steps = list(job.jobs) if job.is_group() else [job]
    own = job.resources.get("sbatch", "") if job.is_local else ""
    return {
        "rules": sorted({step.rule.name for step in steps}),
        "steps": [
            {"rule": step.rule.name, "wildcards": step.wildcards_dict, "threads": step.threads}
            for step in steps
        ],
        "attempt": job.attempt,
        "own": bool(own),
        "call": own or _call(job),
    }


def _call(job: Any) -> str:
    params = {
        "run_uuid": "meddino",
        "slurm_logfile": "log",
        "comment_str": "comment",
        "account": "",
        "partition": f"-p {job.resources.slurm_partition}",
        "workdir": None,
    }
    settings = SimpleNamespace(requeue=True, qos=None, reservation=None)
    call: str = get_submit_command(job, params, settings)
    return call + set_gres_string(job)
