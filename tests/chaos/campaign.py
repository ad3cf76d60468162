"""Faults at random moments of a small study (`make chaos`); what came of them: docs/faults.md.


A finished study is the reference. For every fault it is copied, put back to the moment before one
of its jobs, drawn at random, and gone on with; the fault comes at a random moment of that job. Then
the study is run once more. Results are added to a file line by line, so that a campaign that was
cut off can be gone on with (`--resume`).
"""

import argparse
import base64
import contextlib
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
RESULTS, RESOURCES = Path("results/chaos"), Path("resources/chaos")
LOG = Path("logs/snakemake.log")
TIMEOUT_S = 1200.0
DISK_MB = 96
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
CHANGED = "pancreas_ct"
"""The dataset that changes between runs: of CT-3M, and of no benchmark."""
BESIDE = {
    "phantom": "..",
    "fetch": "..",
    "convert": "..",
    "plan": "..",
    "preprocess": "../nnUNetPlans_2d",
    "predict": "..",
    "card": "..",
    "figures": "..",
}
"""What a rule makes beside its outputs, from its first output on."""
TASK = "--partition=gpu --gpus-per-node=1 --cpus-per-task=1 --mem=3G --time=20"
TRAIN = ("pretrain_natural", "pretrain_stage2", "finetune")
ON_SLURM = [
    *("--executor", "slurm", "--jobs", "20", "--retries", "2", "--local-cores", "2"),
    *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1"),
    *("--slurm-jobname-prefix", "meddino", "--slurm-logdir", "logs/slurm", "--slurm-requeue"),
    *("--seconds-between-status-checks", "2", "--resources", "mem_mb=16000"),
    *("--default-resources", "slurm_partition=cpu", "mem_mb=1000", "runtime=10"),
    *("--set-resources", *(f"{rule}:mem_mb=200" for rule in TRAIN)),
    *(f"{rule}:sbatch='{TASK}'" for rule in TRAIN),
]
"""The same study on the SLURM of `make slurm-test`."""


# ---- the study ---------------------------------------------------------------------------------


@dataclass
class Job:
    """A job as Snakemake's log tells of it."""

    rule: str
    outputs: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.outputs[0] if self.outputs else self.rule


def read_log(text: str) -> tuple[dict[str, Job], list[str]]:
    """Jobs that were started, by name, and the names of those that were finished, in order."""
    started: dict[str, Job] = {}
    numbers: dict[str, Job] = {}
    finished: list[str] = []
    job, now, begun = Job(""), 0.0, {}
    for line in text.splitlines():
        if match := re.match(r"\[(\w{3} \w{3} +\d+ [\d:]+ \d{4})\]", line):
            now = datetime.strptime(match[1], "%a %b %d %H:%M:%S %Y").timestamp()
        elif match := re.match(r"(?:(?:local)?rule|Error in rule) (\w+):", line):
            job = Job(match[1])
        elif match := re.match(r"    (output|input): (.*)", line):
            setattr(job, f"{match[1]}s", match[2].split(", "))
        elif match := re.match(r"    jobid: (\d+)", line):
            started.setdefault(job.name, job)
            numbers.setdefault(match[1], job)
            begun.setdefault(match[1], now)
        elif match := re.match(r"Finished jobid: (\d+)", line):
            numbers[match[1]].seconds = now - begun[match[1]]
            finished.append(numbers[match[1]].name)
    return started, finished


