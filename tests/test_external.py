"""Models from outside, end to end: what --model takes, and what is noticed of a model."""

from __future__ import annotations

import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import Result
from torch import Tensor, nn

from bench.external.zoos import import_timm
from bench.records import RunRecord, load_records
from tests.commands import bench, done, refused

pytestmark = pytest.mark.slow

N = 24
MEAN, STD = "0.4914,0.4822,0.4465", "0.2471,0.2435,0.2616"


@pytest.fixture
def colours(tmp_path: Path) -> str:
    """Ten classes of 3x32x32 images that a linear model tells apart: a colour and noise."""
    g = np.random.default_rng(0)
    shade = np.linspace(10, 240, 10)[np.arange(60) % 10]
    x = shade[:, None, None, None] + g.uniform(-8, 8, (60, 32, 32, 3))
    images, labels = x.clip(0, 255).astype(np.uint8), np.arange(60) % 10
    path = tmp_path / "colours.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images[:N], y_test=labels[:N])
    return f"npz:{path}"


HEAD = """
import torch
from torch import nn

class Colour(nn.Module):
    '''The class whose shade is nearest to the image's mean.'''

    def __init__(self, scale=1.0, shift=0.0):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False, momentum=None)
        shades = (torch.linspace(10, 240, 10) / 255 - shift) / scale
        self.shades = nn.Parameter(shades)
        self.scale = scale

    def forward(self, x):
        return 200 * self.scale * (x.mean((1, 2, 3))[:, None] * self.shades - self.shades**2 / 2)
"""
GOOD = HEAD + "def make():\n    return Colour().eval()\n"


def evaluate(folder: Path, model: str, data: str, *more: str) -> Result:
    return bench(
        "evaluate", "--model", model, "--dataset", data, "--results", str(folder / "r"),
        "--attacks", "clean,pgd-10", "--test-size", str(N), "--eps", "2/255", *more,
    )  # fmt: skip


def evaluated(folder: Path, model: str, data: str, *more: str) -> RunRecord:
    result = evaluate(folder, model, data, *more)
    assert result.exit_code == 0, result.output
    (record,) = load_records(folder / "r")
    assert {e.spec.attack for e in record.evaluations} == {"clean", "pgd-10"}
    return record


def images_of(data: str) -> tuple[Tensor, np.ndarray]:
    """x (n, 3, 32, 32) in [0, 1] and y (n,)."""
    with np.load(data.removeprefix("npz:")) as arrays:
        x = torch.from_numpy(arrays["x_test"]).permute(0, 3, 1, 2).float() / 255
        return x, arrays["y_test"]


def file(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text)
    return f"{path}:make"


def clean(record: RunRecord) -> np.ndarray:
    (evaluation,) = (e for e in record.evaluations if e.spec.attack == "clean")
    return evaluation.clean


# --- what is noticed ---

PROBABILITIES = (
    HEAD
    + """
class Soft(Colour):
    def forward(self, x):
        return super().forward(x).softmax(1)

def make():
    return Soft().eval()
"""
)
TRAIN_MODE = HEAD + "def make():\n    return Colour()\n"
OUTSIDE = HEAD + "def make():\n    return Colour(scale=0.25, shift=0.48).eval()\n"
ONE_NAN = (
    HEAD
    + """
class Fragile(Colour):
    def forward(self, x):
        logits = super().forward(x)
        dark = x.mean((1, 2, 3)) == FIRST
        return logits.masked_fill(dark[:, None], torch.nan)

def make():
    return Fragile().eval()
"""
)


def marked(folder: Path) -> tuple[str, list[str]]:
    """The model's row of table3.md, and the notes that it is marked with."""
    reports = folder / "reports"
    done("report", "--results", folder / "r", "--reports", reports)
    lines = (reports / "table3.md").read_text().splitlines()
    row = next(line for line in lines if line.startswith("| mine.py:make"))
    marks = row.split("|")[1].split("(outside model)")[1].split()
    return row, [line for line in lines for mark in marks if line.startswith(f"- {mark} ")]


