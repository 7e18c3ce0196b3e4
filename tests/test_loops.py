"""The plain loops that `benchmarks.steps` measures against do what the methods do."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from bench.attacks.maximise import start_noise
from bench.method import Batch, TrainState
from bench.ranks import drawn
from bench.records.spec import Recipe
from bench.registry import get_method
from bench.training.optimiser import Optimiser
from benchmarks.loops import LOOPS, plain_sgd
from tests.harness import make_state, small_batch, small_net

STEPS = 3
N = 6
EPS = 8 / 255


def noise(start: Literal["uniform", "gaussian"], state: TrainState, batch: Batch) -> dict[str, Any]:
    stream = state.generator("start")
    return {"noise": start_noise(start, batch.x, state.threat, EPS, stream)}


def labels(state: TrainState, batch: Batch) -> dict[str, Any]:
    ones, stream = torch.ones(N, 4), state.generator("labels")
    gammas = partial(drawn, ones, stream, lambda one, g: torch._standard_gamma(one, generator=g))
    draws = gammas(), gammas()
    first, second = (draw / draw.sum(1, keepdim=True) for draw in draws)
    return {"noise": (first, second), "radius": torch.zeros(N)}


DRAWS: dict[str, Callable[[TrainState, Batch], dict[str, Any]]] = {
    "natural": lambda state, batch: {},
    "madry": partial(noise, "uniform"),
    "trades": partial(noise, "gaussian"),
    "mart": partial(noise, "gaussian"),
    "cat-ce": labels,
    "free": lambda state, batch: {"delta": torch.zeros_like(batch.x)},
    "fast": partial(noise, "uniform"),
}
CARRIED = ("delta", "radius")
STEPPING = ("madry", "trades", "mart")


def apart(first: nn.Module, second: nn.Module) -> float:
    """Largest difference of any parameter or running statistic."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def compare(name: str, params: dict[str, Any], **given: Any) -> float:
    """How far apart losses and networks of method and loop end after a few batches."""
    method, network = get_method(name, **params), small_net()
    plain = copy.deepcopy(network)
    state, sgd = make_state(method, network), plain_sgd(plain, 0.05)
    state.stepper = Optimiser(network, Recipe(epochs=1, batch_size=N, lr=0.05), STEPS)
    state.stepper.attack_model = lambda model, mode: model  # type: ignore[method-assign]
    kept: dict[str, Tensor] = {}
    worst = 0.0
    for step in range(STEPS):
        batch = small_batch(seed=step)
        # a fresh state draws the same noise and does not advance the generators of the method
        copied = make_state(method, plain)
        copied.batch_number = state.batch_number
        drawn = DRAWS[name](copied, batch)
        kept = {key: kept.get(key, value) for key, value in drawn.items() if key in CARRIED}
        loss = LOOPS[name](plain, sgd, batch.x, batch.y, **(drawn | kept | given))
        metrics = method.train_step(state, batch)
        worst = max(worst, abs(float(loss) - float(metrics["loss"])))
        state.next_batch()
    return max(worst, apart(plain, state.model))


SAME: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    **{name: (name, {}, {}) for name in LOOPS},
    # ten steps end in the same corner of the ball, whatever their length
    **{f"{n}, 3 steps": (n, {"steps": 3}, {}) for n in STEPPING},
    "cat-ce, 3 steps": ("cat-ce", {"steps": 3, "eta": 0.025}, {}),
    "madry, train mode": ("madry", {"attack_bn": "train"}, {"compares_restarts": False}),
    "fast, train mode": ("fast", {"attack_bn": "train"}, {}),
}


def classes(name: str) -> dict[str, Any]:
    return {"n_classes": 4} if name == "cat-ce" else {}


@pytest.mark.parametrize(("name", "params", "more"), SAME.values(), ids=SAME)
def test_a_loop_makes_the_updates_of_its_method(
    name: str, params: dict[str, Any], more: dict[str, Any]
) -> None:
    assert compare(name, params, **classes(name), **params, **more) < 1e-9


@pytest.mark.parametrize(
    ("name", "params", "given"),
    [
        ("madry", {"attack_bn": "train"}, {}),
        ("fast", {}, {"step_size": 9 / 255}),
        ("free", {}, {"replays": 7}),
        ("trades", {}, {"beta": 5.0}),
        ("mart", {}, {"beta": 5.0}),
        ("cat-ce", {}, {"c": 9.0}),
        ("cat-ce", {"steps": 3, "eta": 0.025}, {"steps": 3, "eta": 0.025, "step_size": 0.006}),
        *((name, {"steps": 3}, {"steps": 3, "step_size": 0.006}) for name in STEPPING),
    ],
)
def test_the_comparison_sees_another_parameter(
    name: str, params: dict[str, Any], given: dict[str, Any]
) -> None:
    assert compare(name, params, **classes(name), **given) > 1e-7


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_draws_where_nothing_is_given(name: str) -> None:
    """As it is timed; the network ends in train mode and has moved."""
    batch = small_batch(num_classes=4)
    net = small_net(num_classes=10)
    before = copy.deepcopy(net)
    loss = LOOPS[name](net, plain_sgd(net, 0.05), batch.x, batch.y)
    assert loss.isfinite()
    assert not loss.requires_grad
    assert net.training
    assert apart(net, before) > 1e-4
