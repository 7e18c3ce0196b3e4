"""Networks of torchvision, timm and RobustBench's model zoo, by their names there."""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import nn

from bench.archs.state_dict import constants_of
from bench.data import Dataset
from bench.errors import ConfigError, unknown_name

EXTRA = "pip install 'atbench[robustbench]'"
ZOOS = {10: "cifar10", 100: "cifar100", 1000: "imagenet"}
"""The zoo's data set by its number of classes."""
THREAT = "Linf"


Normalisation: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation, one value per channel."""


@dataclass(frozen=True)
class BuiltNetwork:
    """A network as its source builds it."""

    network: nn.Module
    source_sha256: str | None = None
    """Hash of the file with its code, and of what that imports from its own folder or the working
    directory; None for code of an installed package."""
    normalisation: Normalisation | None = None
    """What its pretrained weights expect outside of it."""
    constants: Sequence[str] = ()
    """Names in its state dict that a file of weights may leave out."""


def from_torchvision(name: str, dataset: Dataset, *, pretrained: bool) -> BuiltNetwork:
    """Build a classifier of torchvision.models, with its default weights if `pretrained`.

    Raises ConfigError for an unknown name, and for weights that do not load or fit.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown_name("torchvision model", name, known)
    if not pretrained:
        return BuiltNetwork(models.get_model(name, weights=None, num_classes=dataset.num_classes))
    title = f"torchvision:{name}"
    weights = models.get_model_weights(name).DEFAULT
    _match_classes(title, len(weights.meta["categories"]), dataset.num_classes, dataset.name)
    with _downloading(title):
        network = models.get_model(name, weights=weights)
    transforms = weights.transforms()
    return BuiltNetwork(network, normalisation=(tuple(transforms.mean), tuple(transforms.std)))


def from_timm(name: str, dataset: Dataset, *, pretrained: bool) -> BuiltNetwork:
    """Build a model of timm, with its default weights if `pretrained`, for the data's channels.

    Raises ConfigError like `from_torchvision`, and if timm is not installed.
    """
    timm = import_timm()
    if not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models())
    channels = dataset.test.shape[2]
    if not pretrained:
        return BuiltNetwork(
            timm.create_model(name, num_classes=dataset.num_classes, in_chans=channels)
        )
    title = f"timm:{name}"
    # For another number of classes, timm would silently draw a new last layer.
    has: dict[str, Any] = timm.get_pretrained_cfg(name).to_dict()
    if not (has.get("url") or has.get("hf_hub_id") or has.get("file")):
        raise ConfigError(f"timm has no weights for {name}; name some with --weights")
    _match_classes(title, int(has["num_classes"]), dataset.num_classes, dataset.name)
    with _downloading(title):
        network = timm.create_model(name, pretrained=True, in_chans=channels)
    expected = tuple(has["mean"]), tuple(has["std"])
    return BuiltNetwork(network, normalisation=expected if channels == len(expected[0]) else None)


@contextmanager
def _importing(package: str) -> Iterator[None]:
    """Ignore what packages warn about others on import; raise ConfigError for a missing one."""
    try:
        with warnings.catch_warnings():
            for message in ("`torch.jit", "Importing from timm", "pkg_resources is deprecated"):
                for category in (FutureWarning, DeprecationWarning, UserWarning):
                    warnings.filterwarnings("ignore", message=message, category=category)
            yield
    except ImportError as error:
        raise ConfigError(f"{package} cannot be imported ({error}): {EXTRA}") from error


def import_timm() -> ModuleType:
    with _importing("timm"):
        return importlib.import_module("timm")


def load_robustbench() -> ModuleType:
    """Import the package `robustbench`, which takes about ten seconds.

    robustbench 1.1.1 imports `autoattack`, which is on no package index, although it depends on
    `pyautoattack`, the same code under another name. Only its own benchmark uses it, which is not
    called here. Raises ConfigError if the package is missing or damaged.
    """
    import_timm()
    with _importing("robustbench"):
        if "autoattack" not in sys.modules and not importlib.util.find_spec("autoattack"):
            sys.modules["autoattack"] = importlib.import_module("pyautoattack")
            sys.modules["autoattack.state"] = importlib.import_module("pyautoattack.state")
        importlib.import_module("robustbench.model_zoo.models")
        return importlib.import_module("robustbench")


def from_robustbench(name: str, dataset: Dataset, *, pretrained: bool) -> BuiltNetwork:
    """Build a network of the zoo for `dataset` and L-inf, with its weights if `pretrained`.

    Raises ConfigError for an unknown name and for weights that do not load.
    """
    if dataset.num_classes not in ZOOS:
        raise ConfigError(
            f"robustbench:{name}: the zoo is for 10, 100 or 1000 classes (CIFAR-10, CIFAR-100, "
            f"ImageNet) and {dataset.name} has {dataset.num_classes}"
        )
    zoo = ZOOS[dataset.num_classes]
    package = load_robustbench()
    entries = {
        known.value: {threat.value: models for threat, models in threats.items()}
        for known, threats in sys.modules["robustbench.model_zoo.models"].model_dicts.items()
    }[zoo][THREAT]
    if name not in entries:
        raise unknown_name(f"robustbench model for {zoo}, {THREAT},", name, entries)
    if not pretrained:
        network: nn.Module = entries[name]["model"]()
        return BuiltNetwork(network, constants=constants_of(network))
    with _downloading(f"robustbench:{name}"):
        folder = Path(torch.hub.get_dir()) / "robustbench"
        return BuiltNetwork(package.load_model(name, str(folder), zoo, THREAT))


def _match_classes(model: str, has: int, wanted: int, dataset: str) -> None:
    if has != wanted:
        raise ConfigError(
            f"the pretrained weights of {model} are for {has} classes and {dataset} has {wanted}; "
            "name weights for it with --weights"
        )


@contextmanager
def _downloading(model: str) -> Iterator[None]:
    """Turn any exception inside, since a failed download can raise any, into a ConfigError."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"the pretrained weights of {model} cannot be had ({type(error).__name__}: {reason}); "
            "fetch their file elsewhere and name it with --weights"
        ) from error