def test_a_good_model_is_neither_warned_of_nor_marked(tmp_path: Path, colours: str) -> None:
    model = file(tmp_path, GOOD)
    result = evaluate(tmp_path, model, colours)
    assert result.exit_code == 0, result.output
    assert f"first {N} test images: {N} right without an attack (100.0%), 10 classes, 10 param" in (
        result.stderr
    )
    assert "no warnings" in result.stderr
    (record,) = load_records(tmp_path / "r")
    assert [e.warnings for e in record.evaluations] == [(), ()]
    assert clean(record).all()
    assert marked(tmp_path)[1] == []
    assert evaluate(tmp_path, model, colours, "--quiet").output == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PROBABILITIES, "seems to return probabilities"),
        (TRAIN_MODE, "was in train mode"),
        (OUTSIDE, "are right as they are, 24 once they are normalised by"),
        (ONE_NAN, "1 of the first 24 images: logits not finite"),
    ],
    ids=["probabilities", "train mode", "normalisation outside", "one NaN"],
)
def test_what_is_wrong_is_in_the_record_and_marks_the_row(
    text: str, words: str, tmp_path: Path, colours: str
) -> None:
    mean = float(images_of(colours)[0][:1].mean((1, 2, 3)))
    model = file(tmp_path, text.replace("FIRST", repr(mean)))
    result = evaluate(tmp_path, model, colours)
    assert result.exit_code == 0, result.output
    assert words in result.stderr
    (record,) = load_records(tmp_path / "r")
    assert all(any(words in note for note in e.warnings) for e in record.evaluations)
    _, notes = marked(tmp_path)
    assert len(notes) == 1
    assert words in notes[0]
    if text is ONE_NAN:
        for evaluation in record.evaluations:  # the image is wrong, and the others are scored
            assert evaluation.survived.tolist() == [False] + [True] * (N - 1)


def test_a_normalisation_in_front_heals_it_and_is_part_of_the_identity(
    tmp_path: Path, colours: str
) -> None:
    model = file(tmp_path, OUTSIDE)
    mean, std = "0.48,0.48,0.48", "0.25,0.25,0.25"
    record = evaluated(tmp_path, model, colours, "--mean", mean, "--std", std)
    assert clean(record).all()
    assert record.spec["mean"] == [0.48] * 3
    assert record.spec["std"] == [0.25] * 3
    assert [e.warnings for e in record.evaluations] == [(), ()]
    assert evaluate(tmp_path, model, colours).exit_code == 0
    without = next(r for r in load_records(tmp_path / "r") if r.run_id != record.run_id)
    assert not clean(without).all()
    refused(evaluate(tmp_path, model, colours, "--mean", mean), "go together")
    refused(evaluate(tmp_path, model, colours, "--mean", "0.5", "--std", "0.5"), "3 channels")
    refused(evaluate(tmp_path, model, colours, "--mean", "a,b,c", "--std", std), "0.4914,")
    refused(evaluate(tmp_path, model, colours, "--mean", mean, "--std", "0,1,1"), "positive")
    refused(bench("evaluate", "some-run", "--mean", mean, "--std", std), "--model")


# --- names in packages ---


def saved(network: nn.Module, path: Path, prefix: str = "") -> Path:
    state = {f"{prefix}{name}": t.clone() for name, t in network.state_dict().items()}
    safetensors.torch.save_file(state, path)
    return path


def test_a_torchvision_network_with_weights(tmp_path: Path, colours: str) -> None:
    from torchvision import models

    torch.manual_seed(0)
    network = models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=10)
    path = saved(network, tmp_path / "w.safetensors", "module.")
    record = evaluated(
        tmp_path, "torchvision:shufflenet_v2_x0_5", colours, "--weights", str(path),
        "--mean", MEAN, "--std", STD,
    )  # fmt: skip
    x, y = images_of(colours)
    pair = (torch.tensor([float(v) for v in t.split(",")]).view(3, 1, 1) for t in (MEAN, STD))
    mean, std = pair
    with torch.no_grad():
        right = network.eval()((x - mean) / std).argmax(1).numpy() == y
    assert (clean(record) == right).all()


def _ten_classes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's weights count as for ten classes."""
    from torchvision import models

    meta = models.get_model_weights(name).DEFAULT.meta
    monkeypatch.setitem(meta, "categories", meta["categories"][:10])


