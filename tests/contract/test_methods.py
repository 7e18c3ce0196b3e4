"""The contract between every method and the engine."""

import copy
import random
from dataclasses import FrozenInstanceError, fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bench.method import Batch, Method, TrainState
from bench.registry import get_method, list_methods, method_class
from bench.threat import REFERENCE_EPS
from tests.harness import SmallNet, make_state, small_batch, small_net

N = 16
"""Training images, of which a batch holds six."""
INDEX = torch.tensor([9, 2, 15, 0, 7, 4])

pytestmark = pytest.mark.parametrize("name", list_methods())


def edge_batch(seed: int = 1, dtype: torch.dtype = torch.float64, n: int = 6) -> Batch:
    """Images of which two are black and white, at scattered places of the training split."""
    batch = small_batch(n=n, seed=seed, dtype=dtype)
    batch.x[0] = 0.0
    if n > 1:
        batch.x[1] = 1.0
    return Batch(x=batch.x, y=batch.y, index=INDEX[:n])


def begin(
    name: str,
    *,
    dtype: torch.dtype = torch.float64,
    eps: float = REFERENCE_EPS,
    frozen_bn: bool = False,
) -> tuple[Method, SmallNet, TrainState]:
    method, net = get_method(name), small_net(dtype=dtype)
    if frozen_bn:
        net.bn.eval()
    state = make_state(method, net, n=N, eps=eps)
    method.validate(state.threat, state.num_classes)
    return method, net, state


def halves(name: str, **others: Any) -> tuple[Method, SmallNet, TrainState]:
    """Like `begin`, for a method with the contract's two halves; skips one with its own step."""
    method, net, state = begin(name, **others)
    if type(method).perturb is Method.perturb:
        assert type(method).train_step is not Method.train_step
        pytest.skip("its step has no halves")
    return method, net, state


def train(method: Method, state: TrainState, seeds: range, **batch: Any) -> Tensor:
    """Steps as the engine makes them, an epoch each; the last loss."""
    for seed in seeds:
        loss = method.train_step(state, edge_batch(seed, **batch))["loss"]
        state.next_batch()
        method.end_epoch(state)
        state.epoch += 1
    return loss


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tensors.items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert_close(first, second, rtol=0, atol=0)


def assert_within(images: Tensor, batch: Batch, state: TrainState) -> None:
    """In the pixel range, and no farther than eps or what the state holds for each image."""
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    bound = torch.full((len(batch.y),), state.threat.eps, dtype=torch.float64)
    for value in state.examples.values():
        bound = torch.maximum(bound, value[batch.index].double().reshape(len(bound), -1).amax(1))
    moved = state.threat.distance(images, batch.x)
    assert bool((moved <= bound + 1e-7).all()), moved  # state is kept in single precision


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "eps"),
    [(torch.float32, REFERENCE_EPS), (torch.float64, REFERENCE_EPS), (torch.float64, 0.0)],
)
def test_three_steps_train_and_leave_no_gradient_and_no_mode(
    name: str, dtype: torch.dtype, eps: float
) -> None:
    method, net, state = begin(name, dtype=dtype, eps=eps)
    before = copied(net.state_dict())
    loss = train(method, state, range(3), dtype=dtype)
    assert loss.shape == ()
    assert bool(loss.isfinite())
    assert not loss.requires_grad
    for key, parameter in net.named_parameters():
        assert not torch.equal(before[key], parameter) or key == "conv.bias", key
        assert bool(parameter.isfinite().all()), key
        assert parameter.dtype == dtype, key
        assert parameter.grad is None, key
        assert parameter.requires_grad, key
    assert all(module.training for module in net.modules())
    assert state.model is net
    model = copy.deepcopy(method.eval_model(state)).eval()
    with torch.no_grad():
        assert model(edge_batch(dtype=dtype).x).shape == (6, 4)


def test_the_batch_is_untouched(name: str) -> None:
    method, _, state = begin(name)
    batch, before = edge_batch(), edge_batch()
    for _ in range(2):
        method.train_step(state, batch)
        state.next_batch()
    assert_same(vars(batch), vars(before))
    assert not batch.x.requires_grad
    assert batch.x.grad is None


