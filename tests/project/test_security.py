"""Hostile archives, checkpoints, configurations and names: each refused, or harmless.

What is tested where it belongs: archives that lead out of their folder and bombs (test_fetch.py),
names in the report (test_report.py), damaged volumes (test_bad_input.py).
"""

import html
import io
import json
import os
import pickle
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ct3m_data as data
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from places import ROOT
from test_finetune import BENCHMARK, blob, method, training

from meddino.core import layers, secrets
from meddino.core.errors import MeddinoError
from meddino.core.files import read_json, sha256, write_json
from meddino.datasets import clients, fetch
from meddino.datasets.archives import unpack
from meddino.datasets.options import FetchOptions, FolderLayout, Origin
from meddino.evaluate import evaluate
from meddino.evaluate.options import EvaluateOptions, Evaluation
from meddino.finetune import convert, finetune, plan, predict, preprocess
from meddino.finetune.options import (
    ConvertOptions,
    FinetuneOptions,
    Planning,
    PlanOptions,
    Prediction,
    PredictOptions,
    PreprocessOptions,
)
from meddino.finetune.properties import load_pickle
from meddino.models import checkpoints, loading, vit
from meddino.models.options import WeightsOptions
from meddino.models.weights import run as fetch_weights
from meddino.pretrain import checkpoint
from meddino.report.cards.card import _markdown
from meddino.report.figures import predictions
from meddino.report.options import FigureOptions, PlotOptions
from meddino.report.page.sections import checkpoints as report_checkpoints
from meddino.study.model import Study, load

HOSTILE = [
    "a b",
    "-rf",
    "$(touch pwned)",
    "`touch pwned`",
    "x; touch pwned;",
    "'\"q",
    "$a$b^$",
    "<script>alert(1)",
    "né日本",
    "new\nline",
    "%s{0}{case}",
    "&|>pwned",
]
"""Names of cases as nobody should give them."""


