"""The resumable state of a training.

The file's name holds the SHA-256 of its content, so that a partial state is never used, and an
older state stays until a newer one is complete. It holds tensors, numbers and text, and is opened
with `weights_only`, so that it cannot run code.
"""

import io
from pathlib import Path
from typing import Any

import torch

from bench.storage import quarantine, sha256, write_atomic


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` into `folder` as state-<hash>.pt, then remove the older ones."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = folder / f"state-{sha256(content)[:16]}.pt"
    older = [p for p in _states(folder) if p != path]
    write_atomic(path, content)
    for old in older:
        old.unlink(missing_ok=True)


def load_state(folder: Path, device: torch.device) -> tuple[dict[str, Any] | None, list[str]]:
    """Load the latest undamaged state, if any; return a warning per damaged one (kept aside)."""
    found: list[dict[str, Any]] = []
    warnings = []
    for path in _states(folder):
        content = path.read_bytes()
        if sha256(content)[:16] != path.stem.removeprefix("state-"):
            aside = quarantine(path)
            warnings.append(f"{path.name} was damaged and is kept aside as {aside.name}")
            continue
        found.append(torch.load(io.BytesIO(content), map_location=device, weights_only=True))
    best = max(found, key=lambda state: int(state["batch_number"]), default=None)
    return best, warnings


def has_state(folder: Path) -> bool:
    return bool(_states(folder))


def remove_states(folder: Path) -> None:
    for path in _states(folder):
        path.unlink(missing_ok=True)


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*.pt"))
