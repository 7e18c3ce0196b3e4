"""The networks that attacks call: blocks change nothing, copies only search, the network judges."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from bench.archs import build
from bench.archs.arch import ArchSpec
from bench.archs.feedforward import Cnn
from bench.archs.graphs import pad_batch
from bench.archs.inference_copy import InferenceCopy
from bench.attacks import AttackWarning, FastPGD, Search, get_attack
from bench.attacks.networks import MIN_ROWS, BatchedModel, Ensemble, gradient_source
from bench.errors import ConfigError
from bench.evaluation.chunk import Outcome, attack_chunk
from bench.evaluation.prediction import predictions
from bench.threat import Threat
from tests.harness import Counted, generator, raises_line, right, small_batch, small_net
from tests.trained import Trained, trained


@pytest.mark.parametrize(
    ("n", "batch_size", "rows"),
    [
        (64, 64, [64]),
        (64, 32, [32, 32]),
        (70, 32, [32, 32, 16]),
        (17, 16, [16, 16]),
        (5, 64, [5]),
        (40, 1, [16, 16, 16]),
        (0, 64, [0]),
    ],
)
def test_the_last_of_several_blocks_has_the_least_rows_and_none_more_than_a_block(
    n: int, batch_size: int, rows: list[int]
) -> None:
    counted = Counted(small_net(dtype=torch.float32).eval())
    assert BatchedModel(counted, batch_size)(small_batch(n=n, dtype=torch.float32).x).shape == (
        n,
        4,
    )
    assert counted.rows == rows
    assert MIN_ROWS == 16


def test_logits_do_not_depend_on_the_blocks() -> None:
    net, x = small_net(dtype=torch.float32).eval(), small_batch(n=61, dtype=torch.float32).x
    with torch.no_grad():
        for rows in (1, 15, 16, 17, 33, 61):
            alone = net(x[:rows])
            for batch_size in (1, 16, 17, 32, 1000):
                assert torch.equal(BatchedModel(net, batch_size)(x[:rows]), alone)


def test_a_prediction_does_not_depend_on_the_rest_of_the_batch() -> None:
    counted = Counted(small_net(dtype=torch.float32).eval())
    batch = small_batch(n=61, dtype=torch.float32)
    with torch.no_grad():
        whole = counted(batch.x)
        correct, _ = predictions(counted, batch.x, batch.y)
        for rows in (0, 1, 2, 3, 15, 16, 33):
            if rows:
                assert torch.equal(
                    counted(pad_batch(batch.x[:rows], MIN_ROWS))[:rows], whole[:rows]
                )
            alone, _ = predictions(counted, batch.x[:rows], batch.y[:rows])
            assert torch.equal(alone, correct[:rows])
    assert set(counted.rows) == {0, MIN_ROWS, 33, 61}


def test_the_padding_carries_no_gradient() -> None:
    net = small_net().eval()
    x = small_batch(n=19).x.requires_grad_()
    (found,) = torch.autograd.grad(BatchedModel(net, 16)(x).square().sum(), x)
    (expected,) = torch.autograd.grad(net(x).square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [3, 16, 40])
def test_logits_have_storage_of_their_own(n: int) -> None:
    """Square writes into them; here they are a view of the images."""
    x = torch.rand(n, 4, 1, 1)
    before = x.clone()
    BatchedModel(nn.Flatten(), 16)(x).fill_(-torch.inf)
    assert torch.equal(x, before)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_the_models_and_a_frozen_layer_stays_frozen(training: bool) -> None:
    net = small_net().train(training)
    net.bn.eval()
    assert BatchedModel(net, 16).training == net.training == training
    assert not net.bn.training


# Attacks search on a copy of a trained network.

N = 40
OURS = ("pgd-20", "cw", "pgd-plus", "multitargeted", "md")
FAST = ("autoattack-fast", "autoattack-fast-fp32", "pgd-20-fast", "pgd-20-fast-fp32")


@pytest.fixture(autouse=True)
def _short(short_autoattack: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few iterations, and as if every processor multiplied bf16."""
    monkeypatch.setattr("bench.attacks.networks.has_fast_bf16", lambda device: True)


