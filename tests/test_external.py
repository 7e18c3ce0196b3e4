"""Models from outside, end to end: what `bench evaluate --model` takes, notices and refuses."""

import importlib.util
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import Result
from torch import Tensor, nn

from bench.external.zoos import import_timm, load_robustbench
from bench.records import RunRecord, load_records
from tests.commands import bench, done, refused

pytestmark = pytest.mark.slow

N = 24
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
NORMALISED = ["--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))]
NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    '''Class k is a mean brightness of k / 10.'''

    def __init__(self, sign=1.0, scale=1.0, shift=0.0):
        super().__init__()
        self.shades = nn.Parameter(sign * (torch.arange(10) / 10 - shift) / scale)
        self.scale = scale

    def forward(self, x):
        mean = x.mean((1, 2, 3))[:, None]
        return 200 * self.scale * (mean * self.shades - self.shades**2 / 2)
"""
MAKE = NETWORK + "\ndef make():\n    return Net().eval()\n"
FORWARD = "    def forward"
SHADES = torch.arange(10) / 10


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working directory with ten shades of grey as data; sys.path and modules are restored."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    labels = np.arange(60) % 10
    shade = np.rint(labels * 25.5).astype(np.uint8)
    images = np.broadcast_to(shade[:, None, None, None], (60, 32, 32, 3)).copy()
    np.savez("colours.npz", x_train=images, y_train=labels, x_test=images[:N], y_test=labels[:N])
    yield
    for name in ("parts", "flat", "helper"):
        sys.modules.pop(name, None)


def evaluate(model: str, *more: str, attacks: str = "clean") -> Result:
    arguments = ["--dataset", "npz:colours.npz", "--attacks", attacks, "--eps", "2/255"]
    return bench("evaluate", "--model", model, *arguments, *more)


def evaluated(model: str, *more: str) -> RunRecord:
    """The only new record."""
    before = {run.run_id for run in load_records("results")}
    result = evaluate(model, *more)
    assert result.exit_code == 0, result.output
    (new,) = (run for run in load_records("results") if run.run_id not in before)
    return new


def right(run: RunRecord) -> int:
    """Images that are right without an attack."""
    return next(e.n_correct for e in run.evaluations if e.spec.attack == "clean")


def mine(text: str = MAKE, old: str = "", new: str = "") -> str:
    """Write a model's file and return its name."""
    assert old in text
    Path("mine.py").write_text(text.replace(old, new) if old else text)
    return "mine.py:make"


def failures(result: Result) -> list[str]:
    """What could not be made, a line each; a slow machine prints progress too."""
    lines = [line for line in result.stderr.splitlines() if "(given): " in line]
    return [line for line in lines if not line.startswith("jobs: ")]


def agrees(record: RunRecord, network: nn.Module, mean: Tensor, std: Tensor) -> bool:
    """Whether the record has the predictions of the network on normalised images."""
    with np.load("colours.npz") as arrays:
        x = torch.from_numpy(arrays["x_test"]).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            correct = network((x - mean) / std).argmax(1).numpy() == arrays["y_test"]
    return bool((record.evaluations[0].clean == correct).all())


# --- what is noticed ---


def marked() -> list[str]:
    """The notes under the table that warn of the model."""
    done("report", "--results", "results", "--reports", "reports")
    lines = Path("reports/table3.md").read_text().splitlines()
    return [line for line in lines if line.startswith("- The evaluator warns of mine.py:make")]


def test_a_good_model_is_neither_warned_of_nor_marked() -> None:
    result = evaluate(mine(), attacks="clean,pgd-10")
    assert result.exit_code == 0, result.output
    line = f"first {N} test images: {N} right without an attack (100.0%), 10 classes, 10 parameters"
    assert line in result.stderr
    assert "no warnings" in result.stderr
    (record,) = load_records("results")
    assert [e.warnings for e in record.evaluations] == [(), ()]
    assert right(record) == N
    assert marked() == []
    assert evaluate("mine.py:make", "--quiet").output == ""


OUTSIDE = ("return Net()", "return Net(scale=0.25, shift=0.48)")
SCORES = "    def forward(self, x):\n        return self.scores(x).{}\n\n    def scores"
NAN = "masked_fill(x.amax((1, 2, 3))[:, None] == 0, torch.nan)"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (FORWARD, SCORES.format("softmax(1)"), "seems to return probabilities"),
        ("Net().eval()", "Net()", "was in train mode"),
        (*OUTSIDE, f"are right as they are, {N} once they are normalised by"),
        (FORWARD, SCORES.format(NAN), f"3 of the first {N} images: logits not finite"),
    ],
)
def test_what_is_wrong_is_in_the_record_and_marks_the_row(old: str, new: str, words: str) -> None:
    result = evaluate(mine(MAKE, old, new), attacks="clean,pgd-10")
    assert result.exit_code == 0, result.output
    assert words in result.stderr
    (record,) = load_records("results")
    assert all(any(words in note for note in e.warnings) for e in record.evaluations)
    (note,) = marked()
    assert words in note
    if "not finite" in words:  # these images are wrong, and the others are scored
        for evaluation in record.evaluations:
            assert evaluation.survived.tolist() == [i % 10 != 0 for i in range(N)]


