"""Image folders from the command line to the record: trained on, resumed, attacked, reported."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from torch import Tensor

from bench.archs.weights import read_weights
from bench.data import stream
from bench.data.stream import crop
from bench.experiments.plan import make_plan
from bench.experiments.study import AttackConfig
from bench.experiments.suite import load_suite
from bench.progress import Reporter
from bench.records import load_records
from bench.training import engine
from tests.commands import bench, done, refused
from tests.pictures import make_folder, make_imagenet
from tests.trained import Stopped, stop_at, trainer_of


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "pictures", {"train": 12, "val": 4})


def run(results: Path, dataset: str, *arguments: str) -> Result:
    fixed = ["--results", str(results), "--dataset", dataset, "--device", "cpu", "--quiet"]
    return bench("run", *fixed, "--eps", "4/255", "--epochs", "1", *arguments)


@pytest.mark.slow
def test_a_folder_trains_is_attacked_and_reported(tmp_path: Path, pictures: Path) -> None:
    results, dataset = tmp_path / "r", f"folder:{pictures}@16"
    asked = ["--arch", "cnn", "--methods", "natural,cat-ce", "--attacks", "clean"]
    run(results, dataset, *asked, "--batch-size", "10")
    runs = load_records(results)
    assert [record.method for record in runs] == ["cat-ce", "natural"]
    for record in runs:
        assert record.dataset == "pictures-16"
        assert (record.spec["n_train"], record.spec["n_val"]) == (33, 3)
        assert (record.spec["recipe"]["pad"], record.spec["recipe"]["flip"]) == (0, True)
        for evaluation in record.evaluations:
            assert evaluation.n_examples == 12
            assert evaluation.label is not None
            assert np.bincount(evaluation.label).tolist() == [4, 4, 4]
    run(results, dataset, *asked[:-1], "clean,fgsm", "--batch-size", "10")
    added = ("--attacks", "cw", "--device", "cpu")
    done("evaluate", runs[0].run_id, "--results", results, *added)
    frame = load_records(results).to_frame()
    assert frame.groupby("attack").size().to_dict() == {"clean": 4, "cw": 1, "fgsm": 4}
    report = done("report", "--results", results, "--reports", tmp_path / "p")
    assert "pictures-16" in report.stdout


def trained(results: Path, dataset: str, stopped_at: int | None = None) -> dict[str, Tensor]:
    """The last weights of two epochs of 4 batches; killed when batch `stopped_at` begins."""
    study = replace(
        load_suite("digits").only(),
        methods=("madry",),
        dataset=dataset,
        attacks=(AttackConfig(name="clean"),),
        training={"epochs": 2, "batch_size": 10, "lr": 0.05},
    )
    plan = make_plan(study)
    planned = plan.runs[0]
    trainer = trainer_of(planned.train_spec, plan.dataset, results)
    if stopped_at is not None:
        stop_at(trainer, stopped_at)
    trainer.run(Reporter(quiet=True))
    return read_weights(trainer.folder.weights("last"))


@pytest.mark.slow
def test_a_stopped_training_on_files_ends_with_the_same_weights(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[Path] = Counter()

    def counted(path: Path, size: int, seed: int) -> Any:
        read[path] += 1
        return crop(path, size, seed)

    monkeypatch.setattr(stream, "crop", counted)
    dataset = f"folder:{pictures}@8"
    whole = trained(tmp_path / "whole", dataset)
    assert sorted(read.values()) == [2] * 33  # once an epoch: what is announced is what is used
    monkeypatch.setattr(engine, "SAVE_SECONDS", -1.0)
    for number in (2, 4, 7):
        with pytest.raises(Stopped):
            trained(tmp_path / str(number), dataset, number)
        torch.manual_seed(number)
        parts = trained(tmp_path / str(number), dataset)
        assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_broken_file_ends_a_run_with_one_line_and_a_good_one_goes_on(
    tmp_path: Path, pictures: Path
) -> None:
    path = pictures / "train" / "b" / "7.png"
    good = path.read_bytes()
    path.write_bytes(good[:60] + bytes(len(good) - 60))
    asked = ["--arch", "cnn", "--methods", "natural", "--attacks", "clean"]
    result = run(tmp_path / "r", f"folder:{pictures}@8", *asked)
    refused(result, f"error: image file {path} cannot be decoded (")
    path.write_bytes(good)
    assert run(tmp_path / "r", f"folder:{pictures}@8", *asked).exit_code == 0
    assert [record.status for record in load_records(tmp_path / "r")] == ["done"]


def test_what_becomes_of_the_files_is_told(tmp_path: Path, pictures: Path) -> None:
    results = ("--results", tmp_path / "r", "--device", "cpu")
    data = ("--dataset", f"folder:{pictures}@16", "--epochs", "1", "--arch", "cnn", "--no-checks")
    for more in (["--dry-run"], []):
        result = done("run", *results, *data, "--methods", "natural", "--attacks", "clean", *more)
        assert f"'{pictures}': 36 training and 12 test images, 3 classes;" in result.stderr
        for words in ("resized to 18 and centre-cropped to 16", "padded by 2", "RandomResizedCrop"):
            assert words in result.stderr
        assert "warning" not in result.stderr
        assert ("natural-cnn-pictures-16-s0-" in result.stdout) or not more
        assert (tmp_path / "r").exists() == (not more)
    (record,) = load_records(tmp_path / "r")
    assert "notes" not in record.provenance
    again = done("evaluate", record.run_id, *results, "--attacks", "fgsm")
    assert f"folder data '{pictures}': 12 test images, 3 classes;" in again.stderr
    assert "RandomResizedCrop" not in again.stderr


GREY_OF_FOLDER = """
import torch
from torch import nn

