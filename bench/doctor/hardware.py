"""What this machine is."""

from __future__ import annotations

import os
import platform

import torch

from bench.machine import bf16_flags, describe_machine, has_fast_bf16

GIB = 2**30


def hardware(device: torch.device) -> list[tuple[str, str]]:
    """(what, value) of processor, memory and GPUs."""
    rows = [
        ("system", f"{platform.system()} {platform.machine()}"),
        ("processor", str(describe_machine(device)["processor"]) or "unknown"),
        ("cores", _cores()),
        ("memory", _memory()),
        ("bf16, processor", ", ".join(bf16_flags()) or "not in hardware"),
    ]
    gpus = [_gpu(torch.device("cuda", i)) for i in range(torch.cuda.device_count())]
    rows += [(f"GPU {i}", text) for i, text in enumerate(gpus)]
    return rows if gpus else [*rows, ("GPU", "none that torch can use")]


def _cores() -> str:
    """Those that this process may use, which a container may have limited."""
    there = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    return f"{usable} of {there} for this process; torch uses {torch.get_num_threads()} threads"


def _memory() -> str:
    try:
        n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return "unknown"
    return f"{n_bytes / GIB:.1f} GiB"


def _gpu(device: torch.device) -> str:
    properties = torch.cuda.get_device_properties(device)
    bf16 = "bf16 in hardware" if has_fast_bf16(device) else "no bf16 in hardware"
    capability = f"compute capability {properties.major}.{properties.minor}"
    return f"{properties.name}, {properties.total_memory / GIB:.1f} GiB, {capability}, {bf16}"
