"""Images that were found leave the batch: the same result, from fewer rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import PGD, get_attack, restarts
from bench.attacks.maximise import NARROWS_EVERY, Keep, Objective, maximise
from bench.threat import Threat
from tests.harness import small_net

THREAT = Threat(eps=0.05)
N = 40


class Counted(nn.Module):
    """Records the rows of each call that a gradient is taken of."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rows: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            self.rows.append(len(x))
        logits: Tensor = self.model(x)
        return logits


def whole(objective: Objective, *args: Any, objective_of: object, **kwargs: Any) -> Tensor:
    """The ascent on all images to the end."""
    return maximise(objective, *args, **kwargs)


def subject() -> tuple[Counted, Tensor, Tensor]:
    net = small_net().eval()
    g = torch.Generator().manual_seed(1)
    x = torch.rand(N, 2, 4, 4, generator=g, dtype=torch.float64)
    with torch.no_grad():
        y = net(x).argmax(1)
    y[3] = (y[3] + 1) % 4  # found before any step
    return Counted(net), x, y


def attacked(name: str) -> tuple[Tensor, list[int]]:
    """x_adv, and the rows of each gradient."""
    net, x, y = subject()
    x_adv = get_attack(name)(net, x, y, THREAT, generator=torch.Generator().manual_seed(0))
    return x_adv, net.rows


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize(
    "name", ["pgd-plus", "multitargeted", "multitargeted-dlr", "md", "pgd-20-fast-fp32"]
)
def test_found_images_leave_and_the_result_is_the_same(
    name: str, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NARROWS_EVERY, "cpu", every)
    x_adv, rows = attacked(name)
    with monkeypatch.context() as patch:
        patch.setattr(restarts, "maximise", whole)
        expected, all_rows = attacked(name)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
    net, _, y = subject()
    with torch.no_grad():
        n_left = int((net(x_adv).argmax(1) == y).sum())
    assert 10 < n_left < 30
    assert rows[0] == all_rows[0] == N
    assert rows[every] < N  # at the first look
    assert rows[-1] <= n_left + 1  # of the last run; one may fall at its very end
    assert sum(rows) < sum(all_rows)
    first_run = rows[: get_attack(name).steps]  # type: ignore[attr-defined]
    assert first_run == sorted(first_run, reverse=True)
    looks = [i for i in range(1, len(first_run)) if first_run[i] < first_run[i - 1]]
    assert all(i % every == 0 for i in looks)


class Grey(nn.Module):
    """Logits (t, 0), t the mean distance from 0.5."""

    def forward(self, x: Tensor) -> Tensor:
        t = (x - 0.5).flatten(1).mean(1)
        return torch.stack([t, torch.zeros_like(t)], 1)


def greys(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


@pytest.mark.parametrize("of_step", [False, True])
def test_what_belongs_to_a_row_follows_it(of_step: bool) -> None:
    """Label, radius, step size and objective of the rows that are left; none has another's."""
    x = greys(0.49, 0.3, 0.495, 0.7, 0.2)
    y = torch.tensor([1, 1, 1, 0, 1])  # class 1 below 0.5; rows 0 and 2 are found at once
    radius = torch.tensor([0.1, 0.05, 0.1, 0.04, 0.03], dtype=torch.float64)
    size = torch.tensor([0.02, 0.01, 0.02, 0.03, 0.002], dtype=torch.float64)
    way = torch.tensor([1.0, 1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    seen = []

    def objective_of(rows: Tensor) -> Objective:
        seen.append(rows.tolist())
        return lambda logits, y, step: way[rows] * logits[:, 0]

    found = maximise(
        objective_of(torch.arange(5)),
        net := Counted(Grey()),
        x,
        y,
        threat=Threat(eps=0.1),
        radius=radius,
        steps=4,
        step_size=(lambda step: size) if of_step else size,
        keep="first",
        objective_of=objective_of,
    )
    expected = greys(0.51, 0.34, 0.515, 0.66, 0.208)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert seen == [[0, 1, 2, 3, 4], [1, 3, 4]]
    assert net.rows == [5, 5, 3, 3]  # found in the second look, gone from the third on


def test_nothing_is_asked_of_the_model_when_every_image_is_found() -> None:
    x, y = greys(0.4, 0.49), torch.tensor([0, 1])

    class Awake(Counted):
        def forward(self, x: Tensor) -> Tensor:
            assert len(x)
            return super().forward(x)

    found = maximise(
        up,
        net := Awake(Grey()),
        x,
        y,
        threat=Threat(eps=0.1),
        radius=0.1,
        steps=5,
        step_size=0.02,
        keep="first",
        objective_of=lambda rows: up,
    )
    torch.testing.assert_close(found, greys(0.4, 0.51), rtol=0, atol=1e-12)
    assert net.rows == [2, 1]


def up(logits: Tensor, y: Tensor, step: int) -> Tensor:
    return logits[:, 0]


@pytest.mark.parametrize("keep", ["last", "best", "first"])
def test_all_rows_stay_for_who_looks_at_every_one(keep: Keep) -> None:
    """on_step sees the batch that the caller gave, and so does every keep but `first`."""
    x, y = greys(0.49, 0.3, 0.7), torch.tensor([1, 1, 0])
    rows: list[int] = []

    def watch(step: int, x_adv: Tensor, logits: Tensor, gradient: Tensor) -> None:
        rows.append(len(x_adv))

    maximise(
        up,
        net := Counted(Grey()),
        x,
        y,
        threat=Threat(eps=0.1),
        radius=0.1,
        steps=4,
        step_size=0.02,
        keep=keep,
        on_step=watch if keep == "first" else None,
        objective_of=lambda rows: up,
    )
    assert net.rows == [3] * 4
    assert rows == ([3] * 4 if keep == "first" else [])


def test_in_train_mode_the_batch_stays_whole() -> None:
    """There the logits of one image depend on all the others."""
    net, x, y = subject()
    attack = PGD(steps=5, relative_step=1 / 5, keep="first", model_mode="train")
    attack(net, x, y, THREAT, generator=torch.Generator().manual_seed(0))
    assert net.rows == [N] * 5
