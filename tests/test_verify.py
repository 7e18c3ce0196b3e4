"""bench verify: each planted change is named, nothing else moves, files are handled with care."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from torch import Tensor

import bench.evaluation.chunk as chunk
import bench.method as contract
import bench.training.engine as engine
import bench.training.optimiser as optimiser
from bench.archs import ARCHS
from bench.attacks import ATTACKS, PGD, AutoAttackPart
from bench.method import Batch, Method, TrainState
from bench.progress import Reporter
from bench.ranks import drawn
from bench.records.spec import Recipe
from bench.seeding import generator_for, seed_for
from bench.threat import Threat
from bench.training.optimiser import learning_rate
from bench.verify import here, pin_file, read_pin, verify
from bench.verify.baselines import difference
from bench.verify.networks import NETWORKS, load_network, make_networks, network_file
from methods.cat import CatCE, CatMix
from methods.trades import Trades
from tests.commands import bench as command
from tests.commands import refused

COMMITTED = Path(__file__).parent.parent / "results" / "pinned"
PINNED = ("trades", "madry", "cat-ce", "cat-mix", "pgd-20", "apgd-ce")
QUIET = Reporter(quiet=True)

Plant = Callable[[pytest.MonkeyPatch], None]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pins of the code under test, next to the committed networks."""
    folder = tmp_path_factory.mktemp("pinned")
    for name in NETWORKS:
        shutil.copy(network_file(COMMITTED, name), folder)
    found = verify(folder, PINNED, QUIET, pin=True)
    assert [line.split(": ")[1] for line in found.lines] == ["pinned, new"] * len(PINNED)
    assert not found.moved
    return folder


@pytest.fixture
def folder(pinned: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(pinned, tmp_path / "pins"))


def bench(folder: Path, *arguments: str) -> Result:
    return command("verify", "--pins", folder, *arguments)


def default(cls: type[Method], name: str, value: object) -> Plant:
    """Another default of a method's parameter."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        kwargs: Any = cls.__init__.__kwdefaults__
        assert kwargs[name] != value
        monkeypatch.setitem(kwargs, name, value)

    return plant


def swapped(owner: object, name: str, value: object) -> Plant:
    return lambda monkeypatch: monkeypatch.setattr(owner, name, value)


def attack_step(monkeypatch: pytest.MonkeyPatch) -> None:
    attack, words = ATTACKS["pgd-20"]
    assert isinstance(attack, PGD)
    monkeypatch.setitem(ATTACKS, "pgd-20", (replace(attack, relative_step=1 / 4), words))


def box_alone(
    self: Threat, x: Tensor, radius: float | Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As if the ball were not there."""
    return torch.zeros_like(x), torch.ones_like(x)


def uncapped(self: CatCE, before: Tensor, threat: Threat) -> Tensor:
    return before + threat.scale(self.eta)


def one_draw(self: CatCE, state: TrainState, batch: Batch) -> Tensor:
    """The labels of another stream."""
    ones, stream = torch.ones(len(batch.y), state.num_classes), state.generator("label")
    gamma = drawn(ones, stream, lambda one, g: torch._standard_gamma(one, generator=g))
    return gamma / gamma.sum(1, keepdim=True)


