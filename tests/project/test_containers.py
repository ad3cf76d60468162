"""Image, conda environment and audit: what they name agrees with the locks and the rules."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from packaging.requirements import Requirement
from places import ROOT

DEFINITION = (ROOT / "containers/meddino.def").read_text()
SCRIPTS = sorted([*ROOT.glob("containers/*.sh"), *ROOT.glob("envs/*.sh"), ROOT / ".ci/run"])
DEBIANS_PYTHON = {"python_full_version": "3.11.2"}
"""In the image; the tests may run in another."""
BILL = ROOT / "build/containers/meddino.sbom.cdx.json"


def module(path: str) -> ModuleType:
    """Load a script of the repository that is no part of the package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def section(name: str) -> str:
    match = re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", DEFINITION, re.M | re.S)
    assert match, name
    return match[1]


def pins(name: str) -> dict[str, Requirement]:
    found = map(Requirement, module("envs/lock.py").pins(name))
    return {requirement.name: requirement for requirement in found}


def programs(folder: Path, **scripts: str) -> str:
    """Make shell programs; return a search path with them first."""
    for name, body in scripts.items():
        program = folder / name.replace("_", "-")
        program.write_text(f"#!/bin/bash\n{body}\n")
        program.chmod(0o755)
    return f"{folder}:{Path(sys.executable).parent}:/usr/bin:/bin"


# --- The definition --------------------
def test_every_template_of_the_definition_has_a_default() -> None:
    used = set(re.findall(r"\{\{ (\w+) \}\}", DEFINITION))
    defaults = dict(re.findall(r"^    ([A-Z]+)=(.*)$", section("arguments"), re.M))
    assert used == set(defaults)
    assert defaults["BOOTSTRAP"] == "docker" and defaults["TORCH"] == "cuda"
    assert re.fullmatch(r"debian:12\.\d+-slim@sha256:[0-9a-f]{64}", defaults["FROM"])
    assert re.fullmatch(r"20\d{6}T\d{6}Z", defaults["SNAPSHOT"]), "a moment of Debian's archive"


def test_the_definition_installs_what_make_setup_does() -> None:
    assert 'bash /opt/meddino/install.sh "{{ TORCH }}" "{{ SNAPSHOT }}"' in section("post")
    install = (ROOT / "containers/install.sh").read_text()
    assert 'bash src/envs/setup.sh python3 venv "$torch"' in install
    assert "--require-hashes -r src/envs/lock-tools.txt" in install
    for source in (line.split()[0] for line in section("files").splitlines() if line.strip()):
        assert (ROOT / source).exists(), source


def test_the_oci_image_is_made_of_the_same() -> None:
    """Base, moment of Debian, build of torch, sources and steps of the two images are equal."""
    text = (ROOT / "containers/Containerfile").read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.M))
    defaults = dict(re.findall(r"^    ([A-Z]+)=(.*)$", section("arguments"), re.M))
    assert arguments.pop("FROM") == f"docker.io/library/{defaults.pop('FROM')}"
    assert arguments == {key: value for key, value in defaults.items() if key != "BOOTSTRAP"}
    copied = {
        source for line in re.findall(r"^COPY (.*)$", text, re.M) for source in line.split()[:-1]
    }
    assert copied == {line.split()[0] for line in section("files").splitlines() if line.strip()}
    assert 'bash /opt/meddino/install.sh "$TORCH" "$SNAPSHOT"' in text
    sent = set(re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.M))
    assert sent == copied


def test_building_without_apptainer_says_what_is_missing(tmp_path: Path) -> None:
    path = programs(tmp_path)
    if shutil.which("apptainer", path=path):
        pytest.skip("Apptainer is installed here")
    command = ["bash", str(ROOT / "containers/build.sh"), str(tmp_path / "x.sif")]
    run = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=False)
    assert run.returncode == 1 and "needs Apptainer" in run.stderr
    assert not (tmp_path / "x.sif").exists()