def test_pretrained_weights_that_cannot_be_had_or_do_not_fit(
    tmp_path: Path, colours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import models

    refused(
        evaluate(tmp_path, "torchvision:resnet18", colours, "--quiet"),
        "torchvision:resnet18 are for 1000 classes and colours has 10", "--weights",
    )  # fmt: skip
    refused(
        evaluate(tmp_path, "torchvision:resnet19", colours, "--quiet"),
        "unknown torchvision model 'resnet19'. Did you mean 'resnet1",
    )
    refused(evaluate(tmp_path, "hub:resnet18", colours), "FILE.py:FACTORY", "robustbench:NAME")

    def offline(*_: object, **__: object) -> nn.Module:
        raise urllib.error.URLError("Temporary failure in name resolution")

    monkeypatch.setattr(models, "get_model", offline)
    _ten_classes("resnet18", monkeypatch)
    refused(
        evaluate(tmp_path, "torchvision:resnet18", colours, "--quiet"),
        "cannot be had (URLError: <urlopen error Temporary failure in name resolution>)",
        "--weights",
    )


def test_pretrained_weights_bring_their_normalisation(
    tmp_path: Path, colours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import models

    build = models.get_model

    def small(name: str, weights: object) -> nn.Module:
        torch.manual_seed(0)
        network: nn.Module = build(name, weights=None, num_classes=10)
        return network

    monkeypatch.setattr(models, "get_model", small)
    _ten_classes("shufflenet_v2_x0_5", monkeypatch)
    record = evaluated(tmp_path, "torchvision:shufflenet_v2_x0_5", colours)
    assert record.spec["mean"] == [0.485, 0.456, 0.406]
    assert record.spec["source_sha256"] is None


def installed(module: str) -> bool:
    """Whether the package is there whole: a folder without its __init__ is not."""
    import importlib.util

    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


@pytest.mark.skipif(not installed("timm"), reason="needs the extra robustbench, for timm")
def test_a_timm_network_with_weights(tmp_path: Path, colours: str) -> None:
    timm = import_timm()
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=10)
    path = saved(network, tmp_path / "w.safetensors")
    evaluated(tmp_path, "timm:resnet10t", colours, "--weights", str(path))
    line = "timm:resnet10t are for 1000 classes"
    refused(evaluate(tmp_path, "timm:resnet10t", colours, "--quiet"), line)
    refused(evaluate(tmp_path, "timm:resnet10x", colours), "Did you mean 'resnet10t'?", "are known")


def test_a_missing_package_is_one_line(
    tmp_path: Path, colours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] in ("timm", "robustbench")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)
    for model in ("timm:resnet18", "robustbench:Wong2020Fast"):
        refused(evaluate(tmp_path, model, colours, "--quiet"), "pip install 'atbench[robustbench]'")


@pytest.mark.skipif(not installed("robustbench"), reason="needs the extra robustbench, whole")
def test_a_network_of_robustbench_with_weights(
    tmp_path: Path, colours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The public files lack the normalisation that the zoo's network holds."""
    from bench.external.zoos import load_robustbench

    load_robustbench()
    zoo = sys.modules["robustbench.model_zoo.models"].model_dicts
    entries = next(v for k, v in zoo.items() if k.value == "cifar10")
    linf = next(v for k, v in entries.items() if k.value == "Linf")
    torch.manual_seed(0)
    network = linf["Wong2020Fast"]["model"]().eval()
    bare = {f"module.{n}": t for n, t in network.state_dict().items() if n not in ("mu", "sigma")}
    torch.save({"state_dict": bare, "epoch": 15}, tmp_path / "w.pt")
    monkeypatch.setattr(sys.modules[__name__], "N", 8)
    model = "robustbench:Wong2020Fast"
    record = evaluated(tmp_path, model, colours, "--weights", str(tmp_path / "w.pt"))
    x, y = images_of(colours)
    with torch.no_grad():
        right = network(x[:N]).argmax(1).numpy() == y[:N]
    assert (clean(record) == right).all()
    refused(
        evaluate(tmp_path, "robustbench:Wong2020Fats", colours, "--quiet"),
        "unknown robustbench model for cifar10, Linf, 'Wong2020Fats'. Did you mean 'Wong2020Fast'?",
    )

    def offline(**_: object) -> None:
        raise OSError("Failed to retrieve file url:\n\n\tmuch more")

    monkeypatch.setattr(sys.modules["robustbench.utils"].gdown, "download", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    refused(
        evaluate(tmp_path, model, colours, "--quiet"),
        "robustbench:Wong2020Fast cannot be had (OSError: Failed to retrieve file url:)",
        "--weights",
    )


def test_weights_with_a_normalisation_of_their_own(tmp_path: Path, colours: str) -> None:
    """As the package `robustness` saves them; whether the network has it nobody can see."""
    model = file(tmp_path, GOOD)
    state = {"module.model.shades": torch.linspace(10, 240, 10) / 255}
    for buffer, value in (("running_mean", 0.0), ("running_var", 1.0)):
        state[f"module.model.norm.{buffer}"] = torch.full((3,), value)
    state["module.model.norm.num_batches_tracked"] = torch.tensor(0)
    state |= {f"module.attacker.{name.removeprefix('module.')}": t for name, t in state.items()}
    state["module.normalizer.new_mean"] = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
    state["module.normalizer.new_std"] = torch.tensor([0.2023, 0.1994, 0.201]).view(3, 1, 1)
    torch.save({"model": state, "epoch": 3}, tmp_path / "w.pt")
    weights = ["--weights", str(tmp_path / "w.pt"), "--quiet"]
    refused(
        evaluate(tmp_path, model, colours, *weights),
        "--mean 0.4914,0.4822,0.4465 --std 0.2023,0.1994,0.201,", "--mean 0,0,0 --std 1,1,1",
    )  # fmt: skip
    record = evaluated(tmp_path, model, colours, *weights, "--mean", "0,0,0", "--std", "1,1,1")
    assert clean(record).all()