def lay_out(folder: Path) -> None:
    """Make a folder look like a checkout, with weights that somebody has put there."""
    folder.mkdir(parents=True)
    for name in ("workflow", "profiles", "config.yaml", "meddino"):
        (folder / name).symlink_to(ROOT / name)
    given = folder / RESOURCES / "given/dinov3.pth"
    given.parent.mkdir(parents=True)
    code = (
        "import sys, torch; from meddino.models import vit; torch.manual_seed(0);"
        "m = vit.build('vittiny8');"
        "torch.save({**m.state_dict(), 'meta': {'norm_eps': m.architecture.norm_eps}}, sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(given)], cwd=ROOT, check=True)


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1", **more}


def start(
    folder: Path, said: Path, flags: list[str] | None = None, **more: str
) -> subprocess.Popen[bytes]:
    """Start the study as a person would; what it says goes to a file."""
    command = [sys.executable, "-m", "meddino", "study", "--profile", "profiles/chaos"]
    command += [*(flags or []), "--", "all"]
    with said.open("wb") as file:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        kill_all(process.pid)
        return -99


def family(process: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process)
        return [parent, *parent.children(recursive=True)]
    return []


def kill_all(process: int) -> None:
    for member in family(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


def workers(process: int) -> list[psutil.Process]:
    """Processes of a study that work on a job."""
    found = []
    for member in family(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            line = member.cmdline()
            if line[1:3] == ["-m", "meddino"] and line[3:4] != ["study"]:
                found.append(member)
    return found


def snakemake_of(process: int) -> psutil.Process | None:
    for member in family(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            if member.cmdline()[1:3] == ["-m", "snakemake"]:
                return member
    return None


def tables(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / RESULTS / "tables").glob("table*"))}


def strays(folder: Path) -> list[str]:
    """What no finished study should hold."""
    patterns = (".tmp-*", ".old-*", "*.part", "downloads", "unpacked")
    found = [p for area in (RESULTS, RESOURCES) for n in patterns for p in (folder / area).rglob(n)]
    found += [p for p in (folder / RESULTS / "runs").rglob("*") if p.is_file()]
    for name in ("locks", "incomplete"):
        found += (folder / ".snakemake" / name).glob("*")
    return sorted(p.relative_to(folder).as_posix() for p in found)


def put_back(folder: Path, jobs: list[Job]) -> None:
    """Undo jobs: their outputs, what lies beside, and what Snakemake knows of them."""
    for job in jobs:
        for output in job.outputs:
            name = base64.b64encode(output.encode()).decode()
            (folder / ".snakemake/metadata" / name).unlink(missing_ok=True)
            (folder / output).unlink(missing_ok=True)
        if job.rule in BESIDE:
            beside = Path(os.path.normpath(folder / job.name / BESIDE[job.rule]))
            shutil.rmtree(beside, ignore_errors=True)


def last_words(text: str, lines: int = 12) -> str:
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


# ---- one trial ---------------------------------------------------------------------------------


class Skip(Exception):
    """This machine cannot make the fault; the reason."""


@dataclass
class Trial:
    """One fault, and what came of it."""

    number: int
    fault: str
    moment: str = ""
    delay_s: float = 0.0
    detail: str = ""
    code: int | None = None
    said: str = ""
    again: int | None = None
    said_again: str = ""
    same_tables: bool = False
    reran: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    clear: bool = False
    unseen: bool = False
    skipped: str = ""
    seconds: float = 0.0

    @property
    def survived(self) -> bool:
        whole = self.again == 0 and self.same_tables and not self.unseen
        return whole and not self.reran and not self.strays


class Scene:
    """A copy of the reference, put back to before a job, in which one fault happens."""

    def __init__(self, work: Path, jobs: list[Job], trial: Trial, rng: random.Random) -> None:
        self.reference = work / "reference"
        self.folder = work / "trial"
        self.trial, self.rng, self.jobs = trial, rng, jobs
        self.kept: list[str] = []
        self.undo: list[Callable[[], Any]] = []
        self.at_end: list[Callable[[], Any]] = []
        self.said = work / "said.txt"
        self.tmp = work / "tmp"
        self.flags = ON_SLURM if KINDS[trial.fault].slurm else []

    def __enter__(self) -> "Scene":
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.tmp, ignore_errors=True)
        self.folder.mkdir()
        self.tmp.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        self.mend()
        while self.at_end:
            self.at_end.pop()()
        shutil.rmtree(self.folder, ignore_errors=True)

    def mend(self) -> None:
        """Take the cause of a fault away, as a person would before the rerun."""
        while self.undo:
            self.undo.pop()()

    def copy(self, before: Job | None) -> None:
        """Copy the reference, and undo a job and all that ended after it."""
        shutil.copytree(self.reference, self.folder, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(self.folder / "logs")
        if before is not None:
            cut = self.jobs.index(before)
            put_back(self.folder, self.jobs[cut:])
            self.kept = [job.name for job in self.jobs[:cut]]
            self.trial.moment = before.name.removeprefix(f"{RESULTS}/")

    def until(self, process: subprocess.Popen[bytes], job: Job) -> None:
        """Wait for a random moment of a job."""
        deadline = time.monotonic() + TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            if job.name in read_log(self.log())[0]:
                break
            time.sleep(0.05)
        self.trial.delay_s = round(self.rng.uniform(0, 1.2 * job.seconds + 0.5), 2)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.trial.delay_s)

    def made(self) -> list[Path]:
        """All files of results and resources."""
        areas = (self.folder / area for area in (RESULTS, RESOURCES))
        return [path for area in areas for path in area.rglob("*") if path.is_file()]

    def log(self) -> str:
        path = self.folder / LOG
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, **more: str) -> subprocess.Popen[bytes]:
        return start(self.folder, self.said, self.flags, TMPDIR=str(self.tmp), **more)

    def ended(self, process: subprocess.Popen[bytes]) -> list[str]:
        """Wait for the disturbed run; what it said, and the jobs that are finished after it."""
        self.trial.code = wait(process)
        self.trial.said = last_words(self.said.read_text(errors="replace"))
        return [*self.kept, *read_log(self.log())[1]]

    def rerun(self, finished: list[str], reference: dict[str, bytes]) -> None:
        """Run the study once more, and look what is there."""
        trial = self.trial
        trial.again = wait(self.start())
        trial.said_again = last_words(self.said.read_text(errors="replace"))
        started = read_log(self.log())[0]
        trial.reran = sorted(set(started) & set(finished))
        trial.same_tables = tables(self.folder) == reference
        trial.strays = strays(self.folder)


