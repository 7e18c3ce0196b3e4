"""A faster copy of a network for attacks: eval-mode forward passes and gradients of the input.

In eval mode a BatchNorm layer is a fixed scale and shift, so one that follows a convolution is
folded into it (Jacob et al., arXiv 1712.05877, section 3.2): the same function for less work. ReLU
modules run in place if nothing else reads their input. The copy is stored channels last, the faster
layout for convolutions.

In bf16, the image, the first layer and the classifier stay in fp32. Near 0.5 neighbouring bf16
numbers are 0.002 to 0.004 apart, more than the start noise of TRADES, so rounding an image to bf16
changes it. The backward pass through the first layer is in bf16.

A compiled copy is for training on a GPU, where all batches have the same size: torch.compile merges
pointwise operations and, on CUDA, records each pass as a graph that is launched at once. On a CPU
it is slower (docs/explanation/speed.md).

Shapes: B batch, C H W image, K classes.
"""

import copy
import operator
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, fx, nn

from bench.archs.arch import Arch

Precision = Literal["fp32", "bf16"]
Hook = TypeVar("Hook", bound=Callable[..., object])
MARK = "_counts_rows"
ADDITIONS = (operator.add, torch.add)
"""Operations whose result may be overwritten: no gradient needs it."""
BACKEND = "inductor"


def pad_batch(x: Tensor, n_rows: int) -> Tensor:
    """Return x (n, ...) padded to at least n_rows rows by repeating the last; empty stays empty."""
    lacking = n_rows - len(x)
    if lacking <= 0 or len(x) == 0:
        return x
    return torch.cat([x, x[-1:].expand(lacking, *x.shape[1:])])


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
        network = copy.deepcopy(model)
        if precision == "bf16":
            _halve(network)
        self._merges.apply(network)
        self.network = network.to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.training = False
        self._source = (model,)  # in a tuple, so that it is no submodule
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        (model,) = self._source
        present = model.state_dict()
        for conv, norm in self._merges.norms.items():
            weight, bias = _fold(model.get_submodule(conv), model.get_submodule(norm))
            present |= {f"{conv}.weight": weight, f"{conv}.bias": bias}
        for name, tensor in self.network.state_dict().items():
            tensor.copy_(present[name])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> logits (B, K), in the dtype of x."""
        x = x.contiguous(memory_format=self.layout)
        if self.precision == "fp32":
            logits: Tensor = self.network(x)
            return logits
        return self.network.rest(self.network.stem(x).bfloat16())


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


class FoldWarning(UserWarning):
    """A network whose layers could not be merged: correct, but slower."""


def merges(model: nn.Module) -> Merges:
    """Return what can be merged in `model` in eval mode, found by tracing its forward pass.

    Warns with FoldWarning, and merges nothing, if the forward pass cannot be traced.
    """
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # a forward pass may raise anything on a proxy
        reason = (str(error).splitlines() or [""])[0]
        notice = (
            f"the forward pass of {type(model).__name__} cannot be traced, so attacks run "
            f"without merged layers ({reason}); take data-dependent branches out of it"
        )
        warnings.warn(FoldWarning(notice), stacklevel=2)
        return Merges()
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


def _fold(conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
    return conv.weight * scale.view(-1, 1, 1, 1), norm.bias - mean * scale


def _halve(network: Arch) -> None:
    """Convert convolutions after the first layer to bf16; BatchNorm keeps fp32 statistics."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module is not network.first_layer:
            module.to(torch.bfloat16)
        elif isinstance(module, nn.Linear) and module is not network.first_layer:
            module.register_forward_pre_hook(_as_float)


def _as_float(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(value.float() for value in args)


class CompileWarning(UserWarning):
    """A network that could not be compiled: correct, but slower."""


class CompiledCopy(nn.Module):
    """A InferenceCopy compiled at its first call, which takes a minute.

    n_rows: batch size. Smaller batches are padded to it, since every size is compiled anew; larger
    ones run uncompiled.
    """

    layout = InferenceCopy.layout

    def __init__(self, model: Arch, precision: Precision, n_rows: int) -> None:
        super().__init__()
        self.copy = InferenceCopy(model, precision)
        self.training = False
        self.n_rows = n_rows
        for module in self.copy.modules():
            for key, hook in list(module._forward_hooks.items()):
                if hasattr(hook, MARK):  # which a graph does not call
                    self._forward_hooks[key] = module._forward_hooks.pop(key)
        # torch recompiles a forward pass only a few times, across models: forget earlier copies
        torch._dynamo.reset()
        on_cuda = next(model.parameters()).is_cuda
        how: dict[str, Any] = {"mode": "reduce-overhead"} if on_cuda else {}
        compiled = torch.compile(self.copy, dynamic=False, backend=BACKEND, **how)
        self._run: Callable[[Tensor], Tensor] = compiled
        self._is_compiled: bool | None = None  # False once it failed
        self.refresh = self.copy.refresh  # in place, where the graphs read the weights

    @property
    def runs_compiled(self) -> bool:
        return bool(self._is_compiled)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> logits (B, K), never a view.

        Warns with CompileWarning, and runs uncompiled, if the compiler fails.
        """
        fits = 0 < len(x) <= self.n_rows
        if fits and self._is_compiled is None:
            self._compile(pad_batch(x, self.n_rows))
        if not fits or not self._is_compiled:
            logits: Tensor = self.copy(x)
            return logits
        logits = self._run(_Own.apply(pad_batch(x, self.n_rows)))
        return logits[: len(x)].clone()  # the graph reuses this memory for its next logits

    def _compile(self, rows: Tensor) -> None:
        """Compile forward and backward now, where errors are caught."""
        try:
            with warnings.catch_warnings():
                # the compiler itself reads the .grad of every input
                warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a")
                with torch.enable_grad():
                    x = rows.detach().clone().requires_grad_()
                    torch.autograd.grad(self._run(_Own.apply(x)).sum(), x)
                with torch.no_grad():
                    self._run(_Own.apply(rows.detach()))
            self._is_compiled = True
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler may raise anything
            self._is_compiled = False
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            notice = (  # which compiler failed, and at what
                f"the network was not compiled ({type(error).__name__}: {' '.join(lines[:2])}); "
                "attacks run uncompiled: leave --compile out, or install what the compiler lacks"
            )
            warnings.warn(CompileWarning(notice), stacklevel=3)


class _Own(torch.autograd.Function):
    """Copy images into the graph's layout, and their gradient out of its reused memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # not contiguous(), which leaves the strides of one channel as they are
        return x.clone(memory_format=CompiledCopy.layout)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clone()