def other_seed(*purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    return generator_for(*purpose, "other", device=device)  # type: ignore[arg-type]


def later(recipe: Recipe, batch_number: int, n_batches: int) -> float:
    """The schedule of one batch later."""
    return learning_rate(recipe, min(batch_number + 1, n_batches - 1), n_batches)


def seed_of_weights(run_seed: int, *purpose: str | int) -> int:
    return seed_for(run_seed + 1, *purpose)


CHANGES: dict[str, tuple[str, Plant, str]] = {
    "beta of TRADES": ("trades", default(Trades, "beta", 5.0), "beta is 5.0 and was 6.0; "),
    "kappa": ("cat-mix", default(CatMix, "kappa", 9.0), "kappa is 9.0 and was 10.0; "),
    "CAT's cap": ("cat-ce", default(CatCE, "eps_max", 7.5 / 255), "eps_max is "),
    "an attack's step": ("pgd-20", attack_step, "relative_step is 0.25 and was 0.2; "),
    "no projection": ("madry", swapped(Threat, "bounds", box_alone), ""),
    "no cap": ("cat-ce", swapped(CatCE, "_attempted", uncapped), ""),
    "label draw": ("cat-ce", swapped(CatCE, "_dirichlet", one_draw), ""),
    "CAT-MIX as CAT-CE": ("cat-mix", swapped(CatMix, "loss", CatCE.loss), ""),
    "seeds of training": ("madry", swapped(contract, "generator_for", other_seed), ""),
    "seed of the weights": ("trades", swapped(engine, "seed_for", seed_of_weights), ""),
    "seeds of evaluation": ("pgd-20", swapped(chunk, "generator_for", other_seed), ""),
    "seed of AutoAttack": ("apgd-ce", swapped(chunk, "generator_for", other_seed), ""),
    "schedule": ("trades", swapped(optimiser, "learning_rate", later), ""),
    "augmentation": ("trades", swapped(engine, "augment", lambda x, **_: x), ""),
}
"""What is run, what changes, and the setting that the line names; none where the code changes."""


def test_nothing_moves_where_nothing_changed(pinned: Path) -> None:
    before = torch.get_default_dtype(), torch.get_num_threads(), dict(ARCHS), torch.get_rng_state()
    result = bench(pinned, "--only", "cat-mix,pgd-20,apgd-ce")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("as pinned: 1 method and 2 attacks (")
    assert len(result.stdout.splitlines()) == 1
    after = torch.get_default_dtype(), torch.get_num_threads(), dict(ARCHS)
    assert after == before[:3]
    assert torch.equal(torch.get_rng_state(), before[3])


@pytest.mark.parametrize(("name", "plant", "setting"), CHANGES.values(), ids=CHANGES)
def test_a_change_moves_the_outcome_and_is_named(
    name: str, plant: Plant, setting: str, pinned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    result = verify(pinned, [name], QUIET)
    (line,) = result.lines
    assert result.moved == (name,)
    assert f" {name}: {setting}" in line
    assert "loss at step " in line or "margin of image " in line or " survive and " in line
    cause = "its loss, attack, state or seeds", "its steps, loss, seeds or the evaluator"
    assert line.endswith(tuple(f"{why} changed" for why in cause)) is not bool(setting)


def test_a_pin_says_what_moved_and_verify_passes_afterwards(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = pin_file(folder, "attack", "pgd-20").read_bytes()
    default(Trades, "beta", 5.0)(monkeypatch)
    result = bench(folder, "--pin", "--only", "trades,pgd-20")
    assert result.exit_code == 0
    line, summary = result.stdout.splitlines()
    assert line.startswith("method trades: pinned, beta is 5.0 and was 6.0; loss at step 0 is ")
    assert summary.startswith("1 pins written or removed, of 1 method and 1 attack (")
    assert pin_file(folder, "attack", "pgd-20").read_bytes() == kept
    content = json.loads(pin_file(folder, "method", "trades").read_text())
    assert content["fact"]["asked"]["beta"] == 5.0
    assert len(content["fact"]["losses"]) == 20
    assert content["provenance"] == here()
    assert bench(folder, "--only", "trades").exit_code == 0


def test_what_has_no_pin_is_an_error_with_the_command(folder: Path) -> None:
    pin_file(folder, "method", "trades").unlink()
    result = bench(folder, "--only", "trades,pgd-20")
    assert result.exit_code == 1
    line, summary = result.stdout.splitlines()
    assert line == (
        "method trades: has no pin; if it is new, bench verify --pin --only trades adds it"
    )
    assert "1 moved, of 1 method and 1 attack (" in summary
    assert "bench verify --pin --only trades and commit" in summary


def test_a_pin_of_nothing_is_an_error_until_it_is_removed(folder: Path) -> None:
    stale = pin_file(folder, "attack", "gone")
    shutil.copy(pin_file(folder, "attack", "pgd-20"), stale)
    result = bench(folder, "--only", "gone")
    assert result.exit_code == 1
    assert result.stdout.startswith("attack gone: is pinned and not registered; bench verify --pin")
    result = bench(folder, "--pin", "--only", "gone")
    assert result.exit_code == 0
    assert result.stdout.startswith("attack gone: no longer registered: pin removed\n")
    assert not stale.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-40],
        lambda text: "[]",
        lambda text: text.replace('"fact"', '"fiction"'),
        lambda text: text.replace('"margins"', '"margin"'),
        lambda text: text.replace('"survivors": "', '"survivors": 1, "other": "'),
        lambda text: text.replace('"margins": [', '"margins": ["one",'),
        lambda text: text.replace('"asked": {', '"asked": 3, "x": {'),
    ],
)
def test_a_damaged_pin_is_one_line_and_can_be_written_again(
    damage: Callable[[str], str], folder: Path
) -> None:
    path = pin_file(folder, "attack", "pgd-20")
    text = path.read_text()
    path.write_text(damage(text))
    assert path.read_text() != text
    repair = "write it again with bench verify --pin --only pgd-20"
    refused(bench(folder, "--only", "pgd-20"), f"error: {path} is no pin, or damaged (", repair)
    assert bench(folder, "--pin", "--only", "pgd-20").exit_code == 0
    assert json.loads(path.read_text()) == json.loads(text)


def test_unknown_names_and_missing_networks_are_one_line(folder: Path) -> None:
    unknown = "unknown method or attack 'tradse'. Did you mean 'trades'?"
    refused(bench(folder, "--only", "tradse"), unknown)
    network_file(folder, "surrogate").unlink()
    refused(bench(folder, "--only", "pgd-20"), "surrogate.safetensors is missing")