Fault = Callable[[Scene, Job, dict[str, bytes]], None]


def at_a_moment(strike: Callable[[Scene, subprocess.Popen[bytes]], None]) -> Fault:
    """A fault that strikes the running study, which then is run once more."""

    def fault(scene: Scene, job: Job, reference: dict[str, bytes]) -> None:
        scene.copy(job)
        process = scene.start()
        scene.until(process, job)
        strike(scene, process)
        finished = scene.ended(process)
        scene.mend()
        scene.rerun(finished, reference)

    return fault


def kill_everything(scene: Scene, process: subprocess.Popen[bytes]) -> None:
    kill_all(process.pid)
    scene.trial.clear = True  # which says nothing; the rerun has to


def kill_snakemake(scene: Scene, process: subprocess.Popen[bytes]) -> None:
    if snakemake := snakemake_of(process.pid):
        snakemake.kill()


def kill_both(scene: Scene, process: subprocess.Popen[bytes]) -> None:
    """Jobs live on, with nobody who knows of them."""
    snakemake = snakemake_of(process.pid)
    process.kill()
    if snakemake:
        with contextlib.suppress(psutil.NoSuchProcess):
            snakemake.kill()
    scene.trial.clear = True


def kill_worker(scene: Scene, process: subprocess.Popen[bytes]) -> None:
    if found := workers(process.pid):
        victim = scene.rng.choice(found)
        with contextlib.suppress(psutil.NoSuchProcess):
            scene.trial.detail = victim.cmdline()[3]
            victim.kill()
    else:
        scene.trial.detail = "no job ran at that moment"


