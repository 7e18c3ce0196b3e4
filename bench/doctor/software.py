"""Which builds are here, whether they go together, what is missing, and what to do about each."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch

PACKAGE = "atbench"
TOGETHER = "pip install --force-reinstall torch torchvision"
NVIDIA = Path("/proc/driver/nvidia/version")
"""There where NVIDIA's driver is loaded."""
FOLDER = "cifar-10-batches-py"
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


def software() -> list[tuple[str, str]]:
    """(package, version and build)."""
    return [
        ("Python", platform.python_version()),
        (PACKAGE, _version(PACKAGE) or "not installed"),
        ("torch", f"{torch.__version__}, {_kind()}"),
        ("torchvision", _torchvision()[0]),
    ]


def missing(data_root: Path) -> list[tuple[str, str]]:
    """(what is missing or wrong, the one thing to do)."""
    found = [(what, f"run: {TOGETHER}") for what in _torchvision()[1:]]
    return [*found, *_gpu_build(), *_extras(), *_data(data_root)]


def _torchvision() -> tuple[str, ...]:
    """Its version and build, then what is wrong with it."""
    try:
        import torchvision
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # its compiled part is loaded at the first call
    except (ImportError, RuntimeError, OSError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        return _version("torchvision") or "not installed", f"torchvision does not work: {reason}"
    ours, theirs = _build(torch.__version__), _build(torchvision.__version__)
    if ours == theirs:
        return (f"{torchvision.__version__}: matches torch",)
    return torchvision.__version__, f"torch is built for {ours} and torchvision for {theirs}"


def _build(version: str) -> str:
    """`cu130` of `2.14.1+cu130`: what the wheel was built for."""
    return version.partition("+")[2] or "an unnamed platform"


def _kind() -> str:
    return f"CUDA {torch.version.cuda} build" if torch.version.cuda else "CPU build"


def _gpu_build() -> list[tuple[str, str]]:
    if torch.cuda.is_available():
        return []
    if torch.version.cuda is None:
        what = "an NVIDIA driver is loaded and torch is a CPU build"
        return (
            [(what, "install the CUDA build of torch and torchvision")] if NVIDIA.exists() else []
        )
    if NVIDIA.exists():
        what = f"torch is a CUDA {torch.version.cuda} build and cannot use the GPU that is there"
        return [(what, "compare that version with what nvidia-smi shows; update the driver")]
    what = "torch is a CUDA build and there is no GPU"
    return [(what, "nothing, if there is to be none")]


def _extras() -> list[tuple[str, str]]:
    """Optional parts of this package whose requirements are not all installed."""
    lacking: dict[str, list[str]] = {}
    for line in _requirements():
        extra, name = _EXTRA.search(line), _NAME.match(line)
        if extra and name and not _version(name[0]):
            lacking.setdefault(extra[1], []).append(name[0])
    return [
        (f"extra '{extra}': {', '.join(names)}", f"run: pip install '{PACKAGE}[{extra}]'")
        for extra, names in lacking.items()
    ]


def _requirements() -> list[str]:
    try:
        return requires(PACKAGE) or []
    except PackageNotFoundError:
        return []


def _data(root: Path) -> list[tuple[str, str]]:
    if (root.expanduser() / FOLDER).is_dir():
        return []
    return [
        (
            f"CIFAR-10: no folder {root / FOLDER}",
            "bench run downloads it; or name the folder that has it by --data-root, or use "
            "--dataset npz:PATH",
        )
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
