"""RobustBench's model zoo, and what it takes to import it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from bench.archs.fitting import constants_of
from bench.data import Dataset
from bench.errors import ConfigError, unknown_name
from bench.external.hub import import_timm
from bench.external.source import EXTRA, Built, downloading

ZOOS = {10: "cifar10", 100: "cifar100", 1000: "imagenet"}
"""The zoo's data set by its number of classes."""
THREAT = "Linf"


def load_robustbench() -> ModuleType:
    """The package `robustbench`, whose import takes about ten seconds.

    robustbench 1.1.1 imports `autoattack`, which is on no package index, while it depends on
    `pyautoattack`, the same code under another name. Only its own benchmark, which nothing here
    calls, uses it. Raises ConfigError where the package is missing or damaged.
    """
    import_timm()
    try:
        _name_autoattack()
        with warnings.catch_warnings():
            for message, category in (
                ("Importing from timm", DeprecationWarning),  # of timm, to the zoo's networks
                ("Importing from timm", FutureWarning),
                ("pkg_resources is deprecated", UserWarning),  # of setuptools, to its loaders
                ("pkg_resources is deprecated", DeprecationWarning),
            ):
                warnings.filterwarnings("ignore", message=message, category=category)
            importlib.import_module("robustbench.model_zoo.models")
            return importlib.import_module("robustbench")
    except ImportError as error:
        raise ConfigError(f"robustbench cannot be imported ({error}): {EXTRA}") from error


def _name_autoattack() -> None:
    """Import `pyautoattack` under the name `autoattack` too, unless that is installed."""
    if "autoattack" in sys.modules or importlib.util.find_spec("autoattack"):
        return
    sys.modules["autoattack"] = importlib.import_module("pyautoattack")
    sys.modules["autoattack.state"] = importlib.import_module("pyautoattack.state")


def from_robustbench(name: str, dataset: Dataset, *, pretrained: bool) -> Built:
    """A network of the zoo for `dataset` and L-inf, with the zoo's weights if `pretrained`.

    Raises ConfigError for an unknown name and for weights that cannot be had.
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
        return Built(network=network, constants=constants_of(network))
    with downloading(f"robustbench:{name}"):
        folder = Path(torch.hub.get_dir()) / "robustbench"
        return Built(network=package.load_model(name, str(folder), zoo, THREAT))
