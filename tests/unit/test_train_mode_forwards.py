"""What methods/*.py say of the authors' codes, where ours can show it: train-mode forwards.

Each forward in train mode moves BatchNorm's running statistics once, so its counter counts them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from bench.method import Batch
from bench.registry import get_method
from tests.harness import make_state, small_batch, small_net


@pytest.mark.parametrize(
    ("name", "params", "forwards"),
    [
        ("natural", {}, 1),  # no second one for a log
        ("awp-madry", {"steps": 10}, 1),  # neither the attack's last one nor that for a log
        ("awp-madry", {"steps": 10, "attack_bn": "train"}, 10 + 1),
        ("fast", {"attack_bn": "train"}, 2),
        ("yopo", {"passes": 5}, 5),
    ],
)
def test_a_step_passes_in_train_mode_as_often_as_the_algorithm_needs(
    name: str, params: dict[str, Any], forwards: int
) -> None:
    model, method = small_net(), get_method(name, **params)
    method.train_step(make_state(method, model), small_batch())
    assert model.bn.num_batches_tracked == forwards


def test_the_guard_of_fast_judges_its_last_iterate_once() -> None:
    model, method = small_net(), get_method("fast", attack_bn="train")
    state, batch = make_state(method, model), small_batch()
    with torch.no_grad():
        y = model.eval()(batch.x).argmax(1)
        model.train()
        model.fc.weight.mul_(1e3)  # so sure of its labels that all five steps are needed
    batch = Batch(batch.x, y, batch.index)
    method.perturb(state, batch)
    before = int(model.bn.num_batches_tracked)  # type: ignore[arg-type]
    method.end_epoch(state)
    assert int(model.bn.num_batches_tracked) - before == 5 + 1  # type: ignore[arg-type]


def test_both_gradients_of_yopos_first_layer_are_twice_one() -> None:
    """At the x' of the propagation, -H has the gradient of the cross entropy."""
    model, batch = small_net(), small_batch()
    weight = model.conv.weight
    h = model.stem(batch.x)
    loss = F.cross_entropy(model.rest(h), batch.y)
    of_loss, p = torch.autograd.grad(loss, [weight, h])
    (of_h,) = torch.autograd.grad((model.stem(batch.x) * p).sum(), [weight])
    assert_close(of_loss + of_h, 2 * of_h, rtol=1e-9, atol=1e-12)
    assert float(of_h.norm()) > 0


def test_the_noise_of_fast_has_one_radius_in_all_channels() -> None:
    method = get_method("fast", step_size=1e-9)
    x = torch.full((8, 2, 4, 4), 0.5, dtype=torch.float64)
    batch = Batch(x, torch.zeros(8).long(), torch.arange(8))
    state = make_state(method, small_net())
    farthest = (method.perturb(state, batch) - x).abs().amax(dim=(0, 2, 3))
    assert (farthest <= state.threat.eps + 1e-9).all()
    assert (farthest > 0.9 * state.threat.eps).all()
