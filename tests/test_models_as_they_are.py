"""Models from outside as people have them, through `bench evaluate --model`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

from bench.records import RunRecord, load_records
from tests.commands import bench, refused

pytestmark = pytest.mark.slow

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    '''Class k is a mean brightness of k / 10.'''

    def __init__(self, sign=1.0):
        super().__init__()
        self.shades = nn.Parameter(sign * torch.arange(10) / 10)

    def forward(self, x):
        return 100 * (x.mean((1, 2, 3))[:, None] * self.shades - self.shades**2 / 2)
"""
MAKE = NETWORK + "\ndef make():\n    return Net().eval()\n"


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In a folder of its own, with ten shades of grey as data; sys.path as it was afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    labels = np.random.default_rng(0).permutation(40) % 10
    shade = np.rint(labels * 25.5).astype(np.uint8)
    images = np.broadcast_to(shade[:, None, None], (40, 8, 8)).copy()
    np.savez("shades.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    yield
    for name in ("parts", "flat"):
        sys.modules.pop(name, None)


def evaluate(model: str, *more: str, attacks: str = "clean") -> Result:
    arguments = ["--dataset", "npz:shades.npz", "--attacks", attacks, "--eps", "0.01"]
    return bench("evaluate", "--model", model, *arguments, *more)


def right(run: RunRecord) -> int:
    """Images that are right without an attack."""
    return next(e.n_correct for e in run.evaluations if e.spec.attack == "clean")


def failures(result: Result) -> list[str]:
    """What could not be made, a line each; a slow machine prints progress too."""
    lines = [line for line in result.stderr.splitlines() if "(given): " in line]
    return [line for line in lines if "(given): attacks: " not in line]


def evaluated(model: str, *more: str) -> int:
    """Right images of the only new record."""
    before = {run.run_id for run in load_records("results")}
    result = evaluate(model, *more)
    assert result.exit_code == 0, result.output
    (new,) = (run for run in load_records("results") if run.run_id not in before)
    return right(new)


# --- files of code ---


def test_a_model_file_imports_what_lies_beside_it_and_in_the_working_directory() -> None:
    for folder in ("one", "two"):
        parts = Path(folder, "parts")
        parts.mkdir(parents=True)
        (parts / "__init__.py").touch()
    Path("one/parts/net.py").write_text(NETWORK)
    Path("two/parts/net.py").write_text(NETWORK.replace("sign *", "-sign *"))
    Path("flat.py").write_text(NETWORK)
    text = "from parts.net import Net\ndef make():\n    return Net().eval()\n"
    for folder in ("one", "two"):
        Path(folder, "mine.py").write_text(text)
    assert evaluated("one/mine.py:make") == 40
    assert evaluated("two/mine.py:make") < 40, "the package of that name beside the second file"
    Path("one/flatly.py").write_text(text.replace("parts.net", "flat"))
    assert evaluated("one/flatly.py:make") == 40


def test_a_model_file_may_read_the_command_line_and_change_torch() -> None:
    head = "import argparse, torch\nargparse.ArgumentParser().parse_args()\n"
    head += "torch.set_grad_enabled(False)\ntorch.set_default_dtype(torch.float64)\n"
    head += "torch.set_default_device('cpu')\ntorch.set_num_threads(3)\n"
    Path("mine.py").write_text(head + MAKE)
    argv, threads = list(sys.argv), torch.get_num_threads()
    result = evaluate("mine.py:make", attacks="clean,pgd-20")
    assert result.exit_code == 0, result.output
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert sys.argv == argv
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("call", ["sys.exit(3)", "raise SystemExit"])
def test_a_model_file_that_exits_is_one_line(call: str) -> None:
    Path("mine.py").write_text(f"import sys\n{call}\n")
    refused(evaluate("mine.py:make"), "mine.py:make ends the program", "__main__")
    Path("mine.py").write_text(f"import sys\ndef make():\n    {call}\n")
    refused(evaluate("mine.py:make"), "mine.py:make ends the program")
    refused(evaluate("mine.py:made"), "mine.py has no made")


def test_a_module_serves_as_its_own_factory() -> None:
    Path("mine.py").write_text(f"{NETWORK}\nnetwork = Net().eval()\n")
    assert evaluated("mine.py:network") == 40


# --- files of weights ---


def test_which_weights_were_taken_is_said_and_a_key_chooses() -> None:
    Path("mine.py").write_text(MAKE)
    good, raw = torch.arange(10) / 10, -torch.arange(10) / 10
    torch.save({"state_dict": {"shades": raw}, "ema_state_dict": {"shades": good}}, "w.pt")
    result = evaluate("mine.py:make", "--weights", "w.pt")
    assert "ema_state_dict was loaded" in result.stderr
    assert "--weights w.pt:state_dict takes the other" in result.stderr
    (record,) = load_records("results")
    assert right(record) == 40
    assert "ema_state_dict was loaded" in record.provenance["notes"][0]
    assert evaluated("mine.py:make", "--weights", "w.pt:state_dict") < 40
    refused(evaluate("mine.py:make", "--weights", "w.pt:swa"), "unknown key of w.pt 'swa'")
    refused(evaluate("mine.py:make", "--weights", "v.pt:ema"), "v.pt:ema do not exist")
    torch.save({"shades": good}, "plain.pt")
    refused(evaluate("mine.py:make", "--weights", "plain.pt:model"), "leave :model out")
    (first, *_) = load_records("results")
    again = bench("evaluate", first.run_id, "--attacks", "clean")
    refused(again, "is a record of a model from outside", "--model")


def test_constants_that_a_file_lacks_stay_and_it_is_said() -> None:
    text = MAKE.replace(
        "super().__init__()\n",
        "super().__init__()\n        self.register_buffer('gain', torch.ones(1))\n",
    )
    Path("mine.py").write_text(text.replace("return 100 *", "return 100 * self.gain *"))
    torch.save({"module.shades": torch.arange(10) / 10}, "w.pt")
    result = evaluate("mine.py:make", "--weights", "w.pt")
    assert "w.pt lacks gain: the network's own stay" in result.stderr
    assert right(load_records("results")[0]) == 40


def test_a_normalisation_in_a_file_goes_where_the_options_put_it() -> None:
    Path("mine.py").write_text(MAKE)
    torch.save(
        {"0.mean": torch.zeros(1), "0.std": torch.ones(1), "1.shades": torch.arange(10) / 10},
        "w.pt",
    )
    weights = ["--weights", "w.pt"]
    refused(evaluate("mine.py:make", *weights), "come with a normalisation: give --mean 0 --std 1")
    assert evaluated("mine.py:make", *weights, "--mean", "0", "--std", "1") == 40


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


def member(sign: float) -> None:
    torch.save({"shades": sign * torch.arange(10) / 10}, "member.pt")


def test_another_ensemble_of_the_same_text_has_its_own_record() -> None:
    Path("mine.py").write_text(NETWORK + HIDDEN)
    member(1.0)
    assert evaluated("mine.py:make") == 40
    member(-1.0)
    assert evaluated("mine.py:make") < 40
    assert len(load_records("results")) == 2
    member(1.0)
    first, second = sorted(load_records("results"), key=right, reverse=True)
    for sign, record in ((1.0, first), (-1.0, second)):
        member(sign)
        result = evaluate("mine.py:make", "--test-size", "30")
        assert result.exit_code == 0, result.output
        assert f"{record.run_id}: 1 evaluations" in result.stderr, "it is found again"
    assert len(load_records("results")) == 2


def test_what_a_second_file_does_is_part_of_a_model() -> None:
    """Here the helper rounds grey levels, which shows in no image that has them already."""
    Path("helper.py").write_text("def prepared(x):\n    return (x * 255).round() / 255\n")
    text = "from helper import prepared\n" + MAKE.replace("(x.mean", "(prepared(x).mean")
    Path("mine.py").write_text(text)
    assert evaluated("mine.py:make") == 40
    Path("helper.py").write_text("def prepared(x):\n    return x\n")
    assert evaluated("mine.py:make") == 40
    assert len(load_records("results")) == 2
    sys.modules.pop("helper", None)


def test_models_that_agree_on_every_prediction_have_records_of_their_own() -> None:
    """The images are of one shade each, so that what is far from their mean is noise."""
    noise = "x = x + torch.load('gain.pt') * (x - x.mean((1, 2, 3), keepdim=True)).abs()"
    Path("mine.py").write_text(MAKE.replace("return 100 *", f"{noise}\n        return 100 *"))
    for gain in (0.0, 5.0):
        torch.save(torch.tensor(gain), "gain.pt")
        assert evaluated("mine.py:make") == 40
    Path("mine.py").write_text(NETWORK + HIDDEN)
    for sign in (1.0, 1.01):
        member(sign)
        assert evaluated("mine.py:make") == 40
    assert len({run.run_id for run in load_records("results")}) == 4


def test_a_damaged_fingerprint_is_no_proof() -> None:
    Path("mine.py").write_text(MAKE)
    assert evaluated("mine.py:make") == 40
    (path,) = Path("results").glob("*/fingerprint.npz")
    path.write_bytes(path.read_bytes()[:50])
    result = evaluate("mine.py:make")
    assert result.exit_code == 0, result.output
    assert "is on record; this one becomes" in result.stderr


# --- what cannot be run, and what can ---


def test_what_can_be_run_is_run_and_the_rest_is_named() -> None:
    text = MAKE.replace("    def forward", "    @torch.no_grad()\n    def forward")
    Path("mine.py").write_text(text)
    result = evaluate("mine.py:make", attacks="clean,pgd-20,cw,square")
    refused(result, "2 of 4 evaluations and checks could not be made of mine.py:make")
    lines = failures(result)
    assert len(lines) == 2
    assert "pgd-20 at 0.01 cannot be run on mine.py:make: no gradient reaches" in lines[0]
    (record,) = load_records("results")
    assert {e.spec.attack for e in record.evaluations} == {"clean", "square"}


def test_a_copy_that_cannot_be_made_costs_the_check_that_needs_it() -> None:
    text = MAKE.replace(
        "    def forward",
        "    def __deepcopy__(self, memo):\n        raise TypeError('a lock')\n\n    def forward",
    )
    Path("mine.py").write_text(text)
    result = evaluate("mine.py:make", "--checks", "--check-size", "10", attacks="clean")
    refused(result, "could not be made of mine.py:make")
    failed = failures(result)
    assert failed
    assert all("a lock" in line or line.endswith(": the same") for line in failed)
    (record,) = load_records("results")
    assert len(record.measures) + len(failed) == 12  # C2 and C12 need a surrogate
    assert len(record.measures) >= 10


def test_too_little_memory_for_a_model_is_one_line() -> None:
    text = MAKE.replace(
        "        return 100", "        raise torch.OutOfMemoryError('2 GiB')\n        return 100"
    )
    Path("mine.py").write_text(text)
    refused(evaluate("mine.py:make"), "do not fit into the memory of cpu", "2 GiB")


def test_state_that_is_no_tensor_is_taken() -> None:
    text = MAKE.replace(
        "    def forward",
        "    def get_extra_state(self):\n        return {'version': 1}\n\n"
        "    def set_extra_state(self, state):\n        pass\n\n    def forward",
    )
    Path("mine.py").write_text(text)
    assert evaluated("mine.py:make") == 40


def test_a_layer_without_values_is_one_line() -> None:
    Path("mine.py").write_text(
        "from torch import nn\n"
        "def make():\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))\n"
    )
    refused(evaluate("mine.py:make"), "has no values yet: call the network once")
    assert not list(Path().glob("results/*"))
