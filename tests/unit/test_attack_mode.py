"""An attack leaves the model, its gradients and the images as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks.maximise import ModelMode, attack_mode, maximise
from bench.losses import cross_entropy
from bench.method import Batch
from bench.threat import Threat
from tests.harness import small_batch, small_net

Objective = Callable[[Tensor, Tensor, int], Tensor]


def ce(logits: Tensor, y: Tensor, step: int) -> Tensor:
    return cross_entropy(logits, y)


def run(net: nn.Module, batch: Batch, objective: Objective = ce, **others: Any) -> Tensor:
    return maximise(
        objective,
        net,
        batch.x,
        batch.y,
        threat=Threat(eps=0.1),
        radius=0.1,
        step_size=0.02,
        **({"steps": 3} | others),
    )


def boom(logits: Tensor, y: Tensor, step: int) -> Tensor:
    raise RuntimeError("boom")


@pytest.mark.parametrize("objective", [ce, boom], ids=["returns", "raises"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_model_is_left_as_it_was(objective: Objective, mode: ModelMode) -> None:
    """Also one with a layer, a weight and a gradient that were set by hand."""
    net, batch = small_net(), small_batch()
    net.fc.bias.requires_grad_(False)
    net.bn.eval()
    net(batch.x).sum().backward()
    net.bn.weight.grad = None
    grads = {name: p.grad if p.grad is None else p.grad.clone() for name, p in named(net)}
    values = {name: value.clone() for name, value in net.state_dict().items()}
    flags = {name: module.training for name, module in net.named_modules()}
    inside: list[bool] = []

    def watched(logits: Tensor, y: Tensor, step: int) -> Tensor:
        inside.append(any(p.requires_grad for _, p in named(net)))
        return objective(logits, y, step)

    if objective is boom:
        with pytest.raises(RuntimeError, match="boom"):
            run(net, batch, watched, model_mode=mode)
    else:
        run(net, batch, watched, model_mode=mode)
    assert inside == [False] * (1 if objective is boom else 3)  # weights get no gradients
    assert [name for name, p in named(net) if not p.requires_grad] == ["fc.bias"]
    assert {name for name, grad in grads.items() if grad is None} == {"fc.bias", "bn.weight"}
    for name, p in named(net):
        before = grads[name]
        if before is None or p.grad is None:
            assert before is p.grad, name
        else:
            assert torch.equal(p.grad, before), name
    assert {name: module.training for name, module in net.named_modules()} == flags
    for name, value in net.state_dict().items():
        assert torch.equal(value, values[name]), name


def named(net: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(net.named_parameters())


@pytest.mark.parametrize(("mode", "forwards"), [("eval", 0), ("train", 3)])
def test_train_mode_moves_batchnorm_and_eval_mode_does_not(mode: str, forwards: int) -> None:
    net, batch = small_net(), small_batch()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    run(net, batch, model_mode=mode)
    assert int(net.bn.num_batches_tracked or 0) == forwards
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, before[name]) == (mode == "eval"), name
    results = [run(small_net(), batch, model_mode=mode) for mode in ("eval", "train")]
    assert not torch.equal(*results)


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
    with attack_mode(net.eval(), "train"):
        assert all(module.training for module in net.modules())
    assert not any(module.training for module in net.modules())


@pytest.mark.parametrize("steps", [0, 2])
def test_the_result_is_new_detached_and_of_the_inputs_kind(steps: int) -> None:
    net, batch = small_net(dtype=torch.float32), small_batch(dtype=torch.float32)
    before = batch.x.clone()
    batch.x.requires_grad_()
    with torch.no_grad():  # as in an evaluation
        x_adv = run(net, batch, steps=steps)
    assert not x_adv.requires_grad
    assert x_adv.grad_fn is None
    assert x_adv.dtype == torch.float32
    assert x_adv.shape == before.shape
    assert x_adv.data_ptr() != batch.x.data_ptr()
    assert torch.equal(batch.x, before)
    assert batch.x.grad is None
    assert torch.equal(x_adv, before) == (steps == 0)
