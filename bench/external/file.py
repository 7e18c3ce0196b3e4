"""A model from a factory in a Python file: FILE.py:FACTORY. The file is code, which this runs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from bench.archs.fitting import constants_of
from bench.data import Dataset
from bench.errors import BenchError, ConfigError
from bench.evaluation.given import explained
from bench.external.source import Built
from bench.storage import sha256, sha256_file

FORM = "FILE.py:FACTORY"
OWN = ("bench", "methods")
_BESIDE: set[str] = set()
"""Names of the modules that the last file imported from its own folder or the working directory."""


def from_file(reference: str, dataset: Dataset, *, pretrained: bool) -> Built:
    """The network that the factory makes, without arguments, from images in [0, 1] to logits.

    Weights of its own are the factory's business, so neither `dataset` nor `pretrained` matters.
    Raises ConfigError.
    """
    file, _, factory = reference.rpartition(":")
    path = Path(file)
    if not file.endswith(".py") or not factory.isidentifier():
        raise ConfigError(f"--model {reference}: write {FORM}, such as mine.py:make")
    network = _made(path, factory)
    return Built(network=network, source_sha256=_text(path), constants=constants_of(network))


def _text(path: Path) -> str:
    """Hash of the file, and of what it imported from beside it or the working directory."""
    beside = {str(getattr(sys.modules.get(name), "__file__", None) or "") for name in _BESIDE}
    files = [path, *(Path(file) for file in sorted(beside) if Path(file).is_file())]
    hashes = [sha256_file(file) for file in files]
    return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode())


def _made(path: Path, factory: str) -> nn.Module:
    if not path.is_file():
        raise ConfigError(f"model file {path} does not exist; write {FORM}")
    name = f"_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _as_script(path):
            spec.loader.exec_module(module)
            network = _network(path, module, factory)
    except BenchError:
        raise
    except SystemExit as error:
        raise ConfigError(
            f"{path}:{factory} ends the program (exit code {error.code}): put what reads a command "
            'line below `if __name__ == "__main__":`'
        ) from error
    except Exception as error:  # the file is the user's; say what it raised
        raise ConfigError(f"{path}:{factory} fails: {explained(error)}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{path}:{factory} returned {type(network).__name__}, not a nn.Module")
    return network


def _network(path: Path, module: ModuleType, factory: str) -> object:
    if not hasattr(module, factory):
        raise ConfigError(f"{path} has no {factory}; write {FORM} with the name of its function")
    found: object = getattr(module, factory)
    return found if isinstance(found, nn.Module) or not callable(found) else found()


@contextmanager
def _as_script(path: Path) -> Iterator[None]:
    """Run a file as `python FILE` would, and restore sys.argv and torch's defaults afterwards:
    gradients, dtype, device and number of threads.

    It may import what lies beside it or in the working directory, and finds no arguments. Such
    modules stay importable afterwards, behind all others, and are forgotten when another file is
    run, whose own may have the same names.
    """
    for name in _BESIDE:
        sys.modules.pop(name, None)
    _BESIDE.clear()
    folders = [str(path.resolve().parent), str(Path.cwd())]
    arguments, before = sys.argv, set(sys.modules)
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    device, threads = torch.get_default_device(), torch.get_num_threads()
    sys.path[:0] = folders
    sys.argv = [str(path)]
    try:
        yield
    finally:
        sys.argv = arguments
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)
        torch.set_num_threads(threads)
        for folder in folders:
            with suppress(ValueError):  # the file may have changed the path itself
                sys.path.remove(folder)
        sys.path.extend(folder for folder in dict.fromkeys(folders) if folder not in sys.path)
        _BESIDE.update(name for name in set(sys.modules) - before if _home(name) in folders)


def _home(name: str) -> str:
    """The folder that a module's outermost package was found in; empty for this program's own."""
    outermost = name.partition(".")[0]
    if outermost in OWN:
        return ""
    module = sys.modules.get(outermost)
    places = [*getattr(module, "__path__", ()), getattr(module, "__file__", None)]
    return str(Path(places[0]).resolve().parent) if places and places[0] else ""