def tell(number: signal.Signals) -> Callable[[Scene, subprocess.Popen[bytes]], None]:
    def strike(scene: Scene, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(number)

    return strike


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise Skip(f"mount: {done.stderr.strip()}")


def small_disk(scene: Scene, place: Path, size: str) -> None:
    mount("-t", "tmpfs", "-o", f"size={size}", "none", str(place))
    scene.at_end.append(lambda: subprocess.run(["umount", "-l", str(place)], check=True))


def fill(scene: Scene, place: Path) -> None:
    """Take all that is left of a disk."""
    path = place / "filler"
    scene.undo.append(lambda: path.unlink(missing_ok=True))
    for piece in (1 << 16, 64):
        with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
            while file.write(bytes(piece)) == piece:
                pass


def disk_full(scene: Scene, job: Job, reference: dict[str, bytes]) -> None:
    small_disk(scene, scene.folder, f"{DISK_MB}m")
    at_a_moment(lambda scene, _: fill(scene, scene.folder))(scene, job, reference)


def tmpdir_full(scene: Scene, job: Job, reference: dict[str, bytes]) -> None:
    small_disk(scene, scene.tmp, "1m")
    at_a_moment(lambda scene, _: fill(scene, scene.tmp))(scene, job, reference)


def read_only(scene: Scene, process: subprocess.Popen[bytes]) -> None:
    results = str(scene.folder / RESULTS)
    mount("--bind", results, results)
    scene.undo.append(lambda: subprocess.run(["umount", "-l", results], check=True))
    mount("-o", "remount,ro,bind", results)


def second_start(scene: Scene, job: Job, reference: dict[str, bytes]) -> None:
    scene.copy(job)
    process = scene.start()
    if scene.rng.random() < 0.5:
        scene.until(process, job)
    else:
        time.sleep(scene.rng.uniform(0, 0.5))
    second = scene.said.with_name("second.txt")
    code = wait(start(scene.folder, second, TMPDIR=str(scene.tmp)))
    scene.trial.detail = f"the second ended with {code}"
    finished = scene.ended(process)
    scene.trial.said = last_words(second.read_text())
    scene.trial.clear = code == 2 and "another run is under way" in scene.trial.said
    first = scene.trial.code
    scene.rerun(finished, reference)
    if first != 0:
        scene.trial.again = first


def queued(scene: Scene) -> list[str]:
    """Jobs of the study that SLURM has, once it has one."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        answer = subprocess.check_output(["squeue", "--noheader", "--format=%i %Z"], text=True)
        found = [line.split(maxsplit=1) for line in answer.splitlines()]
        if mine := [number for number, folder in found if folder == str(scene.folder)]:
            return mine
        time.sleep(0.5)
    return []


def on_a_job(*command: str) -> Callable[[Scene, subprocess.Popen[bytes]], None]:
    """Do something to a job of SLURM; the study should survive it without a rerun."""

    def strike(scene: Scene, _: subprocess.Popen[bytes]) -> None:
        if numbers := queued(scene):
            chosen = scene.rng.choice(numbers)
            subprocess.run([*command, chosen], check=False, capture_output=True)
            scene.trial.detail = f"SLURM job {chosen}"

    return strike


def node_down(scene: Scene, _: subprocess.Popen[bytes]) -> None:
    """A node is lost with what runs on it, and comes back."""
    queued(scene)
    node = scene.trial.detail = scene.rng.choice(["n1", "n2"])
    for state in ("down", "resume"):
        update = ["scontrol", "update", f"NodeName={node}", f"State={state}", "Reason=chaos"]
        subprocess.run(update, check=False, capture_output=True)  # back by itself
        time.sleep(2)


def time_out(scene: Scene, process: subprocess.Popen[bytes]) -> None:
    """A job does not get on, and reaches its time limit."""
    if numbers := queued(scene):
        chosen = scene.rng.choice(numbers)
        scene.trial.detail = f"SLURM job {chosen}"
        subprocess.run(["scancel", "--signal=STOP", chosen], check=False)
        subprocess.run(["scontrol", "update", f"JobId={chosen}", "TimeLimit=1"], check=False)


def clock(days: int) -> Fault:
    """A run under a clock that is wrong; files that it wrote are dated so, as a kernel would."""

    def fault(scene: Scene, job: Job, reference: dict[str, bytes]) -> None:
        if not FAKETIME:
            raise Skip("libfaketime is not installed (Debian: faketime)")
        scene.copy(job)
        begun = time.time()
        # Clocks that count from the start of a machine do not jump.
        false = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
        process = scene.start(LD_PRELOAD=str(FAKETIME[0]), FAKETIME=f"{days:+d}d", **false)
        scene.until(process, job)
        process.terminate()
        finished = scene.ended(process)
        for path in scene.made():
            # What Snakemake dates itself is dated so already.
            if begun < path.stat().st_mtime < begun + TIMEOUT_S:
                moved = path.stat().st_mtime + timedelta(days=days).total_seconds()
                os.utime(path, (moved, moved))
        scene.trial.clear = True
        scene.rerun(finished, reference)
        if scene.trial.again and "touch" in scene.trial.said_again:
            now, said = time.time(), scene.trial.said_again
            for path in scene.made():
                if path.stat().st_mtime > now:
                    os.utime(path, (now, now))
            scene.rerun([*finished, *read_log(scene.log())[1]], reference)
            scene.trial.detail = "files of the future were dated anew, as the message says"
            scene.trial.said = said

    return fault


def needed_later(scene: Scene, finished: list[str]) -> list[str]:
    """Files of finished jobs that jobs to come read: inputs, and what lies beside them."""
    later = {file for job in scene.jobs if job.name not in finished for file in job.inputs}
    beside = [
        path.relative_to(scene.folder).as_posix()
        for job in scene.jobs
        if job.name in finished and job.rule in BESIDE and later & set(job.outputs)
        for path in Path(os.path.normpath(scene.folder / job.name / BESIDE[job.rule])).rglob("*")
        if path.is_file() and not path.is_symlink()
    ]
    done = {o for job in scene.jobs if job.name in finished for o in job.outputs}
    return sorted((later & done) | set(beside))


def damaged(truncate: bool) -> Fault:
    """A file that is cut off, or one bit of which is another, with its date as before."""

    def fault(scene: Scene, job: Job, reference: dict[str, bytes]) -> None:
        scene.copy(job)
        name = scene.rng.choice(needed_later(scene, scene.kept))
        damage(scene, scene.folder / name, truncate)
        finished = scene.ended(scene.start())
        scene.trial.clear = name in scene.said.read_text(errors="replace")
        wrong = scene.trial.code == 0 and tables(scene.folder) != reference
        if wrong or not scene.trial.code:
            found = verify(scene, name)
            scene.trial.detail += f"; {'WRONG TABLES' if wrong else 'tables right'}; {found}"
            scene.trial.unseen = wrong and found != "verify finds it"
        owner = maker(scene, name)
        for output in owner.outputs if wrong or scene.trial.code else []:
            (scene.folder / output).unlink(missing_ok=True)
        due = {owner.name} | downstream(scene.jobs, *owner.outputs)
        scene.rerun([done for done in finished if done not in due], reference)

    return fault


def damage(scene: Scene, victim: Path, truncate: bool) -> None:
    data, status = bytearray(victim.read_bytes()), victim.stat()
    place = scene.rng.randrange(len(data))
    scene.trial.detail = f"{victim.relative_to(scene.folder)}, byte {place} of {len(data)}"
    if truncate:
        del data[place:]
    else:
        data[place] ^= 1 << scene.rng.randrange(8)
    victim.write_bytes(data)
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))


def maker(scene: Scene, name: str) -> Job:
    """The job that made a file."""
    folders = {}
    for job in scene.jobs:
        if name in job.outputs:
            return job
        folder = os.path.normpath(f"{job.name}/{BESIDE.get(job.rule, '.')}")
        if name.startswith(f"{folder}/"):
            folders[folder] = job
    return folders[max(folders, key=len)]


def verify(scene: Scene, name: str) -> str:
    """Whether `python -m meddino verify`, where there is such a verb, tells of a file."""
    command = [sys.executable, "-m", "meddino", "verify"]
    environ = environment(COLUMNS="500")
    options: dict[str, Any] = {"cwd": scene.folder, "env": environ, "capture_output": True}
    if subprocess.run([*command, "--help"], **options).returncode:
        return "there is no verify"
    done = subprocess.run([*command, str(RESULTS)], **options, text=True)
    return "verify finds it" if name in done.stdout + done.stderr else "verify does not see it"


def dataset_changes(scene: Scene, _: Job, reference: dict[str, bytes]) -> None:
    """Other raw files under the same names, and back: what follows from them is made anew."""
    scene.copy(None)
    phantom = scene.folder / RESOURCES / "phantom" / CHANGED
    before = scene.folder / "before"
    shutil.copytree(phantom, before)
    options = json.dumps({"dataset": CHANGED, "cases": 2, "size_px": 48, "slices": 16, "seed": 99})
    output = str(phantom / "SHA256SUMS")
    command = [sys.executable, "-m", "meddino", "phantom", "--options", options, "--output", output]
    subprocess.run(command, cwd=scene.folder, env=environment(), check=True, capture_output=True)
    scene.ended(scene.start())
    ran = set(read_log(scene.log())[0]) - {"all"}
    expected = downstream(scene.jobs, output.removeprefix(f"{scene.folder}/"))
    scene.trial.detail = f"{len(ran)} jobs ran anew, {len(expected)} follow from the dataset"
    scene.trial.clear = ran == expected
    changed = tables(scene.folder) != reference
    scene.trial.detail += "" if changed else "; tables did not change"
    shutil.rmtree(phantom)
    shutil.copytree(before, phantom, copy_function=shutil.copy)
    shutil.rmtree(before)
    scene.rerun([], reference)
    ran_back = set(read_log(scene.log())[0]) - {"all"}
    scene.trial.reran = sorted((ran | ran_back) - expected)


def downstream(jobs: list[Job], *made: str) -> set[str]:
    """Names of all jobs that follow from files."""
    files, found = set(made), set()
    for job in jobs:  # in an order that respects what they need
        if files & set(job.inputs):
            found.add(job.name)
            files |= set(job.outputs)
    return found


@dataclass(frozen=True)
class Kind:
    """A kind of fault: how often it is tried of 50, and what a person should read."""

    title: str
    share: int
    fault: Fault
    message: str = ""
    slurm: bool = False


KINDS = {
    "kill-all": Kind("`kill -9` of everything", 8, at_a_moment(kill_everything)),
    "kill-snakemake": Kind("`kill -9` of Snakemake alone", 3, at_a_moment(kill_snakemake), "rerun"),
    "kill-parents": Kind("`kill -9` of all but the jobs", 4, at_a_moment(kill_both)),
    "kill-worker": Kind("`kill -9` of a job", 7, at_a_moment(kill_worker), "rerun"),
    "sigterm": Kind("SIGTERM", 4, at_a_moment(tell(signal.SIGTERM)), "rerun to go on"),
    "sigint": Kind("SIGINT (Ctrl-C)", 4, at_a_moment(tell(signal.SIGINT)), "rerun to go on"),
    "disk-full": Kind("disk full", 4, disk_full, "space"),
    "truncated": Kind("intermediate file cut off", 4, damaged(True)),
    "flipped": Kind("one bit of an intermediate file flipped", 4, damaged(False)),
    "clock-ahead": Kind("clock a day ahead", 1, clock(1)),
    "clock-behind": Kind("clock a day behind", 1, clock(-1)),
    "read-only": Kind("results become read-only", 2, at_a_moment(read_only), "ermit writing"),
    "two-starts": Kind("two start the study at once", 2, second_start),
    "dataset": Kind("a dataset changes between runs", 1, dataset_changes),
    "tmpdir-full": Kind("TMPDIR full", 1, tmpdir_full, "space"),
    "slurm-cancel": Kind(
        "SLURM: `scancel` of a job", 2, at_a_moment(on_a_job("scancel")), "rerun", slurm=True
    ),
    "slurm-requeue": Kind(
        "SLURM: `scontrol requeue` of a job",
        2,
        at_a_moment(on_a_job("scontrol", "requeue")),
        "rerun",
        slurm=True,
    ),
    "slurm-node": Kind("SLURM: a node goes down", 2, at_a_moment(node_down), "rerun", slurm=True),
    "slurm-time": Kind(
        "SLURM: a job hangs until its time limit", 1, at_a_moment(time_out), "rerun", slurm=True
    ),
    "slurm-kill": Kind(
        "SLURM: `kill -9` of all but the jobs", 3, at_a_moment(kill_both), slurm=True
    ),
}
SHORT = ("kill-all", "kill-worker", "sigterm", "two-starts", "disk-full")


# ---- the campaign ------------------------------------------------------------------------------


def reference(work: Path) -> tuple[list[Job], dict[str, bytes]]:
    """The undisturbed study: its jobs in the order in which they ended, and its tables."""
    folder = work / "reference"
    done = work / "reference.log"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        lay_out(folder)
        begun = time.monotonic()
        code = wait(start(folder, work / "said.txt"))
        assert code == 0, (work / "said.txt").read_text()
        print(f"reference: {time.monotonic() - begun:.0f} s", flush=True)
        shutil.copy(folder / LOG, done)
    started, finished = read_log(done.read_text())
    return [started[name] for name in finished if started[name].rule != "all"], tables(folder)


def plan(count: int, kinds: list[str]) -> list[str]:
    """Which fault comes when: each kind once, then by their shares, so that a part is a sample."""
    due = [(i / KINDS[kind].share, kind) for kind in kinds for i in range(KINDS[kind].share)]
    order = [kind for _, kind in sorted(due, key=lambda entry: entry[0])]
    return [order[i % len(order)] for i in range(count)]


def attempt(work: Path, number: int, kind: str, seed: int) -> Trial:
    jobs, wanted = reference(work)
    rng = random.Random(f"{seed}/{number}")
    trial = Trial(number, kind)
    begun = time.monotonic()
    with Scene(work, jobs, trial, rng) as scene:
        try:
            if KINDS[kind].slurm and "MEDDINO_TEST_SLURM" not in os.environ:
                raise Skip("no test SLURM (make slurm-test)")
            candidates = (
                [j for j in jobs if j.rule not in ("phantom", "leaves", "weights")]
                if (kind in ("truncated", "flipped"))
                else jobs
            )
            KINDS[kind].fault(scene, rng.choice(candidates), wanted)
        except Skip as reason:
            trial.skipped = str(reason)
    if message := KINDS[kind].message:
        trial.clear = trial.code == 0 or message in trial.said
    trial.seconds = round(time.monotonic() - begun, 1)
    return trial


def read_results(path: Path) -> list[Trial]:
    return [Trial(**json.loads(x)) for x in path.read_text().splitlines()] if path.exists() else []


def lost(trials: list[Trial]) -> str:
    """What the trials lost, in words."""
    found: Counter[str] = Counter()
    for trial in trials:
        if trial.again != 0:
            found["the rerun failed"] += 1
        elif not trial.same_tables:
            found["tables differ"] += 1
        if trial.reran:
            found["finished jobs ran again"] += 1
        if trial.strays:
            found["files left over"] += 1
        if trial.unseen:
            found["wrong tables without a word"] += 1
    return ", ".join(f"{what} ({n})" for what, n in found.items()) or "nothing"


def table(trials: list[Trial]) -> Iterator[str]:
    yield "| fault | tried | survived | lost | message clear |"
    yield "| --- | ---: | ---: | --- | ---: |"
    for name, kind in KINDS.items():
        mine = [t for t in trials if t.fault == name]
        tried = [t for t in mine if not t.skipped]
        if tried:
            yield (
                f"| {kind.title} | {len(tried)} | {sum(t.survived for t in tried)} | {lost(tried)}"
                f" | {sum(t.clear for t in tried)} |"
            )
        elif mine:
            yield f"| {kind.title} | 0 | | skipped: {mine[0].skipped} | |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--short", action="store_true", help="one fault of a few kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("/tmp/meddino-chaos"))
    parser.add_argument("--resume", action="store_true", help="go on where a campaign was cut off")
    parser.add_argument("--write", action="store_true", help="write docs/faults.md")
    given = parser.parse_args()
    given.work = given.work.resolve()
    if not given.resume:
        shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True, exist_ok=True)
    path = given.work / "results.jsonl"
    kinds, count = (list(SHORT), len(SHORT)) if given.short else (given.kinds, given.count)
    done = {trial.number for trial in read_results(path)}
    for number, kind in enumerate(plan(count, kinds)):
        if number in done:
            continue
        trial = attempt(given.work, number, kind, given.seed)
        with path.open("a") as file:
            file.write(json.dumps(asdict(trial)) + "\n")
        verdict = trial.skipped or ("survived" if trial.survived else f"lost: {lost([trial])}")
        print(f"{number}: {kind} in {trial.moment}: {verdict} ({trial.seconds:.0f} s)", flush=True)
    trials = read_results(path)
    print("\n".join(table(trials)))
    if given.write:
        write(trials, given.seed, given.work)
    return int(any(not t.survived for t in trials if not t.skipped))


def write(trials: list[Trial], seed: int, work: Path) -> None:
    """Write docs/faults.md, and every trial with what was said to docs/faults.json."""
    tried = [trial for trial in trials if not trial.skipped]
    text = [
        "# Faults",
        "",
        "Written by `make chaos`. A small study is disturbed at a random moment and then run once",
        "more. A fault counts as survived if that rerun succeeds, its tables are those of an",
        "undisturbed study to the byte, no job that was finished ran again, and no temporary file",
        "is left. A message counts as clear if it names the cause and what to do; after a kill,",
        "which leaves nobody to say anything, if the rerun needs no help. A flipped bit goes by",
        "whoever reads a file without a checksum; in a result, `make verify` finds it.",
        "",
        f"{len(tried)} faults, {sum(t.survived for t in tried)} survived; seed {seed};"
        f" {datetime.now(UTC):%Y-%m-%d}; {platform.system()}, Python {platform.python_version()},"
        f" {os.cpu_count()} cores. Each trial, with what was said: [faults.json](faults.json).",
        "",
        *table(trials),
        "",
        *details(tried),
    ]
    (ROOT / "docs/faults.md").write_text("\n".join(text) + "\n")
    each = json.dumps([asdict(trial) for trial in trials], indent=1)
    (ROOT / "docs/faults.json").write_text(
        each.replace(f"{work}/", "").replace(f"{ROOT}/", "") + "\n"
    )


def details(tried: list[Trial]) -> Iterator[str]:
    if not any(not t.survived for t in tried):
        return
    yield "What was lost:"
    yield ""
    for trial in tried:
        if not trial.survived:
            what = f" ({trial.detail})" if trial.detail else ""
            yield f"- {KINDS[trial.fault].title}, in `{trial.moment}`{what}: {lost([trial])}"


if __name__ == "__main__":
    sys.exit(main())
