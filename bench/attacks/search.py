"""What an attack looks for images on: the network that it is given, or a copy that costs less.

Nothing is judged on a copy. The evaluator asks the network whether an image is broken, so a copy
that errs costs the attack strength and never credits it with an image.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

from bench.archs import Arch
from bench.archs.fast import FastCopy
from bench.attacks.attack import AttackWarning, Search
from bench.machine import has_fast_bf16


class Holder(nn.Module):
    """A module around networks."""

    def searched(self, search: Search) -> nn.Module:
        """The same around what `searched` finds for each of them."""
        raise NotImplementedError


def searched(model: nn.Module, search: Search) -> nn.Module:
    """What is searched where `model` is attacked: `model`, or a copy with its present weights.

    A model that is no `Arch` has no copy. Warns with AttackWarning where bf16 is asked for and
    cannot be had, or is slow on the model's device.
    """
    if search == "network" or isinstance(model, FastCopy):
        return model
    if isinstance(model, Holder):
        return model.searched(search)
    if search == "bf16" and not _takes_bf16(model):
        return model
    return FastCopy(model, search) if isinstance(model, Arch) else model


def _takes_bf16(model: nn.Module) -> bool:
    weight = next(model.parameters(), torch.zeros(()))
    if not isinstance(model, Arch) or weight.dtype != torch.float32:
        _notice(
            "no bf16 copy is made of a model that is not one of ours, in float32: images were "
            "looked for on the model itself"
        )
        return False
    if not has_fast_bf16(weight.device):
        _notice("this device emulates bf16: a search in fp32 takes less time")
    return True


def _notice(text: str) -> None:
    warnings.warn(AttackWarning(text), stacklevel=4)
