"""IAAT against its procedure, written out plainly, and radii computed by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from bench.method import Batch
from bench.registry import get_method
from bench.seeding import generator_for
from tests.harness import OnePixel, make_state, small_batch
from tests.unit.written import ascended, assert_trains_as, shuffled

PIXEL = 1 / 255

# Each image: signed distance to the decision boundary at epochs 0 to 4 (negative: misclassified),
# and the radius after each, both in 255ths. Two epochs of warm-up, eps 8, gamma 1.9, beta 0.1.
BY_HAND: list[tuple[list[float], list[float]]] = [
    # far away: up by 0.19 a visit, beyond eps
    ([20, 20, 20, 20, 20], [8, 8, 8.19, 8.38, 8.57]),
    # holds at 8 and not at 9.9: stays
    ([9, 9, 9, 9, 9], [8, 8, 8, 8, 8]),
    # does not hold at 8: down by 0.19 a visit
    ([5, 5, 5, 5, 5], [8, 8, 7.81, 7.62, 7.43]),
    # never right: stays at 0
    ([-3, -3, -3, -3, -3], [0, 0, 0, 0, 0]),
    # right after the warm-up only: climbs from 0
    ([-3, -3, 2.5, 2.5, 2.5], [0, 0, 0.19, 0.38, 0.57]),
    # wrong for two visits: a factor 0.9 each, then up again
    ([20, 20, -1, -1, 20], [8, 8, 7.2, 6.48, 6.67]),
    # fails at a radius below gamma: the candidate is 0, not negative
    ([-3, -3, 20, 20, 0.1], [0, 0, 0.19, 0.38, 0.342]),
]


def at_distance(distance: list[float], index: Tensor, scale: float = 1.0) -> Batch:
    """One-pixel images at these signed distances, in 255ths, of alternating classes."""
    y = index % 2
    d = torch.tensor(distance, dtype=torch.float64)[index] * PIXEL * scale
    x = 0.5 + torch.where(y == 1, d, -d)
    return Batch(x=x.view(-1, 1, 1, 1), y=y, index=index)


@pytest.mark.parametrize("scale", [1.0, 0.5, 3.0])
def test_radii_follow_the_hand_computed_sequence(scale: float) -> None:
    method, model = get_method("iaat"), OnePixel()
    state = make_state(method, model, n=7, eps=8 * PIXEL * scale, lr=0, n_epochs=22)
    assert state.examples["radius"].tolist() == [0.0] * 7
    for epoch in range(5):
        state.epoch = epoch
        order = torch.randperm(7, generator=torch.Generator().manual_seed(epoch))
        wanted = torch.tensor([radii[epoch] for _, radii in BY_HAND]) * PIXEL * scale
        for index in torch.split(order, 2):  # the last batch has one image
            batch = at_distance([d[epoch] for d, _ in BY_HAND], index, scale)
            x_adv = method.perturb(state, batch)
            moved = (x_adv - batch.x).abs().flatten()
            assert_close(moved.float(), wanted[index], atol=1e-7, rtol=1e-5)
            state.next_batch()
        assert_close(state.examples["radius"], wanted, atol=1e-8, rtol=1e-5)


def test_a_bound_on_the_radius() -> None:
    method = get_method("iaat", eps_max=8.1 * PIXEL)
    state = make_state(method, OnePixel(), n=7, lr=0, n_epochs=22)
    for epoch, radius in enumerate((8, 8, 8.1, 8.1)):
        state.epoch = epoch
        method.perturb(state, at_distance([20.0] * 7, torch.arange(7)))
        state.next_batch()
        assert 255 * state.examples["radius"][0].item() == pytest.approx(radius, abs=1e-4)


@pytest.mark.parametrize(
    ("share", "n_epochs", "warm"),
    [
        (10 / 110, 110, 10),
        (10 / 110, 20, 2),
        (10 / 110, 5, 1),
        (10 / 110, 1, 1),
        (0.07, 100, 7),  # 0.07 * 100 is above 7 in floating point
    ],
)
def test_the_warm_up_is_a_share_of_the_epochs(share: float, n_epochs: int, warm: int) -> None:
    method = get_method("iaat", warmup=share)
    batch = at_distance([20.0] * 7, torch.arange(7))
    for epoch, radius in ((warm - 1, 8.0), (warm, 0.19)):
        state = make_state(method, OnePixel(), n=7, n_epochs=n_epochs)
        state.epoch = epoch
        method.perturb(state, batch)
        assert 255 * state.examples["radius"][0].item() == pytest.approx(radius, abs=1e-4)


def test_no_more_gradients_than_the_procedure_needs() -> None:
    method, model = get_method("iaat"), OnePixel()
    state = make_state(method, model, n=7, n_epochs=11)
    batch = at_distance([9.0] * 7, torch.arange(7))
    method.perturb(state, batch)
    assert model.forwards == {"gradient": 10, "plain": 1}
    state.epoch = 1
    method.perturb(state, batch)
    assert model.forwards == {"gradient": 10 + 30, "plain": 1 + 3}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("unit", [1.0, 6.0])
def test_three_epochs_equal_the_plain_procedure(mode: str, unit: float) -> None:
    eps, gamma = 8 * PIXEL * unit, 1.9 * PIXEL * unit
    memory = torch.zeros(16, dtype=torch.float64)
    pool = small_batch(16)
    batches = [batch for epoch in range(3) for batch in shuffled(pool, (5, 5, 5, 1), epoch)]

    def written(model: nn.Module, batch: Batch, number: int) -> Tensor:
        g = generator_for(3, "train", "start", number)  # one stream for all three attacks

        def attack(radius: Tensor) -> Tensor:
            r = radius.view(-1, 1, 1, 1)
            start = batch.x + r * torch.empty_like(batch.x).uniform_(-1, 1, generator=g)
            step = torch.maximum(radius / 5, torch.full_like(radius, 2 * PIXEL * unit))
            return ascended(lambda x_adv: F.cross_entropy(model(x_adv), batch.y), batch.x, start,
                            radius=radius, step=step, steps=10)  # fmt: skip

        def right(x: Tensor) -> list[bool]:
            with torch.no_grad():
                return [bool(z.argmax() == y) for z, y in zip(model(x), batch.y, strict=True)]

        model.train(mode == "train")
        ok, before = right(batch.x), memory[batch.index]
        if number < 4:
            memory[batch.index] = eps * torch.tensor(ok).double()
        else:
            near, far = attack(before), attack(before + gamma)
            rows = zip(batch.index, before.tolist(), ok, right(near), right(far), strict=True)
            for i, e, clean, at_e, beyond in rows:
                candidate = e + gamma if beyond else e if at_e else e - gamma
                memory[i] = 0.1 * max(0.0, candidate if clean else 0.0) + 0.9 * e
        x_adv = attack(memory[batch.index])
        model.train()
        return F.cross_entropy(model(x_adv), batch.y)

    method = get_method("iaat", attack_bn=mode)
    epochs = [number // 4 for number in range(12)]
    state = assert_trains_as(method, written, batches, epochs=epochs, eps=eps, seed=3, n_epochs=3)
    assert_close(state.examples["radius"], memory, atol=1e-10, rtol=0)
    assert len(set(memory.tolist())) > 3  # the images went different ways
