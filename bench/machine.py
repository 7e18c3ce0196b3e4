"""The device, the process and the machine: what to run on, how, and what a record says of it.

Importing this module does not import torch: reports use `machine_text`.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError

if TYPE_CHECKING:
    import torch

PACKAGES = ("atbench", "torch", "torchvision", "pyautoattack", "numpy")
CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = ("amx_bf16", "avx512_bf16")
"""Of x86 processors in CPUINFO."""
BF16_CAPABILITY = (8, 0)
"""Ampere, the first NVIDIA generation that multiplies bf16."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = 2**30
MALLOC_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def choose_device(name: str) -> torch.device:
    """Return the named device, a GPU if there is one for `auto`; raises ConfigError."""
    import torch

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


def n_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def several_devices(device: torch.device, n: int) -> list[torch.device]:
    """Return n GPUs, from `device` on, or the CPU n times; raises ConfigError if there are fewer.

    n: from --gpus-per-training.
    """
    import torch

    if device.type != "cuda":
        return [device] * n
    n_gpus = torch.cuda.device_count()
    if n > n_gpus:
        raise ConfigError(
            f"--gpus-per-training {n}: this machine has {n_gpus} GPU{'s' * (n_gpus != 1)}, and a "
            "training cannot use those of another"
        )
    return [torch.device("cuda", ((device.index or 0) + number) % n_gpus) for number in range(n)]


def tune_process() -> None:
    """Use at most as many threads as cores, and keep freed memory for the next step."""
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), n_cores()))
    if any(name in os.environ for name in MALLOC_VARIABLES):  # set up by the user
        return
    # Activations are freed and allocated again in every pass; glibc would return them to the
    # system, which zeroes each page. Nothing is done with another C library.
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(M_MMAP_THRESHOLD, NEVER):  # the second alone would make it worse
            mallopt(M_TRIM_THRESHOLD, NEVER)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return versions, processor, threads and device name: provenance of a record."""
    import torch

    versions = dict.fromkeys(PACKAGES, "")
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "packages": versions,
        "python": platform.python_version(),
        "processor": _cpuinfo("model name") or platform.processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def machine_text(machine: Mapping[str, Any]) -> str:
    """Return the machine of a record in words: `AMD EPYC, 2 threads`, or a GPU with its host."""
    threads = machine["threads"]
    processor = machine["processor"] or "unnamed processor"
    host = f"{processor}, {threads} thread{'' if threads == 1 else 's'}"
    return host if machine["device"] == "cpu" else f"{machine['device']} (host: {host})"


NO_MEMORY = ("DefaultCPUAllocator", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")
"""In a RuntimeError of torch: of a CPU tensor that does not fit, of CUDA, cuBLAS or cuDNN."""


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or one that caused it, is an allocation that did not fit."""
    import torch

    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, RuntimeError) and any(part in str(error) for part in NO_MEMORY):
            return True
        error = error.__cause__
    return False


def free_memory(device: torch.device) -> None:
    """Release cached GPU memory that failed work left behind."""
    if device.type == "cuda":
        import torch

        with suppress(RuntimeError):  # of a device that is broken the next piece will tell
            torch.cuda.empty_cache()


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the CPU on the device; the host does not wait for the device."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def on_cpu(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return nested mappings with their tensors on the CPU; the host waits for a GPU once."""
    import torch

    there = set[torch.device]()

    def copied(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: copied(item) for name, item in value.items()}
        if not isinstance(value, torch.Tensor) or value.device.type != "cuda":
            return value
        there.add(value.device)
        return value.to("cpu", non_blocking=True)

    found = {name: copied(value) for name, value in values.items()}
    for device in there:
        torch.cuda.synchronize(device)
    return found


@contextmanager
def tuned_convolutions() -> Iterator[None]:
    """Let cuDNN time its algorithms once for each shape; for work whose shapes repeat.

    Not where deterministic algorithms are asked for: the choice is not the same every time.
    """
    import torch

    cudnn, before = torch.backends.cudnn, torch.backends.cudnn.benchmark
    exact = cudnn.deterministic or torch.are_deterministic_algorithms_enabled()
    cudnn.benchmark = before or not exact
    try:
        yield
    finally:
        cudnn.benchmark = before


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware; elsewhere bf16 is slower than fp32."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
    return device.type == "cpu" and bool(bf16_flags())


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Disable TF32, other short forms of fp32, and autocast: fp32 means fp32."""
    import torch

    name, exact, owners = _fp32_flags()
    before: list[tuple[Any, Any]] = []
    for owner in owners:  # a special flag follows the general one, unless it was set itself
        if (value := getattr(owner, name)) != exact:
            before.append((owner, value))
            setattr(owner, name, exact)
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        for owner, value in reversed(before):
            setattr(owner, name, value)


def _fp32_flags() -> tuple[str, object, list[Any]]:
    """Return the name of torch's flags, their value for exact arithmetic, and their owners.

    General owners come first, matrix products and convolutions on CUDA last. From torch 2.9 on the
    flags have another name, and reading the older one raises once a user has set the newer.
    """
    from torch import backends

    cuda: Any = backends.cuda.matmul
    cudnn: Any = backends.cudnn
    cpu: Any = backends.mkldnn
    if not hasattr(backends, "fp32_precision"):
        return "allow_tf32", False, [cuda, cudnn]
    on_cpu = [cpu, cpu.matmul, cpu.rnn, cpu.conv]
    return "fp32_precision", "ieee", [backends, *on_cpu, cudnn, cudnn.rnn, cuda, cudnn.conv]


def tf32_operations(device: torch.device) -> list[str]:
    """Return what now computes fp32 in TF32 on the device: by torch's default, convolutions.

    NVIDIA's libraries never do with NVIDIA_TF32_OVERRIDE=0.
    """
    name, _, owners = _fp32_flags()
    kinds = zip(("matrix products", "convolutions"), owners[-2:], strict=True)
    found = [kind for kind, owner in kinds if getattr(owner, name) in (True, "tf32")]
    allowed = device.type == "cuda" and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0"
    return found if allowed else []


def bf16_flags(cpuinfo: Path = CPUINFO) -> tuple[str, ...]:
    found = _cpuinfo("flags", cpuinfo).split()
    return tuple(flag for flag in BF16_FLAGS if flag in found)


def _cpuinfo(key: str, cpuinfo: Path = CPUINFO) -> str:
    """Return the first value of a key in the file; empty without the file."""
    with suppress(OSError):
        for line in cpuinfo.read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""
