"""Networks as attacks call them: in blocks, averaged, or replaced by a cheaper copy.

Nothing is judged on a copy. The evaluator asks the network whether an image is broken, so a copy
that errs costs the attack strength and never credits it with an image.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from bench.archs.arch import Arch
from bench.archs.graphs import pad_batch
from bench.archs.inference_copy import InferenceCopy, kept_copy
from bench.attacks.attack import AttackWarning, Search
from bench.machine import free_memory, has_fast_bf16, out_of_memory

T = TypeVar("T")
_ROWS: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Rows that fitted, of models that once ran out of memory."""
_SAID = set[torch.device]()
"""Devices of which this process has said so."""
MIN_ROWS = 16
"""Fewest rows of a block. Logits of fewer differ in their last bits from those of more."""


class BatchedModel(nn.Module):
    """Calls `model` on blocks of at most `batch_size` rows; a short last one is padded to MIN_ROWS.

    The padding repeats the last row; its logits are cut off and carry no gradient back. Images
    that are one block whatever its size are not padded. No result moves. Once the model ran out of
    memory, a gradient through several blocks computes their activations again, so that it needs the
    memory of one; a model that draws from other generators than torch's cannot be called so.
    """

    def __init__(self, model: nn.Module, batch_size: int) -> None:
        super().__init__()
        self.model = model
        self.batch_size = max(batch_size, MIN_ROWS)
        self.recomputes = model in _ROWS
        self.training = model.training  # train() would thaw layers that were frozen by hand

    @property
    def layout(self) -> torch.memory_format:
        layout: torch.memory_format = getattr(self.model, "layout", torch.preserve_format)
        return layout

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K), never a view: Square writes into the logits."""
        if len(x) <= self.batch_size:
            logits: Tensor = self.model(x)
            return logits.clone()
        blocks = torch.split(x, self.batch_size)
        return torch.cat([self._block(pad_batch(b, MIN_ROWS))[: len(b)] for b in blocks])

    def _block(self, x: Tensor) -> Tensor:
        logits: Tensor
        if self.recomputes and torch.is_grad_enabled() and x.requires_grad:
            with set_checkpoint_early_stop(False):  # which a model that catches errors would catch
                logits = checkpoint(self.model, x, use_reentrant=False)
        else:
            logits = self.model(x)
        return logits

    def gradient_source(self, search: Search) -> BatchedModel:
        """Blocks of the same size around the copy."""
        source = gradient_source(self.model, search)
        if source is self.model:
            return self
        blocked = BatchedModel(source, self.batch_size)
        blocked.recomputes = self.recomputes
        return blocked


class Ensemble(nn.Module):
    """The mean of the logits of several networks."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([network(x) for network in self.networks]).mean(0)

    def gradient_source(self, search: Search) -> Ensemble:
        return Ensemble([gradient_source(network, search) for network in self.networks])


def gradient_source(model: nn.Module, search: Search) -> nn.Module:
    """Return what an attack on `model` searches on: `model`, or a copy with its present weights.

    Only an `Arch` has a copy. Warns with AttackWarning if bf16 is requested and unavailable, or
    slow on the model's device.
    """
    if search == "network" or isinstance(model, InferenceCopy):
        return model
    if isinstance(model, BatchedModel | Ensemble):
        return model.gradient_source(search)
    if search == "bf16" and not _takes_bf16(model):
        return model
    return kept_copy(model, search) if isinstance(model, Arch) else model


def _takes_bf16(model: nn.Module) -> bool:
    weight = next(model.parameters(), torch.zeros(()))
    if not isinstance(model, Arch) or weight.dtype != torch.float32:
        _notice(
            "the attack searched on the model itself: only networks built by `bench.archs`, in "
            "float32, have a bf16 copy"
        )
        return False
    if not has_fast_bf16(weight.device):
        _notice("this device emulates bf16: an fp32 search is faster")
    return True


def _notice(text: str) -> None:
    warnings.warn(AttackWarning(text), stacklevel=4)


def fitted(model: nn.Module, batch_size: int, device: torch.device, call: Callable[[int], T]) -> T:
    """Return `call(batch_size)`, or of half as many rows each time that the memory runs out.

    call: computes with at most that many rows per call of `model`, from the start each time; it may
    keep nothing of a call that failed. It is logged once per process and device. Raises the error
    once MIN_ROWS do not fit.
    """
    rows = min(batch_size, _ROWS.get(model, batch_size))
    while True:
        try:
            return call(rows)
        except Exception as error:
            if rows <= MIN_ROWS or not out_of_memory(error):
                raise
        free_memory(device)  # out here, where the error no longer holds the tensors
        if device not in _SAID:
            _SAID.add(device)
            logging.getLogger(__name__).warning(
                "batches of %d images do not fit into the memory of %s: going on with %d; no "
                "result depends on it",
                *(rows, device, max(rows // 2, MIN_ROWS)),
            )
        rows = _ROWS[model] = max(rows // 2, MIN_ROWS)
