"""A copy of a network for what attacks need: eval-mode forwards and gradients of the input.

In eval mode a BatchNorm layer is a fixed scale and shift, so one that follows a convolution is
folded into it (Jacob et al., arXiv 1712.05877, section 3.2): the same function for less work. The
copy is stored channels last, which convolutions on a CPU and tensor cores prefer.

In bf16 the image and the first layer stay in fp32, and so does the classifier. Near 0.5 two
neighbouring bf16 numbers are 0.002 to 0.004 apart, more than the start noise of TRADES: an image
that passes through bf16 is another image.

Shapes: B batch, C H W image, K classes.
"""

from __future__ import annotations

import copy
import warnings
from typing import Literal

import torch
from torch import Tensor, fx, nn

from bench.archs.arch import Arch

Precision = Literal["fp32", "bf16"]


class FastCopy(nn.Module):
    """`model` as it is now, for eval mode alone; `refresh` follows the model's later weights.

    The parameters need no gradient. With fp32 the copy has the model's own dtype, which may be
    float64.
    """

    def __init__(self, model: Arch, precision: Precision = "fp32") -> None:
        super().__init__()
        self.precision = precision
        self._folds = foldable(model)
        network = copy.deepcopy(model)
        for conv, norm in self._folds.items():
            _with_bias(network.get_submodule(conv))
            network.set_submodule(norm, nn.Identity())
        if precision == "bf16":
            _halve(network)
        self.network = network.to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.training = False
        self._source = (model,)  # in a tuple, so that it is no submodule
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's present weights and running statistics."""
        (model,) = self._source
        folded: dict[str, Tensor] = {}
        for conv, norm in self._folds.items():
            weight, bias = _fold(model.get_submodule(conv), model.get_submodule(norm))
            folded |= {f"{conv}.weight": weight, f"{conv}.bias": bias}
        present = model.state_dict() | folded
        for name, tensor in self.network.state_dict().items():
            tensor.copy_(present[name])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> logits (B, K), in the dtype of x."""
        x = x.contiguous(memory_format=torch.channels_last)
        if self.precision == "fp32":
            logits: Tensor = self.network(x)
            return logits
        return self.network.rest(self.network.stem(x).bfloat16())


class FoldWarning(UserWarning):
    """A network whose BatchNorm layers stay as they are: right, and slower."""


def foldable(model: nn.Module) -> dict[str, str]:
    """Name of each convolution whose output goes to one BatchNorm and nowhere else -> its name.

    Warns with FoldWarning, and finds none, where the forward pass cannot be traced.
    """
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # whatever a forward pass raises when it is given a proxy
        reason = (str(error).splitlines() or [""])[0]
        warnings.warn(
            FoldWarning(
                f"the forward pass of {type(model).__name__} cannot be traced, so attacks run "
                f"without folded BatchNorm ({reason}); take data-dependent branches out of it"
            ),
            stacklevel=2,
        )
        return {}
    modules = dict(model.named_modules())
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    found = {}
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        (source,) = node.all_input_nodes
        if source.op != "call_module" or not isinstance(modules[source.target], nn.Conv2d):
            continue
        if len(source.users) == 1 and calls.count(source.target) == calls.count(node.target) == 1:
            found[source.target] = node.target
    return found


def _fold(conv: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that does both."""
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
    return conv.weight * scale.view(-1, 1, 1, 1), norm.bias - mean * scale


def _with_bias(conv: nn.Module) -> None:
    assert isinstance(conv, nn.Conv2d)
    if conv.bias is None:
        conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels))


def _halve(network: Arch) -> None:
    """Convolutions after the first layer in bf16; BatchNorm takes fp32 statistics beside bf16."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module is not network.first_layer:
            module.to(torch.bfloat16)
        elif isinstance(module, nn.Linear) and module is not network.first_layer:
            module.register_forward_pre_hook(_as_float)


def _as_float(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(value.float() for value in args)
