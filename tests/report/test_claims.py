"""Claims from made records of whole suites: planted truths are confirmed, planted lies refuted."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from bench.report.claims import CLAIMS, claims_files, claims_markdown, results
from bench.report.claims.claim import Result, Verdict
from bench.report.claims.evidence import radii
from bench.report.claims.page import verdict_text
from bench.report.claims.paper import RIVALS

from bench.folder import RunFolder
from bench.papers.cat.complexity import COLUMNS
from bench.records import load_records
from bench.report.published import CAT, REFERENCE
from bench.report.suite_runs import choose
from bench.report.titles import AUTOATTACK, CW, PGD
from bench.study import Study
from bench.suite import load_suite
from tests.report.cells import attacked, cell, first, measured
from tests.report.made_suite import make_suite

HOLDS, FAILS, OPEN = Verdict.HOLDS, Verdict.FAILS, Verdict.OPEN
ROOT = Path(__file__).parent.parent.parent
N = 200


def study(suite: str, number: int = 0, size: str = "tiny") -> Study:
    return load_suite(suite, size).studies[number]


def claim(folder: Path, key: str) -> Result:
    (one,) = (one for one in CLAIMS if one.key == key)
    chosen = choose(load_records(folder), one.suite)
    assert one.test is not None
    assert chosen is not None
    return Result(claim=one, chosen=chosen, tested=one.test(chosen))


def table3(
    folder: Path,
    robust: Mapping[str, int],
    attack: str = PGD,
    clean: Mapping[str, int] | None = None,
) -> dict[str, RunFolder]:
    """Each method keeps the first so many of N images."""
    own = study("table3")
    runs = {}
    for method, kept in robust.items():
        runs[method] = cell(folder, own, method)
        right = first(N, (clean or {}).get(method, N))
        attacked(runs[method], attack, first(N, kept), eps=own.eps, clean=right)
    return runs


def everyone(cat: int, other: int, **changed: int) -> dict[str, int]:
    return {**dict.fromkeys(RIVALS, other), **dict.fromkeys(CAT, cat), **changed}


@pytest.mark.parametrize(("key", "attack"), [("1a", PGD), ("1b", CW), ("1c", AUTOATTACK)])
def test_more_robust_than_all_is_confirmed(tmp_path: Path, key: str, attack: str) -> None:
    table3(tmp_path, everyone(140, 80, natural=199), attack)
    found = claim(tmp_path, key)
    assert found.verdict is HOLDS
    assert len(found.deciding) == len(CAT) * len(RIVALS)
    assert {f.first for f in found.deciding} == {0.7}


def test_one_rival_that_is_better_refutes(tmp_path: Path) -> None:
    table3(tmp_path, everyone(140, 80, mart=180))
    found = claim(tmp_path, "1a")
    assert found.verdict is FAILS
    assert found.key_finding is not None
    assert found.key_finding.what.endswith("vs mart")
    assert found.key_finding.value == pytest.approx(-0.2)


def test_a_difference_that_may_be_chance_is_not_decided(tmp_path: Path) -> None:
    table3(tmp_path, everyone(140, 80, mart=138))
    assert claim(tmp_path, "1a").verdict is OPEN


def test_a_rival_without_records_keeps_it_from_holding(tmp_path: Path) -> None:
    robust = everyone(140, 80)
    del robust["mma"]
    table3(tmp_path, robust)
    found = claim(tmp_path, "1a")
    assert found.verdict is Verdict.PARTIAL
    assert found.tested.lacks == ("mma: no training",)
    assert "mma: no training. Run `bench run --suite table3 --size tiny`" in claims_markdown(
        load_records(tmp_path), "note"
    )


def test_the_comparisons_of_a_claim_are_one_family(tmp_path: Path) -> None:
    """Ten images more are p = 0.002 alone, and 14 times that among 14 comparisons."""
    table3(tmp_path, everyone(110, 100))
    found = claim(tmp_path, "1a")
    assert found.verdict is HOLDS
    assert [f.p for f in found.deciding] == [pytest.approx(14 * 2 / 2**10)] * 14


def test_clean_accuracy(tmp_path: Path) -> None:
    kept = everyone(10, 10)
    table3(tmp_path / "up", kept, clean=everyone(190, 160))
    table3(tmp_path / "down", kept, clean=everyone(160, 190))
    assert claim(tmp_path / "up", "2").verdict is HOLDS
    assert claim(tmp_path / "down", "2").verdict is FAILS


@pytest.mark.parametrize(
    ("autoattack", "alarm", "verdict"),
    [(120, False, HOLDS), (120, True, OPEN), (120, None, OPEN), (60, False, FAILS)],
)
def test_robustness_is_genuine_without_a_gap_and_without_alarms(
    tmp_path: Path, autoattack: int, alarm: bool | None, verdict: Verdict
) -> None:
    runs = table3(tmp_path, everyone(120, 120))
    own = study("table3")
    for method in CAT:
        attacked(runs[method], AUTOATTACK, first(N, autoattack), eps=own.eps)
        if alarm is not None:
            check = {"name": "C8: scale", "value": 0.1, "threshold": 0.01, "alarm": alarm}
            measured(runs[method], "C8", eps=own.eps, n=32, values=check)
    attacked(runs["mart"], AUTOATTACK, first(N, 0), eps=own.eps)
    found = claim(tmp_path, "3")
    assert found.verdict is verdict
    beside = [f.what for f in found.tested.findings if not f.decides]
    assert beside == ["mart"]  # however large its gap


def test_transfer_counts_all_images_and_the_natural_source_alone(tmp_path: Path) -> None:
    own = study("table4")
    eps = radii(own, PGD)[0]
    for method in own.methods:
        folder = cell(tmp_path, own, method)
        right = 150 if method in CAT else 100
        for source in (("natural",), (REFERENCE,), ("natural", REFERENCE)):
            usual = source == ("natural",)
            attacked(
                folder,
                "transfer" if usual else f"transfer:{'+'.join(source)}",
                first(N, 110),
                eps=eps,
                sources=source,
                after=first(N, right if usual else N - right),
            )
        attacked(folder, PGD, first(N, 60 if method in CAT else 90), eps=eps)
    found = claim(tmp_path, "4a")
    assert found.verdict is HOLDS
    assert {(f.first, f.second) for f in found.deciding} == {(0.75, 0.5)}
    assert {f.value for f in found.tested.findings if not f.decides} == {-0.25}
    weaker = claim(tmp_path, "4b")
    assert weaker.verdict is HOLDS
    assert {(f.first, f.second) for f in weaker.deciding} == {(0.55, 0.3), (0.55, 0.45)}


SOURCES = ("from natural", "from madry", "from natural+madry")
"""Of Table 4's transferred attacks, as findings name them."""


