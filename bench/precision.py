"""Resolve `--precision auto` from paired trainings in fp32 and bf16.

`make docs` makes precision.json from the records in results/precision, and the page
docs/explanation/precision.md.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

ALLOWED = 0.02
"""Bound on the interval of the difference in robust accuracy, as a fraction."""
SEEDS = 5
"""Minimum number of pairs on at least one data set."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """One method trained in fp32 and in bf16 from the same seeds, and attacked in fp32."""

    method: str
    arch: str
    dataset: str
    attack: str
    eps: float
    n_train: int
    epochs: int
    n_seeds: int
    n_images: int
    fp32: float
    """Robust accuracy, mean over the seeds."""
    bf16: float
    low: float
    """95% interval of bf16 minus fp32, over the images."""
    high: float

    @property
    def equal(self) -> bool:
        """Whether the whole interval is within the bound."""
        return self.low >= -ALLOWED and self.high <= ALLOWED


def evidence() -> list[Paired]:
    """Return the comparisons shipped with the package."""
    text = (files("bench") / "precision.json").read_text()
    return [Paired(**row) for row in json.loads(text)]


def automatic(fast_bf16: bool, rows: Sequence[Paired]) -> tuple[str, str]:
    """Return `bf16` or `fp32`, and why; fast_bf16: whether the device has bf16 in hardware."""
    if not fast_bf16:
        return "fp32", "this device has no bf16 arithmetic in hardware"
    if max((row.n_seeds for row in rows), default=0) < SEEDS:
        return "fp32", f"no comparison of {SEEDS} seeds is on record"
    wide = [row for row in rows if not row.equal]
    if wide:
        row = wide[0]
        return "fp32", (
            f"on {row.dataset}, {row.method} in bf16 differs from fp32 by "
            f"{100 * row.low:+.1f} to {100 * row.high:+.1f} points of robust accuracy, "
            f"and {100 * ALLOWED:g} are allowed (docs/explanation/precision.md)"
        )
    return "bf16", (
        f"bf16 is within {100 * ALLOWED:g} points of fp32 in all {len(rows)} comparisons on record "
        "(docs/explanation/precision.md)"
    )
