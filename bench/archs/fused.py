"""A convolution and the ReLU behind it in one pass, for networks whose weights need no gradient.

A CPU's kernel reads the weight in an order of its own, and a call that is given it in another
brings it there first: for few images of a wide layer, the longer part of the call. Such a layer
keeps it in that order, and does so again when the weight was written to or is another one.

Shapes: B batch, C H W map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

WIDE, HEAVY = 4, 64
"""Weights for each value of one image's map beyond which a CPU in fp32 gains by their kernel order,
and beyond which it gains more by NCHW. In bf16 every layer is kept in kernel order.

Of one image: the layout must not depend on how many there are, since its last bits differ.
"""


class FusedConv(nn.Conv2d):
    """A convolution that may do the ReLU behind it, and round what comes out to bf16.

    Only the map gets a gradient. That of a rounded output is multiplied in bf16 as well: the
    rounding of a gradient is relative to its size, and a PGD step takes no more than its sign.
    """

    relu: bool
    rounds: bool
    _in_order: dict[str, tuple[Tensor, int, Tensor]]
    """By the way through the layer: the weight, its version, and that weight in kernel order."""

    @staticmethod
    def of(conv: nn.Conv2d, *, relu: bool = False, rounds: bool = False) -> None:
        """Make `conv` one, itself: its name stays, and its hooks, which then see the ReLU too."""
        conv.__class__ = FusedConv
        assert isinstance(conv, FusedConv)
        conv.relu, conv.rounds = relu, rounds
        conv._in_order = {}

    def __getstate__(self) -> dict[str, Any]:
        """All but what a copy makes anew, and could not copy: weights in kernel order."""
        return self.__dict__ | {"_in_order": {}}

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H', W')."""
        x = self._in_layout(x)
        if not torch.is_grad_enabled() or not x.requires_grad:
            return self.through(x)
        if not self.relu and not self.rounds and not self.packs(x):
            return self.alone(x)
        out: Tensor = _Convolve.apply(x, self.weight, self)
        return out

    def through(self, x: Tensor) -> Tensor:
        """All that the layer does, of x in its layout.

        Called without autograd's bookkeeping where no gradient is asked for: for few images that
        takes longer than the convolution.
        """
        if self.packs(x):
            out = self.forth(x)
        else:
            out = _with_relu(x, self) if self.relu else self.alone(x)
        return out.bfloat16() if self.rounds else out

    def alone(self, x: Tensor) -> Tensor:
        """The convolution without what comes after it."""
        out: Tensor = self._conv_forward(x, self.weight, self.bias)
        return out

    def packs(self, x: Tensor) -> bool:
        """Whether the weight is kept in kernel order for x."""
        if self.rounds or self.groups > 1 or not _has_kernel(x):
            return False
        return x.dtype == torch.bfloat16 or WIDE < self._weights_per_value(x) <= HEAVY

    def forth(self, x: Tensor) -> Tensor:
        """The convolution and its ReLU, of a layer that packs."""
        weight = self._packed("forth", x, self.padding)
        return _pointwise(x, weight, self.bias, self, self.padding, relu=self.relu)

    def back(self, gradient: Tensor) -> Tensor | None:
        """From the gradient of the convolution's output to that of x, of a layer that packs.

        A convolution itself, with the weight turned; None where the layer has a stride, or pads
        beyond what its kernel reaches.
        """
        assert not isinstance(self.padding, str)
        sizes = zip(self.dilation, self.kernel_size, self.padding, strict=True)
        padding = tuple(d * (k - 1) - p for d, k, p in sizes)
        if set(self.stride) != {1} or min(padding) < 0:
            return None
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        weight = self._packed("back", gradient, padding)
        return _pointwise(gradient, weight, None, self, padding)

    def _packed(self, way: str, x: Tensor, padding: tuple[int, ...] | str) -> Tensor:
        """The weight for this way in kernel order; a write through `.data` goes unseen."""
        weight = self.weight.detach()
        seen, version, packed = self._in_order.get(way, (None, None, weight))
        # what was seen is kept, so that nothing else can be at its address
        if seen is None or version != weight._version or not _is_same(seen, weight):
            turned = weight.flip(2, 3).transpose(0, 1) if way == "back" else weight
            packed = torch.ops.mkldnn._reorder_convolution_weight(
                turned.contiguous(memory_format=torch.channels_last),
                *(padding, self.stride, self.dilation, self.groups, x.shape),
            )
            self._in_order[way] = (weight, weight._version, packed)
        return packed

    def _in_layout(self, x: Tensor) -> Tensor:
        """x in the layout that takes least time, in which the weight is from now on."""
        on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
        in_nchw = on_cpu and self._weights_per_value(x) > HEAVY
        layout = torch.contiguous_format if in_nchw else torch.channels_last
        if not self.weight.is_contiguous(memory_format=layout):
            self.weight.data = self.weight.data.contiguous(memory_format=layout)
        return x.contiguous(memory_format=layout)

    def _weights_per_value(self, x: Tensor) -> float:
        return self.weight.numel() / x.shape[1:].numel()


def _is_same(seen: Tensor, weight: Tensor) -> bool:
    """Whether both are the same numbers in memory."""
    return seen.data_ptr() == weight.data_ptr() and seen.dtype == weight.dtype


class _Convolve(torch.autograd.Function):
    """What a FusedConv does, with the gradient of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, conv: FusedConv) -> Tensor:
        out = conv.through(x)
        ctx.save_for_backward(x, weight, out if conv.relu else None)
        ctx.conv = conv
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, weight, out = ctx.saved_tensors
        conv, dtype = ctx.conv, gradient.dtype
        if out is not None:
            if gradient.stride() != out.stride() and 0 not in gradient.stride():
                gradient = torch.empty_like(out).copy_(gradient)
            gradient = torch.ops.aten.threshold_backward(gradient, out, 0)
        found = conv.back(gradient) if conv.packs(x) else None
        if found is None:
            found, _, _ = torch.ops.aten.convolution_backward(
                gradient,
                # only its shape and layout count
                x if x.dtype == dtype else torch.empty_like(x, dtype=dtype),
                weight.to(dtype),
                None,
                *(conv.stride, conv.padding, conv.dilation, False, (0, 0), conv.groups),
                (True, False, False),
            )
        return found.to(x.dtype), None, None


def _with_relu(x: Tensor, conv: FusedConv) -> Tensor:
    if not _has_kernel(x):
        return conv.alone(x).relu_()
    return _pointwise(x, conv.weight, conv.bias, conv, conv.padding, relu=True)


def _pointwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: FusedConv,
    padding: tuple[int, ...] | str,
    *,
    relu: bool = False,
) -> Tensor:
    place = (padding, conv.stride, conv.dilation, conv.groups)
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(
        *(x, weight, bias, *place), "relu" if relu else "none", [], ""
    )
    return out


def _has_kernel(x: Tensor) -> bool:
    """Whether torch was built with the kernel that its own compiler uses, and may use it on x."""
    if not torch.backends.mkldnn.enabled or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    if x.dtype == torch.bfloat16:
        return x.device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return x.device.type == "cpu" and x.dtype == torch.float32