def test_a_normalisation_in_front_heals_it_and_is_part_of_the_identity() -> None:
    model, mean, std = mine(MAKE, *OUTSIDE), "0.48,0.48,0.48", "0.25,0.25,0.25"
    record = evaluated(model, "--mean", mean, "--std", std)
    assert right(record) == N
    assert (record.spec["mean"], record.spec["std"]) == ([0.48] * 3, [0.25] * 3)
    assert [e.warnings for e in record.evaluations] == [()]
    assert right(evaluated(model)) < N
    refused(evaluate(model, "--mean", mean), "go together")
    refused(evaluate(model, "--mean", "0.5", "--std", "0.5"), "3 channels")
    refused(evaluate(model, "--mean", "a,b,c", "--std", std), "0.4914,")
    refused(evaluate(model, "--mean", mean, "--std", "0,1,1"), "positive")
    refused(bench("evaluate", "some-run", "--mean", mean, "--std", std), "--model")


# --- names in packages ---


def saved(network: nn.Module, prefix: str = "") -> list[str]:
    state = {f"{prefix}{name}": t.clone() for name, t in network.state_dict().items()}
    safetensors.torch.save_file(state, "w.safetensors")
    return ["--weights", "w.safetensors"]


def test_a_torchvision_network_with_weights() -> None:
    from torchvision import models

    torch.manual_seed(0)
    network = models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=10).eval()
    weights = saved(network, "module.")
    record = evaluated("torchvision:shufflenet_v2_x0_5", *weights, *NORMALISED)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    assert agrees(record, network, mean, std)


def test_pretrained_weights_fit_bring_their_normalisation_or_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torchvision import models

    name, build = "shufflenet_v2_x0_5", models.get_model
    refused(
        evaluate(f"torchvision:{name}", "--quiet"),
        f"torchvision:{name} are for 1000 classes and colours has 10", "--weights",
    )  # fmt: skip
    refused(
        evaluate("torchvision:resnet19", "--quiet"),
        "unknown torchvision model 'resnet19'. Did you mean 'resnet1",
    )
    refused(evaluate("hub:resnet18"), "FILE.py:FACTORY", "robustbench:NAME")
    meta = models.get_model_weights(name).DEFAULT.meta
    monkeypatch.setitem(meta, "categories", meta["categories"][:10])

    def offline(*_: object, **__: object) -> nn.Module:
        raise urllib.error.URLError("Temporary failure in name resolution")

    monkeypatch.setattr(models, "get_model", offline)
    refused(
        evaluate(f"torchvision:{name}", "--quiet"),
        "cannot be had (URLError: <urlopen error Temporary failure in name resolution>)",
        "--weights",
    )
    monkeypatch.setattr(
        models, "get_model", lambda name, weights: build(name, weights=None, num_classes=10)
    )
    record = evaluated(f"torchvision:{name}")
    assert record.spec["mean"] == [0.485, 0.456, 0.406]
    assert record.spec["source_sha256"] is None