def test_a_container_test_that_cannot_run_says_so_loudly() -> None:
    if os.getuid():
        pytest.skip("takes root to become somebody else")
    command = ["setpriv", "--reuid", "65534", "--clear-groups", "bash", "containers/test.sh"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "Permission denied" in run.stderr:
        pytest.skip("others may not read this checkout")
    assert run.returncode == 0, run.stderr
    assert "CONTAINER TEST SKIPPED: only root" in run.stdout


def test_scripts_pass_shellcheck() -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    run = subprocess.run(["shellcheck", *SCRIPTS], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_the_bill_of_materials_lists_what_is_locked() -> None:
    if not BILL.exists():
        pytest.skip("no image was built here (make container-test)")
    bill = json.loads(BILL.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "meddino"
    listed = {part["purl"] for part in bill["components"]}
    for pin in pins("lock.txt").values():
        if not pin.marker or pin.marker.evaluate(DEBIANS_PYTHON):
            name = re.sub(r"[-_.]+", "-", pin.name)
            assert f"pkg:pypi/{name}@{str(pin.specifier).removeprefix('==')}" in listed
    assert any(part.startswith("pkg:deb/debian/libc6@") for part in listed)


# --- The conda environment --------------------
def test_the_conda_environment_is_the_locks() -> None:
    text = (ROOT / "envs/meddino.yaml").read_text()
    assert text == module("envs/lock.py").conda(), "run `make lock`"
    environment = yaml.safe_load(text)
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    *programs, pip = environment["dependencies"]
    assert programs == ["python=3.11", "pip"]
    found = {pin.name: pin for pin in map(Requirement, pip["pip"])}
    assert found == pins("lock.txt") | pins("lock-torch.txt")


def test_torch_is_one_release_in_all_locks() -> None:
    cuda, cpu = pins("lock-torch.txt"), pins("lock-torch-cpu.txt")
    assert str(cpu["torch"].specifier) == f"{cuda['torch'].specifier}+cpu"
    assert "nvidia-cudnn-cu13" in cuda and set(cpu) == {"torch", "torchvision"}
    assert cpu["torchvision"] == pins("lock.txt")["torchvision"]


def test_torchvision_loads_here() -> None:
    """timm and transformers import it; a build for another torch would fail."""
    import torchvision

    assert torchvision.ops.misc.FrozenBatchNorm2d


def test_torchvision_asks_for_operators_before_it_describes_them() -> None:
    module_of = module("envs/torchvision_python.py")
    source = (
        "import functools\n\n\n@functools.lru_cache(None)\ndef library(): ...\n\n\n"
        '@torch.library.register_fake("torchvision::nms")\ndef nms(): return 1\n'
    )
    text = module_of.guarded(source)
    described: list[str] = []

    def register(operator: str) -> Any:
        described.append(operator)
        return lambda describe: describe

    torch = SimpleNamespace(library=SimpleNamespace(register_fake=register))
    for exist in (False, True):
        vision = SimpleNamespace(extension=SimpleNamespace(_has_ops=lambda: exist))  # noqa: B023
        names: dict[str, Any] = {"torch": torch, "torchvision": vision}
        exec(text, names)
        assert names["nms"]() == 1
        assert described == ["torchvision::nms"] * exist
    with pytest.raises(ValueError, match="another one than expected"):
        module_of.guarded(text)


# --- Other builds of torch --------------------
def wheel(index: Path, name: str, version: str, requires: str = "") -> str:
    """Put an empty package into an index of files; return its SHA-256."""
    base = f"{name.replace('-', '_')}-{version}"
    path = index / name / f"{base}-py3-none-any.whl"
    path.parent.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{base}.dist-info/METADATA", metadata)
        archive.writestr(f"{base}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{base}.dist-info/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    link = f'<a href="{quote(path.name)}#sha256={digest}">{path.name}</a>'
    (path.parent / "index.html").write_text(link)
    return digest


def test_a_lock_for_an_older_cuda_is_what_pip_resolves_with_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The makers' index is played by a folder, and no other one is asked."""
    lock = module("envs/lock.py")
    torch, vision = lock.releases()["torch"], lock.releases()["torchvision"]
    needs = "Requires-Dist: nvidia-nccl-cu12==2.29.3\nRequires-Dist: filelock\n"
    digests = {
        f"torch=={torch}+cu126": wheel(tmp_path, "torch", f"{torch}+cu126", needs),
        f"torchvision=={vision}+cu126": wheel(tmp_path, "torchvision", f"{vision}+cu126"),
        "nvidia-nccl-cu12==2.29.3": wheel(tmp_path, "nvidia-nccl-cu12", "2.29.3"),
    }
    wheel(tmp_path, "filelock", "1.0")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", tmp_path.as_uri())
    text = lock.torch_for("cu126", tmp_path.as_uri())
    pins = dict(re.findall(r"^(\S+) \\\n    --hash=sha256:(\w+)$", text, flags=re.M))
    assert pins == digests, "what lock.txt holds is left out"

    with pytest.raises(SystemExit, match=r"pip cannot resolve torch==\S+\+cu999"):
        lock.torch_for("cu999", tmp_path.as_uri())


@pytest.mark.parametrize(
    ("asked", "here", "says", "installs"),
    [
        ("auto", [], "for CPUs ALONE", "lock-torch-cpu.txt"),
        ("auto", ["nvidia_smi"], "with its CUDA libraries", "lock-torch.txt"),
        ("cuda", [], "with its CUDA libraries", "lock-torch.txt"),
        ("cu126", [], "torch for cu126", "lock-torch-cu126.txt"),
    ],
)
def test_setup_takes_the_build_of_torch_that_is_asked_for(
    tmp_path: Path, asked: str, here: list[str], says: str, installs: str
) -> None:
    """pip and Python are played by programs that note how they are called."""
    shutil.copytree(ROOT / "envs", tmp_path / "envs")
    (tmp_path / "envs/lock-torch-cu126.txt").write_text("torch\n")
    path = programs(tmp_path, **dict.fromkeys(here, "true"))
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    note = f'echo "$@" >> {tmp_path}/calls'
    programs(venv / "bin", pip=note, python=f"{note}; [ $1 != -c ]")  # no module can be imported
    command = ["bash", "envs/setup.sh", sys.executable, "venv"]
    if not here and shutil.which("nvidia-smi", path=path):
        pytest.skip("this machine has a GPU")

    def run(build: str) -> tuple[str, str]:
        (tmp_path / "calls").write_text("")
        environment = {"PATH": path}
        done = subprocess.run(
            [*command, build], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stderr, (tmp_path / "calls").read_text()

    printed, calls = run(asked)
    assert says in printed
    assert f"{installs}\n" in calls and "uninstall" not in calls
    cpu = installs == "lock-torch-cpu.txt"
    assert ("--extra-index-url https://download.pytorch.org/whl/cpu " in calls) == cpu
    assert ("envs/torchvision_python.py\n" in calls) == cpu
    # pip would leave another build of the same release in place.
    assert "uninstall --quiet --yes torch torchvision\n" not in run(asked)[1]
    other = "cuda" if cpu else "cpu"
    assert "uninstall --quiet --yes torch torchvision\n" in run(other)[1]


def test_make_sets_up_anew_for_another_build_of_torch(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "envs").mkdir()
    for name in ("lock.txt", "lock-torch.txt", "lock-torch-cpu.txt"):
        (tmp_path / "envs" / name).touch()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.torch").write_text("cpu\n")
    (tmp_path / ".venv/.ready").touch()

    def planned(*arguments: str) -> str:
        command = ["make", "--no-print-directory", "--dry-run", "setup", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout

    assert "setup.sh" not in planned() + planned("TORCH=cpu")
    assert "setup.sh" in planned("TORCH=cuda")


def test_a_build_of_torch_that_there_is_none_of_is_refused(tmp_path: Path) -> None:
    command = ["bash", "envs/setup.sh", sys.executable, str(tmp_path / "venv"), "rocm"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1 and "TORCH=rocm is none of auto, cpu, cuda, cu126" in run.stderr
    assert not (tmp_path / "venv").exists()


# --- The rules --------------------
def test_every_rule_with_a_command_names_its_environment() -> None:
    text = "\n".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    inherited = re.findall(r"^ *use rule (\w+) as (\w+) with:", text, flags=re.M)
    bases = {"verb", "index", "fetch", "passing", "preprocess"}
    assert len(inherited) > 15 and {base for base, _ in inherited} == bases
    rules = re.split(r"^ *rule\b", text, flags=re.M)[1:]
    rules = [rule for rule in rules if re.search(r"python -m meddino|TRAIN$", rule, flags=re.M)]
    assert len(rules) == 4, "the bases of the others, and the two that train"
    for rule in rules:
        assert re.search(r'conda:\s+"../../envs/meddino.yaml"', rule), rule[:60]
        # Rules that submit their own jobs put these into the image themselves.
        trains = re.search(r"shell:\s+TRAIN$", rule, flags=re.M) is not None
        assert ("container:" in rule) == trains, rule[:60]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "config.yaml", tmp_path)
    return tmp_path


def snakemake(
    folder: Path, path: str, *arguments: str, image: str = ""
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--directory", str(folder), "--cores", "1"]
    command += ["--configfile", "profiles/demo/study.yaml", "containers/study.yaml", *arguments]
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    environment |= {"MEDDINO_IMAGE": image} if image else {}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_rules_run_in_the_image_and_another_image_reruns_nothing(study: Path) -> None:
    """Apptainer is played by a program that notes how it is called and runs the command here."""
    (study / "bin").mkdir()
    path = programs(
        study / "bin",
        apptainer='[ "$1" = --version ] && { echo apptainer version 1.4.5; exit; }\n'
        f'echo "$@" >> {study}/calls\n'
        'while [ "$1" != -c ]; do shift; done; exec bash -c "$2"',
    )
    target = "resources/demo/phantom/amos22/SHA256SUMS"
    contained = ["--sdm", "apptainer", "--", target]

    missing = snakemake(study, path, *contained)
    assert missing.returncode and "containers/meddino.sif is not there: `make container`" in (
        missing.stdout + missing.stderr
    )

    (study / "my.sif").touch()
    assert snakemake(study, path, *contained, image="my.sif").returncode == 0
    assert re.search(
        r"exec --home .* my\.sif bash -c .*meddino phantom", (study / "calls").read_text()
    )
    assert (study / target).exists()

    (study / "other.sif").touch()
    again = snakemake(study, path, "--dry-run", *contained, image="other.sif")
    assert "Nothing to be done" in again.stdout + again.stderr


# --- The audit --------------------
@pytest.mark.parametrize(
    ("control", "locked", "status", "says"),
    [
        ("", "", 0, "AUDIT SKIPPED"),
        ('{"name": "jinja2", "skip_reason": "not found"}', "", 0, "AUDIT SKIPPED"),
        ("FLAW", '{"name": "numpy", "version": "2", "vulns": []}', 0, "1 packages, 0 known flaws"),
        ("FLAW", "FLAW", 1, "jinja2 2.10: PYSEC-1, mended in 2.10.1"),
    ],
    ids=["unreachable", "knows-nothing", "clean", "flawed"],
)
def test_an_audit_without_a_database_is_no_clean_bill(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    control: str,
    locked: str,
    status: int,
    says: str,
) -> None:
    """pip-audit is played by a program with one answer for the control and one for the locks."""
    flaw = json.dumps(
        {
            "name": "jinja2",
            "version": "2.10",
            "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.10.1"]}],
        }
    )
    answer = {
        key: f"echo '{{\"dependencies\": [{text.replace('FLAW', flaw)}]}}'" if text else "exit 1"
        for key, text in (("control", control), ("locked", locked))
    }
    body = f'case "$*" in *control.txt*) {answer["control"]};; *) {answer["locked"]};; esac'
    programs(tmp_path, pip_audit=body)
    audit = module("envs/audit.py")
    monkeypatch.setattr(audit, "tools", lambda: tmp_path)
    assert audit.main([]) == status
    assert says in capsys.readouterr().out