class Bomb:
    """Runs a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def pwned(tmp_path: Path) -> Any:
    """A file that exists only if a hostile input ran; no test may leave it."""
    path = tmp_path / "pwned"
    yield path
    assert not path.exists() and not Path("pwned").exists(), "hostile input was run"


# ---- archives and files ------------------------------------------------------------------------


def fetched(tmp_path: Path, **origin: Any) -> Path:
    options = FetchOptions(dataset_name="toy", origin=Origin(**origin), images=("**/*.nii",))
    output = tmp_path / "raw/toy/.fetched.json"
    fetch.run(options, output=output)
    return output


def mirror(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "mirror"
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))
    return folder


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


FORGED = json.dumps(
    {"url": "u", "file": "f", "sha256": "0", "bytes": 1, "members": ["../../precious"]}
).encode()


@pytest.mark.parametrize("name", [".fetch/records/f.json", "./.FETCH/records/f.json"])
def test_an_archive_cannot_forge_records_of_what_a_rerun_removes(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("mine")
    zipped(tmp_path / "mirror/a.zip", {"img.nii": b"1", name: FORGED})
    with pytest.raises(MeddinoError, match=r"not safe to unpack.*records"):
        fetched(tmp_path, mirror=f"file:{mirror(tmp_path, 'a.zip')}")
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize("name", [".fetch/records/f.json", ".fetched.json"])
def test_a_mirror_cannot_name_records_either(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mirror" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(FORGED)
    with pytest.raises(MeddinoError, match="among its records"):
        fetched(tmp_path, mirror=f"file:{mirror(tmp_path, name)}")


def test_a_server_cannot_name_folders_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = [clients.Series("../../../..", "1.2.3")]
    monkeypatch.setattr(clients, "tcia_series", lambda _: series)
    with pytest.raises(MeddinoError, match="outside"):
        fetched(tmp_path, sources=[{"kind": "tcia", "id": "Toys"}])


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.BLKTYPE, tarfile.CHRTYPE])
def test_devices_and_pipes_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("img.nii")
    info.type = kind
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.addfile(info)
    with pytest.raises(MeddinoError, match="a link or a device"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_nothing_is_written_through_a_link(tmp_path: Path, kind: bytes) -> None:
    """A link that leads out, and then a file under its name."""
    (tmp_path / "outside").mkdir()
    link, inside = tarfile.TarInfo("d"), tarfile.TarInfo("d/evil.nii")
    link.type, link.linkname, inside.size = kind, "../outside", 1
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.addfile(link)
        file.addfile(inside, io.BytesIO(b"x"))
    with pytest.raises(MeddinoError, match="a link or a device"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    assert not list((tmp_path / "outside").iterdir())


def test_a_link_in_a_zip_is_a_small_file(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("d")
    info.create_system, info.external_attr = 3, (0o120777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, "/etc")
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out/d").is_symlink()
    assert (tmp_path / "out/d").read_bytes() == b"/etc"


def test_an_archive_in_an_archive_stays_packed(tmp_path: Path) -> None:
    """Bombs within bombs: each layer would multiply."""
    inner = zipped(tmp_path / "inner.zip", {"x.nii": bytes(1 << 20)})
    zipped(tmp_path / "a.zip", {"inner.zip": inner.read_bytes(), "img.nii": b"1"})
    assert unpack(tmp_path / "a.zip", tmp_path / "out") == ["img.nii", "inner.zip"]


def test_a_zip_that_lies_about_its_size_is_stopped(tmp_path: Path) -> None:
    """It announces a byte and holds a megabyte."""
    path = zipped(tmp_path / "a.zip", {"x.nii": bytes(1 << 20)})
    content = bytearray(path.read_bytes())
    for start, at in ((content.index(b"PK\x03\x04"), 22), (content.index(b"PK\x01\x02"), 24)):
        content[start + at : start + at + 4] = (1).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(MeddinoError, match="damaged or cut off"):
        unpack(path, tmp_path / "out")
    assert sum(p.stat().st_size for p in (tmp_path / "out").rglob("*")) <= 1


def test_a_link_out_of_a_data_folder_tells_nothing_of_what_it_leads_to(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_text("root:x:0:0:" * 100)
    data.save(tmp_path / "scans/good.nii.gz", data.body())
    (tmp_path / "scans/bad.nii.gz").symlink_to(tmp_path / "secret")
    found = data.run(tmp_path / "scans", tmp_path / "out")
    assert [entry["case"] for entry in found["quarantined"]] == ["bad"]
    assert "root:x" not in json.dumps(found) + "".join(capfd.readouterr())


# ---- checkpoints -------------------------------------------------------------------------------


def hostile_checkpoint(path: Path, pwned: Path) -> Path:
    torch.save({"teacher": Bomb(pwned), "meta": {"stage": "s", "iteration": 1}}, path)
    return path


READERS: dict[str, Callable[[Path], object]] = {
    "backbone": loading.load_backbone,
    "init": lambda path: checkpoint.expected("s@1", path, "init"),
    "Gram teacher": lambda path: checkpoint.expected("s@1", path, "gram_teacher"),
    "weights verb": lambda path: fetch_weights(
        WeightsOptions(file=str(path)), output=path.with_name("out.pth")
    ),
    "report": report_checkpoints._meta,
    "properties": lambda path: load_pickle(str(path)),
}


@pytest.mark.parametrize("name", READERS)
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, pwned: Path, name: str) -> None:
    with pytest.raises(MeddinoError, match=r"c\.pth"):
        READERS[name](hostile_checkpoint(tmp_path / "c.pth", pwned))


def test_code_in_what_a_run_resumes_from_is_not_run(tmp_path: Path, pwned: Path) -> None:
    hostile_checkpoint(tmp_path / "checkpoint-000000001.pt", pwned)
    assert checkpoints.newest(tmp_path) is None


def test_code_in_a_legacy_checkpoint_is_not_run(tmp_path: Path, pwned: Path) -> None:
    (tmp_path / "c.pth").write_bytes(pickle.dumps(Bomb(pwned)))
    with pytest.raises(MeddinoError, match=r"c\.pth is not a checkpoint"):
        loading.read(tmp_path / "c.pth")


def test_a_pickle_called_safetensors_is_not_run(tmp_path: Path, pwned: Path) -> None:
    path = hostile_checkpoint(tmp_path / "model.safetensors", pwned)
    with pytest.raises(MeddinoError, match=r"model\.safetensors"):
        loading.read(path)


def test_a_plain_checkpoint_is_still_read(tmp_path: Path) -> None:
    torch.save(vit.build("vittiny8").state_dict(), tmp_path / "c.pth")
    assert loading.load_backbone(tmp_path / "c.pth").architecture.depth > 0


# ---- configurations -----------------------------------------------------------------------------


LAUGHS = "\n".join(
    ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
)
SECTIONS = "\n".join(
    ["b0: &b0 {x: 1, y: 2}"] + [f"b{i}: &b{i} {{x: *b{i - 1}, y: *b{i - 1}}}" for i in range(1, 40)]
)
TRICKS = {
    "a tag that runs code": ("title: !!python/object/apply:os.system [touch pwned]", "not YAML"),
    "a tag that makes an object": ("title: !!python/name:os.system", "not YAML"),
    "a billion laughs": (LAUGHS, "once its aliases"),
    "a billion sections": (SECTIONS, "once its aliases"),
    "a loop": ("a: &a [*a]", "once its aliases"),
    "depth": (f"title: {'[' * 1200}{']' * 1200}", "nested too deeply|deep"),
    "a key twice": ("folds: [0]\nfolds: [1]", "'folds' stands twice.*"),
    "a key twice, deeper": ("training:\n  epochs: 1\n  epochs: 2", "'epochs' stands twice"),
    "bytes": ("\udcff\udcfe", "not YAML"),
    "two documents": ("a: 1\n---\nb: 2", "not YAML"),
    "a template": ("__use_yte__: true\ntitle: ?open('pwned', 'w')", "run code"),
}


@pytest.mark.parametrize("name", TRICKS)
def test_tricks_of_yaml_are_refused(tmp_path: Path, pwned: Path, name: str) -> None:
    text, message = TRICKS[name]
    path = tmp_path / "mine.yaml"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(MeddinoError, match=rf"(?s)mine\.yaml.*({message})"):
        layers.read([path])


def test_merged_keys_may_be_written_over(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: {<<: *a}\n")
    assert layers.read([path])["b"] == {"x": 3, "y": 2}


def test_a_study_is_not_unrolled_before_it_is_refused(root: Path) -> None:
    """As Snakemake hands it over, which follows aliases, too."""
    config = layers.read([root / "config.yaml"])
    bomb: Any = ["lol"]
    for _ in range(40):
        bomb = [bomb, bomb]
    with pytest.raises(MeddinoError, match="once its aliases"):
        Study.parse({**config, "datasets": {"x": {"images": bomb}}})


def planned(folder: Path, overlay: str, verb: str = "") -> subprocess.CompletedProcess[str]:
    """A dry run of the workflow with a configuration laid over the study's."""
    (folder / "config.yaml").write_bytes((ROOT / "config.yaml").read_bytes())
    (folder / "mine.yaml").write_text(overlay)
    command = [sys.executable, "-m", *(["meddino", verb] if verb else ["snakemake"])]
    command += ["--snakefile", str(ROOT / "workflow/Snakefile"), "--cores", "1", "--dry-run", "-p"]
    return subprocess.run(
        [*command, "--configfile", "mine.yaml", "--", "all"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", ["a tag that runs code", "a key twice", "a billion laughs"])
def test_tricks_of_yaml_are_refused_by_the_workflow_too(
    tmp_path: Path, pwned: Path, name: str
) -> None:
    done = planned(tmp_path, TRICKS[name][0])
    assert done.returncode and not list(tmp_path.rglob("pwned"))


def test_templates_are_refused_before_snakemake_reads_them(tmp_path: Path) -> None:
    done = planned(tmp_path, TRICKS["a template"][0], verb="study")
    assert done.returncode == 2 and "run code" in done.stderr
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("name", [*HOSTILE, "../up", "a/b", ""])
def test_names_in_a_configuration_are_words(root: Path, name: str) -> None:
    config = layers.read([root / "config.yaml"])
    with pytest.raises(MeddinoError, match="not valid"):
        Study.parse({**config, "datasets": {name: {"folder": "/data"}}})


def test_folders_with_spaces_and_signs_are_quoted(tmp_path: Path) -> None:
    done = planned(tmp_path, "results: \"my $(touch pwned) 'results'\"\nresources: a; touch pwned")
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    commands = re.findall(r"^Shell command: (python -m meddino .*)$", said, re.MULTILINE)
    assert len(commands) > 50
    script = "python() { printf '%s\\n' \"$#\"; }\n" + "\n".join(commands[::25])
    ran = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert not list(tmp_path.rglob("pwned")), ran.stderr


# ---- names of cases, from end to end ------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A benchmark of a folder of one's own whose cases have hostile names, up to its scores."""
    root = tmp_path_factory.mktemp("a folder; of $(mine)")
    scans = root / "scans"
    (scans / "images").mkdir(parents=True)
    (scans / "labels").mkdir()
    for number, name in enumerate(HOSTILE):
        for folder, volume in zip(("images", "labels"), blob(number), strict=True):
            plain = root / "volume.nii.gz"
            sitk.WriteImage(volume, str(plain))
            plain.rename(scans / folder / f"{name}.nii.gz")
    (scans / "images" / f"{SCRIPT}.nii.gz").write_bytes(b"no volume")
    (scans / "labels" / f"{SCRIPT}.nii.gz").write_bytes(b"no volume")
    layout = FolderLayout(
        images=("images/*.nii.gz",),
        labels=("labels/*.nii.gz",),
        case=r"(?s)^(?:images|labels)/(?P<case>.+)\.nii\.gz$",
    )
    raw = root / "raw/own/.fetched.json"
    origin = Origin(folder=str(scans))
    fetch.run(FetchOptions(dataset_name="own", origin=origin, images=layout.images), output=raw)
    made: dict[str, Any] = {"root": root, "raw": raw, "layout": layout}
    made["shards"] = shards(made)
    made["dataset"] = root / "nnunet/raw/Dataset901_blobs/dataset.json"
    options = ConvertOptions(benchmark=BENCHMARK, dataset=layout)
    convert.run(options, raw=raw, output=made["dataset"])
    made["done"] = predicted(made)
    evaluation = EvaluateOptions(benchmark="own", method="m", fold=0, evaluation=Evaluation())
    made["scores"] = root / "scores.parquet"
    evaluate.run(
        evaluation, predictions=made["done"], dataset=made["dataset"], output=made["scores"]
    )
    return made


SCRIPT = "<script>alert(2)<|script>"


def shards(made: dict[str, Any]) -> Path:
    from meddino.ct3m import slices

    output: Path = made["root"] / "ct3m/shards/own/0.json"
    slices.run(data.options(dataset=made["layout"]), raw=made["raw"], output=output)
    return output


def predicted(made: dict[str, Any]) -> Path:
    """Plan, preprocess, train for two iterations, and segment the validation cases."""
    folder = made["root"] / "nnunet/preprocessed/Dataset901_blobs"
    planning = Planning(patch_px=64, spacing_mm=4.0, batch_size=2, features_per_stage=[4] * 4)
    plans, marker = folder / "nnUNetPlans.json", folder / "2d.json"
    plan.run(PlanOptions(planning=planning), dataset=made["dataset"], output=plans)
    preprocess.run(PreprocessOptions(configuration="2d"), plans=plans, output=marker)
    model = made["root"] / "finetune/model.safetensors"
    options = FinetuneOptions(method=method("unet"), training=training(), fold=0)
    finetune.run(options, preprocessed=marker, weights=None, state=model.parent / "s", output=model)
    done: Path = made["root"] / "predictions/blobs/m/fold0/done.json"
    prediction = Prediction(tta=False)
    predict.run(
        PredictOptions(prediction=prediction, fold=0),
        model=model,
        dataset=made["dataset"],
        output=done,
    )
    return done


def test_every_case_gets_through_under_its_own_name(hostile: dict[str, Any]) -> None:
    import pyarrow.parquet as pq

    sliced = pq.read_table(hostile["shards"].with_name("0.32.parquet")).to_pandas()
    assert set(sliced["case"].astype(str)) == set(HOSTILE)
    assert set(read_json(hostile["dataset"])["dataset"]) == set(HOSTILE)
    validated = read_json(hostile["dataset"].parent / "splits_final.json")[0]["val"]
    assert read_json(hostile["done"])["cases"] == validated
    assert set(pd.read_parquet(hostile["scores"])["case"]) == set(validated)


def test_no_name_is_run_or_leads_out(hostile: dict[str, Any]) -> None:
    root = hostile["root"]
    assert not list(root.rglob("pwned")) and not Path("pwned").exists()
    top = {path.name for path in root.iterdir()}
    assert top == {"scans", "raw", "ct3m", "nnunet", "finetune", "predictions", "scores.parquet"}


def test_pictures_draw_names_as_they_are(hostile: dict[str, Any]) -> None:
    """Two dollars are mathematics to matplotlib, and an error if it is bad."""
    done, dataset = hostile["done"], hostile["dataset"]
    write_json(done, {"cases": sorted(HOSTILE), "fold": 0})
    for name in HOSTILE:
        label = sitk.ReadImage(str(dataset.parent / f"labelsTr/{name}.nii.gz"))
        sitk.WriteImage(label, str(done.parent / "x.nii.gz"))
        (done.parent / "x.nii.gz").rename(done.parent / f"{name}.nii.gz")
    scored = pd.read_parquet(hostile["scores"]).iloc[0].to_dict()
    scored["benchmark"], scored["method"] = done.parts[-4:-2]
    options, folder = PlotOptions(look=FigureOptions(dpi=50)), hostile["root"] / "finetune"
    names = sorted(HOSTILE)
    for three in (names[start : start + 3] for start in range(0, len(names), 3)):
        scores = pd.DataFrame([{**scored, "case": name} for name in three])
        (drawn,) = predictions.predicted(options, [done], [dataset], scores, folder)
        assert all(name in drawn.caption for name in three)
        assert (folder / drawn.file).stat().st_size > 1000


def test_names_and_reasons_are_inert_in_the_card_and_the_report(hostile: dict[str, Any]) -> None:
    quarantined = read_json(hostile["shards"])["quarantined"]
    assert [entry["case"] for entry in quarantined] == [SCRIPT]
    entry = {**quarantined[0], "dataset": "own", "reason": f"{SCRIPT}\n# heading"}
    counts = dict.fromkeys(("volumes", "slices", "air_slices", "other_modality", "bytes"), 0)
    card = {
        "datasets": [{"dataset": "own", "quarantined": 1, **counts}],
        "variants": [],
        "corpus": "Own slices",
        "paper_slices": None,
        "quarantined": [entry],
        "remarks": [{"dataset": "own", "remark": f"{SCRIPT}\n# heading", "volumes": 1}],
    }
    text = _markdown(card, [])
    assert "<script" not in text and "\n# heading" not in text and html.escape(SCRIPT) in text


# ---- secrets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "https://me:hunter2@host/a.zip",
        "https://token@host/a.zip",
        "https://host/a.zip?token=abc",
        "https://host/a.zip?download=1&X-Amz-Signature=abc",
        "https://host/a.zip?sig=abc",
    ],
)
def test_secrets_have_no_place_in_a_configuration(root: Path, address: str) -> None:
    config = layers.read([root / "config.yaml"])
    for change in (
        {"datasets": {"lits": {"mirror": address}}},
        {"weights": {"dinov3": {"url": address}}},
    ):
        with pytest.raises(MeddinoError, match="would be seen in logs"):
            Study.parse(layers.merge(config, change))