def of_sources(result: Result) -> dict[str, set[str]]:
    """By source the comparisons that were made."""
    found = result.tested.findings
    return {detail: {f.what for f in found if f.detail == detail} for detail in SOURCES}


@pytest.mark.parametrize("made", [True, False])
def test_transfer_has_rows_for_every_source_of_table_4(made: bool, tmp_path: Path) -> None:
    """Of made records and of those of the repository, which a run has written."""
    if made:
        make_suite(tmp_path, "table4")
    results = tmp_path if made else ROOT / "results" / "paper-tiny"
    best, weaker = claim(results, "4a"), claim(results, "4b")
    pairs = {f"{cat} vs {other}" for cat in CAT for other in (REFERENCE, "trades")}
    assert of_sources(best) == dict.fromkeys(SOURCES, pairs)
    assert {f.detail for f in best.deciding} == {"from natural"}
    everyone = {*CAT, REFERENCE, "trades"}
    assert of_sources(weaker) == dict.fromkeys(SOURCES, everyone)
    assert best.tested.lacks == weaker.tested.lacks == ()


def test_transfer_from_a_source_that_lacks_is_named(tmp_path: Path) -> None:
    own = study("table4")
    for method in own.methods:
        folder = cell(tmp_path, own, method)
        eps = radii(own, PGD)[0]
        attacked(folder, PGD, first(N, 60), eps=eps)
        kept = first(N, 110)
        attacked(folder, "transfer:madry", kept, eps=eps, sources=("madry",), after=kept)
    weaker = claim(tmp_path, "4b")
    assert of_sources(weaker)["from madry"] == set(own.methods)
    assert f"madry: no transfer from natural at eps {eps:.4g}" in weaker.tested.lacks
    assert len(weaker.tested.lacks) == 2 * len(own.methods)
    assert claim(tmp_path, "4a").deciding == []