def test_a_training_that_diverges_is_a_line(pinned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Trades, "loss", lambda self, state, batch, x_adv: state.model(x_adv).sum() * torch.nan
    )
    (line,) = verify(pinned, ["trades"], QUIET).lines
    assert line == "method trades: fails: the loss is not finite at epoch 0, step 0"


def test_what_breaks_is_a_line_and_the_rest_is_looked_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluator stops at an attack that leaves the threat."""
    monkeypatch.setattr(Threat, "bounds", box_alone)
    result = bench(folder, "--only", "pgd-20,apgd-ce")
    assert result.exit_code == 1
    line, summary = result.stdout.splitlines()
    assert line.startswith("attack pgd-20: fails: AssertionError in chunk.py, line ")
    assert summary.startswith("1 moved, of 2 attacks (")  # the package has a projection of its own
    result = bench(folder, "--pin", "--only", "pgd-20")
    assert result.exit_code == 1
    assert result.stdout.startswith("attack pgd-20: not pinned, fails: AssertionError in chunk.py")
    assert "\n0 pins written or removed, of 1 attack (" in result.stdout


def test_another_network_is_named(folder: Path) -> None:
    shutil.copy(network_file(folder, "surrogate"), network_file(folder, "model"))
    (line,) = verify(folder, ["pgd-20"], QUIET).lines
    assert line.startswith("attack pgd-20: network_sha256 is ")


def test_the_networks_are_half_robust_and_differ() -> None:
    """So that survivors say something; two equal networks would make no transfer."""
    survivors = read_pin(pin_file(COMMITTED, "attack", "pgd-20")).fact["survivors"]
    assert 8 <= survivors.count("1") <= 24
    first, second = (load_network(COMMITTED, name) for name in NETWORKS)
    assert not torch.equal(first.last.weight, second.last.weight)


def test_networks_are_made_where_they_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.verify.networks.EPOCHS", 1)
    assert make_networks(tmp_path) == ["model", "surrogate"]
    kept = network_file(tmp_path, "surrogate").read_bytes()
    network_file(tmp_path, "model").unlink()
    assert make_networks(tmp_path) == ["model"]
    assert network_file(tmp_path, "surrogate").read_bytes() == kept


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_trace_is_compared_to_nine_digits_on_every_machine(elsewhere: bool) -> None:
    def moved(*losses: float, weights: float = 2.0) -> str:
        was = {"asked": {}, "losses": [1.0, 3.0], "weights": 2.0}
        now = {"asked": {}, "losses": losses, "weights": weights}
        return difference(now, was, elsewhere=elsewhere)

    assert moved(1.0, 3.0 * (1 + 5e-10), weights=2.0 * (1 - 5e-10)) == ""
    assert moved(1.0, 3.0 * (1 + 2e-9)).startswith("loss at step 1 is 3.000000006 and was 3: ")
    assert moved(1.0, 3.0, weights=2.5).startswith("length of the final weights 0 is 2.5 and was")
    assert moved(1.0)


@pytest.mark.parametrize(
    ("precision", "elsewhere", "n_changed", "moved"),
    [
        ("fp32", False, 0, False),
        ("fp32", False, 1, True),
        ("fp32", True, 2, False),
        ("fp32", True, 3, True),
        ("fp64", True, 0, False),
        ("fp64", True, 1, True),
    ],
)
def test_images_may_differ_for_autoattack_on_another_machine_only(
    precision: str, elsewhere: bool, n_changed: int, moved: bool
) -> None:
    was, now = (
        {"asked": {"precision": precision}, "survivors": survivors, "margins": [-1.0] * 4}
        for survivors in ("1111", "0" * n_changed + "1" * (4 - n_changed))
    )
    assert bool(difference(now, was, elsewhere=elsewhere)) == moved


def test_only_the_package_computes_in_float32(pinned: Path) -> None:
    for name in ("pgd-20", "apgd-ce"):
        pin = read_pin(pin_file(pinned, "attack", name))
        package = isinstance(ATTACKS[name][0], AutoAttackPart)
        assert pin.fact["asked"]["precision"] == ("fp32" if package else "fp64")
        assert not pin.elsewhere


@pytest.mark.parametrize("what", ["processor", "instructions", "torch"])
def test_a_pin_knows_where_it_was_found(what: str, folder: Path) -> None:
    path = pin_file(folder, "attack", "apgd-ce")
    content = json.loads(path.read_text())
    found = content["provenance"]
    place = found["packages"] if what == "torch" else found
    place[what] = "another"
    content["fact"]["margins"][0] += 0.1
    path.write_text(json.dumps(content))
    assert read_pin(path).elsewhere
    assert not verify(folder, ["apgd-ce"], QUIET).moved
    # but who pins here wants the figures of here
    (line,) = verify(folder, ["apgd-ce"], QUIET, pin=True).lines
    assert line.startswith("attack apgd-ce: pinned, margin of image 0 is ")
    assert not read_pin(path).elsewhere
