"""Claims from made records of whole suites: planted truths are confirmed, planted lies refuted.

After an intended change of the page: `REGENERATE_GOLDEN=1 pytest tests/report/test_claims.py`, then
read the difference in git line by line before committing it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.folder import RunFolder
from bench.papers.cat.claim_evidence import BASELINES
from bench.papers.cat.claim_page import make_claims, verdict_text
from bench.papers.cat.claim_rules import ClaimResult
from bench.papers.cat.claim_tests import RADIUS_PAIRS, TESTS, attack_radii
from bench.papers.cat.claims import CLAIMS, AssessedClaim, assess_claim, assess_claims
from bench.papers.cat.complexity import COLUMNS
from bench.papers.cat.stated import CAT
from bench.records import Records, load_records
from bench.registry import method_class, parameters
from bench.report.export import csv_text
from bench.report.published import REFERENCE
from bench.report.suite_runs import choose
from bench.report.titles import AUTOATTACK, CW, PGD, TITLES
from bench.suite import load_suite
from tests.report.made_measures import attacked, cell, first, measured, study_of
from tests.report.made_suite import make_suite

HOLDS, FAILS, OPEN = ClaimResult.HOLDS, ClaimResult.FAILS, ClaimResult.OPEN
ROOT = Path(__file__).parent.parent.parent
GOLDEN = Path(__file__).parent / "golden"
N = 200


def claim(folder: Path, key: str) -> AssessedClaim:
    (one,) = (one for one in CLAIMS if one.key == key)
    suite = choose(load_records(folder), one.suite)
    assert suite is not None
    return assess_claim(one, suite)


def page(folder: Path) -> str:
    return make_claims(load_records(folder)).pages["claims"]


def table3(
    folder: Path,
    robust: Mapping[str, int],
    attack: str = PGD,
    clean: Mapping[str, int] | None = None,
) -> dict[str, RunFolder]:
    """Each method keeps the first so many of N images."""
    own = study_of("table3")
    runs = {}
    for method, kept in robust.items():
        runs[method] = cell(folder, own, method)
        right = first(N, (clean or {}).get(method, N))
        attacked(runs[method], attack, first(N, kept), eps=own.eps, clean=right)
    return runs


def everyone(cat: int, other: int, **changed: int) -> dict[str, int]:
    return {**dict.fromkeys(BASELINES, other), **dict.fromkeys(CAT, cat), **changed}


@pytest.mark.parametrize(("key", "attack"), [("1a", PGD), ("1b", CW), ("1c", AUTOATTACK)])
def test_more_robust_than_all_is_confirmed(tmp_path: Path, key: str, attack: str) -> None:
    table3(tmp_path, everyone(140, 80, natural=199), attack)
    found = claim(tmp_path, key)
    assert found.result is HOLDS
    assert len(found.deciding) == len(CAT) * len(BASELINES)
    assert {f.first for f in found.deciding} == {0.7}


def test_one_rival_that_is_better_refutes(tmp_path: Path) -> None:
    table3(tmp_path, everyone(140, 80, mart=180))
    found = claim(tmp_path, "1a")
    assert found.result is FAILS
    assert found.key_evidence is not None
    assert found.key_evidence.what.endswith("vs mart")
    assert found.key_evidence.value == pytest.approx(-0.2)


def test_a_difference_that_may_be_chance_is_not_decided(tmp_path: Path) -> None:
    table3(tmp_path, everyone(140, 80, mart=138))
    assert claim(tmp_path, "1a").result is OPEN


def test_a_rival_without_records_keeps_it_from_holding(tmp_path: Path) -> None:
    robust = everyone(140, 80)
    del robust["mma"]
    table3(tmp_path, robust)
    found = claim(tmp_path, "1a")
    assert found.result is ClaimResult.PARTIAL
    assert found.assessment.missing == ("mma: no training",)
    assert "mma: no training. Run `bench run --suite table3 --size tiny`" in page(tmp_path)


def test_the_comparisons_of_a_claim_are_one_family(tmp_path: Path) -> None:
    """Ten images more are p = 0.002 alone, and 14 times that among 14 comparisons."""
    table3(tmp_path, everyone(110, 100))
    found = claim(tmp_path, "1a")
    assert found.result is HOLDS
    assert [f.p for f in found.deciding] == [pytest.approx(14 * 2 / 2**10)] * 14


def test_clean_accuracy(tmp_path: Path) -> None:
    kept = everyone(10, 10)
    table3(tmp_path / "up", kept, clean=everyone(190, 160))
    table3(tmp_path / "down", kept, clean=everyone(160, 190))
    assert claim(tmp_path / "up", "2").result is HOLDS
    assert claim(tmp_path / "down", "2").result is FAILS


@pytest.mark.parametrize(
    ("autoattack", "alarm", "verdict"),
    [(120, False, HOLDS), (120, True, OPEN), (120, None, OPEN), (60, False, FAILS)],
)
def test_robustness_is_genuine_without_a_gap_and_without_alarms(
    tmp_path: Path, autoattack: int, alarm: bool | None, verdict: ClaimResult
) -> None:
    runs = table3(tmp_path, everyone(120, 120))
    own = study_of("table3")
    for method in CAT:
        attacked(runs[method], AUTOATTACK, first(N, autoattack), eps=own.eps)
        if alarm is not None:
            check = {"name": "C8: scale", "value": 0.1, "threshold": 0.01, "alarm": alarm}
            measured(runs[method], own, "C8", check, n=32)
    attacked(runs["mart"], AUTOATTACK, first(N, 0), eps=own.eps)
    found = claim(tmp_path, "3")
    assert found.result is verdict
    beside = [f.what for f in found.assessment.evidence if not f.decides]
    assert beside == ["mart"]  # however large its gap


def test_transfer_counts_all_images_and_the_natural_source_alone(tmp_path: Path) -> None:
    own = study_of("table4")
    eps = attack_radii(own, PGD)[0]
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
    assert found.result is HOLDS
    assert {(f.first, f.second) for f in found.deciding} == {(0.75, 0.5)}
    assert {f.value for f in found.assessment.evidence if not f.decides} == {-0.25}
    weaker = claim(tmp_path, "4b")
    assert weaker.result is HOLDS
    assert {(f.first, f.second) for f in weaker.deciding} == {(0.55, 0.3), (0.55, 0.45)}


SOURCES = ("from natural", "from madry", "from natural+madry")
"""Of Table 4's transferred attacks, as findings name them."""