class Watched(Cnn):
    """Counts the images that it classifies; a copy counts its own."""

    def __init__(self, spec: ArchSpec) -> None:
        super().__init__(spec)
        self.n_images = 0

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor):  # and not the stand-in of a trace
            self.n_images += len(x)
        return super().forward(x)


class Liar(InferenceCopy):
    """Wrong wherever the network is right."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).roll(1, dims=1)


def subject() -> Trained:
    found = trained("madry")
    return Trained(model=found.model, x=found.x[:N], y=found.y[:N], threat=found.threat)


def watched() -> Watched:
    net = Watched(ArchSpec(in_channels=1))
    net.load_state_dict(subject().model.state_dict())
    return net.eval()


def outcome(
    name: str, model: nn.Module, surrogate: tuple[nn.Module, ...] = (), batch_size: int = 256
) -> Outcome:
    found = subject()
    return attack_chunk(
        *(model, found.x, found.y, torch.arange(N), found.threat, name),
        surrogate=surrogate,
        batch_size=batch_size,
        keep_images=True,
    )


@cache
def run(name: str) -> tuple[Outcome, int]:
    """On a `Watched` network, and the number of images that it classified."""
    net = watched()
    return outcome(name, net), net.n_images


@pytest.mark.parametrize("name", [*OURS, "pgd-20-fast-fp32"])
@pytest.mark.slow
def test_our_attacks_take_only_the_judgement_from_the_network(name: str) -> None:
    found, n_images = run(name)
    assert 0 < found.survived.sum() < found.clean.sum()
    # without an attack, and under it; a fast attack also asks about the images of its copy
    assert n_images <= (3 if name in FAST else 2) * N
    assert torch.equal(found.survived, outcome(name, Counted(watched())).survived)
    assert not found.warnings


@pytest.mark.slow
def test_the_package_searches_on_the_network() -> None:
    for name in ("autoattack", "autoattack-plus", "autoattack-rand", "apgd-ce", "square"):
        assert get_attack(name).search == "network"
    assert run("autoattack")[1] > 100 * N


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_fast_attacks_search_on_a_copy_and_find_what_the_slow_ones_find(name: str) -> None:
    assert get_attack(name).search == ("fp32" if name.endswith("fp32") else "bf16")
    fast, n_images = run(name)
    cascade = name.startswith("autoattack")
    # the last part of a cascade takes ten short steps; what only a copy got wrong, twenty
    assert n_images < (25 if cascade else 6) * N
    assert not fast.warnings
    if cascade:
        slow = run("autoattack")[0]
        assert torch.equal(slow.clean, fast.clean)
        left = [slow.survived, fast.survived]
    else:  # from the same noise
        found = subject()
        images = found.x, found.y, found.threat
        adv = [get_attack(n)(found.model, *images, generator=generator()) for n in ("pgd-20", name)]
        left = [right(found.model, x_adv, found.y) for x_adv in adv]
    assert int((left[0] != left[1]).sum()) <= 1
    assert 5 < int(left[0].sum()) < int(fast.clean.sum()) - 5


@pytest.mark.parametrize("name", [*OURS, *FAST, "transfer"])
def test_an_image_that_only_a_copy_gets_wrong_is_not_broken(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image looks broken to the search at once."""
    honest = run(name)[0] if name in FAST else None  # before its copies lie too
    net = watched()
    monkeypatch.setattr("bench.archs.inference_copy.InferenceCopy", Liar)
    found = outcome(name, net, surrogate=(net,) if name == "transfer" else ())
    assert found.x_adv is not None
    assert torch.equal(found.survived, right(net, found.x_adv, subject().y) & found.clean)
    assert int(found.survived.sum()) > 5
    if honest is not None:  # such images stay in the race
        assert int((found.survived != honest.survived).sum()) <= 2  # other noise


def test_called_directly_fast_attacks_repeat_on_the_network_where_the_copy_misled_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest, _ = run("pgd-20")  # before its copies lie too
    monkeypatch.setattr("bench.archs.inference_copy.InferenceCopy", Liar)
    net, found = watched(), subject()
    images = found.x, found.y, found.threat
    n_left = int(right(net, get_attack("pgd-20-fast")(net, *images), found.y).sum())
    assert abs(n_left - int(honest.survived.sum())) <= 2  # other noise
    assert net.n_images > 20 * n_left
    cascade = get_attack("autoattack-fast")
    alone = right(net, get_attack("apgd-ce")(net, *images), found.y)
    assert torch.equal(right(net, cascade(net, *images), found.y), alone)
    assert int(alone.sum()) < N - 5
    names = [name for name, _ in cascade.stages]
    assert names == ["apgd-ce", "apgd-t", "fab-t", "square", "apgd-ce on the network"]
    assert [part.search for _, part in cascade.stages] == ["bf16"] * 4 + ["network"]


