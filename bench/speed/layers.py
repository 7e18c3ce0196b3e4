"""The layers of a network that multiply: their shapes, and what one pass through each computes.

Shapes: B batch, C H W image. A pass is forward, the gradient of the input, or that of the weight;
each multiplies as often as the others and touches the same three tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, cast

import torch
from torch import Tensor, nn

from bench.attacks.maximise import attack_mode

Pass = Literal["forward", "input", "weight"]
PASSES: tuple[Pass, ...] = ("forward", "input", "weight")
_MASKS = {"input": [True, False, False], "weight": [False, True, False]}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or a linear layer on a batch; equal ones take equal time."""

    input: tuple[int, ...]
    """(B, C, H, W), or (B, features)."""
    weight: tuple[int, ...]
    output: tuple[int, ...]
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1

    @property
    def is_linear(self) -> bool:
        """Whether it has no map."""
        return len(self.weight) == 2

    @property
    def flops(self) -> int:
        """Additions and multiplications of one pass; a bias is not counted."""
        return 2 * prod(self.output) * prod(self.weight[1:])

    @property
    def n_values(self) -> int:
        """Numbers that one pass reads or writes at least once."""
        return prod(self.input) + prod(self.weight) + prod(self.output)

    def on_batch(self, n: int) -> Layer:
        """The same layer on n images."""
        return replace(self, input=(n, *self.input[1:]), output=(n, *self.output[1:]))

    def intensity(self, dtype: torch.dtype) -> float:
        """FLOP for each byte that must move."""
        return self.flops / (self.n_values * dtype.itemsize)

    def __str__(self) -> str:
        if self.is_linear:
            return f"linear {self.weight[1]} to {self.weight[0]}"
        size = "x".join(map(str, self.weight[2:]))
        stride = f" stride {self.stride[0]}" if self.stride[0] > 1 else ""
        side = "x".join(map(str, self.input[2:]))
        return f"{size}{stride}, {self.input[1]} to {self.weight[0]}, on {side}"


def layers_of(network: nn.Module, x: Tensor) -> list[Layer]:
    """In the order of the calls, one entry a call; x (B, C, H, W). Only one image is computed."""
    found: list[Layer] = []

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(_layer(module, args[0], output, len(x)))

    modules = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        with attack_mode(network, "eval"), torch.no_grad():
            network(x[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _layer(module: nn.Module, given: Tensor, output: Tensor, batch: int) -> Layer:
    assert isinstance(module, nn.Conv2d | nn.Linear)
    plain = Layer(
        input=(batch, *given.shape[1:]),
        weight=tuple(module.weight.shape),
        output=(batch, *output.shape[1:]),
    )
    if isinstance(module, nn.Linear):
        return plain
    assert not isinstance(module.padding, str)
    return replace(
        plain,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        groups=module.groups,
    )


def work(
    layer: Layer,
    which: Pass,
    dtype: torch.dtype,
    layout: torch.memory_format,
    device: torch.device,
) -> Callable[[], Tensor]:
    """One pass alone, on noise, as a function without arguments; `layout` is that of the maps."""
    noise = torch.Generator(device)  # the global one stays as it is
    x, w, g = (
        torch.randn(shape, device=device, generator=noise).to(dtype)
        for shape in (layer.input, layer.weight, layer.output)
    )
    if layer.is_linear:
        return {
            "forward": lambda: x @ w.T,
            "input": lambda: g @ w,
            "weight": lambda: g.T @ x,
        }[which]
    x, w, g = (value.contiguous(memory_format=layout) for value in (x, w, g))
    shape = (layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups)
    if which == "forward":
        return lambda: cast(Tensor, torch.ops.aten.convolution(x, w, None, *shape))
    mask = _MASKS[which]

    def backward() -> Tensor:
        gradients = torch.ops.aten.convolution_backward(g, x, w, None, *shape, mask)
        return cast(Tensor, gradients[mask.index(True)])

    return backward
