"""MMA against its margins in closed form, and against its procedure written out."""

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from bench.method import Batch
from bench.registry import get_method
from methods.mma import MMA, soft_margin
from tests.harness import SmallNet, make_state, small_batch, small_net
from tests.unit.written import EPS, LR, ascended, uniform


class Line(nn.Module):
    """Two classes; SLM = -(w x + b) for class 1, w x + b for class 0."""

    def __init__(self, n: int = 32) -> None:
        super().__init__()
        w = torch.linspace(-1, 1, n, dtype=torch.float64)
        self.w = nn.Parameter(w)
        self.b = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        f = x.flatten(1) @ self.w + self.b
        return torch.stack([-f / 2, f / 2], 1)


def bisected(true_margin: float, last: float, d_max: float, floor: float) -> float:
    """What ten bisections find where SLM crosses 0 at true_margin; 0 for a wrong image."""
    if true_margin <= 0:
        return 0.0
    t, low, high = max(floor, last), 0.0, 1.05 * d_max
    for _ in range(10):
        if t < true_margin:
            low = t
        else:
            high = t
        t = (low + high) / 2
    return t


@pytest.mark.parametrize("eps", [8 / 255, 4 / 255])
def test_margins_over_epochs_in_closed_form(eps: float) -> None:
    """Nine images, batches of four, four and one, shuffled, while the line moves."""
    model = Line().train()
    method = MMA()
    state = make_state(method, model, n=9, num_classes=2, eps=eps, lr=0.0)
    g = torch.Generator().manual_seed(0)
    x = 0.5 + 0.1 * (torch.rand(9, 2, 4, 4, generator=g, dtype=torch.float64) - 0.5)
    y = torch.tensor([0, 1, 1, 0, 1, 0, 1, 1, 0])
    d_max, floor = 12 / 255 * eps / EPS, 0.005 * eps / EPS
    expected = [0.0] * 9
    order = list(range(9))
    seen = set()
    for epoch, offset in enumerate((0.0, 0.15, -0.3, 1.0)):
        model.b.data.fill_(offset * eps / EPS)
        random.Random(epoch).shuffle(order)
        for part in (order[:4], order[4:8], order[8:]):
            index = torch.tensor(part)
            x_adv = method.perturb(state, Batch(x[index], y[index], index))
            for place, i in enumerate(part):
                f = float(x[i].flatten() @ model.w.detach() + model.b.detach())
                signed = f if y[i] == 1 else -f
                margin = signed / float(model.w.detach().abs().sum())
                expected[i] = bisected(margin, expected[i], d_max, floor)
                seen.add("wrong" if margin <= 0 else "far" if margin >= d_max else "near")
                if 0 < margin < d_max:
                    assert expected[i] == pytest.approx(margin, abs=1.05 * d_max / 2**8)
                moved = (x_adv[place] - x[i]).abs()
                assert_close(moved, torch.full_like(moved, expected[i]), rtol=0, atol=1e-7)
                counts = bool(state.scratch["counts"][place])
                assert counts == (margin <= 0 or expected[i] < d_max)
            stored = state.examples["margin"].tolist()
            assert stored == pytest.approx(expected, abs=1e-7)
            state.next_batch()
    assert seen == {"wrong", "near", "far"}


def plain_slm(logits: Tensor, y: Tensor) -> Tensor:
    rows = []
    for z, label in zip(logits, y.tolist(), strict=True):
        others = torch.cat([z[:label], z[label + 1 :]])
        rows.append(torch.log(torch.exp(others).sum()) - z[label])
    return torch.stack(rows)


