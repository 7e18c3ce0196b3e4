"""The plain loops that `benchmarks.steps` measures against do what the methods do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks.maximise import start_noise
from bench.method import Batch, TrainState
from bench.recipe import Recipe
from bench.registry import get_method, list_methods
from bench.threat import Threat
from bench.training.optimiser import Optimiser
from benchmarks.loops import LOOPS, cat_ce_step, plain_sgd
from tests.harness import SmallNet, make_state, small_batch, small_net

STEPS = 3
N = 6
EPS = 8 / 255


def uniform(state: TrainState, batch: Batch) -> dict[str, Any]:
    threat = state.threat
    return {"noise": start_noise("uniform", batch.x, threat, EPS, state.generator("start"))}


def gaussian(state: TrainState, batch: Batch) -> dict[str, Any]:
    threat = state.threat
    return {"noise": start_noise("gaussian", batch.x, threat, EPS, state.generator("start"))}


def labels(state: TrainState, batch: Batch) -> dict[str, Any]:
    draws = [torch._standard_gamma(torch.ones(N, 4), generator=state.generator("labels"))]
    draws += [torch._standard_gamma(torch.ones(N, 4), generator=state.generator("labels"))]
    first, second = (draw / draw.sum(1, keepdim=True) for draw in draws)
    return {"noise": (first, second), "radius": torch.zeros(N)}


def nothing(state: TrainState, batch: Batch) -> dict[str, Any]:
    return {}


def carried(state: TrainState, batch: Batch) -> dict[str, Any]:
    return {"delta": torch.zeros_like(batch.x)}


DRAWS: dict[str, Callable[[TrainState, Batch], dict[str, Any]]] = {
    "natural": nothing,
    "madry": uniform,
    "trades": gaussian,
    "mart": gaussian,
    "cat-ce": labels,
    "free": carried,
    "fast": uniform,
}
CARRIED = ("delta", "radius")


def subject(method: str, **params: Any) -> tuple[TrainState, SmallNet, torch.optim.SGD]:
    """A method's state and, for its loop, an equal network, both under the same optimiser."""
    network = small_net()
    plain = copy.deepcopy(network)
    state = make_state(get_method(method, **params), network)
    recipe = Recipe(epochs=1, batch_size=N, lr=0.05)
    state.stepper = Optimiser(network, recipe, STEPS)
    state.stepper.attack_model = lambda model, mode: model  # type: ignore[method-assign]
    return state, plain, plain_sgd(plain, 0.05)


def apart(first: nn.Module, second: nn.Module) -> float:
    """Largest difference of any parameter or running statistic."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def compare(name: str, params: dict[str, Any], **given: Any) -> float:
    """Both over a few batches; returns how far apart losses and networks ended."""
    state, plain, sgd = subject(name, **params)
    method = get_method(name, **params)
    kept: dict[str, Tensor] = {}
    worst = 0.0
    for step in range(STEPS):
        batch = small_batch(seed=step)
        # a fresh state draws the same noise and leaves the method's own generators alone
        copied = make_state(method, plain)
        copied.batch_number = state.batch_number
        drawn = DRAWS[name](copied, batch)
        kept = {key: kept.get(key, value) for key, value in drawn.items() if key in CARRIED}
        loss = LOOPS[name](plain, sgd, batch.x, batch.y, **(drawn | kept | given))
        metrics = method.train_step(state, batch)
        worst = max(worst, abs(float(loss) - float(metrics["loss"])))
        state.next_batch()
    return max(worst, apart(plain, state.model))


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_makes_the_updates_of_its_method(name: str) -> None:
    given = {"n_classes": 4} if name == "cat-ce" else {}
    assert compare(name, {}, **given) < 1e-9


@pytest.mark.parametrize("name", ["madry", "trades", "mart", "cat-ce"])
def test_so_does_one_of_few_steps(name: str) -> None:
    """Ten steps end in the same corner of the ball, whatever their length."""
    params = {"steps": 3} | ({"eta": 0.025} if name == "cat-ce" else {})
    given = params | ({"n_classes": 4} if name == "cat-ce" else {})
    assert compare(name, params, **given) < 1e-9
    assert compare(name, params, step_size=0.006, **given) > 1e-7


@pytest.mark.parametrize("name", ["madry", "fast"])
def test_in_train_mode_too(name: str) -> None:
    given = {"compares_restarts": False} if name == "madry" else {}
    assert compare(name, {"attack_bn": "train"}, attack_bn="train", **given) < 1e-9
    assert compare(name, {"attack_bn": "train"}) > 1e-6


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("madry", {"steps": 3}),
        ("fast", {"step_size": 9 / 255}),
        ("free", {"replays": 7}),
        ("trades", {"beta": 5.0}),
        ("trades", {"steps": 3}),
        ("mart", {"beta": 5.0}),
        ("mart", {"steps": 3}),
        ("cat-ce", {"n_classes": 4, "c": 9.0}),
        ("cat-ce", {"n_classes": 4, "eta": 0.004}),
    ],
)
def test_the_comparison_sees_another_parameter(name: str, given: dict[str, Any]) -> None:
    assert compare(name, {}, **given) > 1e-7


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_draws_where_nothing_is_given(name: str) -> None:
    """As it is timed; the network is left in train mode and has moved."""
    batch = small_batch(num_classes=4)
    net = small_net(num_classes=10)
    before = copy.deepcopy(net)
    loss = LOOPS[name](net, plain_sgd(net, 0.05), batch.x, batch.y)
    assert loss.isfinite()
    assert not loss.requires_grad
    assert net.training
    assert apart(net, before) > 1e-4


def test_every_loop_is_of_a_method() -> None:
    assert set(LOOPS) <= set(list_methods())


def test_cats_radii_grow_where_the_attack_fails() -> None:
    batch = small_batch(num_classes=4)
    net = small_net()
    with torch.no_grad():
        wrong = (net.eval()(batch.x).argmax(1) + 1) % 4
        y = torch.where(torch.arange(N) < 3, wrong, net(batch.x).argmax(1))
    radius = torch.full((N,), 0.03, dtype=torch.float64)
    cat_ce_step(*(net, plain_sgd(net, 0.0), batch.x, y), radius=radius, step_size=0.0, n_classes=4)
    assert radius.tolist() == [0.03] * 3 + [EPS] * 3
    assert Threat().eps == EPS
