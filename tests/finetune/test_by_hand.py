"""The study's trainers under nnU-Net's own functions, and finetuning in several processes."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
import torch
import yaml

# pytest finds fixtures by their names here.
from test_finetune import dataset, method, plans, preprocessed, raw, tensors, training  # noqa: F401

from meddino.core.errors import MeddinoError
from meddino.core.files import read_json
from meddino.finetune import finetune, highres, model, predict
from meddino.finetune.failures import explained
from meddino.finetune.nnunet import folders
from meddino.finetune.options import FinetuneOptions, Prediction, PredictOptions
from meddino.models.distributed import Team, launch
from meddino.models.vit import build

TRAINERS = Path(finetune.__file__).parent / "trainers"
CPU = torch.device("cpu")


@pytest.fixture
def by_hand(
    preprocessed: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Set nnU-Net's variables and ours; return the folder of results."""
    from nnunetv2.training.logging.nnunet_logger import LocalLogger

    tiny = {"backbone": "vittiny8", "blocks": [0, 1], "drop_path": 0.2}
    length = {"epochs": 2, "iterations_per_epoch": 2, "val_iterations": 1, "checkpoint_every": 1}
    overlay = {"methods": {"meddinov3": tiny, "dinov3_multiscale": tiny}, "training": length}
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    vit = build("vittiny8", storage_tokens=2)
    torch.save({"teacher": vit.state_dict()}, tmp_path / "vit.pth")
    for name, value in {
        "nnUNet_preprocessed": preprocessed.parent.parent,
        "nnUNet_results": tmp_path / "results",
        "nnUNet_extTrainer": TRAINERS,
        "nnUNet_n_proc_DA": 0,
        "MEDDINO_CONFIG": tmp_path / "overlay.yaml",
        "MEDDINO_WEIGHTS": tmp_path / "vit.pth",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)  # seconds an epoch
    return tmp_path / "results"


def nnunet_trainer(again: bool = False, name: str = "MedDINOv3Trainer") -> Any:
    """What `nnUNetv2_train 901 2d 0 -tr NAME [--c]` trains with."""
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    trainer = get_trainer_from_args(
        "Dataset901_blobs", "2d", 0, name, continue_training=again, device=CPU
    )
    maybe_load_checkpoint(trainer, again, False)
    return trainer


def test_nnunet_trains_resumes_and_predicts_by_the_trainers_name(
    by_hand: Path,
    dataset: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer = nnunet_trainer()
    save = trainer.save_checkpoint

    def die(filename: str) -> None:
        save(filename)
        raise KeyboardInterrupt

    trainer.save_checkpoint = die
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()
    start = torch.load(tmp_path / "vit.pth", weights_only=True)["teacher"]
    backbone = trainer.network.backbone.state_dict()
    assert backbone["storage_tokens"].shape == start["storage_tokens"].shape
    assert torch.equal(backbone["rope_embed.periods"], start["rope_embed.periods"])
    largest = max((backbone[key] - value).abs().max() for key, value in start.items())
    assert 0 < largest < 1e-2  # two steps away from the checkpoint

    # What is recorded with the model is enough from here on.
    for name in ("MEDDINO_CONFIG", "MEDDINO_WEIGHTS"):
        monkeypatch.delenv(name)
    trainer = nnunet_trainer(again=True)
    assert trainer.current_epoch == 1 and trainer.num_epochs == 2
    trainer.run_training()
    folder = Path(trainer.output_folder_base)
    assert folder == by_hand / "Dataset901_blobs" / "MedDINOv3Trainer__nnUNetPlans__2d"
    written = torch.save
    monkeypatch.setattr(torch, "save", lambda _, path: written({}, path) or 1 / 0)
    with pytest.raises(ZeroDivisionError):  # in the middle of writing
        trainer.save_checkpoint(str(folder / "fold_0" / "checkpoint_final.pth"))
    monkeypatch.setattr(torch, "save", written)
    predictor = nnUNetPredictor(device=CPU, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
    output = tmp_path / "ours" / "model.safetensors"
    model.save(trainer, output)
    _assert_predicts_as(predictor, output, dataset, tmp_path / "ours" / "pred")


def _assert_predicts_as(predictor: Any, ours: Path, dataset: Path, folder: Path) -> None:  # noqa: F811
    predict.run(
        PredictOptions(prediction=Prediction()),
        model=ours,
        dataset=dataset,
        output=folder / "done.json",
    )
    reader = predictor.plans_manager.image_reader_writer_class()
    for case in read_json(folder / "done.json")["cases"]:
        image = dataset.parent / "imagesTr" / f"{case}_0000.nii.gz"
        theirs = predictor.predict_single_npy_array(*reader.read_images([str(image)]))
        segmentation = sitk.ReadImage(str(folder / f"{case}.nii.gz"))
        assert (sitk.GetArrayViewFromImage(segmentation) == theirs).all()


def test_what_the_variables_lack_is_named(
    by_hand: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEDDINO_WEIGHTS")
    with pytest.raises(MeddinoError, match=r"stage3@10000: set MEDDINO_WEIGHTS"):
        nnunet_trainer().initialize()
    torch.save({"teacher": build("vittiny8").blocks.state_dict()}, tmp_path / "part.pth")
    monkeypatch.setenv("MEDDINO_WEIGHTS", str(tmp_path / "part.pth"))
    with pytest.raises(MeddinoError, match=r"part\.pth is no DINOv3 ViT"):
        nnunet_trainer().initialize()
    (tmp_path / "wrong.yaml").write_text("methods: {meddinov3: {learning_rate: 1}}")
    monkeypatch.setenv("MEDDINO_CONFIG", str(tmp_path / "wrong.yaml"))
    with pytest.raises(MeddinoError, match=r"method\.learning_rate: no such key"):
        nnunet_trainer()


def test_every_named_trainer_is_a_method_of_the_papers_configuration(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meddino.finetune import by_hand as module
    from meddino.finetune.trainers import meddino_trainers

    rows = [
        kind.row
        for kind in vars(meddino_trainers).values()
        if isinstance(kind, type) and kind is not module.NamedTrainer
    ]
    assert len(rows) == 6
    assert {module._configured(row, "2d").method.network for row in rows} == {
        "primus",
        "segformer",
        "dino_unet",
    }
    assert module.PAPER.resolve() == root / "config.yaml"
    assert module._configured("meddinov3", "2d").method.backbone_lr == 1e-4
    monkeypatch.setenv("MEDDINO_CONFIG", str(tmp_path / "official.yaml"))
    (tmp_path / "official.yaml").write_text("recipe: official")
    assert module._configured("meddinov3", "2d").method.backbone_lr == 3e-5


def test_high_resolution_is_added_to_nnunets_plans(plans: Path, tmp_path: Path) -> None:  # noqa: F811
    content = read_json(plans)
    expected = content["configurations"].pop("2d_hires")
    path = tmp_path / "nnUNetPlans.json"
    path.write_text(json.dumps(content))
    assert highres.add(path, patch_px=96) == highres.add(path, patch_px=96) == "2d_96"
    added = read_json(path)["configurations"]["2d_96"]
    assert added == {**expected, "data_identifier": "nnUNetPlans_2d_96"}
    with pytest.raises(MeddinoError, match="another 2d_96; remove it"):
        highres.add(path, patch_px=96, batch_size=7)


# What goes wrong


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), "not enough memory; lower it"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "lower it"),
        (MemoryError(), "lower it"),
        (RuntimeError("One or more background workers are no longer alive."), "give it more"),
    ],
)
def test_want_of_memory_names_what_to_change(error: Exception, message: str) -> None:
    with pytest.raises(MeddinoError, match=message), explained("lower it", "give it more"):
        raise error
    with pytest.raises(RuntimeError, match="other"), explained("lower it", "give it more"):
        raise RuntimeError("some other failure")