def plain_step(
    model: nn.Module, batch: Batch, last: Tensor, number: int, bn: str, d_max: float
) -> tuple[Tensor, Tensor]:
    """The authors' order of forwards; moves the weights, returns margins and who counts."""
    x, y = batch.x, batch.y
    parameters = list(model.parameters())
    clean = model(x)
    clean_gradients = torch.autograd.grad(F.cross_entropy(clean, y), parameters, retain_graph=True)
    right = plain_slm(clean, y).detach() < 0
    xs, ys = x[right], y[right]
    r = torch.clamp(last[right].double(), min=0.005)
    wide = r.view(-1, 1, 1, 1)
    x_adv = (xs + uniform(xs, number) * wide).clamp(0, 1)
    model.eval()
    x_adv = ascended(lambda z: plain_slm(model(z), ys).sum(), xs, x_adv, radius=r,
                     step=2.5 * r / 10, steps=10)  # fmt: skip
    model.train(bn == "train")
    unit = (x_adv - xs) / (wide + 1e-12)
    t, low, high = r.clone(), torch.zeros_like(r), torch.full_like(r, 1.05 * d_max)
    with torch.no_grad():
        value = plain_slm(model(x_adv), ys)
        for _ in range(10):
            for i in range(len(t)):
                if value[i] < 0:
                    low[i] = t[i]
                else:
                    high[i] = t[i]
            t = (low + high) / 2
            value = plain_slm(model((xs + t.view(-1, 1, 1, 1) * unit).clamp(0, 1)), ys)
    model.train()
    mixed, margin = x.clone(), torch.zeros(len(x), dtype=x.dtype)
    mixed[right], margin[right] = xs + t.view(-1, 1, 1, 1) * unit, t
    each = F.cross_entropy(model(mixed), y, reduction="none")
    counts = ~right | (margin < d_max)
    gradients = torch.autograd.grad(each[counts].sum() / len(x), parameters)
    for parameter, near, far in zip(parameters, gradients, clean_gradients, strict=True):
        parameter.data -= LR * (2 / 3 * near + 1 / 3 * far)
    return margin, counts


def confident_net(seed: int = 0) -> SmallNet:
    """A network whose larger logits make some images right in the strict sense."""
    model = small_net(seed)
    model.fc.weight.data *= 10
    return model


def mostly_right(model: nn.Module, seed: int) -> Batch:
    """Six images, four of them with the label that the network gives them."""
    batch = small_batch(6, seed=seed)
    given = copy.deepcopy(model)(batch.x).argmax(1)
    return Batch(batch.x, torch.where(batch.index < 4, given, batch.y), batch.index)


@pytest.mark.parametrize("bn", ["train", "eval"])
def test_five_steps_are_those_of_the_paper_batchnorm_included(bn: str) -> None:
    model = confident_net()
    plain = copy.deepcopy(model)
    batches = [mostly_right(model, seed) for seed in range(2)]
    method = get_method("mma", bisection_bn=bn, d_max=0.02)
    state = make_state(method, model, lr=LR)
    last = torch.zeros(16)
    who = []
    for step in range(5):
        batch = batches[step % 2]
        method.train_step(state, batch)
        margin, counts = plain_step(plain, batch, last[:6], step, bn, 0.02)
        last[:6] = margin.float()
        who.append(((margin > 0).sum().item(), (~counts).sum().item()))
        assert torch.equal(state.scratch["counts"], counts)
        state.next_batch()
        assert_close(state.examples["margin"], last, rtol=0, atol=1e-8)
    assert all(1 < right < 6 for right, _ in who), who
    assert any(0 < far < right for right, far in who), who
    assert_close(model.state_dict(), plain.state_dict(), rtol=0, atol=1e-10)
    # clean, x', ten bisections, mixed; of these the bisection's only in train mode
    expected = 5 * (13 if bn == "train" else 2)
    assert model.state_dict()["bn.num_batches_tracked"] == expected


@pytest.mark.parametrize("eps", [EPS, 0.0])
def test_where_every_image_is_wrong_it_is_natural_training(eps: float) -> None:
    model, batch = Line().train(), small_batch(num_classes=2)
    f = (batch.x.flatten(1) @ model.w + model.b).detach()
    wrong = Batch(batch.x, (f < 0).long(), batch.index)
    method = MMA()
    state = make_state(method, model, num_classes=2, eps=eps)
    x_adv = method.perturb(state, wrong)
    assert_close(x_adv, wrong.x, rtol=0, atol=0)
    assert state.examples["margin"].abs().max() == 0
    wanted = F.cross_entropy(model(wrong.x), wrong.y)
    assert_close(method.loss(state, wrong, x_adv), wanted)


def test_a_single_right_image_meets_no_batchnorm_of_one_value() -> None:
    """A BatchNorm without spatial extent refuses a batch of one in train mode."""
    torch.manual_seed(0)
    head = nn.Linear(32, 2)
    model = nn.Sequential(nn.Flatten(), head, nn.BatchNorm1d(2)).double().train()
    batch = small_batch(4, num_classes=2)
    slm = soft_margin(copy.deepcopy(model)(batch.x), torch.zeros(4, dtype=torch.long))
    y = (slm < 0).long()  # all wrong
    y[0] = 1 - y[0]
    method = MMA()
    state = make_state(method, model, num_classes=2)
    method.train_step(state, Batch(batch.x, y, batch.index))
    assert state.examples["margin"][0] > 0
    assert state.examples["margin"][1:].abs().max() == 0
