"""How large a network's weights are, layer by layer: the CAT paper's complexity, section 3.5.

The paper (arXiv 2002.06789) compares models by the product of the norms of their layers' weights
and finds fixed-radius models 1.39 to 3.53 times above its own. Which norm is unstated, so all the
usual ones are here, and as log10: the product over 30 layers leaves the range of a float. With W
the weight as a matrix (out, in * k * k), one row per output channel:

    frobenius    sqrt(sum W^2)
    spectral     largest singular value of W. For a convolution that is the kernel reshaped, not
                 the operator on whole images, which may be up to k times as large
    max_row_sum  max over rows of sum |W|: the norm of the layer from L-infinity to L-infinity,
                 for a convolution too

Only layers that a forward pass calls are counted, once per call: a module that is built and
never used (the sub_block1 of public TRADES files) is none. Biases and the input normalisation are
left out; the latter is equal in all models of a data set.

BatchNorm multiplies each channel by s = weight / sqrt(var + eps), so that scaling a convolution
before it changes nothing but the product. Hence two variants: `weights` as they are stored,
BatchNorm left out; and `folded`, where a BatchNorm that reads a layer's output multiplies that
layer's rows by s (even where a shortcut reads the same output unscaled), and any other, after an
addition, is a layer of its own, whose norm is max |s|, that of a diagonal matrix as an operator.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.attacks.maximise import attack_mode
from bench.errors import ConfigError
from bench.evaluation.measuring import MeasuredModel, finite_or_none
from bench.papers.cat.measures.layers import LAYERS, Call, trace
from bench.records.measure import Measured

NORMS = ("frobenius", "spectral", "max_row_sum")

Norms = dict[str, float]


def measure_complexity(measured: MeasuredModel) -> Measured:
    """Measure the norms of every layer that a forward pass calls, and log10 of their products.

    values: n_layers; n_folded and n_own, how many BatchNorms went which way; and
    log10_product_VARIANT_NORM, None where a norm is zero or not finite.
    arrays: VARIANT_NORM, the norms in the order of the calls, (n_layers,) for `weights` and
    (n_layers + n_own,) for `folded`; weights_names and folded_names, alike.
    Raises ConfigError for a model without a convolution or Linear.
    """
    with attack_mode(measured.model, "eval"):
        calls = trace(measured.model, measured.x[:1])
    layers = [call for call in calls if call.is_layer]
    if not layers:
        raise ConfigError("the model calls no convolution and no Linear: it has no weights to norm")
    rows = {
        "weights": [(call.name, _norms(_matrix(call.module))) for call in layers],
        "folded": _folded(calls),
    }
    values: dict[str, Any] = {
        "n_layers": len(layers),
        "n_folded": sum(call.reads is not None for call in calls),
        "n_own": len(rows["folded"]) - len(layers),
    }
    arrays: dict[str, NDArray[np.generic]] = {}
    for variant, named in rows.items():
        arrays[f"{variant}_names"] = np.array([name for name, _ in named])
        for norm in NORMS:
            column = np.array([norms[norm] for _, norms in named])
            arrays[f"{variant}_{norm}"] = column
            with np.errstate(divide="ignore"):
                values[f"log10_product_{variant}_{norm}"] = finite_or_none(np.log10(column).sum())
    return Measured(values=values, arrays=arrays)


def _folded(calls: Sequence[Call]) -> list[tuple[str, Norms]]:
    """Return names and norms, with each BatchNorm folded into the layer it reads, if any."""
    scales = {call.reads: _scale(call.module) for call in calls if call.reads is not None}
    rows = []
    for place, call in enumerate(calls):
        if call.is_layer:
            matrix = _matrix(call.module)
            scale = scales.get(place)
            rows.append((call.name, _norms(matrix if scale is None else scale[:, None] * matrix)))
        elif call.reads is None:
            largest = float(_scale(call.module).abs().amax())
            rows.append((call.name, dict.fromkeys(NORMS, largest)))
    return rows


def _norms(matrix: Tensor) -> Norms:
    return {
        "frobenius": float(matrix.norm()),
        "spectral": _spectral(matrix),
        "max_row_sum": float(matrix.abs().sum(1).amax()),
    }


def _spectral(matrix: Tensor) -> float:
    """Use the eigenvalues of the smaller Gram matrix: the SVD of a wide layer takes seconds."""
    if not bool(matrix.isfinite().all()):
        return float("nan")
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    return float(torch.linalg.eigvalsh(wide @ wide.T)[-1].clamp_min(0.0).sqrt())


def _matrix(module: nn.Module) -> Tensor:
    """Return the weight (out, in * k * k); block-diagonal for a grouped convolution."""
    assert isinstance(module, LAYERS)
    matrix = module.weight.detach().double().cpu().flatten(1)
    groups = 1 if isinstance(module, nn.Linear) else module.groups
    if groups == 1:
        return matrix
    blocks: Tensor = torch.block_diag(*matrix.chunk(groups))  # type: ignore[no-untyped-call]
    return blocks


def _scale(module: nn.Module) -> Tensor:
    """Return (channels,) the factors of BatchNorm in eval mode."""
    assert isinstance(module, _BatchNorm)
    if module.running_var is None:
        raise ConfigError("a BatchNorm keeps no running statistics, so it has no scale of its own")
    scale = (module.running_var.double() + module.eps).rsqrt()
    if module.affine:
        scale = scale * module.weight.detach().double()
    return scale.cpu()
