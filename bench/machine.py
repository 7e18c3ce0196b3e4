"""The device that was asked for, and what is worth knowing of the machine beside a figure."""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.errors import ConfigError

PACKAGES = ("atbench", "torch", "torchvision", "pyautoattack", "numpy")
CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = ("amx_bf16", "avx512_bf16")
"""Of x86 processors in CPUINFO."""
BF16_CAPABILITY = (8, 0)
"""Ampere, the first NVIDIA generation that multiplies bf16."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""As malloc.h of glibc numbers them."""
NEVER = 2**30
"""Bytes that nothing here frees at once."""
MALLOC_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU where there is one; a named device must be there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:  # torch raises many kinds; each says that the device is unusable
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ConfigError(
            f"device '{name}' cannot be used here ({type(error).__name__}); there is: "
            f"{', '.join(there)}"
        ) from None
    return device


def tune_process() -> None:
    """As many threads as the process may use cores, and freed memory is kept for the next step."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(min(torch.get_num_threads(), cores or 1))
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Have glibc not return it to the system, which gives it back zeroed, page by page.

    The maps of a network are freed and asked for again at every pass. Does nothing where the C
    library is another or the user has set it up.
    """
    if any(name in os.environ for name in MALLOC_VARIABLES):
        return
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(M_MMAP_THRESHOLD, NEVER):  # the second alone would make it worse
            mallopt(M_TRIM_THRESHOLD, NEVER)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Versions, processor, threads, device name: provenance of a record."""
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def free_memory(device: torch.device) -> None:
    """Give back what a piece of work that failed has left, for the next may need it."""
    if device.type == "cuda":
        with suppress(RuntimeError):  # of a device that is broken the next piece will tell
            torch.cuda.empty_cache()


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware; False where that cannot be known.

    Elsewhere torch emulates it, which is slower than fp32.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
    return device.type == "cpu" and bool(bf16_flags())


def bf16_flags(cpuinfo: Path = CPUINFO) -> tuple[str, ...]:
    """Those of BF16_FLAGS that the processor has; none where there is no such file."""
    with suppress(OSError):
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("flags"):
                found = line.split()
                return tuple(flag for flag in BF16_FLAGS if flag in found)
    return ()


def _version(name: str) -> str:
    with suppress(PackageNotFoundError):
        return version(name)
    return ""


def _processor() -> str:
    with suppress(OSError):
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
