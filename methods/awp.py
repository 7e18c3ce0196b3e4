"""AWP: Wu, Xia, Wang, "Adversarial Weight Perturbation Helps Robust Generalization"
(arXiv 2004.05884).

    min_w  max_v  mean L(w + v; x', y),   ||v_l|| <= gamma ||w_l||  for every layer l

A wrapper: L and x' are those of any method with the standard training step. One step:

    x' from the unperturbed w
    v_l = gamma ||w_l|| g_l / ||g_l||,  g = grad_w L(w; x', y)    one step of ascent
    w += v;  update on L(w; x', y);  w -= v                       the same v

Norms are of whole tensors. A layer is a parameter of two or more dimensions with "weight" in its
name, so BatchNorm and biases stay as they are.

Agrees with the authors' code (csdongxian/AWP) on all of this; on an ascent in train mode that
moves no running statistics of BatchNorm; on weight decay and momentum, which see w + v; on gamma
0.01 for AT, and 0.005 after a warm-up for TRADES; on steps of 2/255 for both.
Differs from it: the ascent needs no copy of the network, since its length is normalised, only of
BatchNorm's buffers; the warm-up is a share of the training, the code's 10 of 200 epochs. For AT,
BatchNorm is in eval mode in the attack (theirs is in train mode, except in the first batch of all
epochs after the first; `attack_bn="train"`), and two forwards of the AT code are left out, which
only move running averages: one at the end of the attack, to compare restarts, of which there is
one, and one of the clean images after the update, for the log. For TRADES, the forwards have the
order of `methods/trades.py`, natural first, and the noise of its start scales with eps.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bench.api import Batch, ConfigError, Method, Threat, TrainState, get_method, param, register

TINY = 1e-20
"""Keeps a layer without a gradient where it is."""


class Proxy(nn.Module):
    """The forward of `model` at other values of some parameters, with its own buffers."""

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.model = model
        buffers = dict(model.named_buffers())
        self.values = {name: torch.empty_like(buffer) for name, buffer in buffers.items()}
        for dtype in {buffer.dtype for buffer in buffers.values()}:  # one launch for each
            names = [name for name, buffer in buffers.items() if buffer.dtype == dtype]
            torch._foreach_copy_([self.values[n] for n in names], [buffers[n] for n in names])
        self.values |= weights or {}

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.model, self.values, (x,))
        return logits


def layers(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are perturbed."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.ndim > 1 and "weight" in name
    }


def layerwise_ascent(
    method: Method, state: TrainState, batch: Batch, x_adv: Tensor, gamma: float
) -> dict[str, Tensor]:
    """Return v_l by layer: one step up the method's loss, gamma times as long as the layer."""
    weights = layers(state.model)
    loss = method.loss(replace(state, model=Proxy(state.model)), batch, x_adv)
    gradients = state.gradients(loss, list(weights.values()))
    lengths, steepness = (
        torch.stack(torch._foreach_norm([value.detach() for value in values]))
        for values in (weights.values(), gradients)
    )
    scales = gamma * lengths / (steepness + TINY)
    moves = torch._foreach_mul(gradients, scales.unbind())
    return dict(zip(weights, moves, strict=True))


def warmed_up(state: TrainState, warmup: float) -> bool:
    """Return whether this epoch, counted from 1, has reached the share `warmup` of training."""
    return state.epoch + 1 >= warmup * state.n_epochs - 1e-9


@contextmanager
def moved(model: nn.Module, by: Mapping[str, Tensor]) -> Iterator[None]:
    """Add `by` to the parameters inside; subtract it once afterwards, whatever happened."""
    parameters = dict(model.named_parameters())

    @torch.no_grad()
    def add(sign: float) -> None:
        if by:
            names = list(by)
            torch._foreach_add_([parameters[n] for n in names], [by[n] for n in names], alpha=sign)

    add(1.0)
    try:
        yield
    finally:
        add(-1.0)


