"""Adversarial images on disk: made where they lack, and every change to them is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bench.cli import main
from bench.data import load_dataset
from bench.evaluation.adversarials import (
    _checksum,
    read_adversarials,
    recheck,
    write_adversarials,
)
from bench.evaluation.chunk import attack_chunk
from bench.evaluation.store import Images
from bench.folder import RunFolder
from bench.records import RunRecord, load_records
from bench.spec import TrainSpec
from bench.threat import Threat
from bench.trained import load_network

EPS = 0.1
N = 280
ATTACK = ["--attacks", f"pgd-20@{EPS}", "--test-size", str(N), "--quiet"]

Edit = Callable[[dict[str, Tensor], dict[str, object]], None]


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def natural(results: Path) -> RunRecord:
    return next(r for r in load_records(results) if r.method == "natural" and r.seed == 0)


def evaluate(results: Path, *arguments: str) -> None:
    run_id = natural(results).run_id
    found = bench("evaluate", run_id, "--results", str(results), *ATTACK, *arguments)
    assert found.exit_code == 0, found.output


def verify(results: Path, *arguments: str | Path) -> Result:
    return bench("verify-adversarials", "--results", str(results), *map(str, arguments))


def files(results: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in results.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def made(trained_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained network with its adversarial images."""
    results = Path(shutil.copytree(trained_digits, tmp_path_factory.mktemp("a") / "results"))
    evaluate(results, "--save-adversarials")
    return results


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made, tmp_path / "results"))


@pytest.fixture
def stored(results: Path) -> Path:
    """The file of the first chunk."""
    return next(results.rglob("pgd-20*/0.adversarials.safetensors"))