def installed(module: str) -> bool:
    """Whether the package is there whole: a folder without its __init__ is not."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


@pytest.mark.skipif(not installed("timm"), reason="needs the extra robustbench, for timm")
def test_a_timm_network_with_weights() -> None:
    torch.manual_seed(0)
    network = import_timm().create_model("resnet10t", num_classes=10)
    evaluated("timm:resnet10t", *saved(network))
    refused(evaluate("timm:resnet10t", "--quiet"), "timm:resnet10t are for 1000 classes")
    refused(evaluate("timm:resnet10x"), "Did you mean 'resnet10t'?", "are known")


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] in ("timm", "robustbench")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)
    for model in ("timm:resnet18", "robustbench:Wong2020Fast"):
        refused(evaluate(model, "--quiet"), "pip install 'atbench[robustbench]'")


@pytest.mark.skipif(not installed("robustbench"), reason="needs the extra robustbench, whole")
def test_a_network_of_robustbench_with_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The public files lack the normalisation that the zoo's network holds."""
    load_robustbench()
    zoo = sys.modules["robustbench.model_zoo.models"].model_dicts
    entries = next(v for k, v in zoo.items() if k.value == "cifar10")
    linf = next(v for k, v in entries.items() if k.value == "Linf")
    torch.manual_seed(0)
    network = linf["Wong2020Fast"]["model"]().eval()
    bare = {f"module.{n}": t for n, t in network.state_dict().items() if n not in ("mu", "sigma")}
    torch.save({"state_dict": bare, "epoch": 15}, "w.pt")
    model = "robustbench:Wong2020Fast"
    record = evaluated(model, "--weights", "w.pt")
    assert agrees(record, network, torch.tensor(0.0), torch.tensor(1.0))
    refused(
        evaluate("robustbench:Wong2020Fats", "--quiet"),
        "unknown robustbench model for cifar10, Linf, 'Wong2020Fats'. Did you mean 'Wong2020Fast'?",
    )

    def offline(**_: object) -> None:
        raise OSError("Failed to retrieve file url:\n\n\tmuch more")

    monkeypatch.setattr(sys.modules["robustbench.utils"].gdown, "download", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    refused(
        evaluate(model, "--quiet"),
        "robustbench:Wong2020Fast cannot be had (OSError: Failed to retrieve file url:)",
        "--weights",
    )


# --- files of code ---


def test_a_model_file_imports_what_lies_beside_it_and_in_the_working_directory() -> None:
    text = "from parts.net import Net\ndef make():\n    return Net().eval()\n"
    for folder, sign in (("one", "sign *"), ("two", "-sign *")):
        parts = Path(folder, "parts")
        parts.mkdir(parents=True)
        (parts / "__init__.py").touch()
        (parts / "net.py").write_text(NETWORK.replace("sign *", sign))
        Path(folder, "mine.py").write_text(text)
    assert right(evaluated("one/mine.py:make")) == N
    assert right(evaluated("two/mine.py:make")) < N, "the package beside the second file"
    Path("flat.py").write_text(NETWORK)
    Path("one/flatly.py").write_text(text.replace("parts.net", "flat"))
    assert right(evaluated("one/flatly.py:make")) == N


def test_a_model_file_may_read_the_command_line_and_change_torch() -> None:
    head = "import argparse, torch\nargparse.ArgumentParser().parse_args()\n"
    head += "torch.set_grad_enabled(False)\ntorch.set_default_dtype(torch.float64)\n"
    head += "torch.set_default_device('cpu')\ntorch.set_num_threads(3)\n"
    argv, threads = list(sys.argv), torch.get_num_threads()
    result = evaluate(mine(head + MAKE), attacks="clean,pgd-20")
    assert result.exit_code == 0, result.output
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert sys.argv == argv
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("raise ValueError('no weights here')", "ValueError: no weights here"),
        ("return 3", "returned int"),
        ("return nn.Linear(65, 10)", "cannot take images (3, 32, 32)"),
    ],
)
def test_a_factory_that_makes_no_network_for_the_data_is_one_line(made: str, words: str) -> None:
    refused(evaluate(mine(f"{NETWORK}\ndef make():\n    {made}\n")), words)
    refused(evaluate("mine.py"), "FILE.py:FACTORY")
    refused(bench("evaluate", "--model", "mine.py:make"), "--dataset")
    assert not list(Path().glob("results/*"))


