"""Attacks search on a copy; what they are worth is the network's own word."""

from __future__ import annotations

from functools import cache

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from bench.archs import build
from bench.archs.arch import ArchSpec
from bench.archs.cnn import Cnn
from bench.archs.fast import FastCopy
from bench.attacks import AttackWarning, PGDOn, blocks, get_attack, list_attacks
from bench.attacks.blocks import Blocked, Ensemble, searched
from bench.errors import ConfigError
from bench.evaluation.chunk import Outcome, attack_chunk
from bench.threat import Threat
from tests.short import ShortAutoAttack
from tests.trained import Trained, trained

N = 40
OURS = ("pgd-20", "cw", "pgd-plus", "multitargeted", "md")
FAST = ("autoattack-fast", "autoattack-fast-fp32", "pgd-20-fast", "pgd-20-fast-fp32")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyautoattack, "AutoAttack", ShortAutoAttack)


@pytest.fixture(autouse=True)
def _hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every processor multiplied bf16."""
    monkeypatch.setattr(blocks, "has_fast_bf16", lambda device: True)


class Asked(Cnn):
    """Counts the images that it is asked about; a copy counts its own."""

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__(spec)
        self.n_asked = 0

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor):  # and not the stand-in of a trace
            self.n_asked += len(x)
        return super().forward(x)


class Outside(nn.Module):
    """The same network as one that was not made here."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits


class Liar(FastCopy):
    """Wrong wherever the network is right."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).roll(1, dims=1)


def subject() -> Trained:
    found = trained("madry")
    return Trained(model=found.model, x=found.x[:N], y=found.y[:N], threat=found.threat)


def asked() -> Asked:
    net = Asked(ArchSpec(in_channels=1))
    net.load_state_dict(subject().model.state_dict())
    return net.eval()


def outcome(name: str, model: nn.Module, surrogate: tuple[nn.Module, ...] = ()) -> Outcome:
    found = subject()
    return attack_chunk(
        *(model, found.x, found.y, torch.arange(N), found.threat, name),
        surrogate=surrogate,
        keep_images=True,
    )


@cache
def run(name: str) -> tuple[Outcome, int]:
    """On an `Asked` network, and how many images it was asked about."""
    net = asked()
    return outcome(name, net), net.n_asked


@pytest.mark.parametrize("name", [*OURS, "pgd-20-fast-fp32"])
@pytest.mark.slow
def test_our_attacks_ask_the_network_for_its_judgement_alone(name: str) -> None:
    found, n_asked = run(name)
    assert 0 < found.survived.sum() < found.clean.sum()
    assert n_asked <= 2 * N  # without an attack, and under it
    assert torch.equal(found.survived, outcome(name, Outside(asked())).survived)
    assert not found.warnings


@pytest.mark.slow
def test_the_package_searches_on_the_network() -> None:
    for name in ("autoattack", "autoattack-plus", "autoattack-rand", "apgd-ce", "square"):
        assert get_attack(name).search == "network"
    assert run("autoattack")[1] > 100 * N


@pytest.mark.parametrize("name", FAST)
def test_fast_attacks_search_on_a_copy(name: str) -> None:
    assert get_attack(name).search == ("fp32" if name.endswith("fp32") else "bf16")
    # the last part of a cascade takes ten short steps; what only a copy got wrong, twenty
    assert run(name)[1] < (25 * N if name.startswith("autoattack") else 6 * N)


@pytest.mark.parametrize("name", ["autoattack-fast", "autoattack-fast-fp32"])
def test_a_fast_cascade_finds_what_the_slow_one_finds(name: str) -> None:
    (slow, _), (fast, _) = run("autoattack"), run(name)
    assert torch.equal(slow.clean, fast.clean)
    assert int((slow.survived != fast.survived).sum()) <= 1
    assert 5 < int(slow.survived.sum()) < int(slow.clean.sum()) - 5
    assert not fast.warnings


@pytest.mark.parametrize("name", ["pgd-20-fast", "pgd-20-fast-fp32"])
def test_a_fast_pgd_finds_what_the_slow_one_finds(name: str) -> None:
    """From the same noise."""
    found = subject()
    left = []
    for attack in ("pgd-20", name):
        g = torch.Generator().manual_seed(0)
        x_adv = get_attack(attack)(found.model, found.x, found.y, found.threat, generator=g)
        with torch.no_grad():
            left.append(found.model(x_adv).argmax(1) == found.y)
    assert int((left[0] != left[1]).sum()) <= 1
    assert 5 < int(left[0].sum()) < N - 5


@pytest.mark.parametrize("name", [*OURS, *FAST, "transfer"])
def test_an_image_that_only_a_copy_gets_wrong_is_not_broken(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image looks broken to the search at once."""
    honest = run(name)[0] if name in FAST else None  # before its copies lie too
    monkeypatch.setattr(blocks, "FastCopy", Liar)
    net = subject().model
    found = outcome(name, net, surrogate=(net,) if name == "transfer" else ())
    assert found.x_adv is not None
    with torch.no_grad():
        right = net(found.x_adv).argmax(1) == subject().y
    assert torch.equal(found.survived, right & found.clean)
    assert int(found.survived.sum()) > 5
    if honest is not None:  # such images stay in the race
        assert int((found.survived != honest.survived).sum()) <= 2  # other noise


def test_called_directly_a_cascade_asks_the_network_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "FastCopy", Liar)
    found = subject()
    images = found.x, found.y, found.threat
    x_adv = get_attack("autoattack-fast")(found.model, *images)
    alone = get_attack("apgd-ce")(found.model, *images)
    with torch.no_grad():
        verdict, expected = (found.model(x).argmax(1) == found.y for x in (x_adv, alone))
    assert torch.equal(verdict, expected)
    assert int(expected.sum()) < N - 5