@pytest.mark.slow
@pytest.mark.parametrize("eps", [REFERENCE_EPS, 0.2, 0.0])
def test_the_weights_learn_from_images_within_the_threat(name: str, eps: float) -> None:
    """Every forward through weights that get a gradient is checked, in any kind of step."""
    method, net, state = begin(name, eps=eps)
    seen: list[Tensor] = []

    def look(module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled() and net.conv.weight.requires_grad:
            seen.append(args[0].detach().clone())

    net.conv.register_forward_pre_hook(look)
    for seed in range(4):
        batch = edge_batch(seed)
        method.train_step(state, batch)
        assert seen
        for images in seen:
            assert_within(images, batch, state)
        seen.clear()
        state.next_batch()


def test_the_attack_returns_new_images_and_leaves_the_model_unchanged(name: str) -> None:
    """But for BatchNorm's statistics, where the method attacks in train mode."""
    method, net, state = halves(name)
    before, batch = copied(dict(net.named_parameters())), edge_batch()
    x_adv = method.perturb(state, batch)
    assert (x_adv.shape, x_adv.dtype) == (batch.x.shape, batch.x.dtype)
    assert not x_adv.requires_grad
    assert x_adv.grad_fn is None
    assert_same(dict(net.named_parameters()), before)
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad for p in net.parameters())
    assert all(p.grad is None for p in net.parameters())


def test_a_batchnorm_layer_frozen_by_hand_stays_frozen(name: str) -> None:
    method, net, state = begin(name, frozen_bn=True)
    before = copied(dict(net.bn.named_buffers()))
    train(method, state, range(3))
    assert not net.bn.training
    assert net.training
    assert_same(dict(net.bn.named_buffers()), before)


def test_the_loss_is_pure(name: str) -> None:
    method, net, state = halves(name)
    train(method, state, range(2))  # so that the method has state
    batch = edge_batch(5)
    x_adv = method.perturb(state, batch)
    torch.manual_seed(3)

    def everything() -> dict[str, Any]:
        return {
            **{kind: copied(getattr(state, kind)) for kind in ("examples", "memory", "scratch")},
            "streams": {key: g.get_state() for key, g in state._generators.items()},
            "global stream": torch.get_rng_state(),
            "x_adv": x_adv.clone(),
        }

    before = everything()
    values = [method.loss(state, batch, x_adv) for _ in range(2)]
    assert values[0].shape == ()
    assert values[0].requires_grad
    assert_close(values[0], values[1], rtol=0, atol=0)
    assert_close(everything(), before, rtol=0, atol=0)
    assert all(p.grad is None for p in net.parameters())


def test_the_global_seeds_do_not_matter_and_are_not_touched(name: str) -> None:
    weights = []
    for seed in (1, 2):
        method, net, state = begin(name)
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        rng, numpy_rng, plain = torch.get_rng_state(), np.random.random(), random.getstate()
        np.random.seed(seed)
        train(method, state, range(3))
        assert torch.equal(torch.get_rng_state(), rng)
        assert np.random.random() == numpy_rng
        assert random.getstate() == plain
        weights.append(copied(net.state_dict()))
    assert_same(*weights)


def test_a_resumed_training_equals_an_uninterrupted_one(name: str) -> None:
    """All that a method remembers is in the weights, `examples` and `memory`."""
    method, net, state = begin(name)
    train(method, state, range(2))
    _, other, resumed = begin(name)
    other.load_state_dict(copied(net.state_dict()))
    resumed.examples = copied(state.examples)
    resumed.memory = copied(state.memory)
    resumed.epoch, resumed.batch_number = state.epoch, state.batch_number
    train(method, state, range(2, 4))
    train(get_method(name), resumed, range(2, 4))
    assert_same(net.state_dict(), other.state_dict())
    assert_same(state.examples, resumed.examples)
    assert_same(state.memory, resumed.memory)


def test_state_belongs_to_the_images_of_the_batch(name: str) -> None:
    method, _, state = begin(name)
    before = copied(state.examples)
    for key, value in before.items():
        assert len(value) == N, key
        assert value.device.type == "cpu", key
    train(method, state, range(3))
    others = torch.ones(N, dtype=torch.bool)
    others[INDEX] = False
    for key, value in state.examples.items():
        assert torch.equal(value[others], before[key][others]), key


def test_batches_may_differ_in_size(name: str) -> None:
    """The last batch of an epoch is a short one, and may be of one image."""
    method, net, state = begin(name)
    for seed, n in enumerate((1, 6, 4, 6)):
        before = net.fc.weight.detach().clone()
        loss = method.train_step(state, edge_batch(seed, n=n))["loss"]
        state.next_batch()
        assert bool(loss.isfinite())
        assert not torch.equal(net.fc.weight, before)


def test_a_method_is_parameters_and_nothing_else(name: str) -> None:
    method = get_method(name)
    for field in fields(method):  # type: ignore[arg-type]
        with pytest.raises(FrozenInstanceError):
            setattr(method, field.name, None)
    assert hash(method) == hash(get_method(name))
    assert type(method).__doc__
    assert method.title
    assert method.objective
    assert method.inner
    others = [method_class(other).title for other in list_methods() if other != name]
    assert method.title not in others
