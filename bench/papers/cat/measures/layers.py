"""Layers of a network: which ones a forward pass calls, and the network with all of them perturbed.

    h_0 = x + delta_0 ||x||,    h_i = f_i(h_{i-1}) + delta_i ||h_{i-1}||

after Wei and Ma, "Improved Sample Complexities for Deep Networks and Robust Classification via an
All-Layer Margin" (arXiv 1910.04284). All norms are Euclidean, over one image's whole activation.
A layer f_i is a convolution or Linear with the BatchNorm that reads its output, if any: so scaling
the weights before a BatchNorm, which changes no output, changes no margin.

Shapes: B rows, C H W image, K classes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.threat import rowwise

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Modules that multiply by a weight matrix."""
Where = Literal["input", "layers", "both"]
Deltas = list[Tensor]
"""(B, ...) each: the input's where it is perturbed, then one per layer in calling order."""


def length(h: Tensor) -> Tensor:
    """(B, ...) -> (B,): Euclidean norm; unlike that of sqrt, its gradient at 0 is not NaN."""
    found: Tensor = torch.linalg.vector_norm(h.flatten(1), dim=1)
    return found


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a layer or of a BatchNorm; a module that is called twice has two."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    """Of the output of one image."""
    reads: int | None = None
    """For a BatchNorm, the position of the layer whose output it reads; else None."""

    @property
    def is_layer(self) -> bool:
        return isinstance(self.module, LAYERS)


def trace(model: nn.Module, x: Tensor) -> list[Call]:
    """Return the calls of one forward pass of x (B, C, H, W), in order.

    Modules that are never called are absent. An output that two BatchNorms read belongs to the
    first.
    """
    found: list[Call] = []
    # The outputs themselves are kept, so that no later tensor can have the identity of one.
    made: dict[int, tuple[int, Tensor]] = {}

    def note(name: str, module: nn.Module, h: Tensor, out: Tensor) -> None:
        reads = None
        if isinstance(module, LAYERS):
            made[id(out)] = len(found), out
        else:
            reads, _ = made.pop(id(h), (None, h))
        found.append(Call(name=name, module=module, shape=tuple(out.shape[1:]), reads=reads))

    with _watched(model, note), torch.no_grad():
        model(x)
    return found


@contextmanager
def _watched(
    model: nn.Module, hook: Callable[[str, nn.Module, Tensor, Tensor], Tensor | None]
) -> Iterator[None]:
    """Call hook(name, module, input, output) after every call of a layer and of a BatchNorm.

    It returns the output to continue with, or None to keep it.
    """

    def attach(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(
            lambda module, args, out: hook(name, module, args[0], out)
        )

    modules = model.named_modules()
    watched = [(name, m) for name, m in modules if isinstance(m, (*LAYERS, _BatchNorm))]
    handles = [attach(name, module) for name, module in watched]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Perturbed:
    """A forward pass that adds `deltas`; usable only inside `perturbed`, which makes it."""

    def __init__(self, model: nn.Module, like: Tensor, where: Where) -> None:
        self.model = model
        self.at_input = where != "layers"
        self.shapes = [tuple(like.shape[1:])] if self.at_input else []
        # Place of a call -> number of its perturbation, and place of the layer that it belongs to.
        self._at: dict[int, tuple[int, int]] = {}
        calls = trace(model, like) if where != "input" else []
        joined = {call.reads for call in calls}
        for place, call in enumerate(calls):
            layer = place if call.is_layer else call.reads
            if layer is not None and place not in joined:
                self._at[place] = len(self.shapes), layer
                self.shapes.append(call.shape)
        self._deltas: Deltas = []
        self._lengths: list[Tensor] = []

    def zeros(self, x: Tensor) -> Deltas:
        """Return perturbations of zero for x (B, C, H, W)."""
        return [x.new_zeros(len(x), *shape) for shape in self.shapes]

    def __call__(self, x: Tensor, deltas: Deltas) -> Tensor:
        """Return logits, (B, C, H, W) -> (B, K). Pixels may leave [0, 1]: there is no box."""
        self._deltas, self._lengths = deltas, []
        if self.at_input:
            x = x + deltas[0] * rowwise(length(x), x)
        logits: Tensor = self.model(x)
        return logits

    def see(self, name: str, module: nn.Module, h: Tensor, out: Tensor) -> Tensor | None:
        """Return the output with the perturbation of this call; the hook of `watched`."""
        place = len(self._lengths)
        self._lengths.append(length(h))
        if place not in self._at:
            return None
        number, layer = self._at[place]
        return out + self._deltas[number] * rowwise(self._lengths[layer], out)


@contextmanager
def perturbed(model: nn.Module, like: Tensor, where: Where) -> Iterator[Perturbed]:
    """Attach hooks that perturb the model; `like` (1, C, H, W) is an image to trace it with."""
    network = Perturbed(model, like, where)
    with _watched(model, network.see):
        yield network
