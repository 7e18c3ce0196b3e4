"""Evaluations on data without training images, or with others than a run was trained on."""

from pathlib import Path

import numpy as np
import pyautoattack
import pytest
from click.testing import Result
from PIL import Image

from bench.data import load_dataset
from bench.errors import ConfigError, DataError
from bench.records import RunRecord, load_records
from tests.commands import bench, done, refused
from tests.harness import raises_line
from tests.short import ShortAutoAttack

CLASSES, SIDE = 6, 8
MODEL = f"""
import torch
from torch import nn

class Grey(nn.Module):
    '''The class whose grey is nearest to the image's mean.'''

    def __init__(self):
        super().__init__()
        self.greys = nn.Parameter(torch.linspace(20, 235, {CLASSES}) / 255)

    def forward(self, x):
        return -300 * (x.mean((1, 2, 3))[:, None] - self.greys) ** 2

def make():
    return Grey().eval()
"""


def shades(n: int, classes: range = range(CLASSES), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n, 8, 8, 3) uint8 of one grey a class with a little noise, and (n,) labels of `classes`."""
    y = np.array(classes)[np.arange(n) % len(classes)]
    grey = np.linspace(20, 235, CLASSES)[y]
    noise = np.random.default_rng(seed).integers(-9, 10, (n, SIDE, SIDE, 3))
    return (grey[:, None, None, None] + noise).astype(np.uint8), y


def save(path: Path, n_train: int, n_test: int, classes: range = range(CLASSES)) -> str:
    arrays = {}
    for part, n in (("train", n_train), ("test", n_test)):
        if n:
            seed = 0 if part == "train" else 1
            arrays[f"x_{part}"], arrays[f"y_{part}"] = shades(n, classes, seed)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return f"npz:{path}"


def save_folder(root: Path, parts: tuple[str, ...], names: str = "abcdef", side: int = SIDE) -> str:
    """Four files of each class in each part; class k has the k-th of the greys."""
    x, _ = shades(len(names) * 4)
    for part in parts:
        for number, image in enumerate(x):
            folder = root / part / names[number % len(names)]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).resize((side, side)).save(folder / f"{number}.png")
    return f"folder:{root}@{SIDE}"


def evaluate(folder: Path, data: str, *more: str) -> Result:
    (folder / "grey.py").write_text(MODEL)
    model = ("--model", f"{folder / 'grey.py'}:make", "--results", folder / "r")
    return done("evaluate", *model, "--dataset", data, "--device", "cpu", "--eps", "2/255", *more)


def only(folder: Path) -> RunRecord:
    (record,) = load_records(folder / "r")
    return record


def test_a_model_is_attacked_on_an_npz_of_test_images(tmp_path: Path) -> None:
    result = evaluate(tmp_path, save(tmp_path / "a.npz", 0, 24), "--attacks", "clean,apgd-ce")
    assert "warning:" not in result.stderr
    assert {e.n_correct for e in only(tmp_path).evaluations if e.spec.attack == "clean"} == {24}
    training = bench("run", "--dataset", f"npz:{tmp_path}/a.npz", "--results", tmp_path / "t")
    refused(training, "training images are missing (x_train, y_train); add them")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_model_is_attacked_on_a_folder_of_test_images(tmp_path: Path, part: str) -> None:
    data = save_folder(tmp_path / "data", (part,))
    result = evaluate(tmp_path, data, "--attacks", "clean")
    assert (
        f"folder data '{tmp_path / 'data'}': 24 test images, 6 classes; files of 8x8 pixels are "
        "taken as they are, others are resized to 9 and centre-cropped to 8\n"
    ) in result.stderr
    assert [e.n_correct for e in only(tmp_path).evaluations] == [24]
    result = bench("run", "--dataset", data, "--results", tmp_path / "t")
    refused(result, "there is no folder train/ in it", "training images are missing")


def test_training_images_may_lack_classes_or_be_of_one(tmp_path: Path) -> None:
    x, y = shades(24)
    for number, keep in enumerate((y != 4, y == 0, y < 0)):
        path = tmp_path / f"{number}.npz"
        np.savez(path, x_train=x[keep], y_train=y[keep], x_test=x, y_test=y)
        found = load_dataset(f"npz:{path}", trains=False)
        assert (found.num_classes, found.all_classes) == (CLASSES, False)
        assert len(found.train) + len(found.val) == keep.sum()
        evaluate(tmp_path / str(number), f"npz:{path}", "--attacks", "clean")
        with pytest.raises(DataError):
            load_dataset(f"npz:{path}")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / str(number)).mkdir()


@pytest.mark.slow
def test_test_images_of_few_classes_are_those_of_a_model_with_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AutoAttack needs four classes of the model; the labels here show two, with a gap."""
    monkeypatch.setattr(pyautoattack, "AutoAttack", ShortAutoAttack)
    x, y = shades(24, range(0, 3, 2))
    np.savez(tmp_path / "few.npz", x_test=x, y_test=y)
    asked = ("--attacks", "clean,autoattack", "--checks", "--check-size", "8")
    evaluate(tmp_path, f"npz:{tmp_path / 'few.npz'}", *asked)
    record = only(tmp_path)
    assert record.spec["num_classes"] == 3
    assert {e.spec.attack for e in record.evaluations} == {"clean", "autoattack"}
    # C7 and the like need four classes, and the model has them
    assert {"C7", "C8"} <= {m.spec.name for m in record.measures}