def rewrite(path: Path, edit: Edit, *, honest: bool = True) -> None:
    """Change tensors and facts, with a checksum that fits or the one that was there."""
    with safe_open(path, "pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    facts = json.loads(header["facts"])
    edit(tensors, facts)
    text = json.dumps(facts)
    checksum = _checksum(text, tensors) if honest else header["sha256"]
    path.write_bytes(save(tensors, metadata={"facts": text, "sha256": checksum}))


def test_images_that_were_made_hold_and_nothing_is_made_twice(results: Path, stored: Path) -> None:
    before = files(results)
    evaluate(results, "--save-adversarials")
    assert files(results) == before
    second = stored.with_name("1.adversarials.safetensors")
    found = verify(results, stored, second)
    assert found.exit_code == 0, found.output
    lines = found.stdout.splitlines()
    assert len(lines) == 2
    assert "256 images" in lines[0]
    assert f"{N - 256} images" in lines[1]
    assert all(line.endswith("all as recorded") for line in lines)


def test_what_is_stored_is_what_is_recorded(results: Path, stored: Path) -> None:
    found = read_adversarials(stored)
    (evaluation,) = (e for e in natural(results).evaluations if e.spec.attack == "pgd-20")
    assert found.index.tolist() == list(range(256))
    assert found.correct.tolist() == evaluation.survived[:256].tolist()
    assert evaluation.label is not None
    assert found.label.tolist() == evaluation.label[:256].tolist()
    assert 20 < int(found.correct.sum()) < 236
    assert found.facts["run_id"] == natural(results).run_id


def test_an_evaluation_that_is_there_gets_its_images(trained_digits: Path, tmp_path: Path) -> None:
    results = Path(shutil.copytree(trained_digits, tmp_path / "results"))
    evaluate(results)
    before = files(results)
    evaluate(results, "--save-adversarials")
    after = files(results)
    new = sorted(p.name for p in after.keys() - before.keys())
    assert new == ["0.adversarials.safetensors", "1.adversarials.safetensors"]
    assert {p: after[p] for p in before} == before
    images = next(p for p in after if p.name == new[1])
    first = read_adversarials(images).x_adv
    images.unlink()
    evaluate(results, "--save-adversarials")
    assert torch.equal(read_adversarials(images).x_adv, first)


class Negated(nn.Module):
    """What misleads it helps the network that it turns round."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return -self.network(x)  # type: ignore[no-any-return]


def test_an_image_that_is_wrong_anyway_is_stored_as_it_was(
    trained_digits: Path, tmp_path: Path
) -> None:
    """A transferred image may turn a model right that is wrong without it: that is no survivor."""
    run = natural(trained_digits)
    folder = RunFolder(trained_digits, run.run_id)
    network = load_network(TrainSpec.from_dict(run.spec), folder, "best")
    x, y = Images(load_dataset("digits"), torch.device("cpu")).chunk(range(100))
    outcome = attack_chunk(
        *(network, x, y, torch.arange(100), Threat(eps=0.3), "transfer"),
        surrogate=(Negated(network),),
        keep_images=True,
    )
    assert outcome.after is not None
    assert bool((outcome.after & ~outcome.clean).any())
    path = tmp_path / "0.adversarials.safetensors"
    write_adversarials(path, outcome, range(100), y, {"norm": "linf", "eps": 0.3})
    assert recheck(read_adversarials(path), network, x, y, 256).holds


def move_pixel(tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
    x = tensors["x_adv"][17]
    x[0, 4, 4] = x[0, 4, 4] - 0.5 if x[0, 4, 4] > 0.5 else x[0, 4, 4] + 0.5


def leave_the_range(tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
    tensors["x_adv"][5, 0, 0, 0] = -0.01


def other_label(tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
    tensors["label"][8] = (tensors["label"][8] + 1) % 10


def other_outcome(tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
    tensors["correct"][255] = ~tensors["correct"][255]


@pytest.mark.parametrize(
    ("edit", "words", "absent"),
    [
        (move_pixel, ["outside the ball: 17"], "label"),
        (leave_the_range, ["outside [0, 1]: 5"], "ball"),
        (other_label, ["other label: 8"], "prediction"),
        (other_outcome, ["other prediction: 255"], "label"),
    ],
)
def test_a_change_behind_the_checksum_is_named(
    edit: Edit, words: list[str], absent: str, results: Path, stored: Path
) -> None:
    rewrite(stored, edit)
    found = verify(results, stored)
    assert found.exit_code == 1, found.output
    (line,) = found.stdout.splitlines()
    assert "256 images" in line
    assert all(word in line for word in words), line
    assert absent not in line


def test_no_flipped_byte_is_believed(results: Path, stored: Path) -> None:
    whole = stored.read_bytes()
    eps = whole.index(b'\\"eps\\": ') + len(b'\\"eps\\": ') + 2
    for place in (3, 60, eps, len(whole) // 2, len(whole) - 1):
        stored.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = verify(results, stored)
        assert found.exit_code == 2, place
        assert len(found.stderr.splitlines()) == 1, found.stderr
        assert found.stderr.startswith(f"error: {stored} ")
    stored.write_bytes(whole[:1000])
    assert verify(results, stored).exit_code == 2
    second = stored.with_name("1.adversarials.safetensors")
    found = verify(results, stored, second)  # the others are checked all the same
    assert found.exit_code == 2
    assert "all as recorded" in found.stdout


def drop(name: str) -> Edit:
    def edit(tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
        del facts[name]

    return edit


def changed(name: str, value: object) -> Edit:
    def edit(tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
        facts[name] = value

    return edit


def shorter(tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
    tensors["label"] = tensors["label"][:-1]


def beyond(tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
    tensors["index"][3] = N


def cropped(tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
    tensors["x_adv"] = tensors["x_adv"][:, :, :6].contiguous()


def floats(tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
    tensors["index"] = tensors["index"].double()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (drop("eps"), ["does not say what was attacked", "eps"]),
        (drop("run_id"), ["does not say what was attacked", "run_id"]),
        (changed("eps", "wide"), ["does not say what was attacked"]),
        (changed("split", "exam"), ["does not say what was attacked", "exam"]),
        (changed("data_sha256", "0" * 64), ["first 280 of test", "not the same", "--dataset"]),
        (changed("n_examples", 361), ["first 361 of test", "--dataset"]),
        (changed("dataset", "cifar10"), ["holds images of cifar10", "digits"]),
        (changed("run_id", "gone-s0"), ["gone-s0", "--results", "--model"]),
        (shorter, ["damaged"]),
        (floats, ["damaged"]),
        (beyond, ["indices beyond its 280 images"]),
        (cropped, ["(1, 6, 8)", "(1, 8, 8)"]),
    ],
)
def test_a_file_that_cannot_be_checked_is_one_line(
    edit: Edit, words: list[str], results: Path, stored: Path
) -> None:
    rewrite(stored, edit)
    found = verify(results, stored)
    assert found.exit_code == 2, found.output
    assert len(found.stderr.splitlines()) == 1
    assert found.stderr.startswith("error: ")
    assert all(word in found.stderr for word in words), found.stderr


def test_another_model_is_named(results: Path, stored: Path) -> None:
    other = ["--methods", "natural", "--train-size", "60", "--epochs", "1", "--seeds", "7"]
    asked = ["--attacks", "clean", "--quiet", "--results", str(results)]
    assert bench("run", *other, *asked).exit_code == 0
    (weak,) = (r.run_id for r in load_records(results) if r.seed == 7)
    found = verify(results, stored, "--model", weak)
    assert found.exit_code == 1
    assert "other prediction: " in found.stdout
    assert " more" in found.stdout  # most of them, and not all are listed
    assert verify(results, stored, "--model", natural(results).run_id).exit_code == 0
    refused = verify(results, stored, "--model", weak, "--weights", "mine.pt")
    assert refused.exit_code == 2
    assert "--weights" in refused.stderr


FACTORY = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


def test_images_of_an_outside_model_need_its_weights(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = [nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2)]
    for number, network in enumerate(networks):
        torch.save(network.state_dict(), tmp_path / f"{number}.pt")
    (tmp_path / "mine.py").write_text(FACTORY)
    model = ["--model", f"{tmp_path}/mine.py:make"]
    first, second = (["--weights", str(tmp_path / f"{number}.pt")] for number in (0, 1))
    where = ["--dataset", "digits", "--test-size", "32", "--eps", "0.05", "--mean", "0.5"]
    attack = ["--std", "0.3", "--attacks", "pgd-20", "--quiet", "--save-adversarials"]
    results = tmp_path / "results"
    evaluated = ["evaluate", *model, *first, *where, *attack, "--results", str(results)]
    assert bench(*evaluated).exit_code == 0
    before = files(results)
    assert bench(*evaluated).exit_code == 0
    assert files(results) == before
    (stored,) = results.rglob("*.adversarials.safetensors")
    found = verify(results, stored, *first)  # the record knows the factory, mean and std
    assert found.exit_code == 0, found.output
    refused = verify(results, stored, *second)
    assert refused.exit_code == 2
    assert "--weights" in refused.stderr
    without = verify(tmp_path / "none", stored, *model, *second, "--dataset", "digits")
    assert without.exit_code == 1
    assert "other prediction" in without.stdout
