"""Made records that ask much of the page: hostile text, alarms, gaps, many methods, claims."""

from __future__ import annotations

from pathlib import Path

from bench.records.measure import Measured
from bench.records.run_folder import RunFolder
from bench.records.spec import MeasureSpec
from tests.report.made import evaluate, evaluate_all, train_run
from tests.report.made_claims import everyone, table3
from tests.stored import store_measure

HOSTILE = '<script>alert("title")</script><img src=x onerror=alert(1)>'
WARNING = "</script><script>alert(2)</script> & \u2028 {{ 7 * 7 }} [x](javascript:alert(3))"


def demanding(results: Path) -> None:
    """A setting of hostile records on digits, and Table 3 of the CAT paper with verdicts."""
    for place, method in enumerate(("madry", "trades", "mart", "cat-ce")):
        run = train_run(
            results,
            method,
            card={"title": HOSTILE if method == "mart" else "", "paper": f"{WARNING} {place}"},
            provenance={"command": f"bench run {WARNING}", "machine": {"processor": HOSTILE}},
            warnings=[WARNING],
        )
        robust = 0.6 - place / 20
        evaluate_all(run, clean=0.95, pgd=robust + 0.08, cw=robust + 0.05, autoattack=robust, n=300)
        for eps in (2, 16) if method != "trades" else (16,):
            evaluate(run, "pgd-20", robust, 300, clean=0.95, eps=eps / 255)
        if method == "cat-ce":
            for number, value in ((7, 0.9), (8, 0.06), (10, 0.0)):
                check(run, number, value)
        elif method == "madry":
            check(run, 7, 0.0)
    everything = everyone(300, 200, madry=330)
    runs = table3(results, everything)
    table3(results, everyone(250, 150), "cw", runs=runs)


def check(run: RunFolder, number: int, value: float) -> None:
    """A masking check of 100 images: an alarm at 0.9, to be watched at 0.06."""
    spec = MeasureSpec(
        checkpoint="best", name=f"C{number}", eps=8 / 255, n_examples=100, data_sha256="d" * 64
    )
    figure = {"what": WARNING, "value": value, "threshold": 0.05, "n": 100}
    values = {"name": f"C{number}: made", "value": value, "threshold": 0.05, "source": HOSTILE}
    detail = {"detail": {"figures": [figure]}}
    store_measure(run, spec, Measured(values=values | detail))


def many(results: Path, n_methods: int, n_images: int = 100) -> None:
    """So many ways of training, each attacked."""
    for place in range(n_methods):
        run = train_run(results, "trades", params={"beta": place / 10})
        robust = 0.7 - place / (2 * n_methods)
        evaluate_all(
            run, clean=0.9, pgd=robust, cw=robust - 0.02, autoattack=robust - 0.05, n=n_images,
            n_autoattack=n_images,
        )  # fmt: skip