def test_a_full_gpu_names_the_batch_size(
    preprocessed: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from meddino.finetune.trainer import StudyTrainer

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(StudyTrainer, "train_step", full)
    with pytest.raises(MeddinoError, match=r"lower planning\.batch_size, or .*processes \(CUDA"):
        finetune.run(
            FinetuneOptions(method=method("primus"), training=training()),
            preprocessed=preprocessed,
            state=tmp_path / "state",
            output=tmp_path / "model.safetensors",
        )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_process_that_augments_is_told(
    preprocessed: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

    monkeypatch.setattr(nnUNetDataLoader, "generate_train_batch", lambda _: os._exit(1))
    options = FinetuneOptions(method=method("primus"), training=training(num_processes=1))
    with pytest.raises(MeddinoError, match=r"training\.num_processes \(now 1\).*/dev/shm"):
        finetune.run(
            options,
            preprocessed=preprocessed,
            state=tmp_path / "state",
            output=tmp_path / "model.safetensors",
        )


# Several processes


def test_two_processes_agree_and_resume_to_the_bit(
    preprocessed: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    launch(whole_and_resumed, "cpu", 2, preprocessed, tmp_path)
    whole, resumed = (tensors(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key
    lines = (tmp_path / "b" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]


def whole_and_resumed(team: Team, preprocessed: Path, folder: Path) -> None:  # noqa: F811
    """Train twice in each of the processes, once with a signal to the first of them between."""
    from meddino.finetune.snapshot import unwrapped
    from meddino.finetune.trainer import StudyTrainer

    end, report = StudyTrainer.on_train_end, finetune._report

    def compare(trainer: StudyTrainer) -> None:
        end(trainer)
        weights = [value.double().sum() for value in unwrapped(trainer.network).parameters()]
        found = team.gather(torch.stack(weights))
        assert all(torch.equal(found[0], other) for other in found)
        drawn = team.gather(torch.rand(4))
        assert not torch.equal(*drawn)

    def interrupt(history: list[dict[str, Any]], output: Path) -> None:
        report(history, output)
        if len(history) == 1 and output.parent.name == "b":
            signal.raise_signal(signal.SIGUSR2)
            finetune._report = report

    StudyTrainer.on_train_end = compare  # type: ignore[method-assign]
    finetune._report = interrupt
    options = FinetuneOptions(
        method=method("primus"), training=training(epochs=2, checkpoint_every=2, processes=2)
    )
    for name, stopped in (("a", False), ("b", True), ("b", False)):
        output = folder / name / "model.safetensors"
        plan = preprocessed.with_name("nnUNetPlans.json")
        job = (options, preprocessed, plan, None, folder / name / "state", output)
        if stopped:
            with pytest.raises(MeddinoError, match="after epoch 0; a checkpoint is kept"):
                finetune._train(team, *job)
        else:
            finetune._train(team, *job)


def test_more_processes_than_slices_are_refused(
    preprocessed: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    options = FinetuneOptions(method=method("primus"), training=training(processes=3))
    folder = preprocessed.parent
    with (
        folders(preprocessed=folder.parent, results=tmp_path),
        pytest.raises(MeddinoError, match=r"3 processes cannot share.*planning\.batch_size"),
    ):
        finetune._trainer(options, folder / "nnUNetPlans.json", Team(CPU, 0, 3))
