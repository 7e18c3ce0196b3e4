"""Models that were not trained here: a factory in a Python file, and its weights.

The file is code that the user names and runs; weights are data and never run anything.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bench.archs.weights import load_state, network_bytes, read_weights
from bench.data import Dataset
from bench.errors import BenchError, CheckpointError, ConfigError
from bench.spec import ModelSpec
from bench.storage import sha256, sha256_file


@dataclass(frozen=True)
class ExternalModel:
    """A network, and what its record says of it."""

    network: nn.Module
    spec: ModelSpec


def load_external(
    reference: str, weights: Path | None, dataset: Dataset, device: torch.device
) -> ExternalModel:
    """The network that `FILE.py:FACTORY` makes, with `weights` in it, in eval mode on `device`.

    FACTORY takes no arguments and returns a module that maps images in [0, 1] to logits.
    Raises ConfigError or CheckpointError.
    """
    file, _, factory = reference.rpartition(":")
    path = Path(file)
    if not file.endswith(".py") or not factory.isidentifier():
        raise ConfigError(f"--model {reference}: write FILE.py:FACTORY, such as mine.py:make")
    network = _call(path, factory)
    if weights is not None:
        if not weights.is_file():
            raise CheckpointError(f"weights {weights} do not exist; give a file with --weights")
        load_state(network, read_weights(weights))
    spec = ModelSpec(
        model=reference,
        weights_sha256=sha256(network_bytes(network)),
        source_sha256=sha256_file(path),
        num_classes=dataset.num_classes,
        dataset=dataset.name,
    )
    return ExternalModel(network.to(device).eval(), spec)


def _call(path: Path, factory: str) -> nn.Module:
    if not path.is_file():
        raise ConfigError(f"model file {path} does not exist; write FILE.py:FACTORY")
    name = f"_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        network = getattr(module, factory)()
    except BenchError:
        raise
    except Exception as error:  # the file is the user's; say what it raised
        raise ConfigError(f"{path}:{factory} fails: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{path}:{factory} returned {type(network).__name__}, not a nn.Module")
    return network