def of_sources(result: AssessedClaim) -> dict[str, set[str]]:
    """By source the comparisons that were made."""
    found = result.assessment.evidence
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
    assert best.assessment.missing == weaker.assessment.missing == ()


def test_transfer_from_a_source_that_lacks_is_named(tmp_path: Path) -> None:
    own = study_of("table4")
    for method in own.methods:
        folder = cell(tmp_path, own, method)
        eps = attack_radii(own, PGD)[0]
        attacked(folder, PGD, first(N, 60), eps=eps)
        kept = first(N, 110)
        attacked(folder, "transfer:madry", kept, eps=eps, sources=("madry",), after=kept)
    weaker = claim(tmp_path, "4b")
    assert of_sources(weaker)["from madry"] == set(own.methods)
    assert f"madry: no transfer from natural at eps {eps:.4g}" in weaker.assessment.missing
    assert len(weaker.assessment.missing) == 2 * len(own.methods)
    assert claim(tmp_path, "4a").deciding == []


def test_transfer_that_is_stronger_than_white_box_is_caught(tmp_path: Path) -> None:
    own = study_of("table4")
    eps = attack_radii(own, PGD)[0]
    folder = cell(tmp_path, own, "cat-ce")
    kept = first(N, 50)
    attacked(folder, "transfer", kept, eps=eps, sources=("natural",), after=kept)
    attacked(folder, PGD, first(N, 150), eps=eps)
    assert claim(tmp_path, "4b").result is FAILS


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
    larger: ClaimResult,
    high: ClaimResult,
) -> None:
    for number in range(3):
        own = study_of("table1", number)
        folder = cell(tmp_path, own, REFERENCE)
        at = attack_radii(own, PGD)[0]
        attacked(folder, PGD, first(N, test[number]), eps=at, checkpoint="last")
        attacked(folder, PGD, first(N, train[number]), eps=at, checkpoint="last", split="train")
        attacked(folder, PGD, first(N, 200 - test[number]), eps=at)
    assert claim(tmp_path, "5a").result is larger
    assert claim(tmp_path, "5b").result is high


