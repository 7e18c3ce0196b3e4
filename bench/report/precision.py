"""What training in bf16 costs in robust accuracy: runs that differ only in precision, paired."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.precision import ALLOWED, Paired
from bench.records import RunRecord
from bench.report.accuracy import ImageOutcomes
from bench.report.export import Markup, Table, markdown, render
from bench.report.frame import outcomes, results_frame, select
from bench.report.statistics import mean_difference

ATTACK = "pgd-20"
CHECKPOINT = "best"
_ALIKE = ("method", "arch", "dataset", "eps", "n_train", "epochs")


def paired_precisions(runs: Iterable[RunRecord]) -> list[Paired]:
    """Return a row per method, network and data set with seeds on record in both precisions."""
    frame = results_frame(runs)
    specs = {run.run_id: run.spec for run in frame.runs}
    found: dict[tuple[Any, ...], dict[tuple[str, int], ImageOutcomes]] = defaultdict(dict)
    for row in select(frame, attack=ATTACK, checkpoint=CHECKPOINT, norm=None).itertuples():
        spec, survived = specs[str(row.run_id)], outcomes(frame, [int(str(row.Index))])
        if len(survived.index) < survived.n_expected:
            continue
        own = {**spec, "dataset": row.dataset, "eps": row.eps, "epochs": spec["recipe"]["epochs"]}
        key = spec["precision"], int(spec["seed"])
        found[tuple(own[name] for name in _ALIKE)].setdefault(key, survived)
    rows = []
    for values, survivors in sorted(found.items()):
        seeds = [s for precision, s in sorted(survivors) if precision == "fp32"]
        seeds = [seed for seed in seeds if ("bf16", seed) in survivors]
        if not seeds:
            continue
        first, second = (
            np.stack([survivors[precision, seed].correct for seed in seeds]).astype(float)
            for precision in ("fp32", "bf16")
        )
        low, high = mean_difference((second - first).mean(0))
        rows.append(
            Paired(
                **dict(zip(_ALIKE, values, strict=True)),
                attack=ATTACK,
                n_seeds=len(seeds),
                n_images=first.shape[1],
                fp32=float(first.mean()),
                bf16=float(second.mean()),
                low=low,
                high=high,
            )
        )
    return rows


def precision_page(rows: Sequence[Paired], verdict: str) -> str:
    """Return docs/explanation/precision.md.

    verdict: what `--precision auto` makes of the rows, and why.
    """
    text = pd.DataFrame(
        {
            "method": row.method,
            "network": row.arch,
            "data": row.dataset,
            "eps": f"{row.eps:.4g}",
            "training images": str(row.n_train),
            "epochs": str(row.epochs),
            "seeds": str(row.n_seeds),
            "test images": str(row.n_images),
            "fp32": f"{100 * row.fp32:.1f}",
            "bf16": f"{100 * row.bf16:.1f}",
            "difference": f"{100 * (row.bf16 - row.fp32):+.1f}",
            "95%": f"{100 * row.low:+.1f} to {100 * row.high:+.1f}",
        }
        for row in rows
    )
    table, allowed = Markup(markdown(Table(text=text))), f"{100 * ALLOWED:g}"
    return render("precision.md.j2", table=table, allowed=allowed, verdict=Markup(verdict))