@pytest.mark.parametrize("call", ["sys.exit(3)", "raise SystemExit"])
def test_a_model_file_that_exits_is_one_line(call: str) -> None:
    refused(evaluate(mine(f"import sys\n{call}\n")), "mine.py:make ends the program", "__main__")
    mine(f"import sys\ndef make():\n    {call}\n")
    refused(evaluate("mine.py:make"), "mine.py:make ends the program")
    refused(evaluate("mine.py:made"), "mine.py has no made")


def test_a_module_serves_as_its_own_factory_and_state_that_is_no_tensor_is_taken() -> None:
    extra = "    def get_extra_state(self):\n        return {'version': 1}\n\n"
    extra += "    def set_extra_state(self, state):\n        pass\n\n"
    mine(f"{NETWORK}\nmake = Net().eval()\n", FORWARD, extra + FORWARD)
    assert right(evaluated("mine.py:make")) == N


# --- files of weights ---


def test_which_weights_were_taken_is_said_and_a_key_chooses() -> None:
    model = mine()
    torch.save({"state_dict": {"shades": -SHADES}, "ema_state_dict": {"shades": SHADES}}, "w.pt")
    result = evaluate(model, "--weights", "w.pt")
    assert "ema_state_dict was loaded" in result.stderr
    assert "--weights w.pt:state_dict takes the other" in result.stderr
    (record,) = load_records("results")
    assert right(record) == N
    assert "ema_state_dict was loaded" in record.provenance["notes"][0]
    assert right(evaluated(model, "--weights", "w.pt:state_dict")) < N
    refused(evaluate(model, "--weights", "w.pt:swa"), "unknown key of w.pt 'swa'")
    refused(evaluate(model, "--weights", "v.pt:ema"), "v.pt:ema do not exist")
    torch.save({"shades": SHADES}, "plain.pt")
    refused(evaluate(model, "--weights", "plain.pt:model"), "leave :model out")
    again = bench("evaluate", record.run_id, "--attacks", "clean")
    refused(again, "is a record of a model from outside", "--model")


def test_constants_that_a_file_lacks_stay_and_it_is_said() -> None:
    buffer = "super().__init__()\n        self.register_buffer('gain', torch.ones(1))\n"
    text = MAKE.replace("super().__init__()\n", buffer)
    torch.save({"module.shades": SHADES}, "w.pt")
    result = evaluate(mine(text, "return 200 *", "return self.gain * 200 *"), "--weights", "w.pt")
    assert "w.pt lacks gain: the network's own stay" in result.stderr
    assert right(load_records("results")[0]) == N


ROBUSTNESS = {
    "model": {
        "module.model.shades": SHADES,
        "module.attacker.model.shades": SHADES,
        "module.normalizer.new_mean": torch.tensor(MEAN).view(3, 1, 1),
        "module.normalizer.new_std": torch.tensor(STD).view(3, 1, 1),
    },
    "epoch": 3,
}
"""As the package `robustness` saves them."""
SEQUENCE = {"0.mean": torch.tensor(MEAN), "0.std": torch.tensor(STD), "1.shades": SHADES}


@pytest.mark.parametrize("content", [ROBUSTNESS, SEQUENCE])
def test_weights_with_a_normalisation_of_their_own(content: object) -> None:
    """Whether the network has it nobody can see."""
    torch.save(content, "w.pt")
    weights = ["--weights", "w.pt", "--quiet"]
    refused(
        evaluate(mine(), *weights),
        "come with a normalisation: give " + " ".join(NORMALISED), "--mean 0,0,0 --std 1,1,1",
    )  # fmt: skip
    assert right(evaluated("mine.py:make", *weights, "--mean", "0,0,0", "--std", "1,1,1")) == N


# --- whose record it is ---

HIDDEN = """
class Ensemble(nn.Module):
    '''Its members are in a list, and so in no state dict.'''

    def __init__(self):
        super().__init__()
        self.members = [Net(), Net()]
        for member in self.members:
            member.load_state_dict(torch.load("member.pt"))

    def forward(self, x):
        return sum(member(x) for member in self.members)

def make():
    return Ensemble().eval()
"""