def curves(folder: Path, cat: Sequence[int], other: Sequence[int]) -> None:
    own = study_of("figure2")
    for method in (*BASELINES, *CAT):
        run = cell(folder, own, method)
        for eps, kept in zip(attack_radii(own, PGD), cat if method in CAT else other, strict=True):
            attacked(run, PGD, first(N, kept), eps=eps)


def test_the_curve_must_be_above_wherever_anything_is_left(tmp_path: Path) -> None:
    curves(tmp_path / "up", (190, 180, 170, 160, 150, 90, 10), (160, 150, 140, 120, 80, 40, 9))
    found = claim(tmp_path / "up", "6a")
    assert found.result is HOLDS
    assert len(found.deciding) == len(CAT) * len(BASELINES) * 6  # the last is at chance
    shown = [f for f in found.assessment.evidence if f.shown]
    assert len(shown) == len(CAT) * len(BASELINES)
    assert {(f.first, f.remark) for f in shown} == {(0.95, "of 6 radii: 6 hold")}
    curves(tmp_path / "down", (190, 180, 170, 160, 150, 90, 60), (160, 150, 140, 120, 80, 40, 99))
    assert claim(tmp_path / "down", "6a").result is FAILS


@pytest.mark.parametrize(
    ("cat", "verdict"), [((102, 101, 100), HOLDS), ((100, 60, 20), FAILS), ((3, 2, 1), OPEN)]
)
def test_flat_is_flat_above_chance(
    tmp_path: Path, cat: tuple[int, ...], verdict: ClaimResult
) -> None:
    curves(tmp_path, (190, 180, 170, 160, *cat), (160, 150, 140, 120, 80, 40, 9))
    assert claim(tmp_path, "6c").result is verdict


def surface(low: float, high: float, at_x: float = -1.0) -> np.ndarray:
    """(8, 3, 3)."""
    z = np.full((8, 3, 3), at_x)
    z[:, 0, 0], z[:, 2, 2] = low, high
    return z


@pytest.mark.parametrize(("cat", "verdict"), [(2.0, HOLDS), (9.0, FAILS), (5.0, OPEN)])
def test_landscapes(tmp_path: Path, cat: float, verdict: ClaimResult) -> None:
    own = study_of("figure3")
    for method in own.methods:
        reach, scale = (cat, 10.0) if method in CAT else (5.0, 1.0)
        # the margin rises the other way round, and its logits are ten times as large in CAT
        margin = scale * surface(-1.0, 10 - reach)
        arrays = {"ce": surface(-1.0, reach - 1), "margin": margin, "index": np.arange(8)}
        measured(cell(tmp_path, own, method), own, "landscape", {}, arrays, n=8)
    found, margins = claim(tmp_path, "7a"), claim(tmp_path, "7b")
    assert found.result is verdict
    assert [f.value for f in found.deciding] == [pytest.approx(cat / 5)] * 4
    assert margins.result is {HOLDS: FAILS, FAILS: HOLDS}.get(verdict, OPEN)
    assert [f.value for f in margins.deciding] == [pytest.approx((11 - cat) / 6)] * 4


@pytest.mark.parametrize(("many", "verdict"), [(100, HOLDS), (70, FAILS), (94, OPEN)])
def test_steps(tmp_path: Path, many: int, verdict: ClaimResult) -> None:
    own = study_of("figure4a")
    for method in own.methods:
        run = cell(tmp_path, own, method)
        attacked(run, "pgd-10", first(N, 100), eps=own.eps)
        attacked(run, "pgd-500", first(N, many if method in CAT else 0), eps=own.eps)
    assert claim(tmp_path, "8").result is verdict


def ablation(folder: Path, attack: str, kept: Mapping[str, int]) -> None:
    own = study_of("figure4b")
    for method, k in kept.items():
        attacked(cell(folder, own, method), attack, first(N, k), eps=own.eps)


def test_each_part_of_cat_is_judged_with_the_other_held_fixed(tmp_path: Path) -> None:
    # the radius helps either way, the labels harm where the radius adapts
    kept = {REFERENCE: 60, "adv-ls": 90, "adp-adv": 140, "cat-ce": 110, "natural-ls": 40}
    ablation(tmp_path, PGD, kept)
    radius, labels = claim(tmp_path, "9a"), claim(tmp_path, "9c")
    assert radius.result is HOLDS
    assert [f.value for f in radius.deciding] == [pytest.approx(0.4), pytest.approx(0.1)]
    assert labels.result is FAILS
    assert [f.value for f in labels.deciding] == [pytest.approx(0.15), pytest.approx(-0.15)]
    assert claim(tmp_path, "9b").result is ClaimResult.MISSING


