"""Attack and measure a checkpoint, and return the files of the outcomes; nothing is written here.

The unit of work is one chunk under one attack, or one measure. Its outcome does not depend on the
process or the order. A kill costs at most one part of an attack on one chunk.
"""

import json
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.data.dataset import Dataset
from bench.data.loader import Loader, loader
from bench.evaluation.adversarials import adversarials_bytes
from bench.evaluation.chunk import PartialOutcome, attack_chunk
from bench.evaluation.measuring import Measuring
from bench.evaluation.model_checks import expects_normalised, inspect_model
from bench.machine import sent, tf32_operations
from bench.provenance import UNKNOWN, canonical, evaluation_code
from bench.records import Chunk
from bench.records.measure import measure_files
from bench.records.run_folder import adversarials_name, chunk_files
from bench.records.spec import CHUNK, GIVEN, EvalSpec, MeasureSpec
from bench.storage import npz_arrays, npz_bytes, sha256
from bench.threat import Threat

CHECKSUM = 64
"""Length of the hex digest that a file of a partial outcome begins with."""


@dataclass(frozen=True)
class Images:
    """The images of a data set, loaded as floats on the device on first use."""

    dataset: Dataset
    device: torch.device
    _loaders: dict[str, Loader] = field(default_factory=dict, repr=False)

    def split(self, name: str) -> Loader:
        if name not in self._loaders:
            images = getattr(self.dataset, name)
            self._loaders[name] = loader(images, self.dataset.scale, self.device)
        return self._loaders[name]

    def chunk(self, index: Sequence[int], split: str = "test") -> tuple[Tensor, Tensor]:
        """x (n, C, H, W) in [0, 1] and y (n,)."""
        images = self.split(split)
        rows = sent(torch.tensor(index), images.y.device)
        return images.images(rows), images.labels(rows)


@dataclass(frozen=True, kw_only=True)
class AttackedCheckpoint:
    """A checkpoint under attack, and what the attacks need."""

    run_id: str
    checkpoint: str
    model: nn.Module
    images: Images
    surrogate: Callable[[str], nn.Module]
    """The network of a run id."""
    info: Mapping[str, Any]
    """Versions and hardware, for the records."""
    batch_size: int = CHUNK
    """Most rows per call of the model; fewer if the memory runs out."""

    _notes: dict[Hashable, list[str]] = field(default_factory=dict, repr=False)

    @cached_property
    def measuring(self) -> Measuring:
        return Measuring(self.model, self.batch_size, self.surrogate)

    def inspected(self, key: Hashable, x: Tensor, y: Tensor, *, probe: bool) -> list[str]:
        """Return warnings about the output on these images, computed once per `key`.

        probe: also test whether an external model expects normalised images.
        """
        if key not in self._notes:
            found = inspect_model(self.model, x, y, self.batch_size)
            if probe and self.checkpoint == GIVEN:
                found += expects_normalised(self.model, x, y, self.batch_size)
            self._notes[key] = found
        return self._notes[key]


def attack(
    target: AttackedCheckpoint,
    spec: EvalSpec,
    number: int,
    *,
    unfinished: bytes | None = None,
    on_part: Callable[[bytes], None] | None = None,
    keep_images: bool = False,
    recorded: bool = False,
) -> dict[str, bytes]:
    """Attack a chunk and return its files, below the run's folder, in the order to write them.

    unfinished: what `on_part` was called with when an earlier attempt stopped. keep_images: also
    return the adversarial images, which are not kept of a part; recorded: return only them.
    """
    index = spec.chunks()[number]
    x, y = target.images.chunk(index, spec.split)
    tf32 = tf32_operations(x.device) if spec.attack != "clean" else []
    notes = target.inspected((spec.split, *index), x, y, probe=number == 0)
    resumes = on_part is not None and not keep_images
    outcome = attack_chunk(
        *(target.model, x, y, torch.tensor(index), Threat(spec.norm, spec.eps), spec.attack),
        seed=spec.seed,
        batch_size=target.batch_size,
        surrogate=tuple(target.surrogate(run_id) for run_id in spec.surrogates),
        keep_images=keep_images,
        unfinished=read_unfinished(unfinished, len(index)) if unfinished and resumes else None,
        on_part=(lambda part: on_part(unfinished_bytes(part))) if on_part and resumes else None,
    )
    files: dict[str, bytes] = {}
    if outcome.x_adv is not None:
        facts = {"run_id": target.run_id, "dataset": target.images.dataset.name}
        images = adversarials_bytes(outcome, index, y, facts | spec.to_dict())
        files[adversarials_name(spec, number)] = images
    if recorded:
        return files
    chunk = Chunk(
        index=np.asarray(index, dtype=np.int64),
        clean=outcome.clean.numpy(),
        survived=outcome.survived.numpy(),
        broken_by=outcome.broken_by.numpy(),
        parts=outcome.parts,
        seconds=outcome.seconds,
        warnings=(*notes, *outcome.warnings),
        info={**target.info, **({"tf32": tf32} if tf32 else {})},
        label=y.cpu().numpy(),
        after=outcome.after.numpy() if outcome.after is not None else None,
        package_checks=tuple(check.to_dict() for check in outcome.package_checks),
    )
    return files | chunk_files(spec, number, chunk)


def measure(target: AttackedCheckpoint, spec: MeasureSpec) -> dict[str, bytes]:
    """Make one measure or masking check and return its files, in the order to write them.

    Those of one checkpoint share what they compute.
    """
    since = time.monotonic()
    x, y = target.images.chunk(range(spec.n_examples), spec.split)
    measured = target.measuring.measure(spec, x, y)
    return measure_files(spec, measured, time.monotonic() - since, target.info)


def unfinished_bytes(unfinished: PartialOutcome) -> bytes:
    """Return the parts of an attack that are done, with a checksum in front."""
    facts = {
        "n_parts": unfinished.n_parts,
        "seconds": unfinished.seconds,
        "warnings": list(unfinished.warnings),
        "evaluation_sha256": evaluation_code()["evaluation_sha256"],
    }
    flags = {"broken_by": unfinished.broken_by.numpy(), "after": unfinished.after.numpy()}
    content = npz_bytes(flags | {"facts": np.array(json.dumps(facts))})
    return sha256(content).encode() + content


def read_unfinished(stored: bytes, n: int) -> PartialOutcome | None:
    """Return the partial outcome of a chunk of n images; None if damaged or unusable."""
    content = stored[CHECKSUM:]
    if stored[:CHECKSUM] != sha256(content).encode():
        return None
    arrays = npz_arrays(content)
    facts = json.loads(str(arrays["facts"]))
    broken_by, after = (torch.from_numpy(arrays[name]) for name in ("broken_by", "after"))
    began = canonical(facts.get("evaluation_sha256", UNKNOWN))
    if len(broken_by) != n or began != canonical(evaluation_code()["evaluation_sha256"]):
        return None  # of other images, or by other code, whose outcome the chunk would carry
    warnings, seconds = tuple(facts["warnings"]), float(facts["seconds"])
    return PartialOutcome(int(facts["n_parts"]), broken_by, after, seconds, warnings)
