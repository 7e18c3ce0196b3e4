"""Adversarial images on disk: made where they lack, and every change to them is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bench.checkpoints import load_network
from bench.data import load_dataset
from bench.evaluation.adversarials import (
    _checksum,
    adversarials_bytes,
    read_adversarials,
    recheck,
)
from bench.evaluation.chunk import attack_chunk
from bench.evaluation.store import Images
from bench.records import RunRecord, load_records
from bench.records.run_folder import RunFolder
from bench.records.spec import TrainSpec
from bench.threat import Threat
from tests.commands import bench, done, files, linear_model, refused

pytestmark = pytest.mark.slow

EPS = 0.1
N = 280
ATTACK = ["--attacks", f"pgd-20@{EPS}", "--test-size", str(N), "--quiet"]

Edit = Callable[[dict[str, Tensor], dict[str, object]], None]


def natural(results: Path) -> RunRecord:
    return next(r for r in load_records(results) if r.method == "natural" and r.seed == 0)


def evaluate(results: Path, *arguments: str) -> None:
    run_id = natural(results).run_id
    done("evaluate", run_id, "--results", results, *ATTACK, *arguments)


def verify(results: Path, *arguments: str | Path) -> Result:
    return bench("verify-adversarials", "--results", results, *arguments)


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
    facts = {"norm": "linf", "eps": 0.3}
    path.write_bytes(adversarials_bytes(outcome, range(100), y, facts))
    assert recheck(read_adversarials(path), network, x, y, 256).holds


def at(name: str, place: tuple[int, ...], change: Callable[[Tensor], Tensor]) -> Edit:
    def edit(tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
        tensors[name][place] = change(tensors[name][place])

    return edit


@pytest.mark.parametrize(
    ("edit", "word", "absent"),
    [
        (at("x_adv", (17, 0, 4, 4), lambda v: (v + 0.5) % 1), "outside the ball: 17", "label"),
        (at("x_adv", (5, 0, 0, 0), lambda v: 0 * v - 0.01), "outside [0, 1]: 5", "ball"),
        (at("label", (8,), lambda v: (v + 1) % 10), "other label: 8", "prediction"),
        (at("correct", (255,), lambda v: ~v), "other prediction: 255", "label"),
    ],
)
def test_a_change_behind_the_checksum_is_named(
    edit: Edit, word: str, absent: str, results: Path, stored: Path
) -> None:
    rewrite(stored, edit)
    found = verify(results, stored)
    assert found.exit_code == 1, found.output
    (line,) = found.stdout.splitlines()
    assert "256 images" in line
    assert word in line, line
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


def fact(name: str, value: object = None) -> Edit:
    """Change a fact, or drop it."""

    def edit(tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
        facts.pop(name)
        if value is not None:
            facts[name] = value

    return edit


def tensor(name: str, change: Callable[[Tensor], Tensor]) -> Edit:
    def edit(tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
        tensors[name] = change(tensors[name])

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (fact("eps"), ["does not say what was attacked", "eps"]),
        (fact("run_id"), ["does not say what was attacked", "run_id"]),
        (fact("eps", "wide"), ["does not say what was attacked"]),
        (fact("split", "exam"), ["does not say what was attacked", "exam"]),
        (fact("data_sha256", "0" * 64), ["first 280 of test", "not the same", "--dataset"]),
        (fact("n_examples", 361), ["first 361 of test", "--dataset"]),
        (fact("dataset", "cifar10"), ["holds images of cifar10", "digits"]),
        (fact("run_id", "gone-s0"), ["gone-s0", "--results", "--model"]),
        (tensor("label", lambda t: t[:-1]), ["damaged"]),
        (tensor("index", Tensor.double), ["damaged"]),
        (at("index", (3,), lambda v: v * 0 + N), ["indices beyond its 280 images"]),
        (tensor("x_adv", lambda t: t[:, :, :6].contiguous()), ["(1, 6, 8)", "(1, 8, 8)"]),
    ],
)
def test_a_file_that_cannot_be_checked_is_one_line(
    edit: Edit, words: list[str], results: Path, stored: Path
) -> None:
    rewrite(stored, edit)
    found = verify(results, stored)
    assert found.stderr.startswith("error: ")
    refused(found, *words)


def test_another_model_is_named(results: Path, stored: Path) -> None:
    other = ["--methods", "natural", "--train-size", "60", "--epochs", "1", "--seeds", "7"]
    asked = ["--attacks", "clean", "--quiet", "--results", str(results)]
    done("run", *other, *asked)
    (weak,) = (r.run_id for r in load_records(results) if r.seed == 7)
    found = verify(results, stored, "--model", weak)
    assert found.exit_code == 1
    assert "other prediction: " in found.stdout
    assert " more" in found.stdout  # most of them, and not all are listed
    assert verify(results, stored, "--model", natural(results).run_id).exit_code == 0
    refused(verify(results, stored, "--model", weak, "--weights", "mine.pt"), "--weights")


def test_images_of_an_external_model_need_its_weights(tmp_path: Path) -> None:
    model = linear_model(tmp_path, 2)
    first, second = (["--weights", f"{tmp_path}/{number}.pt"] for number in (0, 1))
    where = ["--dataset", "digits", "--test-size", "32", "--eps", "0.05", "--mean", "0.5"]
    attack = ["--std", "0.3", "--attacks", "pgd-20", "--quiet", "--save-adversarials"]
    results = tmp_path / "results"
    evaluated = ["evaluate", *model, *first, *where, *attack, "--results", str(results)]
    done(*evaluated)
    before = files(results)
    done(*evaluated)
    assert files(results) == before
    (stored,) = results.rglob("*.adversarials.safetensors")
    found = verify(results, stored, *first)  # the record knows the factory, mean and std
    assert found.exit_code == 0, found.output
    refused(verify(results, stored, *second), "--weights")
    without = verify(tmp_path / "none", stored, *model, *second, "--dataset", "digits")
    assert without.exit_code == 1
    assert "other prediction" in without.stdout
