"""Build a model from a factory in a Python file, FILE.py:FACTORY, by running the file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn

from bench.archs.state_dict import constants_of
from bench.data import Dataset
from bench.errors import BenchError, ConfigError
from bench.evaluation.inputs import explained
from bench.external.zoos import BuiltNetwork
from bench.registry import ENDS, import_file
from bench.storage import sha256, sha256_file

FORM = "FILE.py:FACTORY"
OWN = ("bench", "methods")
_LOCAL: set[str] = set()
"""Names of modules that the last file imported from its own folder or the working directory."""


def from_file(reference: str, dataset: Dataset, *, pretrained: bool) -> BuiltNetwork:
    """Call the factory, without arguments, for a network from images in [0, 1] to logits.

    The factory loads its own weights, so `dataset` and `pretrained` do not matter. Raises
    ConfigError.
    """
    file, _, factory = reference.rpartition(":")
    path = Path(file)
    if not file.endswith(".py") or not factory.isidentifier():
        raise ConfigError(f"--model {reference}: write {FORM}, such as mine.py:make")
    if not path.is_file():
        raise ConfigError(f"model file {path} does not exist; write {FORM}")
    network: object
    try:
        with _as_script(path):
            network = getattr(import_file(path, f"_model_{path.stem}"), factory, None)
            if network is None:
                raise ConfigError(
                    f"{path} has no {factory}; write {FORM} with the name of its function"
                )
            if callable(network) and not isinstance(network, nn.Module):
                network = network()
    except BenchError:
        raise
    except SystemExit as error:
        raise ConfigError(f"{path}:{factory} {ENDS}") from error
    except Exception as error:
        raise ConfigError(f"{path}:{factory} fails: {explained(error)}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{path}:{factory} returned {type(network).__name__}, not a nn.Module")
    return BuiltNetwork(network, _text_sha256(path), constants=constants_of(network))


def _text_sha256(path: Path) -> str:
    """Hash the file, and what it imported from its own folder or the working directory."""
    local = {str(getattr(sys.modules.get(name), "__file__", None) or "") for name in _LOCAL}
    files = [path, *(Path(file) for file in sorted(local) if Path(file).is_file())]
    hashes = [sha256_file(file) for file in files]
    return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode())


@contextmanager
def _as_script(path: Path) -> Iterator[None]:
    """Run a file like `python FILE`; restore sys.argv and torch's defaults afterwards.

    It sees no arguments, and may import from its own folder or the working directory. These
    modules stay importable afterwards, behind all others, until another file runs, since that may
    have modules of the same names.
    """
    for name in _LOCAL:
        sys.modules.pop(name, None)
    _LOCAL.clear()
    folders = list(dict.fromkeys([str(path.resolve().parent), str(Path.cwd())]))
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
        sys.path.extend(folder for folder in folders if folder not in sys.path)
        _LOCAL.update(name for name in set(sys.modules) - before if _home(name) in folders)


def _home(name: str) -> str:
    """Return the folder of a module's outermost package; empty for this program's own."""
    outermost = name.partition(".")[0]
    if outermost in OWN:
        return ""
    module = sys.modules.get(outermost)
    places = [*getattr(module, "__path__", ()), getattr(module, "__file__", None)]
    return str(Path(places[0]).resolve().parent) if places and places[0] else ""