def test_transfer_that_is_stronger_than_white_box_is_caught(tmp_path: Path) -> None:
    own = study("table4")
    eps = radii(own, PGD)[0]
    folder = cell(tmp_path, own, "cat-ce")
    kept = first(N, 50)
    attacked(folder, "transfer", kept, eps=eps, sources=("natural",), after=kept)
    attacked(folder, PGD, first(N, 150), eps=eps)
    assert claim(tmp_path, "4b").verdict is FAILS


@pytest.mark.parametrize(
    ("test", "train", "larger", "high"),
    [
        ((120, 120, 120), (200, 200, 200), OPEN, HOLDS),
        ((150, 110, 110), (200, 200, 100), HOLDS, FAILS),
        ((110, 150, 110), (200, 200, 192), FAILS, OPEN),
    ],
)
def test_larger_radii_in_training(
    tmp_path: Path,
    test: Sequence[int],
    train: Sequence[int],
    larger: Verdict,
    high: Verdict,
) -> None:
    for number in range(3):
        own = study("table1", number)
        folder = cell(tmp_path, own, REFERENCE)
        at = radii(own, PGD)[0]
        attacked(folder, PGD, first(N, test[number]), eps=at, checkpoint="last")
        attacked(folder, PGD, first(N, train[number]), eps=at, checkpoint="last", split="train")
        attacked(folder, PGD, first(N, 200 - test[number]), eps=at)
    assert claim(tmp_path, "5a").verdict is larger
    assert claim(tmp_path, "5b").verdict is high


def curves(folder: Path, cat: Sequence[int], other: Sequence[int]) -> None:
    own = study("figure2")
    for method in (*RIVALS, *CAT):
        run = cell(folder, own, method)
        for eps, kept in zip(radii(own, PGD), cat if method in CAT else other, strict=True):
            attacked(run, PGD, first(N, kept), eps=eps)


def test_the_curve_must_be_above_wherever_anything_is_left(tmp_path: Path) -> None:
    curves(tmp_path / "up", (190, 180, 170, 160, 150, 90, 10), (160, 150, 140, 120, 80, 40, 9))
    found = claim(tmp_path / "up", "6a")
    assert found.verdict is HOLDS
    assert len(found.deciding) == len(CAT) * len(RIVALS) * 6  # at the last radius all are guesses
    shown = [f for f in found.tested.findings if f.shown]
    assert len(shown) == len(CAT) * len(RIVALS)
    assert {(f.first, f.remark) for f in shown} == {(0.95, "of 6 radii: 6 hold")}
    curves(tmp_path / "down", (190, 180, 170, 160, 150, 90, 60), (160, 150, 140, 120, 80, 40, 99))
    assert claim(tmp_path / "down", "6a").verdict is FAILS


@pytest.mark.parametrize(
    ("cat", "verdict"), [((102, 101, 100), HOLDS), ((100, 60, 20), FAILS), ((3, 2, 1), OPEN)]
)
def test_flat_is_flat_above_chance(tmp_path: Path, cat: tuple[int, ...], verdict: Verdict) -> None:
    curves(tmp_path, (190, 180, 170, 160, *cat), (160, 150, 140, 120, 80, 40, 9))
    assert claim(tmp_path, "6c").verdict is verdict