def test_stages_have_names_of_their_own() -> None:
    attack = get_attack("autoattack-fast")
    names = [name for name, _ in attack.stages]
    assert names == ["apgd-ce", "apgd-t", "fab-t", "square", "apgd-ce on the network"]
    assert [part.search for _, part in attack.stages] == ["bf16"] * 4 + ["network"]


def test_a_fast_pgd_that_was_misled_attacks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the images that the copy alone gets wrong, and those on the network."""
    honest, _ = run("pgd-20")  # before its copies lie too
    monkeypatch.setattr(blocks, "FastCopy", Liar)
    net, found = asked(), subject()
    x_adv = get_attack("pgd-20-fast")(net, found.x, found.y, found.threat)
    with torch.no_grad():
        n_left = int((net(x_adv).argmax(1) == found.y).sum())
    assert abs(n_left - int(honest.survived.sum())) <= 2  # other noise
    assert net.n_asked > 20 * n_left


def test_without_an_architecture_of_ours_the_network_is_searched_and_it_is_said_once() -> None:
    slow = outcome("pgd-20-fast-fp32", Outside(asked()))
    assert not slow.warnings
    net = asked()
    found = outcome("pgd-20-fast", Outside(net))
    assert net.n_asked > 20 * int(found.survived.sum())
    assert found.warnings == (NO_COPY,)
    assert outcome("autoattack-fast", Outside(asked())).warnings == (NO_COPY,)
    with pytest.warns(AttackWarning, match="have a bf16 copy"):
        assert isinstance(searched(asked().double(), "bf16"), Asked)


NO_COPY = (
    "the attack searched on the model itself: only networks built by `bench.archs`, in float32, "
    "have a bf16 copy"
)


def test_emulated_bf16_is_named_and_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "has_fast_bf16", lambda device: False)
    found = outcome("pgd-20-fast", asked())
    assert found.warnings == ("this device emulates bf16: an fp32 search is faster",)
    assert torch.equal(found.survived, run("pgd-20-fast")[0].survived)
    assert not outcome("pgd-20-fast-fp32", asked()).warnings


def test_one_copy_serves_all_and_follows_the_weights() -> None:
    net = asked()
    blocked = Blocked(net, 16)
    first = searched(blocked, "fp32")
    assert isinstance(first, Blocked)
    assert isinstance(first.model, FastCopy)
    assert first.batch_size == 16
    assert searched(blocked, "bf16") is not first
    assert [name for name, _ in blocked.named_children()] == ["model"]
    with torch.no_grad():
        net.fc.bias.add_(torch.arange(10.0))
    assert searched(blocked, "fp32") is first
    x = subject().x
    torch.testing.assert_close(first(x), net(x))


def test_a_copy_is_not_copied_and_an_ensemble_is_of_copies() -> None:
    net = asked()
    copy = FastCopy(net)
    assert searched(copy, "fp32") is copy
    around = Blocked(copy, 16)
    assert searched(around, "fp32") is around
    outside = Outside(net)
    mean = searched(Ensemble([Blocked(net, 16), outside]), "fp32")
    assert isinstance(mean, Ensemble)
    ours, other = mean.networks
    assert isinstance(ours, Blocked)
    assert isinstance(ours.model, FastCopy)
    assert other is outside
    for model in (net, Blocked(net, 16)):
        assert searched(model, "network") is model


def test_the_noise_of_a_transfer_is_sought_on_copies_of_the_surrogates() -> None:
    surrogate, target = asked(), asked()
    found = outcome("transfer", target, surrogate=(surrogate,))
    assert surrogate.n_asked == 0
    assert 0 < found.survived.sum() < found.clean.sum()


def test_a_copy_has_no_train_mode() -> None:
    params = {"steps": 2, "relative_step": 0.2, "model_mode": "train"}
    with pytest.raises(ConfigError, match="use search = 'network'"):
        get_attack("pgd-20-fast", **params)
    net = asked()
    net.eval()
    attack = PGDOn(steps=2, relative_step=0.2, model_mode="train", search="network")
    assert attack.search == get_attack("pgd-20", model_mode="train").search == "network"
    attack(net, subject().x, subject().y, subject().threat)
    assert net.n_asked == 2 * N


def test_a_misspelt_search_is_refused() -> None:
    with pytest.raises(ConfigError, match="search 'bf61' is unknown; use network or fp32 or bf16"):
        get_attack("pgd-20-fast", search="bf61")


@pytest.mark.parametrize("name", list_attacks())
def test_every_attack_says_what_it_searches_on(name: str) -> None:
    assert get_attack(name).search in ("network", "fp32", "bf16")


@pytest.mark.parametrize("name", ["pgd-plus", "pgd-20-fast", "pgd-20-fast-fp32"])
@pytest.mark.slow
def test_neither_blocks_nor_images_that_left_change_an_image(name: str) -> None:
    """A copy's logits for an image are the same to the bit whatever is beside it."""
    found = subject()
    small, large = (
        attack_chunk(
            *(found.model, found.x, found.y, torch.arange(N), found.threat, name),
            batch_size=batch_size,
            keep_images=True,
        ).x_adv
        for batch_size in (16, 256)
    )
    assert small is not None
    assert large is not None
    assert torch.equal(small, large)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_in_colour_of_either_layout(name: str, layout: torch.memory_format) -> None:
    """The package calls `view` on gradients, which a copy gives channels last."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build("cnn", num_classes=5).eval()
        x = torch.rand(12, 3, 8, 8).contiguous(memory_format=layout)
    with torch.no_grad():
        y = net(x).argmax(1)
    x_adv = get_attack(name)(net, x, y, Threat(eps=0.3))
    with torch.no_grad():
        assert int((net(x_adv).argmax(1) != y).sum()) > 6
