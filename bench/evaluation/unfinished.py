"""What is kept of a chunk between the parts of AutoAttack: a kill costs one part at most."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import torch

from bench.evaluation.chunk import Unfinished
from bench.storage import npz_bytes, write_atomic


def write_unfinished(path: Path, unfinished: Unfinished) -> None:
    """The parts that are done, in one file."""
    facts = {
        "n_parts": unfinished.n_parts,
        "seconds": unfinished.seconds,
        "warnings": list(unfinished.warnings),
    }
    content = npz_bytes(
        {"broken_by": unfinished.broken_by.numpy(), "facts": np.array(json.dumps(facts))}
    )
    write_atomic(path, content)


def read_unfinished(path: Path, n: int) -> Unfinished | None:
    """Of a chunk of n images; None where there is nothing, or nothing usable."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            broken_by, facts = arrays["broken_by"], json.loads(str(arrays["facts"]))
        if broken_by.shape != (n,) or broken_by.dtype != np.int8:
            return None
        return Unfinished(
            n_parts=int(facts["n_parts"]),
            broken_by=torch.from_numpy(broken_by),
            seconds=float(facts["seconds"]),
            warnings=tuple(facts["warnings"]),
        )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
