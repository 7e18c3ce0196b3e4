"""The one attack loop: strength in closed form, and a promise for each of its arguments."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import PGD, get_attack
from bench.attacks.maximise import (
    NARROWS_EVERY,
    Keep,
    ModelMode,
    Objective,
    Start,
    attack_mode,
    maximise,
)
from bench.losses import cross_entropy
from bench.threat import REFERENCE_EPS, Threat
from tests.harness import Grey, generator, right, small_batch, small_net

SHAPE = (2, 3, 3)
Sizes = float | Tensor | Callable[[int], float | Tensor]


def linear(seed: int = 0) -> nn.Sequential:
    """Two logits whose difference is linear in the image."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SHAPE), 2)).double()


def weight(model: nn.Sequential) -> Tensor:
    """Gradient of the lead of class 1 over class 0."""
    head = model[1]
    assert isinstance(head, nn.Linear)
    return (head.weight[1] - head.weight[0]).detach()


def lead(logits: Tensor, y: Tensor, step: int) -> Tensor:
    return logits[:, 1] - logits[:, 0]


def up(logits: Tensor, y: Tensor, step: int) -> Tensor:
    return logits[:, 0]


def inner_images(n: int = 4) -> Tensor:
    """Far enough from 0 and 1 that the box does not bind below a radius of 0.3."""
    return 0.3 + 0.4 * torch.rand(n, *SHAPE, generator=generator(1), dtype=torch.float64)


def run(
    model: nn.Module,
    x: Tensor,
    *,
    objective: Objective = lead,
    y: Tensor | None = None,
    radius: float | Tensor = 0.1,
    steps: int = 10,
    step_size: Sizes = 0.02,
    **others: Any,
) -> Tensor:
    labels = torch.zeros(len(x), dtype=torch.long) if y is None else y
    others |= {"radius": radius, "steps": steps, "step_size": step_size}
    return maximise(objective, model, x, labels, threat=Threat(eps=0.1), **others)


def gain(model: nn.Module, x_adv: Tensor, x: Tensor) -> Tensor:
    with torch.no_grad():
        after, before = model(x_adv), model(x)
    return lead(after, x, 0) - lead(before, x, 0)


