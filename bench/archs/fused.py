"""A convolution and the ReLU behind it in one pass, for networks whose weights need no gradient.

Shapes: B batch, C H W map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

HEAVY = 64
"""Weights for each value of one image's map beyond which a CPU multiplies fp32 faster in NCHW.

Of one image: the layout must not depend on how many there are, since its last bits differ.
"""


class FusedConv(nn.Conv2d):
    """A convolution that may do the ReLU behind it, and round what comes out to bf16.

    Only the map gets a gradient. That of a rounded output is multiplied in bf16 as well: the
    rounding of a gradient is relative to its size, and a PGD step takes no more than its sign.
    """

    relu: bool
    rounds: bool

    @staticmethod
    def of(conv: nn.Conv2d, *, relu: bool = False, rounds: bool = False) -> None:
        """Make `conv` one, itself: its name stays, and its hooks, which then see the ReLU too."""
        conv.__class__ = FusedConv
        assert isinstance(conv, FusedConv)
        conv.relu, conv.rounds = relu, rounds

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H', W')."""
        x = self._in_layout(x)
        if not self.relu and not self.rounds:
            return self.alone(x)
        out: Tensor = _Convolve.apply(x, self.weight, self)
        return out

    def alone(self, x: Tensor) -> Tensor:
        """The convolution without what comes after it."""
        out: Tensor = self._conv_forward(x, self.weight, self.bias)
        return out

    def _in_layout(self, x: Tensor) -> Tensor:
        """x in the layout that takes least time, in which the weight is from now on."""
        on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
        in_nchw = on_cpu and self.weight.numel() > HEAVY * x.shape[1:].numel()
        layout = torch.contiguous_format if in_nchw else torch.channels_last
        if not self.weight.is_contiguous(memory_format=layout):
            self.weight.data = self.weight.data.contiguous(memory_format=layout)
        return x.contiguous(memory_format=layout)


class _Convolve(torch.autograd.Function):
    """What a FusedConv does, with the gradient of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, conv: FusedConv) -> Tensor:
        out = _with_relu(x, conv) if conv.relu else conv.alone(x)
        if conv.rounds:
            out = out.bfloat16()
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
    if x.device.type != "cpu" or not _has_kernel(x.dtype):
        return conv.alone(x).relu_()
    place = (conv.padding, conv.stride, conv.dilation, conv.groups)
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(
        *(x, conv.weight, conv.bias, *place), "relu", [], ""
    )
    return out


def _has_kernel(dtype: torch.dtype) -> bool:
    """Whether torch was built with the kernel that its own compiler uses, and may use it here."""
    if not torch.backends.mkldnn.enabled or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32