@pytest.mark.parametrize(("autoattack", "verdict"), [(100, HOLDS), (0, FAILS)])
def test_labels_alone(tmp_path: Path, autoattack: int, verdict: ClaimResult) -> None:
    ablation(tmp_path, PGD, {"natural-ls": 100})
    ablation(tmp_path, AUTOATTACK, {"natural-ls": autoattack})
    assert claim(tmp_path, "9e").result is verdict


@pytest.mark.parametrize(
    ("fixed", "odd", "verdict"), [(3.0, 3.0, HOLDS), (1.0, 1.0, FAILS), (3.0, 1.0, OPEN)]
)
def test_complexity_needs_all_norms(
    tmp_path: Path, fixed: float, odd: float, verdict: ClaimResult
) -> None:
    for number, own in enumerate(load_suite("theory", "tiny").studies[:4]):
        for method in own.methods:
            log10 = 2.0 if method in CAT else fixed
            values = {f"log10_product_{name}": log10 for name in COLUMNS}
            if number == 0:
                values["log10_product_weights_spectral"] = odd
            run = cell(tmp_path, own, method)
            measured(run, own, "complexity", values)
    found = claim(tmp_path, "10a")
    assert found.result is verdict
    assert {f.first for f in found.deciding} == {fixed, odd}
    assert found.deciding[0].value == pytest.approx(10 ** (fixed - 2))
    assert {f.what.rpartition(" vs ")[2][:6] for f in found.deciding} == {"cat-ce"}


@pytest.mark.parametrize(("cat", "verdict"), [(0.5, HOLDS), (0.05, FAILS), (0.1, OPEN)])
def test_margins(tmp_path: Path, cat: float, verdict: ClaimResult) -> None:
    own = load_suite("theory", "tiny").studies[-1]
    for method in (*BASELINES, *CAT):
        size = np.full(50, cat if method in CAT else 0.1)
        arrays = {f"margin_{kind}": size for kind in ("input", "layers", "both")}
        arrays["margin_input"] = 0.1 / size  # beside, and the other way round
        values = {"mean_inverse_both": float((1 / size).mean())}
        run = cell(tmp_path, own, method)
        index = {"index": np.arange(50)}
        measured(run, own, "margins", values, arrays | index, n=50)
    found = claim(tmp_path, "10b")
    assert found.result is verdict
    assert f"cat-ce {1 / cat:.3g}, " in found.assessment.notes[0]


@pytest.mark.parametrize(
    ("cat", "verdict"),
    [((0.9, 0.9, 0.9, 0.9), HOLDS), ((0.1, 0.1, 0.1, 0.9), FAILS), ((0.1, 0.1, 0.9, 0.9), OPEN)],
)
def test_convergence(tmp_path: Path, cat: Sequence[float], verdict: ClaimResult) -> None:
    own = load_suite("theory", "tiny").studies[-1]
    for method in (REFERENCE, *CAT):
        slow = (0.1, 0.1, 0.9, 0.9) if verdict is not FAILS else (0.1, 0.9, 0.9, 0.9)
        cell(tmp_path, own, method, robust=cat if method in CAT else slow)
    found = claim(tmp_path, "11")
    assert found.result is verdict
    saved = {HOLDS: 2.0, FAILS: -2.0, OPEN: 0.0}[verdict]
    assert {f.value for f in found.deciding} == {saved}


@pytest.mark.parametrize(("passes", "verdict"), [(12.0, HOLDS), (22.0, FAILS), (5.0, FAILS)])
def test_cost(tmp_path: Path, passes: float, verdict: ClaimResult) -> None:
    own = study_of("table3")
    for method in (REFERENCE, *CAT):
        cell(tmp_path, own, method, passes=passes if method in CAT else 11.0)
    found = claim(tmp_path, "12")
    assert found.result is verdict
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
def test_the_plane(tmp_path: Path, small: int, large: int, cat: int, verdict: ClaimResult) -> None:
    within, beyond = load_suite("figure1").studies
    for own, method, right in (
        (within, REFERENCE, small),
        (beyond, REFERENCE, large),
        (beyond, "cat-ce", cat),
    ):
        run = cell(tmp_path, own, method)
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
        measured(run, own, "boundary", values, n=600, checkpoint="last")
    found = claim(tmp_path, "13")
    assert found.result is verdict
    assert (
        "cat-ce (radius 4), seed 0: the line is rotated by 12.0 degrees"
        in found.assessment.notes[-1]
    )


