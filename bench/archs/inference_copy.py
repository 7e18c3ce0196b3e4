"""A faster copy of a network for attacks: eval-mode forward passes and gradients of the input.

In eval mode a BatchNorm layer is a fixed scale and shift, so one that follows a convolution is
folded into it (Jacob et al., arXiv 1712.05877, section 3.2): the same function for less work. ReLU
modules run in place if nothing else reads their input. The copy is stored channels last, the faster
layout for convolutions.

In bf16, the image, the first layer and the classifier stay in fp32. Near 0.5 neighbouring bf16
numbers are 0.002 to 0.004 apart, more than the start noise of TRADES, so rounding an image to bf16
changes it. The backward pass through the first layer is in bf16.

On CUDA the passes of a copy run as graphs (`bench.archs.graphs`).

Shapes: B batch, C H W image, K classes.
"""

import copy
import operator
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from bench.archs.arch import Arch
from bench.archs.batchnorm import SharedBatchNorm2d
from bench.archs.graphs import Graphs

Precision = Literal["fp32", "bf16"]
Hook = TypeVar("Hook", bound=Callable[..., object])
MARK = "_counts_rows"
ADDITIONS = (operator.add, torch.add)
"""Operations whose result may be overwritten: no gradient needs it."""


def counts_rows(hook: Hook) -> Hook:
    """Mark a forward hook that only counts output rows, and whether gradients return.

    Copies may then call it for another layer, or for the network as a whole.
    """
    setattr(hook, MARK, True)
    return hook


class InferenceCopy(nn.Module):
    """A copy of `model` in eval mode; `refresh` copies the model's later weights.

    The parameters need no gradient. fp32 means the model's own dtype, which may be float64.
    """

    layout = torch.channels_last
    """Memory layout of inputs that need no conversion; attacks keep their images in it."""

    def __init__(self, model: Arch, precision: Precision = "fp32") -> None:
        super().__init__()
        self.precision = precision
        self._merges = merges(model)
        is_watched = any(map(_is_watched, model.modules()))  # by hooks that a graph would not call
        network = copy.deepcopy(model)
        if precision == "bf16":
            _halve(network)
        self._merges.apply(network)
        self.network = network.to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.training = False
        self._source = weakref.ref(model)  # which may keep its copy, see `kept_copy`
        for module in network.modules():
            for key, hook in list(module._forward_hooks.items()):
                if hasattr(hook, MARK):
                    self._forward_hooks[key] = module._forward_hooks.pop(key)
        self._graphs = None if is_watched else Graphs()
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the model's present weights, in place: graphs read them where they are."""
        model = self._source()
        assert model is not None, "the copied network is gone"
        present, own = model.state_dict(), self.network.state_dict()
        if self._merges.norms:
            convs, norms = (
                [model.get_submodule(name) for name in names]
                for names in (self._merges.norms, self._merges.norms.values())
            )
            scales, shifts = _folded(convs, norms)
            for name, scale, shift in zip(self._merges.norms, scales, shifts, strict=True):
                weight = present.pop(f"{name}.weight")
                torch.mul(weight, scale.view(-1, 1, 1, 1), out=own.pop(f"{name}.weight"))
                present[f"{name}.bias"] = shift
        torch._foreach_copy_(list(own.values()), [present[name] for name in own])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> logits (B, K), in the dtype of x."""
        x = x.contiguous(memory_format=self.layout)
        return self._graphs(self._run, x) if self._graphs else self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        if self.precision == "fp32":
            logits: Tensor = self.network(x)
            return logits
        return self.network.rest(self.network.stem(x).bfloat16())


_COPIES: WeakKeyDictionary[Arch, dict[Precision, tuple[Any, InferenceCopy]]] = WeakKeyDictionary()


def kept_copy(model: Arch, precision: Precision) -> InferenceCopy:
    """Return the copy of `model` with its present weights: the same one as long as it fits.

    A copy is not made again for every chunk of images and every attack, nor are its graphs.
    """
    copies, form = _COPIES.setdefault(model, {}), _form(model)
    before, kept = copies.get(precision, (None, None))
    if kept is not None and before == form:
        kept.refresh()
        return kept
    copies[precision] = form, InferenceCopy(model, precision)
    return copies[precision][1]


def _form(model: nn.Module) -> Any:
    """What a copy of `model` takes from it, other than the values of its tensors."""
    modules = [
        (name, type(module), *module._forward_hooks, *module._forward_pre_hooks)
        for name, module in model.named_modules()
    ]
    tensors = [(name, t.shape, t.dtype, t.device) for name, t in model.state_dict().items()]
    return modules, tensors


@dataclass(frozen=True)
class Merges:
    """Names of layers that merge with another or work in place; each is called once."""

    norms: dict[str, str] = field(default_factory=dict)
    """Convolution -> the BatchNorm folded into it."""
    in_place: tuple[str, ...] = ()
    """ReLUs that may overwrite their input."""

    def apply(self, network: Arch) -> None:
        for name, norm in self.norms.items():
            conv: Any = network.get_submodule(name)
            if conv.bias is None:
                conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels))
            network.set_submodule(norm, nn.Identity())
        for name in self.in_place:
            relu: Any = network.get_submodule(name)
            relu.inplace = True


class _Tracer(fx.Tracer):
    """Like torch's own layers, SharedBatchNorm2d is one node."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = isinstance(m, SharedBatchNorm2d)
        return own or super().is_leaf_module(m, module_qualified_name)


