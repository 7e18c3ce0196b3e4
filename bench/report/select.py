"""The one way to pick evaluations, and what their images' outcomes are. Legend: n images."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from bench.report.accuracy import ImageOutcomes
from bench.report.frame import UNKNOWN, Outcome, ResultsFrame

EPS_DIGITS = 9
"""Decimals of eps that count: 0.031 is not 8/255, and 8/255 equals itself."""


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
    for column, value in (
        *(("attack", attack), ("checkpoint", checkpoint), ("split", split), ("norm", norm)),
    ):
        if value is not None:
            keep &= columns[column] == value
    if run_ids is not None:
        keep &= np.array([run_id in run_ids for run_id in columns["run_id"]], bool)
    if eps is not None:
        equal = columns["eps"].astype(float).round(EPS_DIGITS) == round(eps, EPS_DIGITS)
        keep &= equal | (columns["attack"] == "clean")
    return frame.evaluations[keep]


def outcomes(frame: ResultsFrame, rows: pd.DataFrame, kind: Outcome = "correct") -> ImageOutcomes:
    """Return the images' outcomes over some evaluations; of no image where none has one.

    Evaluations that overlap (another seed, more images) count as restarts: an image is correct
    if it is correct in all that have it.
    """
    return outcomes_at(frame, rows.index.to_numpy(), kind)


def outcomes_at(
    frame: ResultsFrame, positions: Sequence[int] | np.ndarray, kind: Outcome = "correct"
) -> ImageOutcomes:
    """Return the same for the evaluations at some rows of the frame."""
    found = frame.outcomes[kind][positions]
    known = (found != UNKNOWN).any(axis=0)
    expected = (frame.records[position].spec.n_examples for position in positions)
    return ImageOutcomes(
        index=frame.images[known],
        correct=(found != 0).all(axis=0)[known],
        n_expected=max(expected, default=0),
    )
