"""One measured row, as it is written and as it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.listing import aligned
from bench.storage import write_json
from bench.training.passes import Passes

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of one piece of work; None where it was not."""

    what: str
    """step-METHOD, or the name of an attack."""
    arch: str
    precision: str
    """Of our step, or of what an attack searches on."""
    ours_images_per_second: float
    reference: str | None = None
    """What it is set beside, with its version where it is a package."""
    reference_images_per_second: float | None = None
    ratio: float | None = None
    """How many times faster ours is: median over rounds of the reference's seconds over ours."""
    ratios: tuple[float, ...] = ()
    """The same in each round."""
    n_rounds: int
    share_of_peak: float | None = None
    """Of a step: time that its convolutions take alone at their fastest, over the step's time."""
    share_of_matrix_peak: float | None = None
    """Of a step: time that its multiplications take in one large product of matrices, likewise."""
    image_size: int
    n_images: int
    """Of a step, its batch."""
    passes: Passes | None = None
    """Forward and backward passes an image."""
    reference_passes: Passes | None = None
    peak_bytes: int | None = None
    reference_peak_bytes: int | None = None
    memory: str | None = None
    """What peak_bytes counts."""
    robust_share: float | None = None
    """Of the images of an attack: still right under ours."""
    reference_robust_share: float | None = None
    n_apart: int | None = None
    """Images that one side broke and the other did not."""
    note: str | None = None


def write_rows(path: Path, rows: Sequence[Row], machine: Mapping[str, Any], command: str) -> None:
    """A JSON list, an object a row, each with its machine and the command that measured it."""
    beside = {"threads": machine["threads"], "machine": dict(machine), "command": command}
    write_json(path, [asdict(row) | beside for row in rows])


def table(rows: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """The rows for a person to read."""
    head = ("what", "arch", "precision", "images", "images/s", "beside", "images/s", "times faster")
    more = (
        "share of peak",
        "of matrix peak",
        "passes",
        "beside",
        "MiB",
        "beside",
        "robust",
        "beside",
        "apart",
        "",
    )
    cells = [(*head, *more), *(_cells(row) for row in rows)]
    rounds = " or ".join(str(n) for n in sorted({row.n_rounds for row in rows}))
    legend = (
        f"Medians of {rounds} round{'' if rounds == '1' else 's'} in which both sides take turns; "
        "times faster: median over rounds, with the least and the most; share of peak: time that "
        "the step's convolutions take alone at their fastest, over the step's; of matrix peak: "
        "time that as many multiplications take in one large product of matrices, likewise; "
        "passes: forward + backward an image; robust: share of the images that are right under "
        "the attack; apart: images that one side broke and the other did not, where another "
        "package's PGD starts from noise of its own and AutoAttack's has our seed; precision: of "
        "ours, what stands beside it is in fp32. "
        f"{machine['device']}, {machine['processor']}, {machine['threads']} thread(s)."
    )
    memory = dict.fromkeys(row.memory for row in rows if row.memory)
    return "\n".join([aligned(cells), legend, *(f"MiB: {text}." for text in memory)])


def _cells(row: Row) -> tuple[str, ...]:
    return (
        *(row.what, row.arch, row.precision, str(row.n_images)),
        _number(row.ours_images_per_second),
        row.reference or "-",
        _number(row.reference_images_per_second),
        times_faster(row.ratio, row.ratios),
        _percent(row.share_of_peak),
        _percent(row.share_of_matrix_peak),
        _passes(row.passes),
        _passes(row.reference_passes),
        _mebibytes(row.peak_bytes),
        _mebibytes(row.reference_peak_bytes),
        _percent(row.robust_share),
        _percent(row.reference_robust_share),
        "-" if row.n_apart is None else str(row.n_apart),
        row.note or "",
    )


def times_faster(ratio: float | None, ratios: Sequence[float]) -> str:
    """`1.85 (1.79 to 1.92)`: the median of the rounds, the least and the most."""
    if ratio is None:
        return "-"
    spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{ratio:.2f}{spread}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _passes(count: Passes | None) -> str:
    return "-" if count is None else f"{count.forward:.4g} + {count.backward:.4g}"


def _mebibytes(n_bytes: int | None) -> str:
    return "-" if n_bytes is None else f"{n_bytes / MIB:.0f}"