class Grey(nn.Module):
    # Folder k holds the k-th grey; classes are numbered as ImageFolder does.

    def __init__(self):
        super().__init__()
        order = sorted(range(11), key=str)
        self.greys = nn.Parameter(torch.tensor(order) * 20.0 / 255)

    def forward(self, x):
        return -300 * (x.mean((1, 2, 3))[:, None] - self.greys) ** 2

def make():
    return Grey().eval()
"""


def test_a_model_that_imagefolder_numbered_is_right_and_numbers_as_names_are_warned_of(
    tmp_path: Path,
) -> None:
    root = tmp_path / "numbered"
    for part in ("train", "test"):
        for number in range(11):
            (root / part / str(number)).mkdir(parents=True)
            for copy in range(3):
                grey = np.full((8, 8, 3), 20 * number, dtype=np.uint8)
                Image.fromarray(grey).save(root / part / str(number) / f"{copy}.png")
    (tmp_path / "grey.py").write_text(GREY_OF_FOLDER)
    model = ("--model", f"{tmp_path / 'grey.py'}:make", "--device", "cpu")
    said = (
        f"  warning: folder data '{root}': class folders are numbered in the order of their names "
        "as text (0, 1, 10, 2, 3, ...), as torchvision's ImageFolder does: folder '2' is class 3; "
        "for a model whose classes have the numbers of the folders, number them from 0, without "
        "gaps and with leading zeros ('02')"
    )
    asked = ("--dataset", f"folder:{root}@8", "--results", tmp_path / "r", "--attacks", "clean")
    training = ("--device", "cpu", "--epochs", "1", "--arch", "cnn", "--methods", "natural")
    for command in (("evaluate", *model), ("run", *training, "--no-checks")):
        assert said in done(*command, *asked).stderr.splitlines()
    for record in load_records(tmp_path / "r"):
        assert [note for note in record.provenance["notes"] if f"  warning: {note}" == said]
        if record.kind == "model":
            assert [e.n_correct for e in record.evaluations] == [33]


@pytest.mark.slow
def test_the_suite_of_the_appendix_runs_on_a_small_folder(tmp_path: Path) -> None:
    root = make_imagenet(tmp_path / "imagenet", 1, 1)
    done(
        *("run", "--suite", "restricted-imagenet", "--size", "tiny", "--results"),
        *(str(tmp_path / "r"), "--data-root", str(root), "--quiet", "--device", "cpu"),
        *("--methods", "madry", "--epochs", "1", "--train-size", "20", "--test-size", "4"),
        *("--param", "madry.steps=2", "--attacks", "clean,fgsm,transfer"),
    )
    madry, natural = load_records(tmp_path / "r")
    assert (madry.method, natural.method) == ("madry", "natural")
    assert (madry.arch, madry.dataset) == ("resnet-50", "restricted-imagenet-32")
    assert (madry.status, madry.spec["num_classes"]) == ("done", 9)
    assert madry.spec["mean"] == [0.4717, 0.4499, 0.3837]
    weights = read_weights(madry.path / "best.safetensors")
    assert weights["fc.weight"].shape == (9, 2048)
    assert weights["std"].flatten().tolist() == pytest.approx([0.2600, 0.2516, 0.2575])
    assert madry.spec["eps"] == 0.005
    assert natural.provenance["role"] == "surrogate"
    assert {e.spec.attack for e in madry.evaluations} == {"clean", "fgsm", "transfer"}
    assert all(e.complete and e.n_examples == 4 for e in madry.evaluations)
