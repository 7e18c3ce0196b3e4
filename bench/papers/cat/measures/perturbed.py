"""A network whose input and layers are perturbed, each in proportion to what it reads.

    h_0 = x + delta_0 ||x||,    h_i = f_i(h_{i-1}) + delta_i ||h_{i-1}||

after Wei and Ma, "Improved Sample Complexities for Deep Networks and Robust Classification via an
All-Layer Margin" (arXiv 1910.04284). All norms are Euclidean, over one image's whole activation.
A layer f_i is a convolution or Linear with the BatchNorm that reads its output, if any: so scaling
the weights before a BatchNorm, which changes no output, changes no margin.

Shapes: B rows, C H W image, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from bench.papers.cat.measures.layer_trace import trace, watched
from bench.threat import rowwise

Where = Literal["input", "layers", "both"]
Deltas = list[Tensor]
"""(B, ...) each: the input's where it is perturbed, then one for each layer in calling order."""


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
            x = x + deltas[0] * rowwise(_length(x), x)
        logits: Tensor = self.model(x)
        return logits

    def see(self, name: str, module: nn.Module, h: Tensor, out: Tensor) -> Tensor | None:
        """Return the output with the perturbation of this call; the hook of `watched`."""
        place = len(self._lengths)
        self._lengths.append(_length(h))
        if place not in self._at:
            return None
        number, layer = self._at[place]
        return out + self._deltas[number] * rowwise(self._lengths[layer], out)


@contextmanager
def perturbed(model: nn.Module, like: Tensor, where: Where) -> Iterator[Perturbed]:
    """Attach hooks that perturb the model; `like` (1, C, H, W) is an image to trace it with."""
    network = Perturbed(model, like, where)
    with watched(model, network.see):
        yield network


def _length(h: Tensor) -> Tensor:
    # Unlike sqrt, whose gradient at a dead layer's 0 would be NaN.
    length: Tensor = torch.linalg.vector_norm(h.flatten(1), dim=1)
    return length


def size(deltas: Sequence[Tensor]) -> Tensor:
    """Return (B,) the Euclidean norm of all perturbations of a row together."""
    squares = [delta.flatten(1).square().sum(1) for delta in deltas]
    return torch.stack(squares).sum(0).sqrt()


def scaled(deltas: Sequence[Tensor], factor: Tensor) -> Deltas:
    """Return every row times its factor (B,)."""
    return [delta * rowwise(factor, delta) for delta in deltas]


def chosen(rows: Tensor, first: Sequence[Tensor], second: Sequence[Tensor]) -> Deltas:
    """Return `first` in the rows (B,) that are true, `second` in the others."""
    return [torch.where(rowwise(rows, a), a, b) for a, b in zip(first, second, strict=True)]
