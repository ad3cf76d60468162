"""Options of each verb: cut out of a study, as JSON for its job, and as the name of its run folder.

The workflow passes them to each job, so that Snakemake tracks exactly what the job depends on; the
command line asks for them when a person runs a verb by hand.
"""

import hashlib
import inspect
import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from meddino.core.errors import MeddinoError
from meddino.core.explain import explain
from meddino.pipeline.verbs import VERBS
from meddino.study.model import Study


def selectors(name: str) -> list[str]:
    """The names that pick a verb's slice out of a study, such as `stage` for `pretrain`."""
    options = VERBS[name].options
    parameters = [] if options is None else list(inspect.signature(options).parameters.values())
    return [p.name for p in parameters[1:] if p.default is p.empty]


def select(study: Study, name: str, **chosen: str) -> Any:
    """Cut the options of a verb out of `study`.

    Raises:
        MeddinoError: the study has no stage, method or dataset of the chosen name.
    """
    options = VERBS[name].options
    assert options is not None, f"{name} takes no options from a study"
    return options(study, **chosen)


def options_json(study: Study, name: str, **chosen: str) -> str:
    """The same as canonical JSON: equal options give equal text."""
    return to_json(select(study, name, **chosen))


def to_json(options: Any) -> str:
    """Any options as canonical JSON."""
    value = TypeAdapter(type(options)).dump_python(options, mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def run_folder(study: Study, name: str, **chosen: str) -> str:
    """A folder for what a killed job resumes from.

    Its name ends in a digest of the options and the revision, so that a run of other settings
    never finds it. It is no output, since Snakemake deletes those of a failed job.
    """
    picked = {key: chosen[key] for key in selectors(name)}
    identity = f"{options_json(study, name, **picked)}{VERBS[name].revision}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return f"{study.results}/runs/{name}/{'-'.join([*chosen.values(), digest])}"


def parse_options(kind: Any, text: str) -> Any:
    """Read options from JSON.

    Raises:
        MeddinoError: a key or value does not fit, named with what is allowed.
    """
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        raise MeddinoError(explain(error, "--options", kind)) from error