def test_another_ensemble_of_the_same_text_has_its_own_record() -> None:
    mine(NETWORK + HIDDEN)
    records = {}
    for sign in (1.0, -1.0):
        torch.save({"shades": sign * SHADES}, "member.pt")
        records[sign] = evaluated("mine.py:make")
    assert right(records[-1.0]) < right(records[1.0]) == N
    for sign, record in records.items():
        torch.save({"shades": sign * SHADES}, "member.pt")
        result = evaluate("mine.py:make", "--test-size", "20")
        assert result.exit_code == 0, result.output
        assert f"{record.run_id}: 1 evaluations" in result.stderr, "it is found again"
    assert len(load_records("results")) == 2


def test_models_that_agree_on_every_prediction_have_records_of_their_own() -> None:
    """What distinguishes them shows only in noisy images, or in the size of the logits."""
    Path("helper.py").write_text("def prepared(x):\n    return (x * 255).round() / 255\n")
    text = "from helper import prepared\n" + MAKE
    assert right(evaluated(mine(text, "mean = x.mean", "mean = prepared(x).mean"))) == N
    Path("helper.py").write_text("def prepared(x):\n    return x\n")
    assert right(evaluated("mine.py:make")) == N
    noise = "x = x + torch.load('gain.pt') * (x - x.mean((1, 2, 3), keepdim=True)).abs()"
    mine(MAKE, "mean = x.mean", f"{noise}\n        mean = x.mean")
    for gain in (0.0, 5.0):
        torch.save(torch.tensor(gain), "gain.pt")
        assert right(evaluated("mine.py:make")) == N
    mine(NETWORK + HIDDEN)
    for sign in (1.0, 1.01):
        torch.save({"shades": sign * SHADES}, "member.pt")
        assert right(evaluated("mine.py:make")) == N


def test_a_damaged_fingerprint_is_no_proof() -> None:
    evaluated(mine())
    (path,) = Path("results").glob("*/fingerprint.npz")
    path.write_bytes(path.read_bytes()[:50])
    result = evaluate("mine.py:make")
    assert result.exit_code == 0, result.output
    assert "is on record; this one becomes" in result.stderr


# --- what cannot be run, and what can ---


def test_what_can_be_run_is_run_and_the_rest_is_named() -> None:
    model = mine(MAKE, FORWARD, "    @torch.no_grad()\n    def forward")
    result = evaluate(model, "--test-size", "3", attacks="clean,pgd-20,cw,square")
    refused(result, "2 of 4 evaluations and checks could not be made of mine.py:make")
    lines = failures(result)
    assert len(lines) == 2
    assert "cannot be run on mine.py:make: no gradient reaches" in lines[0]
    (record,) = load_records("results")
    assert {e.spec.attack for e in record.evaluations} == {"clean", "square"}


def test_a_copy_that_cannot_be_made_costs_the_check_that_needs_it() -> None:
    copy = "    def __deepcopy__(self, memo):\n        raise TypeError('a lock')\n\n"
    model = mine(MAKE, FORWARD, copy + FORWARD)
    result = evaluate(model, "--checks", "--check-size", "4")
    refused(result, "could not be made of mine.py:make")
    failed = failures(result)
    assert failed
    assert all("a lock" in line or line.endswith(": the same") for line in failed)
    (record,) = load_records("results")
    assert len(record.measures) + len(failed) == 12  # C2 and C12 need a surrogate
    assert len(record.measures) >= 10


def test_too_little_memory_and_a_layer_without_values_are_one_line() -> None:
    raises = "raise torch.OutOfMemoryError('2 GiB')\n        return 200"
    refused(
        evaluate(mine(MAKE, "return 200", raises)), "do not fit into the memory of cpu", "2 GiB"
    )
    mine(MAKE, "Net()", "nn.Sequential(nn.Flatten(), nn.LazyLinear(10))")
    refused(evaluate("mine.py:make"), "has no values yet: call the network once")
    assert not list(Path().glob("results/*"))