def test_without_records_every_claim_says_what_to_run() -> None:
    text = make_claims(Records([])).pages["claims"]
    for one, found in zip(CLAIMS, assess_claims(Records([])), strict=True):
        assert found.result is (ClaimResult.MISSING if one.suite else ClaimResult.UNTESTED)
        assert f"## {one.key} {one.title}\n" in text
    suites = {one.suite for one in CLAIMS if one.suite}
    assert suites == {name.removeprefix("run `bench run --suite ") for name in _runs(text)}


def _runs(text: str) -> set[str]:
    return {part.split("`.")[0] for part in text.split("no records: ")[1:]}


def test_a_smaller_size_is_never_presented_as_the_paper_s(tmp_path: Path) -> None:
    table3(tmp_path / "tiny", everyone(140, 80))
    text = page(tmp_path / "tiny")
    assert "A verdict of a smaller size says nothing about the paper's own setting" in text
    assert "**Verdict:** at size tiny on digits: **holds** (14: 14 hold)." in text
    assert "Size tiny (digits, cnn, 4 epochs): not the paper's." in text
    own = study_of("table3", size="full")
    for method, kept in everyone(140, 80).items():
        run = cell(tmp_path / "full", own, method)
        attacked(run, PGD, first(N, kept), eps=own.eps)
    text = page(tmp_path / "full")
    assert "**Verdict:** **holds** (14: 14 hold)." in text
    assert "at size" not in text


def test_a_claim_that_holds_for_a_masked_model_is_marked(tmp_path: Path) -> None:
    runs = table3(tmp_path, everyone(140, 80))
    check = {"name": "C8: scale", "value": 0.1, "threshold": 0.01, "alarm": True}
    own = study_of("table3")
    measured(runs["mart"], own, "C8", check, n=32)
    assert verdict_text(claim(tmp_path, "1a")).endswith("**holds**")
    measured(runs["cat-ce"], own, "C8", check, n=32)
    assert verdict_text(claim(tmp_path, "1a")).endswith("**holds** \u2020")


def test_the_csv_has_every_comparison_and_the_bytes_repeat(tmp_path: Path) -> None:
    curves(tmp_path, (190, 180, 170, 160, 150, 90, 10), (160, 150, 140, 120, 80, 40, 9))
    made = make_claims(load_records(tmp_path))
    again = make_claims(load_records(tmp_path))
    assert made.pages == again.pages
    rows = made.numbers["claims"]
    pd.testing.assert_frame_equal(rows, again.numbers["claims"])
    assert set(rows["claim"]) == {one.key for one in CLAIMS}
    curve = rows[rows["claim"] == "6a"]
    assert len(curve) == len(CAT) * len(BASELINES) * 7
    last = curve[curve["decides"] == "0"]
    assert len(last) == len(CAT) * len(BASELINES)
    assert set(last["verdict"]) == {""}
    top = curve.iloc[0]
    assert (top["size"], top["paper_size"], top["claim_verdict"]) == ("tiny", "0", "holds")
    assert float(top["value"]) == pytest.approx(0.15)


@pytest.mark.parametrize("key", ["1a", "1c"])
def test_fast_attacks_do_not_decide_a_claim(key: str, tmp_path: Path) -> None:
    for name in TITLES:
        if "-fast" in name:
            table3(tmp_path, everyone(140, 80), name)
    found = claim(tmp_path, key)
    assert found.result is not HOLDS
    assert not found.deciding


def test_each_claim_with_a_suite_has_a_test_and_its_texts_are_whole() -> None:
    assert TESTS.keys() == {one.key for one in CLAIMS if one.suite}
    assert len({one.key for one in CLAIMS}) == len(CLAIMS) == 27
    for one in CLAIMS:
        assert one.says
        assert one.source
        assert one.measured
        assert bool(one.rule) == bool(one.suite)
        assert len(one.columns) == 3