def test_ordinary_addresses_are_taken(root: Path) -> None:
    config = layers.read([root / "config.yaml"])
    change = {"datasets": {"lits": {"mirror": "https://host/files?download=1&id=keyboard"}}}
    Study.parse(layers.merge(config, change))
    assert load([root / "config.yaml"])


def test_what_a_client_says_is_told_without_the_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SYNAPSE_AUTH_TOKEN", "eyJhbGciOi.secret")
    monkeypatch.setattr(clients.time, "sleep", lambda _: None)

    def fail() -> None:
        raise RuntimeError(
            "401 for https://u:pw@host/x?access_token=abc&part=2 with Bearer eyJhbGciOi.secret"
        )

    with pytest.raises(MeddinoError) as error:
        clients.patiently(fail, "a file", "log in")
    said = str(error.value) + capsys.readouterr().err
    assert "401 for https://***@host/x?access_token=***&part=2 with Bearer ***" in said
    assert "eyJ" not in said and "pw" not in said and "abc" not in said
    assert error.value.__suppress_context__, "a traceback would show it"


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o644, True), (0o640, True)])
def test_a_credential_file_that_others_can_read_gets_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int, warned: bool
) -> None:
    path = tmp_path / ".synapseConfig"
    path.write_text("authtoken = secret")
    path.chmod(mode)
    secrets.warn_if_shared([path, tmp_path / "absent"])
    said = capsys.readouterr().err
    assert (f"chmod 600 {path}" in said) == warned and "= secret" not in said
