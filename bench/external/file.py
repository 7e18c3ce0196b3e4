"""A model from a factory in a Python file: FILE.py:FACTORY. The file is code, which this runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from torch import nn

from bench.data import Dataset
from bench.errors import BenchError, ConfigError
from bench.external.source import Built
from bench.storage import sha256_file

FORM = "FILE.py:FACTORY"


def from_file(reference: str, dataset: Dataset, *, pretrained: bool) -> Built:
    """The network that the factory makes, without arguments, from images in [0, 1] to logits.

    Weights of its own are the factory's business, so neither `dataset` nor `pretrained` matters.
    Raises ConfigError.
    """
    file, _, factory = reference.rpartition(":")
    path = Path(file)
    if not file.endswith(".py") or not factory.isidentifier():
        raise ConfigError(f"--model {reference}: write {FORM}, such as mine.py:make")
    return Built(network=_call(path, factory), source_sha256=sha256_file(path))


def _call(path: Path, factory: str) -> nn.Module:
    if not path.is_file():
        raise ConfigError(f"model file {path} does not exist; write {FORM}")
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