def test_the_claim_on_complexity_says_that_the_paper_names_no_network() -> None:
    one = next(one for one in CLAIMS if one.key == "10a")
    assert "not named" in one.says
    assert "neither the network of its ratios nor the norm" in one.measured


def test_the_claims_on_the_radius_say_what_changes_with_it() -> None:
    by_key = {one.key: one.measured for one in CLAIMS}
    attack = {
        name: (own["start"].default, own["step_size"].default)
        for pair in RADIUS_PAIRS
        for name in pair
        if (own := parameters(method_class(name)))
    }
    assert attack == {
        **dict.fromkeys(("cat-ce", "adp-adv"), ("zero", 0.007)),
        **dict.fromkeys(("madry", "adv-ls"), ("uniform", 2 / 255)),
    }
    for key in ("9a", "9b"):
        assert "radius, start and step" in by_key[key]
        assert "steps of 0.007" in by_key[key]
    for key in ("9c", "9d"):
        assert "start" not in by_key[key]


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Claims of each kind: refuted, confirmed, open, partly and wholly without records."""
    folder = tmp_path_factory.mktemp("claims")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.storage.os.fsync", lambda _: None)
        _table3(folder)
        _plane(folder)
        _table1(folder)
    made = make_claims(load_records(folder))
    return {"claims.md": made.pages["claims"], "claims.csv": csv_text(made.numbers["claims"], "x")}


def _table3(folder: Path) -> None:
    own = study_of("table3")
    kept = {"madry": (60, 50), "trades": (64, 58), "mart": (66, 50), "cat-ce": (90, 20)}
    for method, (pgd, hardest) in kept.items():
        run = cell(folder, own, method, passes=12.0 if method == "cat-ce" else 11.0)
        attacked(run, PGD, first(120, pgd), eps=own.eps)
        attacked(run, AUTOATTACK, first(120, hardest), eps=own.eps)
        for number, alarm in ((3, False), (8, method == "cat-ce")):
            check = {"name": f"C{number}: x", "value": 0.1, "threshold": 0.01, "alarm": alarm}
            measured(run, own, f"C{number}", check, n=32)


def _plane(folder: Path) -> None:
    within, beyond = load_suite("figure1").studies
    for own, method, k in ((within, "madry", 600), (beyond, "madry", 500), (beyond, "cat-ce", 600)):
        run = cell(folder, own, method)
        kept = first(600, k)
        attacked(run, "clean", kept, clean=kept, eps=own.eps, checkpoint="last")


def _table1(folder: Path) -> None:
    own = study_of("table1")
    run = cell(folder, own, "madry", seed=1)
    at = attack_radii(own, PGD)[0]
    for split, k in (("test", 80), ("train", 119)):
        attacked(run, PGD, first(120, k), eps=at, checkpoint="last", split=split)


@pytest.mark.parametrize("name", ["claims.md", "claims.csv"])
def test_equals_the_golden_text(golden: dict[str, str], name: str) -> None:
    if os.environ.get("REGENERATE_GOLDEN"):
        (GOLDEN / name).write_text(golden[name])
    assert golden[name] == (GOLDEN / name).read_text()


def test_the_page_says_what_is_masked_and_what_is_missing(golden: dict[str, str]) -> None:
    sections = golden["claims.md"].split("\n## ")
    summary = {row.split()[1]: row for row in sections[1].splitlines() if row.startswith("| ")}
    assert {one.key for one in CLAIMS} <= summary.keys()
    assert "cat-ce C8" in summary["1a"]
    (robust,) = (section for section in sections if section.startswith("1a "))
    assert "| cat-ce \u2020 vs madry " in robust
    assert "alarms on cat-ce (C8; 2 of 14 run)" in robust
    assert "no alarm on madry (2 of 14 run)" in robust
    assert "cat-mix: no training. Run `bench run --suite table3 --size tiny`" in robust
    (hardest,) = (section for section in sections if section.startswith("1c "))
    assert "**does not hold** (3: 3 do not)" in hardest


def test_every_row_has_as_many_cells_as_its_heading(golden: dict[str, str]) -> None:
    for block in golden["claims.md"].split("\n\n"):
        widths = {row.count(" | ") for row in block.splitlines() if row.startswith("| ")}
        assert len(widths) <= 1, block