def surface(low: float, high: float, at_x: float = -1.0) -> np.ndarray:
    """(8, 3, 3)."""
    z = np.full((8, 3, 3), at_x)
    z[:, 0, 0], z[:, 2, 2] = low, high
    return z


@pytest.mark.parametrize(("cat", "verdict"), [(2.0, HOLDS), (9.0, FAILS), (5.0, OPEN)])
def test_landscapes(tmp_path: Path, cat: float, verdict: Verdict) -> None:
    own = study("figure3")
    for method in own.methods:
        reach, scale = (cat, 10.0) if method in CAT else (5.0, 1.0)
        # the margin rises the other way round, and its logits are ten times as large in CAT
        margin = scale * surface(-1.0, 10 - reach)
        arrays = {"ce": surface(-1.0, reach - 1), "margin": margin, "index": np.arange(8)}
        measured(cell(tmp_path, own, method), "landscape", eps=own.eps, n=8, arrays=arrays)
    found, margins = claim(tmp_path, "7a"), claim(tmp_path, "7b")
    assert found.verdict is verdict
    assert [f.value for f in found.deciding] == [pytest.approx(cat / 5)] * 4
    assert margins.verdict is {HOLDS: FAILS, FAILS: HOLDS}.get(verdict, OPEN)
    assert [f.value for f in margins.deciding] == [pytest.approx((11 - cat) / 6)] * 4


@pytest.mark.parametrize(("many", "verdict"), [(100, HOLDS), (70, FAILS), (94, OPEN)])
def test_steps(tmp_path: Path, many: int, verdict: Verdict) -> None:
    own = study("figure4a")
    for method in own.methods:
        run = cell(tmp_path, own, method)
        attacked(run, "pgd-10", first(N, 100), eps=own.eps)
        attacked(run, "pgd-500", first(N, many if method in CAT else 0), eps=own.eps)
    assert claim(tmp_path, "8").verdict is verdict


def ablation(folder: Path, attack: str, kept: Mapping[str, int]) -> None:
    own = study("figure4b")
    for method, k in kept.items():
        attacked(cell(folder, own, method), attack, first(N, k), eps=own.eps)


def test_each_part_of_cat_is_judged_with_the_other_held_fixed(tmp_path: Path) -> None:
    # the radius helps either way, the labels harm where the radius adapts
    kept = {REFERENCE: 60, "adv-ls": 90, "adp-adv": 140, "cat-ce": 110, "natural-ls": 40}
    ablation(tmp_path, PGD, kept)
    radius, labels = claim(tmp_path, "9a"), claim(tmp_path, "9c")
    assert radius.verdict is HOLDS
    assert [f.value for f in radius.deciding] == [pytest.approx(0.4), pytest.approx(0.1)]
    assert labels.verdict is FAILS
    assert [f.value for f in labels.deciding] == [pytest.approx(0.15), pytest.approx(-0.15)]
    assert claim(tmp_path, "9b").verdict is Verdict.MISSING


@pytest.mark.parametrize(("autoattack", "verdict"), [(100, HOLDS), (0, FAILS)])
def test_labels_alone(tmp_path: Path, autoattack: int, verdict: Verdict) -> None:
    ablation(tmp_path, PGD, {"natural-ls": 100})
    ablation(tmp_path, AUTOATTACK, {"natural-ls": autoattack})
    assert claim(tmp_path, "9e").verdict is verdict


