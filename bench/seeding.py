"""Seeds: every purpose has its own random stream, independent of the others."""

import hashlib

import torch


def seed_for(run_seed: int, *purpose: str | int) -> int:
    """Return a seed for `purpose` under `run_seed`, the same on every machine and Python.

    31 bits, because the attack packages pass it to generators that take no more.
    """
    text = "\x1f".join([str(run_seed), *(str(part) for part in purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF


def generator_for(
    run_seed: int, *purpose: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a generator on `device`, seeded with `seed_for(run_seed, *purpose)`."""
    return torch.Generator(device=device).manual_seed(seed_for(run_seed, *purpose))