def test_data_of_one_class_can_be_attacked(tmp_path: Path) -> None:
    data = save(tmp_path / "one.npz", 16, 8, range(1))
    evaluate(tmp_path, data, "--attacks", "clean,pgd-20")
    assert {e.spec.attack for e in only(tmp_path).evaluations} == {"clean", "pgd-20"}


def test_a_model_of_too_few_classes_is_refused_when_it_is_known(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(MODEL.replace(f"235, {CLASSES})", "235, 2)"))
    data = save(tmp_path / "a.npz", 0, 8, range(2))
    result = bench(
        *("evaluate", "--model", f"{tmp_path / 'two.py'}:make", "--dataset", data, "--device"),
        *("cpu", "--attacks", "autoattack", "--results", tmp_path / "r", "--quiet"),
    )
    refused(result, "attack 'autoattack' needs at least 4 classes and a has 2")


def test_class_folders_of_both_parts_number_the_classes(tmp_path: Path) -> None:
    root = tmp_path / "data"
    data = save_folder(root, ("test",))
    save_folder(root, ("train",), "abdef")
    (root / "train" / "e" / "keep").mkdir()  # and e holds no image
    for file in (root / "train" / "e").glob("*.png"):
        file.unlink()
    result = evaluate(tmp_path, data, "--attacks", "clean")
    assert (
        f"warning: folder data '{root}': class folder 'c' is in {root / 'test'} but not in "
        f"{root / 'train'}; classes are numbered by the sorted names of both"
    ) in result.stderr
    assert [e.n_correct for e in only(tmp_path).evaluations] == [24]
    with raises_line(DataError, "both must hold the same classes"):
        load_dataset(data)


def test_a_test_folder_without_any_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data" / "val" / "a").mkdir(parents=True)
    with raises_line(DataError, "val holds no image; put images into its class folders"):
        load_dataset(f"folder:{tmp_path / 'data'}", trains=False)
    with raises_line(DataError, "there is no folder test/ or val/ in it"):
        load_dataset(f"folder:{tmp_path}", trains=False)


def trained(folder: Path, data: str, *more: str) -> RunRecord:
    asked = ("--arch", "cnn", "--methods", "natural", "--epochs", "1", "--attacks", "clean")
    fixed = ("--results", folder / "r", "--device", "cpu", "--quiet", "--no-checks")
    done("run", "--dataset", data, *asked, *fixed, *more)
    return only(folder)


def on(folder: Path, run: RunRecord, *more: str) -> Result:
    return bench("evaluate", run.run_id, "--results", folder / "r", "--device", "cpu", *more)


def test_a_run_is_attacked_without_its_training_images(tmp_path: Path) -> None:
    data = save(tmp_path / "own.npz", 60, 24)
    run = trained(tmp_path, data)
    for n_train in (0, 12):
        attack = "fgsm" if n_train else "pgd-10,apgd-ce"
        save(tmp_path / "own.npz", n_train, 24, range(CLASSES))
        assert on(tmp_path, run, "--attacks", attack).exit_code == 0
    found = only(tmp_path)
    assert found.run_id == run.run_id
    attacks = {e.spec.attack for e in found.evaluations if e.spec.checkpoint == "best"}
    assert attacks == {"clean", "fgsm", "pgd-10", "apgd-ce"}
    assert len({e.spec.data_sha256 for e in found.evaluations}) == 1


def test_a_surrogate_that_is_to_be_trained_needs_training_images(tmp_path: Path) -> None:
    data = save(tmp_path / "own.npz", 60, 24)
    run = trained(tmp_path, data)
    save(tmp_path / "own.npz", 0, 24)
    result = on(tmp_path, run, "--attacks", "transfer", "--quiet")
    refused(result, "surrogate 'natural' would be trained on the training", "own has none here")
    save(tmp_path / "own.npz", 30, 24)
    result = on(tmp_path, run, "--attacks", "transfer", "--quiet")
    refused(result, "own has others here")
    save(tmp_path / "own.npz", 60, 24)
    assert on(tmp_path, run, "--attacks", "transfer").exit_code == 0
    assert len(load_records(tmp_path / "r")) == 2


def test_a_surrogate_that_is_there_serves_on_test_images_alone(tmp_path: Path) -> None:
    """Also where their labels show fewer classes than it knows."""
    run = trained(tmp_path, save(tmp_path / "own.npz", 60, 24))
    x, y = shades(12, range(4))
    np.savez(tmp_path / "few.npz", x_test=x, y_test=y)
    asked = ("--attacks", "clean,transfer", "--surrogate", run.run_id)
    evaluate(tmp_path, f"npz:{tmp_path / 'few.npz'}", *asked)
    outside = next(r for r in load_records(tmp_path / "r") if r.kind == "model")
    (transfer,) = (e for e in outside.evaluations if e.spec.attack == "transfer")
    assert transfer.spec.surrogates == (run.run_id,)
    assert transfer.n_examples == 12


@pytest.mark.slow
def test_a_run_on_other_data_gets_a_record_of_its_own(tmp_path: Path) -> None:
    run = trained(tmp_path, save(tmp_path / "own.npz", 60, 24), "--eps", "3/255")
    other = save(tmp_path / "other.npz", 0, 30)
    asked = ("--attacks", "clean,pgd-10", "--checkpoints", "best,last", "--save-adversarials")
    result = on(tmp_path, run, "--dataset", other, *asked)
    assert (
        f"the test images of other here are not those of {run.run_id}, which was trained on own; "
        "on them it gets a record of its own\n"
    ) in result.stderr
    records = {record.run_id: record for record in load_records(tmp_path / "r")}
    own = records.pop(run.run_id)
    assert {e.spec.attack for e in own.evaluations} == {"clean"}  # nothing of the other images
    models = {str(record.spec["model"]) for record in records.values()}
    assert models <= {run.run_id, f"{run.run_id}:last"}
    for record in records.values():
        assert (record.kind, record.dataset) == ("model", "other")
        assert {e.spec.eps for e in record.evaluations} == {3 / 255}
        assert {e.n_examples for e in record.evaluations} == {30}
    images = sorted(map(str, (tmp_path / "r").rglob("*.adversarials.safetensors")))
    again = done("verify-adversarials", *images, "--results", tmp_path / "r")
    assert "all as recorded" in again.stdout
    n = len(load_records(tmp_path / "r"))
    assert on(tmp_path, run, "--dataset", other, *asked).exit_code == 0
    assert len(load_records(tmp_path / "r")) == n
    done("report", "--results", tmp_path / "r", "--reports", tmp_path / "p")


def test_other_images_of_the_same_name_do_not_mix_with_those_on_record(tmp_path: Path) -> None:
    run = trained(tmp_path, save(tmp_path / "own.npz", 60, 24))
    x, y = shades(24, seed=5)
    np.savez(tmp_path / "0" / "own.npz", x_test=x, y_test=y)
    asked = ("--dataset", f"npz:{tmp_path / '0' / 'own.npz'}", "--attacks", "clean,fgsm")
    assert on(tmp_path, run, *asked).exit_code == 0
    own, other = sorted(load_records(tmp_path / "r"), key=lambda record: record.kind == "model")
    assert {e.spec.attack for e in own.evaluations} == {"clean"}
    assert {e.spec.attack for e in other.evaluations} == {"clean", "fgsm"}
    images = {
        record.kind: {e.spec.data_sha256 for e in record.evaluations} for record in (own, other)
    }
    assert images["train"].isdisjoint(images["model"])
    # nor do fewer of them than were ever attacked, or all of a smaller file
    for n, path in ((10, tmp_path / "0" / "own.npz"), (12, tmp_path / "1" / "own.npz")):
        path.parent.mkdir(exist_ok=True)
        np.savez(path, x_test=x[:n] if n == 12 else x, y_test=y[:n] if n == 12 else y)
        some = ("--dataset", f"npz:{path}", "--attacks", "clean", "--test-size", str(n))
        assert on(tmp_path, run, *some).exit_code == 0
    again = next(record for record in load_records(tmp_path / "r") if record.kind == "train")
    assert len(again.evaluations) == len(own.evaluations)
    n_records = len(load_records(tmp_path / "r"))
    # fewer of its own images are its own
    fewer = on(tmp_path, run, "--test-size", "10", "--attacks", "fgsm")
    assert fewer.exit_code == 0
    assert len(load_records(tmp_path / "r")) == n_records


def test_a_run_on_images_of_another_kind_is_refused(tmp_path: Path) -> None:
    run = trained(tmp_path, save(tmp_path / "own.npz", 60, 24))
    result = on(tmp_path, run, "--dataset", "digits", "--quiet")
    refused(result, f"{run.run_id} was trained on images (3, 8, 8) of 6 classes")
    x, y = shades(24)
    np.savez(tmp_path / "more.npz", x_test=x, y_test=y + 3)
    result = on(tmp_path, run, "--dataset", f"npz:{tmp_path / 'more.npz'}", "--quiet")
    refused(result, "more has images (3, 8, 8) of 9 classes")


def test_the_first_images_are_all_there_are_where_training_is_not_asked_for() -> None:
    data = load_dataset("digits", train_size=5000, trains=False)
    assert len(data.train) + len(data.val) == 1437
    assert data.train.sha256 == load_dataset("digits").train.sha256
    assert load_dataset("digits", train_size=100, trains=False).train.sha256 == (
        load_dataset("digits", train_size=100).train.sha256
    )
    with raises_line(ConfigError, "test_size 361"):
        load_dataset("digits", test_size=361, trains=False)
