"""Every evaluation on record as a row with every image's outcome, and how to select some. No torch.

Legend: m evaluations, n images.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from bench.records import EvaluationRecord, RunRecord
from bench.report.accuracy import ImageOutcomes

COLUMNS = (
    *("run_id", "kind", "method", "arch", "dataset", "seed"),
    *("checkpoint", "attack", "params", "eps", "norm", "split", "n_expected", "data_sha256"),
)
"""Of `ResultsFrame.evaluations`; `params` is JSON without the run ids of surrogates."""
Outcome = Literal["correct", "clean", "after"]
"""Correct without and under the attack; without it; under it, whatever the clean outcome."""
UNKNOWN = -1
EPS_DIGITS = 9
"""Decimals of eps that count: 0.031 is not 8/255, and 8/255 equals itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ResultsFrame:
    """All evaluations of some runs, and the outcome of every image."""

    runs: tuple[RunRecord, ...]
    evaluations: pd.DataFrame
    """One row per evaluation, with the columns COLUMNS; its index counts the rows of `outcomes`."""
    records: tuple[EvaluationRecord, ...]
    """Of the rows, for what the columns do not hold: warnings, labels, parts of AutoAttack."""
    images: np.ndarray
    """(n,) dataset indices with an outcome in any evaluation, ascending."""
    outcomes: dict[Outcome, np.ndarray]
    """Kind of outcome -> (m, n) int8: 1 correct, 0 wrong, -1 unknown."""

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """The columns of `evaluations` as plain arrays, which compare much faster."""
        return {name: self.evaluations[name].to_numpy(object) for name in COLUMNS}


def results_frame(runs: Iterable[RunRecord]) -> ResultsFrame:
    """Return the frame of some runs, without evaluations that have no image yet."""
    runs = tuple(runs)
    found = [(run, e) for run in runs for e in run.evaluations if e.n_examples]
    rows = [
        (
            *(run.run_id, run.kind, run.method, run.arch, run.dataset, run.seed),
            *(e.spec.checkpoint, e.spec.attack, _params(e.spec.params), e.spec.eps),
            *(e.spec.norm, e.spec.split, e.spec.n_examples, e.spec.data_sha256),
        )
        for run, e in found
    ]
    indices = [e.index for _, e in found]
    images = np.unique(np.concatenate(indices)) if indices else np.zeros(0, np.int64)
    kinds: tuple[Outcome, ...] = ("correct", "clean", "after")
    outcomes = {kind: np.full((len(found), len(images)), UNKNOWN, np.int8) for kind in kinds}
    for row, (_, e) in enumerate(found):
        at = np.searchsorted(images, e.index)
        outcomes["correct"][row, at] = e.survived
        outcomes["clean"][row, at] = e.clean
        if e.after is not None:
            outcomes["after"][row, at] = e.after
    return ResultsFrame(
        runs=runs,
        evaluations=pd.DataFrame(rows, columns=list(COLUMNS)),
        records=tuple(e for _, e in found),
        images=images,
        outcomes=outcomes,
    )


def _params(params: object) -> str:
    kept = {k: v for k, v in dict(params).items() if k != "surrogates"}  # type: ignore[call-overload]
    return json.dumps(kept, sort_keys=True)


def same_eps(a: float, b: float) -> bool:
    """Whether two radii are equal."""
    return round(a, EPS_DIGITS) == round(b, EPS_DIGITS)


def select(
    frame: ResultsFrame,
    *,
    run_ids: Collection[str] | None = None,
    attack: str | None = None,
    checkpoint: str | None = None,
    eps: float | None = None,
    split: str | None = "test",
    norm: str | None = "linf",
) -> pd.DataFrame:
    """Return the evaluations that match; None matches anything.

    The clean evaluation has no radius, so `eps` does not exclude it.
    """
    columns = frame.columns
    keep = np.ones(len(frame.evaluations), bool)
    wanted = {"attack": attack, "checkpoint": checkpoint, "split": split, "norm": norm}
    for column, value in wanted.items():
        if value is not None:
            keep &= columns[column] == value
    if run_ids is not None:
        keep &= np.array([run_id in run_ids for run_id in columns["run_id"]], bool)
    if eps is not None:
        equal = columns["eps"].astype(float).round(EPS_DIGITS) == round(eps, EPS_DIGITS)
        keep &= equal | (columns["attack"] == "clean")
    return frame.evaluations[keep]


def outcomes(
    frame: ResultsFrame, rows: pd.DataFrame | Sequence[int], kind: Outcome = "correct"
) -> ImageOutcomes:
    """Return the images' outcomes over some evaluations; of no image where none has one.

    rows: what `select` returned, or rows of the frame. Evaluations that overlap (another seed, more
    images) count as restarts: an image is correct if it is correct in all that have it.
    """
    positions = rows.index if isinstance(rows, pd.DataFrame) else rows
    found = frame.outcomes[kind][positions]
    known = (found != UNKNOWN).any(axis=0)
    return ImageOutcomes(
        index=frame.images[known],
        correct=(found != 0).all(axis=0)[known],
        n_expected=max((frame.records[at].spec.n_examples for at in positions), default=0),
    )