NO_COPY = (
    "the attack searched on the model itself: only networks built by `bench.archs`, in float32, "
    "have a bf16 copy"
)


@pytest.mark.slow
def test_without_an_architecture_of_ours_the_network_is_searched_with_one_warning() -> None:
    assert not outcome("pgd-20-fast-fp32", Counted(watched())).warnings
    net = watched()
    found = outcome("pgd-20-fast", Counted(net))
    assert net.n_images > 20 * int(found.survived.sum())
    assert found.warnings == (NO_COPY,)
    assert outcome("autoattack-fast", Counted(watched())).warnings == (NO_COPY,)
    with pytest.warns(AttackWarning, match="have a bf16 copy"):
        assert isinstance(gradient_source(watched().double(), "bf16"), Watched)


def test_emulated_bf16_is_named_and_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.attacks.networks.has_fast_bf16", lambda device: False)
    found = outcome("pgd-20-fast", watched())
    assert found.warnings == ("this device emulates bf16: an fp32 search is faster",)
    assert torch.equal(found.survived, run("pgd-20-fast")[0].survived)
    assert not outcome("pgd-20-fast-fp32", watched()).warnings


def test_one_copy_serves_all_and_follows_the_weights() -> None:
    net = watched()
    blocked = BatchedModel(net, 16)
    first = gradient_source(blocked, "fp32")
    assert isinstance(first, BatchedModel)
    assert isinstance(first.model, InferenceCopy)
    assert first.batch_size == 16
    assert gradient_source(net, "bf16") is not first.model
    assert [name for name, _ in blocked.named_children()] == ["model"]
    with torch.no_grad():
        net.fc.bias.add_(torch.arange(10.0))
    assert gradient_source(net, "fp32") is first.model
    x = subject().x
    torch.testing.assert_close(first(x), net(x))
    net.fc.register_forward_hook(lambda module, args, output: 2 * output)  # another network
    again = gradient_source(net, "fp32")
    assert again is not first.model
    torch.testing.assert_close(again(x), net(x))


def test_a_copy_is_not_copied_and_an_ensemble_is_of_copies() -> None:
    net, outside = watched(), nn.Flatten()
    copy = InferenceCopy(net)
    same: list[tuple[nn.Module, Search]] = [(copy, "fp32"), (BatchedModel(copy, 16), "fp32")]
    for model, search in (*same, (net, "network"), (BatchedModel(net, 16), "network")):
        assert gradient_source(model, search) is model
    mean = gradient_source(Ensemble([BatchedModel(net, 16), outside]), "fp32")
    assert isinstance(mean, Ensemble)
    ours, other = mean.networks
    assert isinstance(ours, BatchedModel)
    assert isinstance(ours.model, InferenceCopy)
    assert other is outside


def test_transferred_images_are_crafted_on_copies_of_the_surrogates() -> None:
    surrogate = watched()
    found = outcome("transfer", watched(), surrogate=(surrogate,))
    assert surrogate.n_images == 0
    assert 0 < found.survived.sum() < found.clean.sum()


def test_a_copy_has_no_train_mode_and_no_misspelt_precision() -> None:
    params = {"steps": 2, "relative_step": 0.2, "model_mode": "train"}
    with raises_line(ConfigError, "use search = 'network'"):
        get_attack("pgd-20-fast", **params)
    with raises_line(ConfigError, "search 'bf61' is unknown; use network or fp32 or bf16"):
        get_attack("pgd-20-fast", search="bf61")
    net = watched()
    attack = FastPGD(steps=2, relative_step=0.2, model_mode="train", search="network")
    assert attack.search == get_attack("pgd-20", model_mode="train").search == "network"
    attack(net, subject().x, subject().y, subject().threat)
    assert net.n_images == 2 * N


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
    assert int(right(net, x_adv, y).sum()) < 6