class Spy(nn.Module):
    """Keeps every input that a gradient is taken of."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.inputs: list[Tensor] = []

    @property
    def rows(self) -> list[int]:
        return [len(x) for x in self.inputs]

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            self.inputs.append(x.detach().clone())
        logits: Tensor = self.model(x)
        return logits


@pytest.mark.parametrize("start", ["zero", "uniform", "gaussian", "uniform-unclipped"])
def test_a_linear_model_is_moved_by_eps_times_the_l1_norm(start: Start) -> None:
    model, x = linear(), inner_images()
    radius = torch.tensor([0.0, 0.05, 0.1, 0.1], dtype=torch.float64)
    x_adv = run(model, x, radius=radius, start=start, generator=generator())
    expected = radius * weight(model).abs().sum()
    torch.testing.assert_close(gain(model, x_adv, x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(Threat().distance(x_adv, x), radius, rtol=0, atol=1e-12)


def test_at_the_edge_of_the_box_the_gain_is_what_the_box_leaves() -> None:
    model = linear()
    x = torch.randint(0, 2, (6, *SHAPE), generator=generator(2)).double()
    x[5] = 0.96
    x_adv = run(model, x)
    w = weight(model).view(SHAPE)
    room = torch.where(w > 0, 1 - x, x).clamp(max=0.1)
    expected = (room * w.abs()).flatten(1).sum(1)
    torch.testing.assert_close(gain(model, x_adv, x), expected, rtol=0, atol=1e-12)
    assert float(x_adv.min()) >= 0
    assert float(x_adv.max()) <= 1


@pytest.mark.parametrize(
    ("step_size", "moved"),
    [
        (0.01, [0.03, 0.03]),
        (torch.tensor([0.01, 0.02], dtype=torch.float64), [0.03, 0.06]),
        (lambda step: (0.04, 0.02, 0.01)[step], [0.07, 0.07]),
        (lambda step: torch.tensor([0.01 * step, 0.02], dtype=torch.float64), [0.03, 0.06]),
    ],
    ids=["float", "tensor", "function", "function-of-tensors"],
)
def test_step_sizes_add_up_while_the_ball_is_large(step_size: Sizes, moved: list[float]) -> None:
    model, x = linear(), inner_images(2)
    x_adv = run(model, x, radius=0.3, steps=3, step_size=step_size)
    sign = weight(model).sign().view(SHAPE)
    expected = x + torch.tensor(moved, dtype=torch.float64).view(2, 1, 1, 1) * sign
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)


def ramp() -> Grey:
    """Logits (t, 0): one number that the attack moves."""
    return Grey(lambda t: t, lambda t: 0)


def grey(*values: float) -> Tensor:
    """One even image per value."""
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, *SHAPE).clone()


def level(x_adv: Tensor) -> list[float]:
    """The grey of each image, which must be even."""
    flat = x_adv.flatten(1)
    assert bool((flat == flat[:, :1]).all())
    return [round(float(v), 9) for v in flat[:, 0]]


def test_keep_best_is_per_example_and_first_of_equals() -> None:
    seen = []

    def objective(logits: Tensor, y: Tensor, step: int) -> Tensor:
        seen.append(step)
        table = torch.tensor([[1.0, 3.0, 3.0, 2.0], [5.0, 1.0, 0.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
        return table[:, step].double() + (logits[:, 0] - logits[:, 0].detach())

    x = grey(0.5, 0.5, 0.5)
    x_adv = run(ramp(), x, objective=objective, steps=3, step_size=0.01, keep="best")
    assert level(x_adv) == [0.51, 0.5, 0.53]
    assert seen == [0, 1, 2, 3]  # the last iterate is offered after the last step


def test_keep_first_returns_the_first_misclassified_iterate_or_the_last() -> None:
    x = grey(0.485, 0.465, 0.4, 0.52)  # class 1 below 0.5
    y = torch.ones(4, dtype=torch.long)
    x_adv = run(ramp(), x, y=y, objective=up, steps=5, step_size=0.01, keep="first")
    assert level(x_adv) == [0.505, 0.505, 0.45, 0.52]


@pytest.mark.parametrize("keep", ["best", "first"])
def test_an_iterate_outside_the_threat_is_never_kept(keep: Keep) -> None:
    """The start is the best and the first wrong one, but outside the ball or the box."""
    x_adv = run(
        *(ramp(), grey(0.5, 0.05, 0.5)),
        y=torch.tensor([1, 0, 1]),
        objective=lambda z, _, step: -step - (z[:, 0] - z[:, 0].detach()),
        start=grey(0.65, -0.05, 0.55),
        steps=1,
        step_size=0.01,
        keep=keep,
    )
    assert level(x_adv) == [0.6, 0.0, 0.55]


@pytest.mark.parametrize("keep", ["last", "best", "first"])
def test_nothing_outside_the_threat_is_returned_without_a_step(keep: Keep) -> None:
    x, start = grey(0.5, 0.0, 1.0), grey(0.7, -0.1, 1.05)
    assert level(run(ramp(), x, start=start, steps=0, keep=keep)) == [0.6, 0.0, 1.0]
    stay = torch.zeros(3, dtype=torch.bool)
    frozen = run(ramp(), x, start=start, steps=3, keep=keep, on_step=lambda *_: stay)
    assert level(frozen) == [0.6, 0.0, 1.0]


def test_on_step_freezes_the_examples_that_it_masks() -> None:
    seen: list[tuple[int, list[float]]] = []
    masks = [[True, True, False], [True, False, False], None]

    def watch(step: int, x_adv: Tensor, logits: Tensor, gradient: Tensor) -> Tensor | None:
        seen.append((step, level(x_adv)))
        assert not logits.requires_grad
        assert not x_adv.requires_grad
        assert [round(float(t) + 0.5, 9) for t in logits[:, 0]] == level(x_adv)
        expected = torch.full_like(gradient, 2 / math.prod(SHAPE))
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
        return None if masks[step] is None else torch.tensor(masks[step])  # None freezes nothing

    x_adv = run(
        *(ramp(), grey(0.5, 0.5, 0.5)),
        objective=lambda z, _, s: 2 * z[:, 0],
        steps=3,
        step_size=0.01,
        on_step=watch,
    )
    assert level(x_adv) == [0.53, 0.52, 0.51]
    assert seen == [(0, [0.5] * 3), (1, [0.51, 0.51, 0.5]), (2, [0.52, 0.51, 0.5])]


def test_a_given_start_is_not_projected_before_the_first_gradient() -> None:
    x = inner_images(3)
    start = x + 0.25
    kept = start.clone()
    spy = Spy(linear())
    x_adv = run(spy, x, start=start, steps=2)
    assert torch.equal(spy.inputs[0], kept)
    assert torch.equal(start, kept)
    assert float(Threat().distance(x_adv, x).max()) <= 0.1 + 1e-12


def test_starts_are_what_their_names_say_and_drawn_from_the_generator_alone() -> None:
    x = torch.rand(50, *SHAPE, generator=generator(3), dtype=torch.float64).round()
    radius = torch.linspace(0, 0.1, 50, dtype=torch.float64)
    uniform = torch.empty_like(x).uniform_(-1, 1, generator=generator(4))
    uniform *= radius.view(-1, 1, 1, 1)
    gaussian = torch.empty_like(x).normal_(generator=generator(4)) * 0.001 * 0.1 / REFERENCE_EPS
    expected = {
        "zero": x,
        "uniform": (x + uniform).clamp(0, 1),
        "uniform-unclipped": x + uniform,
        "gaussian": x + gaussian,  # clipped neither to the ball nor to the box
    }
    before = torch.get_rng_state()
    for start, begin in expected.items():
        spy = Spy(ramp())
        run(spy, x, radius=radius, steps=1, start=start, generator=generator(4))
        torch.testing.assert_close(spy.inputs[0], begin, rtol=0, atol=1e-12)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_objective_learns_the_step_and_gets_the_labels_as_given() -> None:
    seen = []
    target = torch.rand(2, 2, dtype=torch.float64)

    def objective(logits: Tensor, y: Tensor, step: int) -> Tensor:
        assert y is target
        seen.append(step)
        return logits[:, 0] if step % 2 else -logits[:, 0]

    x = grey(0.5, 0.5)
    x_adv = run(ramp(), x, y=target, objective=objective, steps=4, step_size=lambda s: 0.01 * s)
    assert seen == [0, 1, 2, 3]
    assert level(x_adv) == [0.52, 0.52]  # + 0.01 - 0.02 + 0.03


# Broken images leave the batch: the same result, from fewer rows.

THREAT = Threat(eps=0.05)
N = 40


def subject() -> tuple[Spy, Tensor, Tensor]:
    net = small_net().eval()
    x = torch.rand(N, 2, 4, 4, generator=generator(1), dtype=torch.float64)
    with torch.no_grad():
        y = net(x).argmax(1)
    y[3] = (y[3] + 1) % 4  # broken before any step
    return Spy(net), x, y


def attacked(name: str) -> tuple[Tensor, list[int]]:
    """x_adv, and the rows of each gradient."""
    net, x, y = subject()
    return get_attack(name)(net, x, y, THREAT, generator=generator()), net.rows


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize(
    "name", ["pgd-plus", "multitargeted", "multitargeted-dlr", "md", "pgd-20-fast-fp32"]
)
def test_broken_images_leave_and_the_result_is_the_same(
    name: str, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NARROWS_EVERY, "cpu", 1000)  # which is never, in runs of fewer steps
    expected, all_rows = attacked(name)
    monkeypatch.setitem(NARROWS_EVERY, "cpu", every)
    x_adv, rows = attacked(name)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
    net, _, y = subject()
    n_left = int(right(net, x_adv, y).sum())
    assert 10 < n_left < 30
    assert rows[0] == all_rows[0] == N
    assert rows[every] < N  # at the first look
    assert rows[-1] <= n_left + 1  # of the last run; one may fall at its very end
    assert sum(rows) < sum(all_rows)
    first_run = rows[: get_attack(name).steps]  # type: ignore[attr-defined]
    assert first_run == sorted(first_run, reverse=True)
    looks = [i for i in range(1, len(first_run)) if first_run[i] < first_run[i - 1]]
    assert all(i % every == 0 for i in looks)


@pytest.mark.parametrize("of_step", [False, True])
def test_what_belongs_to_a_row_follows_it(of_step: bool) -> None:
    """Label, radius, step size and objective of the rows that are left; none has another's."""
    x = grey(0.49, 0.3, 0.495, 0.7, 0.2)
    y = torch.tensor([1, 1, 1, 0, 1])  # class 1 below 0.5; rows 0 and 2 are broken at once
    radius = torch.tensor([0.1, 0.05, 0.1, 0.04, 0.03], dtype=torch.float64)
    size = torch.tensor([0.02, 0.01, 0.02, 0.03, 0.002], dtype=torch.float64)
    way = torch.tensor([1.0, 1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    seen = []

    def objective_of(rows: Tensor) -> Objective:
        seen.append(rows.tolist())
        return lambda logits, y, step: way[rows] * logits[:, 0]

    found = run(
        *(net := Spy(ramp()), x),
        objective=objective_of(torch.arange(5)),
        y=y,
        radius=radius,
        steps=4,
        step_size=(lambda step: size) if of_step else size,
        keep="first",
        objective_of=objective_of,
    )
    expected = grey(0.51, 0.34, 0.515, 0.66, 0.208)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert seen == [[0, 1, 2, 3, 4], [1, 3, 4]]
    assert net.rows == [5, 5, 3, 3]  # broken in the second look, gone from the third on


@pytest.mark.parametrize("keep", ["last", "best", "first"])
def test_all_rows_stay_for_who_looks_at_every_one_and_none_when_all_are_broken(keep: Keep) -> None:
    """on_step sees the batch that the caller gave, and so does every keep but `first`."""
    looks: list[int] = []

    def watch(step: int, x_adv: Tensor, logits: Tensor, gradient: Tensor) -> None:
        looks.append(len(x_adv))

    more: dict[str, Any] = {
        "objective": up,
        "steps": 4,
        "keep": keep,
        "objective_of": lambda rows: up,
    }
    if keep == "first":
        run(net := Spy(ramp()), grey(0.4, 0.49), y=torch.tensor([0, 1]), **more)
        assert net.rows == [2, 1]
        more["on_step"] = watch
    run(net := Spy(ramp()), grey(0.49, 0.3, 0.7), y=torch.tensor([1, 1, 0]), **more)
    assert net.rows == [3] * 4
    assert looks == ([3] * 4 if keep == "first" else [])


def test_in_train_mode_the_batch_stays_whole() -> None:
    """There the logits of one image depend on all the others."""
    net, x, y = subject()
    attack = PGD(steps=5, relative_step=1 / 5, keep="first", model_mode="train")
    attack(net, x, y, THREAT, generator=generator())
    assert net.rows == [N] * 5


# The model, its gradients and the images are unchanged.


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_model_is_unchanged_by_an_objective_that_raises(mode: ModelMode) -> None:
    """Also one with a layer, a weight and a gradient that were set by hand."""
    net, batch = small_net(), small_batch()
    net.fc.bias.requires_grad_(False)
    net.bn.eval()
    net(batch.x).sum().backward()
    net.bn.weight.grad = None
    grads = {n: None if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}
    values = {name: value.clone() for name, value in net.state_dict().items()}
    flags = {name: module.training for name, module in net.named_modules()}
    inside: list[bool] = []

    def watched(logits: Tensor, y: Tensor, step: int) -> Tensor:
        inside.append(any(p.requires_grad for p in net.parameters()))
        if step == 1:
            raise RuntimeError("boom")
        return cross_entropy(logits, y)

    with pytest.raises(RuntimeError, match="boom"):
        run(net, batch.x, y=batch.y, objective=watched, steps=3, model_mode=mode)
    assert inside == [False] * 2  # weights get no gradients
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == ["fc.bias"]
    assert {name for name, grad in grads.items() if grad is None} == {"fc.bias", "bn.weight"}
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, grads[name], rtol=0, atol=0)
    assert {name: module.training for name, module in net.named_modules()} == flags
    for name, value in net.state_dict().items():
        assert torch.equal(value, values[name]), name


def test_nested_modes_end_where_they_began() -> None:
    net = small_net()
    net.bn.eval()
    with attack_mode(net, "eval"):
        with attack_mode(net, "train"):
            assert net.bn.training
        assert not any(module.training for module in net.modules())
        assert not any(p.requires_grad for p in net.parameters())
    assert [net.training, net.conv.training, net.bn.training] == [True, True, False]
    assert all(p.requires_grad for p in net.parameters())
