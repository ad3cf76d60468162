"""Bundles: each library loads its part, without ours where it can, and segments as `segment`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
import yaml
from places import GOLDEN

# pytest finds fixtures by their names here.
from test_finetune import blob, dataset, method, plans, preprocessed, raw, training  # noqa: F401

from meddino.__main__ import main
from meddino.bundle.program import program
from meddino.core import records
from meddino.core.files import read_json, write_json
from meddino.finetune import finetune, model
from meddino.finetune.options import FinetuneOptions, Prediction
from meddino.finetune.segmenter import Segmenter
from meddino.report.cards.model_card import METRICS
from meddino.report.options import Attribution, ModelCardOptions

TRAINERS = Path(finetune.__file__).parent / "trainers"
AGREEMENT = 0.97
"""DSC of each structure between MONAI's labels and ours; docs/bundle.md has what was measured."""
FREE = Attribution(name="blobs", title="Blobs", home="", licence="Apache-2.0", phantom=True)
LEARNS: dict[str, dict[str, Any]] = {
    "unet": {"lr": 0.3, "momentum": 0.9},
    "primus": {"lr": 5e-3, "backbone_lr": 5e-3, "drop_path": 0.0, "layerscale": 1.0},
}
"""Rates at which each finds both structures within seconds."""
STEPS = {"unet": 200, "primus": 200}


def finetuned(name: str, preprocessed: Path, folder: Path, **changes: Any) -> Path:  # noqa: F811
    """Weights that the verb `finetune` has made, with their record."""
    options = FinetuneOptions(
        method=method(name, **LEARNS.get(name, {})), training=training(**changes)
    )
    arguments = {"preprocessed": preprocessed, "state": folder / "state"}
    flags = [part for key, path in arguments.items() for part in (f"--{key}", str(path))]
    output = folder / "model.safetensors"
    command = ["finetune", "--options", options.model_dump_json(), *flags, "--output", str(output)]
    assert main(command) == 0
    return output