@pytest.mark.parametrize(
    ("fixed", "odd", "verdict"), [(3.0, 3.0, HOLDS), (1.0, 1.0, FAILS), (3.0, 1.0, OPEN)]
)
def test_complexity_needs_all_norms(
    tmp_path: Path, fixed: float, odd: float, verdict: Verdict
) -> None:
    for number, own in enumerate(load_suite("theory", "tiny").studies[:4]):
        for method in own.methods:
            log10 = 2.0 if method in CAT else fixed
            values = {f"log10_product_{name}": log10 for name in COLUMNS}
            if number == 0:
                values["log10_product_weights_spectral"] = odd
            run = cell(tmp_path, own, method)
            measured(run, "complexity", eps=own.eps, n=100, values=values)
    found = claim(tmp_path, "10a")
    assert found.verdict is verdict
    assert {f.first for f in found.deciding} == {fixed, odd}
    assert found.deciding[0].value == pytest.approx(10 ** (fixed - 2))
    assert {f.what.rpartition(" vs ")[2][:6] for f in found.deciding} == {"cat-ce"}


@pytest.mark.parametrize(("cat", "verdict"), [(0.5, HOLDS), (0.05, FAILS), (0.1, OPEN)])
def test_margins(tmp_path: Path, cat: float, verdict: Verdict) -> None:
    own = load_suite("theory", "tiny").studies[-1]
    for method in (*RIVALS, *CAT):
        size = np.full(50, cat if method in CAT else 0.1)
        arrays = {f"margin_{kind}": size for kind in ("input", "layers", "both")}
        arrays["margin_input"] = 0.1 / size  # beside, and the other way round
        values = {"mean_inverse_both": float((1 / size).mean())}
        run = cell(tmp_path, own, method)
        index = {"index": np.arange(50)}
        measured(run, "margins", eps=own.eps, n=50, values=values, arrays=arrays | index)
    found = claim(tmp_path, "10b")
    assert found.verdict is verdict
    assert f"cat-ce {1 / cat:.3g}, " in found.tested.notes[0]


@pytest.mark.parametrize(
    ("cat", "verdict"),
    [((0.9, 0.9, 0.9, 0.9), HOLDS), ((0.1, 0.1, 0.1, 0.9), FAILS), ((0.1, 0.1, 0.9, 0.9), OPEN)],
)
def test_convergence(tmp_path: Path, cat: Sequence[float], verdict: Verdict) -> None:
    own = load_suite("theory", "tiny").studies[-1]
    for method in (REFERENCE, *CAT):
        slow = (0.1, 0.1, 0.9, 0.9) if verdict is not FAILS else (0.1, 0.9, 0.9, 0.9)
        cell(tmp_path, own, method, robust=cat if method in CAT else slow)
    found = claim(tmp_path, "11")
    assert found.verdict is verdict
    saved = {HOLDS: 2.0, FAILS: -2.0, OPEN: 0.0}[verdict]
    assert {f.value for f in found.deciding} == {saved}


@pytest.mark.parametrize(("passes", "verdict"), [(12.0, HOLDS), (22.0, FAILS), (5.0, FAILS)])
def test_cost(tmp_path: Path, passes: float, verdict: Verdict) -> None:
    own = study("table3")
    for method in (REFERENCE, *CAT):
        cell(tmp_path, own, method, passes=passes if method in CAT else 11.0)
    found = claim(tmp_path, "12")
    assert found.verdict is verdict
    assert [f.value for f in found.deciding] == [pytest.approx(passes / 11)] * 2


@pytest.mark.parametrize(
    ("small", "large", "cat", "verdict"),
    [
        (600, 400, 600, HOLDS),
        (600, 400, 300, FAILS),  # CAT is harmed more
        (400, 600, 600, FAILS),  # the large radius does no harm
        (600, 400, 540, FAILS),  # CAT is better, but loses too much
        (600, 400, 597, OPEN),
    ],
)
def test_the_plane(tmp_path: Path, small: int, large: int, cat: int, verdict: Verdict) -> None:
    within, beyond = load_suite("figure1").studies
    for own, method, right in (
        (within, REFERENCE, small),
        (beyond, REFERENCE, large),
        (beyond, "cat-ce", cat),
    ):
        run = cell(tmp_path, own, method, num_classes=2)
        for checkpoint, k in (("last", right), ("best", 600 - right)):
            kept = first(600, k)
            attacked(run, "clean", kept, clean=kept, eps=own.eps, checkpoint=checkpoint)
        values = {
            "angle": 12.0,
            "offset": -1.5,
            "clean_accuracy": right / 600,
            "eps": [4.0],
            "robust_accuracy": [0.25],
        }
        measured(run, "boundary", eps=own.eps, n=600, values=values, checkpoint="last")
    found = claim(tmp_path, "13")
    assert found.verdict is verdict
    assert "cat-ce (radius 4), seed 0: the line is turned by 12.0 degrees" in found.tested.notes[-1]


