"""What training in bf16 costs in robust accuracy: runs that differ only in precision, paired."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from bench.precision import ALLOWED, Paired
from bench.records import RunRecord
from bench.report.accuracy import ImageOutcomes
from bench.report.export import Markup, Table, markdown, render
from bench.report.frame import results_frame
from bench.report.select import outcomes_at, select
from bench.report.statistics import mean_difference

ATTACK = "pgd-20"
CHECKPOINT = "best"
_Seeds = dict[int, ImageOutcomes]


def paired_precisions(runs: Iterable[RunRecord]) -> list[Paired]:
    """Return a row per method, network and data set with seeds on record in both precisions."""
    frame = results_frame(runs)
    specs = {run.run_id: run.spec for run in frame.runs}
    found: dict[tuple[str, str, str, float, int, int], dict[str, _Seeds]] = defaultdict(
        lambda: {"fp32": {}, "bf16": {}}
    )
    for row in select(frame, attack=ATTACK, checkpoint=CHECKPOINT, norm=None).itertuples():
        spec, survived = specs[str(row.run_id)], outcomes_at(frame, [int(str(row.Index))])
        if len(survived.index) < survived.n_expected:
            continue
        key = (
            *(str(spec["method"]), str(spec["arch"]), str(row.dataset), float(str(row.eps))),
            *(int(spec["n_train"]), int(spec["recipe"]["epochs"])),
        )
        found[key][spec["precision"]].setdefault(int(spec["seed"]), survived)
    rows = (_row(*key, both["fp32"], both["bf16"]) for key, both in sorted(found.items()))
    return [row for row in rows if row is not None]


def _row(
    method: str,
    arch: str,
    dataset: str,
    eps: float,
    n_train: int,
    epochs: int,
    fp32: _Seeds,
    bf16: _Seeds,
) -> Paired | None:
    seeds = sorted(set(fp32) & set(bf16))
    if not seeds:
        return None
    first, second = (
        np.stack([runs[seed].correct for seed in seeds]).astype(float) for runs in (fp32, bf16)
    )
    low, high = mean_difference((second - first).mean(0))
    return Paired(
        method=method,
        arch=arch,
        dataset=dataset,
        attack=ATTACK,
        eps=eps,
        n_train=n_train,
        epochs=epochs,
        n_seeds=len(seeds),
        n_images=first.shape[1],
        fp32=float(first.mean()),
        bf16=float(second.mean()),
        low=low,
        high=high,
    )


def precision_page(rows: Sequence[Paired], verdict: str) -> str:
    """Return docs/precision.md. verdict: what `--precision auto` makes of the rows, and why."""
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
    table = Markup(markdown(Table(text=text)))
    allowed = f"{100 * ALLOWED:g}"
    return render("precision.md.j2", table=table, allowed=allowed, verdict=Markup(verdict))