@dataclass(frozen=True, kw_only=True)
class AWP(Method):
    """Any method with the standard training step, at perturbed weights."""

    base: Method
    """The method that crafts x' and defines the loss."""
    gamma: float = param(0.01, ge=0)
    """Length of a layer's perturbation, in units of the layer's norm."""
    warmup: float = param(0.0, ge=0, le=1)
    """Share of the training before the weights are perturbed."""

    title = "AWP"
    paper = "arXiv 2004.05884"

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.base).train_step is not Method.train_step:
            raise ConfigError(
                f"AWP cannot wrap {type(self.base).__name__}, which has a training step of its "
                "own; choose a method that only overrides perturb and loss"
            )

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        return self.base.perturb(state, batch)

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        return self.base.loss(state, batch, x_adv)

    def ascent(self, state: TrainState, batch: Batch, x_adv: Tensor) -> dict[str, Tensor]:
        """Return v_l by layer."""
        return layerwise_ascent(self.base, state, batch, x_adv, self.gamma)

    def train_step(self, state: TrainState, batch: Batch) -> Mapping[str, Tensor]:
        """Make the wrapped method's step at w + v."""
        x_adv = self.perturb(state, batch)
        active = self.gamma > 0 and warmed_up(state, self.warmup)
        with moved(state.model, self.ascent(state, batch, x_adv) if active else {}):
            loss = self.loss(state, batch, x_adv)
            state.backward(loss)
            state.step()
        return {"loss": loss.detach()}

    def example_state(self, n: int, threat: Threat) -> dict[str, Tensor]:
        return self.base.example_state(n, threat)

    def end_epoch(self, state: TrainState) -> None:
        self.base.end_epoch(state)

    def eval_model(self, state: TrainState) -> nn.Module:
        return self.base.eval_model(state)

    def validate(self, threat: Threat, num_classes: int) -> None:
        self.base.validate(threat, num_classes)


@register("awp-madry")
@dataclass(frozen=True, kw_only=True)
class AWPMadry(AWP):
    """PGD adversarial training at perturbed weights."""

    base: Method = field(init=False, repr=False)
    """Madry AT, from the parameters below."""
    steps: int = param(10, ge=1)
    """Gradient steps of the attack."""
    step_size: float = param(2 / 255, gt=0)
    """Length of a step, at eps = 8/255."""
    start: Literal["uniform", "zero"] = "uniform"
    """Start of the attack: uniform in the ball and clipped to the pixel range, or the image."""
    attack_bn: Literal["eval", "train"] = "eval"
    """Mode of BatchNorm in the attack."""

    title = "AT-AWP"
    objective = "max_v CE(Z_{w+v}(x'), y)"
    inner = "max CE(Z_w(x'), y)"

    def __post_init__(self) -> None:
        base = get_method(
            "madry",
            steps=self.steps,
            step_size=self.step_size,
            start=self.start,
            attack_bn=self.attack_bn,
        )
        object.__setattr__(self, "base", base)
        super().__post_init__()


@register("awp-trades")
@dataclass(frozen=True, kw_only=True)
class AWPTrades(AWP):
    """TRADES at perturbed weights."""

    base: Method = field(init=False, repr=False)
    """TRADES, from the parameters below."""
    gamma: float = param(0.005, ge=0)
    """Length of a layer's perturbation, in units of the layer's norm."""
    warmup: float = param(10 / 200, ge=0, le=1)
    """Share of the training before the weights are perturbed."""
    beta: float = param(6.0, ge=0)
    """Weight of the robust term."""
    steps: int = param(10, ge=1)
    """Gradient steps of the attack."""
    step_size: float = param(2 / 255, gt=0)
    """Length of a step, at eps = 8/255."""

    title = "TRADES-AWP"
    objective = "max_v CE(Z_{w+v}(x), y) + beta KL(p_{w+v}(x) || p_{w+v}(x'))"
    inner = "max KL(p_w(x) || p_w(x'))"

    def __post_init__(self) -> None:
        base = get_method("trades", beta=self.beta, steps=self.steps, step_size=self.step_size)
        object.__setattr__(self, "base", base)
        super().__post_init__()
