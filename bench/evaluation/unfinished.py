"""What is kept of a chunk between the parts of an attack: a kill costs one part at most."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch

from bench.evaluation.chunk import Unfinished
from bench.provenance import UNKNOWN, canonical, evaluation_code
from bench.storage import npz_bytes, sha256, write_atomic

CHECKSUM = 64
"""Bytes of the hex digest that the file begins with."""


def write_unfinished(path: Path, unfinished: Unfinished) -> None:
    """The parts that are done, in one file."""
    facts = {
        "n_parts": unfinished.n_parts,
        "seconds": unfinished.seconds,
        "warnings": list(unfinished.warnings),
        "evaluation_sha256": evaluation_code()["evaluation_sha256"],
    }
    content = npz_bytes(
        {
            "broken_by": unfinished.broken_by.numpy(),
            "after": unfinished.after.numpy(),
            "facts": np.array(json.dumps(facts)),
        }
    )
    write_atomic(path, sha256(content).encode() + content)


def read_unfinished(path: Path, n: int) -> Unfinished | None:
    """Of a chunk of n images; None where there is nothing, or nothing usable."""
    try:
        whole = path.read_bytes()
    except OSError:
        return None
    content = whole[CHECKSUM:]
    if whole[:CHECKSUM] != sha256(content).encode():
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        broken_by, after = arrays["broken_by"], arrays["after"]
        facts = json.loads(str(arrays["facts"]))
    began = canonical(facts.get("evaluation_sha256", UNKNOWN))
    if len(broken_by) != n or began != canonical(evaluation_code()["evaluation_sha256"]):
        return None  # of other images, or by other code, whose outcome the chunk would carry
    return Unfinished(
        n_parts=int(facts["n_parts"]),
        broken_by=torch.from_numpy(broken_by),
        after=torch.from_numpy(after),
        seconds=float(facts["seconds"]),
        warnings=tuple(facts["warnings"]),
    )