def test_without_records_every_claim_says_what_to_run() -> None:
    text = claims_markdown([], "note")
    for one, found in zip(CLAIMS, results([]), strict=True):
        assert found.verdict is (Verdict.MISSING if one.suite else Verdict.UNTESTED)
        assert f"## {one.key} {one.title}\n" in text
    suites = {one.suite for one in CLAIMS if one.suite}
    assert suites == {name.removeprefix("run `bench run --suite ") for name in _runs(text)}


def _runs(text: str) -> set[str]:
    return {part.split("`.")[0] for part in text.split("no records: ")[1:]}


def test_a_smaller_size_is_never_presented_as_the_paper_s(tmp_path: Path) -> None:
    table3(tmp_path / "tiny", everyone(140, 80))
    text = claims_markdown(load_records(tmp_path / "tiny"), "note")
    assert "A verdict of a smaller size says nothing about the paper's own setting" in text
    assert "**Verdict:** at size tiny on digits: **holds** (14: 14 hold)." in text
    assert "Size tiny (digits, cnn, 4 epochs): not the paper's." in text
    own = study("table3", size="full")
    for method, kept in everyone(140, 80).items():
        run = cell(tmp_path / "full", own, method)
        attacked(run, PGD, first(N, kept), eps=own.eps)
    text = claims_markdown(load_records(tmp_path / "full"), "note")
    assert "**Verdict:** **holds** (14: 14 hold)." in text
    assert "at size" not in text


def test_a_claim_that_holds_for_a_masked_model_is_marked(tmp_path: Path) -> None:
    runs = table3(tmp_path, everyone(140, 80))
    check = {"name": "C8: scale", "value": 0.1, "threshold": 0.01, "alarm": True}
    eps = study("table3").eps
    measured(runs["mart"], "C8", eps=eps, n=32, values=check)
    assert verdict_text(claim(tmp_path, "1a")).endswith("**holds**")
    measured(runs["cat-ce"], "C8", eps=eps, n=32, values=check)
    assert verdict_text(claim(tmp_path, "1a")).endswith("**holds** \u2020")


def test_the_csv_has_every_comparison_and_the_bytes_repeat(tmp_path: Path) -> None:
    curves(tmp_path, (190, 180, 170, 160, 150, 90, 10), (160, 150, 140, 120, 80, 40, 9))
    files = claims_files(load_records(tmp_path), "Made by hand.")
    assert files == claims_files(load_records(tmp_path), "Made by hand.")
    assert list(files) == ["claims.md", "claims.csv"]
    note, text = files["claims.csv"].decode().split("\n", 1)
    assert note == "# Made by hand."
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["claim"] for row in rows} == {one.key for one in CLAIMS}
    curve = [row for row in rows if row["claim"] == "6a"]
    assert len(curve) == len(CAT) * len(RIVALS) * 7
    last = [row for row in curve if row["decides"] == "0"]
    assert len(last) == len(CAT) * len(RIVALS)
    assert {row["verdict"] for row in last} == {""}
    assert (curve[0]["size"], curve[0]["paper_size"], curve[0]["claim_verdict"]) == (
        "tiny",
        "0",
        "holds",
    )
    assert float(curve[0]["value"]) == pytest.approx(0.15)
