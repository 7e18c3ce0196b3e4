"""Figure 3: the loss around test images, cross entropy and margin, as surfaces and contours."""

from __future__ import annotations

import numpy as np

from bench.report.artefacts.artefact import Made
from bench.report.artefacts.measures import Found, found_measures
from bench.report.artefacts.trained import captioned
from bench.report.landscapes import (
    SOFT_LABELS,
    Kind,
    Quantity,
    Surface,
    landscape_csv,
    landscape_files,
)
from bench.report.suite_runs import SuiteRuns

TITLE = f"Figure 3: the loss around test images. {SOFT_LABELS}"
_PICTURES: tuple[tuple[str, Kind, Quantity], ...] = (
    ("figure3", "surface", "ce"),
    ("figure3-contour", "contour", "ce"),
    ("figure3-margin", "surface", "margin"),
    ("figure3-margin-contour", "contour", "margin"),
)


def make_figure3(chosen: SuiteRuns, note: str) -> Made:
    """The means over the images of every method, on one scale."""
    found, lacks = found_measures(chosen, "landscape")
    if not found:
        return Made(files={}, lacks=tuple(lacks))
    caption, surfaces = captioned(chosen, (one.label for one in found)), _surfaces(found)
    origin = f"{note} {caption}"
    files = {
        "figure3.csv": landscape_csv(surfaces, origin, quantity="ce").encode(),
        "figure3-margin.csv": landscape_csv(surfaces, origin, quantity="margin").encode(),
    }
    for name, kind, quantity in _PICTURES:
        pictures = landscape_files(surfaces, origin, kind=kind, quantity=quantity, caption=caption)
        files |= {f"{name}{suffix}": content for suffix, content in pictures.items()}
    return Made(files=files, lacks=tuple(lacks))


def _surfaces(found: list[Found]) -> list[Surface]:
    """One a method, the mean over its seeds; of all the images that every record has."""
    n = min(len(one.arrays["index"]) for one in found)
    by_label: dict[str, list[Found]] = {}
    for one in found:
        by_label.setdefault(one.label, []).append(one)
    return [
        Surface(
            label=label,
            method=seeds[0].method,
            eps=seeds[0].eps,
            a=seeds[0].arrays["a"],
            b=seeds[0].arrays["b"],
            ce=np.mean([one.arrays["ce"][:n] for one in seeds], axis=0),
            margin=np.mean([one.arrays["margin"][:n] for one in seeds], axis=0),
            index=seeds[0].arrays["index"][:n],
            n_seeds=len(seeds),
        )
        for label, seeds in by_label.items()
    ]