class FoldWarning(UserWarning):
    """A network whose layers could not be merged: correct, but slower."""


def merges(model: nn.Module) -> Merges:
    """Return what can be merged in `model` in eval mode, found by tracing its forward pass.

    Warns with FoldWarning, and merges nothing, if the forward pass cannot be traced.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except Exception as error:  # a forward pass may raise anything on a proxy
        reason = (str(error).splitlines() or [""])[0]
        notice = (
            f"the forward pass of {type(model).__name__} cannot be traced, so attacks run "
            f"without merged layers ({reason}); take data-dependent branches out of it"
        )
        warnings.warn(FoldWarning(notice), stacklevel=2)
        return Merges()
    finally:
        vars(tracer).clear()  # it refers to itself, and would keep the network until a collection
    modules = dict(model.named_modules())
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")

    def layer(node: fx.Node) -> nn.Module | None:
        once = node.op == "call_module" and calls[str(node.target)] == 1
        return modules[str(node.target)] if once else None

    norms: dict[str, str] = {}
    in_place = []
    made_by: dict[fx.Node, str] = {}  # convolution whose output, or BatchNorm's, a node is
    for node in graph.nodes:
        name, module = str(node.target), layer(node)
        source = node.all_input_nodes[0] if len(node.all_input_nodes) == 1 else None
        if module is None or _is_watched(module):
            continue
        if isinstance(module, nn.Conv2d):
            made_by[node] = name
        elif source is None or len(source.users) > 1:
            continue
        elif isinstance(module, nn.BatchNorm2d):
            if source in made_by and isinstance(layer(source), nn.Conv2d):
                norms[made_by[source]] = name
                made_by[node] = made_by[source]
        elif isinstance(module, nn.ReLU):
            is_new = isinstance(layer(source), nn.BatchNorm2d) or source.target in ADDITIONS
            if is_new or source in made_by:
                in_place.append(name)
    return Merges(norms, tuple(in_place))


def _is_watched(module: nn.Module) -> bool:
    watching = [hook for hook in module._forward_hooks.values() if not hasattr(hook, MARK)]
    return bool(watching or module._forward_pre_hooks or module._backward_hooks)


def _folded(convs: Sequence[Any], norms: Sequence[Any]) -> tuple[Sequence[Tensor], list[Tensor]]:
    """Return each BatchNorm's scale and the bias of the convolution before it; few launches."""
    variances = torch._foreach_add([norm.running_var for norm in norms], [n.eps for n in norms])
    torch._foreach_rsqrt_(variances)
    scales = torch._foreach_mul([norm.weight for norm in norms], variances)
    means = [
        norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
        for conv, norm in zip(convs, norms, strict=True)
    ]
    shifts = torch._foreach_sub([norm.bias for norm in norms], torch._foreach_mul(means, scales))
    return scales, list(shifts)


def _halve(network: Arch) -> None:
    """Convert convolutions after the first layer to bf16; BatchNorm keeps fp32 statistics."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module is not network.first_layer:
            module.to(torch.bfloat16)
        elif isinstance(module, nn.Linear) and module is not network.first_layer:
            module.register_forward_pre_hook(_as_float)


def _as_float(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(value.float() for value in args)