def scores(path: Path) -> Path:
    rows = [
        {"benchmark": "b", "method": "m", "fold": 0, "case": case, "label": label}
        | {"structure": name, "reference_ml": 10.0}
        | dict.fromkeys(METRICS, value)
        for label, name in ((1, "liver"), (2, "spleen"))
        for case, value in (("a", 0.9), ("b", 0.8), ("c", 0.6))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(path)
    return path


def card(folder: Path, **changes: Any) -> None:
    """The model card that the verb `model_card` makes, with its record."""
    facts = {"method": "M", "benchmark": "Blobs", "data": FREE, "variant": "none", "stages": ()}
    facts |= {"pretraining": (), "weights": (), "tolerance_mm": 1.0, **changes}
    options = ModelCardOptions.model_validate(facts).model_dump_json()
    files = ["--description", f"{folder}/model.json", "--scores", str(scores(folder / "s.parquet"))]
    assert (
        main(["model_card", "--options", options, *files, "--output", f"{folder}/README.md"]) == 0
    )


def bundle(folder: Path | str, output: Path | str, *flags: str) -> int:
    return main(["bundle", "--model", str(folder), "--output", str(output), *flags])


@pytest.fixture(scope="module")
def study(preprocessed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:  # noqa: F811
    """The folder of a study with a finetuned U-Net and a finetuned ViT, and their bundles."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("study")
        patch.chdir(folder)
        for name in LEARNS:
            run = Path("results") / name
            finetuned(
                name, preprocessed, run, iterations_per_epoch=STEPS[name], augmentation="none"
            )
            card(run)
            assert bundle(run, f"out/{name}", "--authors", "A. Author") == 0
    yield folder


@pytest.fixture
def inside(study: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(study)
    return study


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "ct.nii.gz"
    sitk.WriteImage(blob(40)[0], str(path))
    return path


def ours(folder: Path, image: Path) -> np.ndarray:
    segment = Segmenter(folder, Prediction(device="cpu"))
    labels = sitk.GetArrayFromImage(segment(image))
    assert set(np.unique(labels)) == {0, 1, 2}, "the network has learned too little to compare"
    return labels


def dsc(first: np.ndarray, second: np.ndarray, label: int) -> float:
    a, b = first == label, second == label
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def without_meddino(code: str, *arguments: Path | str, **environment: str) -> str:
    """Run code in a process that cannot import this package."""
    blocked = f"import sys; sys.modules['meddino'] = None\n{code}"
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("nnUNet")}
    done = subprocess.run(
        [sys.executable, "-c", blocked, *map(str, arguments)],
        env=kept | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- MONAI ----

MONAI_RUN = """
import warnings; warnings.simplefilter("ignore")
from monai.bundle import ConfigParser
parser = ConfigParser()
parser.read_config(sys.argv[1] + "/configs/inference.json")
parser.update({"bundle_root": sys.argv[1], "dataset_dir": sys.argv[2], "output_dir": sys.argv[3]})
parser.get_parsed_content("run")
"""


@pytest.mark.parametrize("name", LEARNS)
def test_monai_segments_as_we_do(study: Path, ct: Path, tmp_path: Path, name: str) -> None:
    """As stored, and turned on the way: the grid of the file is kept."""
    turned = tmp_path / "images" / "ct.nii.gz"
    turned.parent.mkdir()
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(ct)), "PIR"), str(turned))
    without_meddino(MONAI_RUN, study / "out" / name, turned.parent, tmp_path / "seg")
    theirs = sitk.ReadImage(str(tmp_path / "seg" / "ct_seg.nii.gz"))
    expected = ours(study / "out" / name, turned)
    assert theirs.GetPixelID() == sitk.sitkUInt8
    assert np.allclose(theirs.GetSpacing(), sitk.ReadImage(str(turned)).GetSpacing())
    assert np.allclose(theirs.GetOrigin(), sitk.ReadImage(str(turned)).GetOrigin(), atol=1e-4)
    values = sitk.GetArrayFromImage(theirs)
    agreement = {label: dsc(values, expected, label) for label in (1, 2)}
    assert min(agreement.values()) >= AGREEMENT, agreement


MONAI_LOAD = """
import warnings; warnings.simplefilter("ignore")
import os, torch, monai.bundle
folder, name = os.path.split(sys.argv[1])
height, width = map(int, sys.argv[2].split())
program, metadata, _ = monai.bundle.load(
    name, bundle_dir=folder, model_file="models/model.ts", load_ts_module=True
)
network = monai.bundle.load(
    name, bundle_dir=folder, workflow_type="inference",
    net_override={"f": sys.argv[1] + "/models/model.ts"},
)
x = torch.randn(3, 1, height, width)
with torch.no_grad():
    assert torch.equal(program(x), network(x))
configs = sys.argv[1] + "/configs/"
monai.bundle.verify_net_in_out(
    net_id="network_def", meta_file=configs + "metadata.json",
    config_file=configs + "inference.json", bundle_root=sys.argv[1], device="cpu",
)
print(metadata["authors"])
"""


def test_monai_loads_the_network_by_both_of_its_ways(study: Path) -> None:
    folder = study / "out" / "primus"
    content = read_json(folder / "configs" / "metadata.json")
    patch = content["network_data_format"]["inputs"]["image"]["spatial_shape"]
    printed = without_meddino(MONAI_LOAD, folder, " ".join(map(str, patch)))
    assert "A. Author" in printed
    stored = torch.load(folder / "models" / "model.pt", weights_only=True)
    trained = model.load(folder).network.state_dict()
    assert {k.removeprefix("network."): v.shape for k, v in stored.items()} == {
        key: value.shape for key, value in trained.items()
    }


@pytest.mark.parametrize("name", LEARNS)
def test_metadata_is_valid_by_monais_schema(study: Path, name: str) -> None:
    content = read_json(study / "out" / name / "configs" / "metadata.json")
    schema = read_json(GOLDEN / "monai" / content["schema"].rpartition("/")[2])
    jsonschema.validate(content, schema)
    assert content["eval_metrics"]["DSC"] == pytest.approx(76.67)
    outputs = content["network_data_format"]["outputs"]["pred"]
    assert outputs["channel_def"] == {"0": "background", "1": "liver", "2": "spleen"}


# ---- the program ----


@pytest.fixture(scope="module")
def networks(
    preprocessed: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, model.Model]:
    folder = tmp_path_factory.mktemp("networks")
    names = ("unet", "primus", "segformer", "dino_unet")
    return {n: model.load(finetuned(n, preprocessed, folder / n)) for n in names}


@pytest.mark.parametrize("name", ["unet", "primus", "segformer", "dino_unet"])
def test_programs_are_the_networks(networks: dict[str, model.Model], name: str) -> None:
    network, patch = networks[name].network, networks[name].configuration.patch_size
    script = program(network, tuple(patch))
    for batch in (1, 3):
        x = torch.randn(batch, 1, *patch)
        with torch.no_grad():
            assert torch.allclose(script(x), network(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["primus", "dino_unet"])
def test_programs_name_no_device(networks: dict[str, model.Model], name: str) -> None:
    """Positions of patches are made on the device of the image, wherever the program was made."""
    patch = networks[name].configuration.patch_size
    code = program(networks[name].network, tuple(patch)).network.code
    assert "arange" in code and "prim.device" in code
    assert 'torch.device("cpu")' not in code


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["unet", "primus", "segformer", "dino_unet"])
def test_programs_run_on_a_gpu(networks: dict[str, model.Model], name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    network, patch = networks[name].network, networks[name].configuration.patch_size
    x = torch.randn(2, 1, *patch)
    with torch.no_grad():
        expected = network(x)
        result = program(network, tuple(patch)).cuda()(x.cuda()).cpu()
    assert torch.allclose(result, expected, rtol=1e-2, atol=1e-2)


# ---- nnU-Net ----

NNUNET = """
import numpy as np, torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
predictor.initialize_from_trained_model_folder(sys.argv[1], (0,), "checkpoint_final.pth")
reader = predictor.plans_manager.image_reader_writer_class()
image, properties = reader.read_images([sys.argv[2]])
np.save(sys.argv[3], predictor.predict_single_npy_array(image, properties))
"""


def test_plain_nnunet_segments_as_we_do(study: Path, ct: Path, tmp_path: Path) -> None:
    """Its own network, in a process without this package."""
    without_meddino(NNUNET, study / "out/unet/nnunet", ct, tmp_path / "labels.npy")
    assert np.array_equal(np.load(tmp_path / "labels.npy"), ours(study / "out/unet", ct))


def test_nnunet_segments_with_our_trainer(
    study: Path, ct: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    monkeypatch.setenv("nnUNet_extTrainer", str(TRAINERS))
    folder = study / "out/primus/nnunet"
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
    reader = predictor.plans_manager.image_reader_writer_class()
    labels = predictor.predict_single_npy_array(*reader.read_images([str(ct)]))
    assert np.array_equal(labels, ours(study / "out/primus", ct))
    checkpoint = torch.load(folder / "fold_0/checkpoint_final.pth", weights_only=True)
    assert checkpoint["trainer_name"] == "MedDINOv3Trainer"


# ---- card, terms, provenance ----


def test_the_card_has_scores_with_intervals_and_what_each_library_needs(study: Path) -> None:
    text = (study / "out/primus/README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    (result,) = front["model-index"][0]["results"]
    dsc_entry = result["metrics"][0]
    assert dsc_entry["type"] == "dsc" and dsc_entry["value"] == pytest.approx(76.67)
    assert "95 % interval" in dsc_entry["name"] and "monai" in front["tags"]
    assert "| liver | 38.7 to 114.6 |" in text, "t of three cases; wider than the scale"
    assert "`MedDINOv3Trainer`, which meddino brings" in text and "no medical device" in text
    assert "nothing of meddino is needed" in (study / "out/unet/README.md").read_text()
    assert (study / "out/unet/NOTICE").read_text() in (study / "out/unet/README.md").read_text()


def test_provenance_leads_back_and_names_no_host(study: Path) -> None:
    folder = study / "out/primus"
    content = read_json(folder / "provenance.json")
    verbs = {record["verb"]: record for record in content["records"].values()}
    assert set(verbs) == {"bundle", "finetune", "model_card"}
    assert {record["host"]["name"] for record in verbs.values()} == {"host 1"}
    made = {entry["path"]: entry["sha256"] for entry in verbs["bundle"]["outputs"]}
    crate = {e["@id"]: e for e in read_json(folder / "ro-crate-metadata.json")["@graph"]}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in ("provenance.json", "ro-crate-metadata.json"):
            assert crate[name]["sha256"] == made[name] == records.entry(path)["sha256"]


def test_a_bundle_works_wherever_it_is_copied(study: Path, ct: Path, tmp_path: Path) -> None:
    arguments = [str(ct), "out.nii.gz", "--model", str(study / "out/unet"), "--device", "cpu"]
    assert main(["segment", *arguments]) == 0
    labels = sitk.GetArrayFromImage(sitk.ReadImage("out.nii.gz"))
    assert np.array_equal(labels, ours(study / "results/unet", ct))


@pytest.fixture
def retold(inside: Path, tmp_path: Path) -> Path:
    """A copy of a run below the study, for a card with other terms."""
    folder = inside / "results" / tmp_path.name
    folder.mkdir()
    for path in (inside / "results/unet").iterdir():
        if path.is_file() and "README" not in path.name:
            (folder / path.name).write_bytes(path.read_bytes())
    record = folder / ".model.safetensors.provenance.json"
    content = json.loads(record.read_text().replace("results/unet/", f"results/{tmp_path.name}/"))
    write_json(record, content)
    return folder.relative_to(inside)


def source(name: str, licence: str) -> Attribution:
    return Attribution(name=name, title=name.upper(), home="https://example.org", licence=licence)


def test_what_must_not_be_given_away_is_not(
    retold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card(retold, weights=(source("flexict", "CC BY-NC-ND"),))
    assert bundle(retold, tmp_path / "out", "--accept-licence", "flexict") == 2
    printed = capsys.readouterr().err
    assert "must not be given away: flexict (CC BY-NC-ND" in printed and printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_conditions_go_with_the_model(
    retold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terms = {"data": source("btcv", "terms of the challenge")}
    card(retold, **terms, weights=(source("dinov3", "DINOv3 License"),))
    output = tmp_path / "out"
    assert bundle(retold, output) == 2
    assert "--accept-licence btcv" in capsys.readouterr().err
    assert bundle(retold, output, "--accept-licence", "btcv") == 2
    assert "--licence-text dinov3=FILE" in capsys.readouterr().err
    (tmp_path / "LICENSE.md").write_text("the agreement")
    text = f"dinov3={tmp_path}/LICENSE.md"
    assert bundle(retold, output, "--accept-licence", "btcv", "--licence-text", text) == 0
    notice = (output / "NOTICE").read_text()
    assert notice in capsys.readouterr().out
    assert notice.startswith("Built with DINOv3.\n")
    assert "answers for having its owners' permission" in notice and "military" in notice
    assert (output / "licences/dinov3.md").read_text() == "the agreement"
    (made,) = [r for r in read_json(output / "provenance.json")["records"].values()
               if r["verb"] == "bundle"]  # fmt: skip
    assert made["options"]["accepted"] == ["btcv"]


def test_mistakes_are_told_in_one_line(
    inside: Path, retold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"

    def refused(*arguments: str) -> str:
        assert bundle(retold, output, *arguments) == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        return printed

    assert "let the study make" in refused()  # it has no card
    card(retold)
    assert "write NAME=FILE" in refused("--licence-text", "dinov3")
    assert "no such source" in refused("--licence-text", f"other={tmp_path}")
    assert "there are none" in refused("--accept-licence", "blobs")
    (retold / "s.parquet").write_bytes(b"others")
    assert "is not what" in refused()
    card(retold)
    (retold / ".model.safetensors.provenance.json").unlink()
    assert "has no record of how it was made" in refused()
    output.mkdir()
    assert "exists; name another folder" in refused()
