"""Models of torchvision and timm, by their names there."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType
from typing import Any

from bench.data import Dataset
from bench.errors import ConfigError, unknown_name
from bench.external.source import EXTRA, Built, downloading, match_classes


def from_torchvision(name: str, dataset: Dataset, *, pretrained: bool) -> Built:
    """A classifier of torchvision.models, with its default weights if `pretrained`.

    Raises ConfigError for an unknown name, and for weights that cannot be had or do not fit.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown_name("torchvision model", name, known)
    if not pretrained:
        return Built(network=models.get_model(name, weights=None, num_classes=dataset.num_classes))
    title = f"torchvision:{name}"
    weights = models.get_model_weights(name).DEFAULT
    match_classes(title, len(weights.meta["categories"]), dataset.num_classes, dataset.name)
    with downloading(title):
        network = models.get_model(name, weights=weights)
    transforms = weights.transforms()
    return Built(network=network, mean=tuple(transforms.mean), std=tuple(transforms.std))


def from_timm(name: str, dataset: Dataset, *, pretrained: bool) -> Built:
    """A model of timm, with its default weights if `pretrained`; its input has as many channels
    as the data.

    Raises ConfigError as `from_torchvision` does, and where timm is not installed.
    """
    timm = import_timm()
    if not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models())
    channels = dataset.test.shape[2]
    if not pretrained:
        network = timm.create_model(
            name, pretrained=False, num_classes=dataset.num_classes, in_chans=channels
        )
        return Built(network=network)
    title = f"timm:{name}"
    # Asked for another number of classes, timm would draw a new last layer and say nothing.
    has: dict[str, Any] = timm.get_pretrained_cfg(name).to_dict()
    if not (has.get("url") or has.get("hf_hub_id") or has.get("file")):
        raise ConfigError(f"timm has no weights for {name}; name some with --weights")
    match_classes(title, int(has["num_classes"]), dataset.num_classes, dataset.name)
    with downloading(title):
        network = timm.create_model(name, pretrained=True, in_chans=channels)
    if channels != len(has["mean"]):
        return Built(network=network)
    return Built(network=network, mean=tuple(has["mean"]), std=tuple(has["std"]))


def import_timm() -> ModuleType:
    """The package; raises ConfigError where it is missing."""
    try:
        with warnings.catch_warnings():
            # Of torch, about torch.jit, which timm uses.
            warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
            warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
            return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError(f"timm cannot be imported ({error}): {EXTRA}") from error
