"""Claims from made records of whole suites: planted truths are confirmed, planted lies refuted.

After an intended change of the page: `REGENERATE_GOLDEN=1 pytest tests/report/test_claims.py`, then
read the difference in git line by line before committing it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

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
from bench.run_store import RunFolder
from bench.suite import load_suite
from tests.report.made_measures import attacked, cell, first, measured, study_of

HOLDS, FAILS, OPEN = ClaimResult.HOLDS, ClaimResult.FAILS, ClaimResult.OPEN
GOLDEN = Path(__file__).parent / "golden"
N = 200
ALARM = {"name": "C8: scale", "value": 0.9, "threshold": 0.01}


def claim(folder: Path, key: str) -> AssessedClaim:
    (one,) = (one for one in CLAIMS if one.key == key)
    suite = choose(load_records(folder), one.suite)
    assert suite is not None
    return assess_claim(one, suite)


def page(folder: Path) -> str:
    return make_claims(load_records(folder)).pages["claims"]


def values(found: AssessedClaim, *, decides: bool = True) -> list[float]:
    return [e.value for e in found.assessment.evidence if e.decides is decides]


def table3(
    folder: Path,
    robust: Mapping[str, int],
    attack: str = PGD,
    clean: Mapping[str, int] | None = None,
    size: str = "tiny",
) -> dict[str, RunFolder]:
    """Each method keeps the first `robust[method]` of N images."""
    own = study_of("table3", size=size)
    runs = {}
    for method, kept in robust.items():
        runs[method] = cell(folder, own, method)
        right = first(N, (clean or {}).get(method, N))
        attacked(runs[method], attack, first(N, kept), eps=own.eps, clean=right)
    return runs


def everyone(cat: int, other: int, **changed: int) -> dict[str, int]:
    return {**dict.fromkeys(BASELINES, other), **dict.fromkeys(CAT, cat), **changed}


@pytest.mark.parametrize(
    ("key", "attack", "robust", "verdict", "key_value"),
    [
        ("1a", PGD, everyone(140, 80, natural=199), HOLDS, 0.3),
        ("1b", CW, everyone(140, 80, natural=199), HOLDS, 0.3),
        ("1c", AUTOATTACK, everyone(140, 80, natural=199), HOLDS, 0.3),
        ("1a", PGD, everyone(140, 80, mart=180), FAILS, -0.2),
        ("1a", PGD, everyone(140, 80, mart=138), OPEN, 0.01),  # may be chance
    ],
)
def test_every_cat_must_be_above_every_baseline(
    tmp_path: Path, key: str, attack: str, robust: dict[str, int], verdict: str, key_value: float
) -> None:
    table3(tmp_path, robust, attack)
    found = claim(tmp_path, key)
    assert found.result is verdict
    assert len(found.deciding) == len(CAT) * len(BASELINES)
    assert {e.first for e in found.deciding} == {0.7}
    assert found.key_evidence is not None
    assert found.key_evidence.value == pytest.approx(key_value)


def test_a_baseline_without_records_keeps_it_from_holding(tmp_path: Path) -> None:
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
    assert [e.p for e in found.deciding] == [pytest.approx(14 * 2 / 2**10)] * 14


@pytest.mark.parametrize(("cat", "verdict"), [(190, HOLDS), (160, FAILS)])
def test_clean_accuracy(tmp_path: Path, cat: int, verdict: ClaimResult) -> None:
    table3(tmp_path, everyone(10, 10), clean=everyone(cat, 350 - cat))
    assert claim(tmp_path, "2").result is verdict


@pytest.mark.parametrize(
    ("autoattack", "alarm", "verdict"),
    [(120, False, HOLDS), (120, True, OPEN), (120, None, OPEN), (60, False, FAILS)],
)
def test_robustness_is_genuine_without_a_gap_and_without_alarms(
    tmp_path: Path, autoattack: int, alarm: bool | None, verdict: ClaimResult
) -> None:
    runs = table3(tmp_path, {**dict.fromkeys(CAT, 120), "mart": 120})
    own = study_of("table3")
    for method in CAT:
        attacked(runs[method], AUTOATTACK, first(N, autoattack), eps=own.eps)
        if alarm is not None:
            measured(runs[method], own, "C8", ALARM | {"value": 0.9 * alarm}, n=32)
    attacked(runs["mart"], AUTOATTACK, first(N, 0), eps=own.eps)
    found = claim(tmp_path, "3")
    assert found.result is verdict
    context = [e.what for e in found.assessment.evidence if not e.decides]
    assert context == ["mart"]  # however large its gap


SOURCES = {"from natural": "transfer"} | {
    f"from {name}": f"transfer:{name}" for name in ("madry", "natural+madry")
}
"""How evidence names the sources of Table 4 -> the attack."""


def of_sources(found: AssessedClaim) -> dict[str, set[str]]:
    """Return the comparisons that were made, by source."""
    evidence = found.assessment.evidence
    return {source: {e.what for e in evidence if e.detail == source} for source in SOURCES}


def table4(folder: Path, methods: Sequence[str], sources: Sequence[str], **kept: int) -> float:
    """Attack by transfer, and with PGD-20 on the model itself; return the radius."""
    own = study_of("table4")
    eps = attack_radii(own, PGD)[0]
    for method in methods:
        run = cell(folder, own, method)
        for source in sources:
            names = source.removeprefix("from ").split("+")
            right = 150 if (method in CAT) is (source == "from natural") else 100
            keep = first(N, kept.get("transfer", 100))
            attacked(run, SOURCES[source], keep, eps=eps, sources=names, after=first(N, right))
        attacked(run, PGD, first(N, kept.get("white", 60 if method in CAT else 90)), eps=eps)
    return eps


def test_transfer_counts_all_images_and_only_the_natural_source(tmp_path: Path) -> None:
    methods = study_of("table4").methods
    eps = table4(tmp_path, methods, list(SOURCES))
    best, weaker = claim(tmp_path, "4a"), claim(tmp_path, "4b")
    assert best.result is HOLDS
    assert {(e.first, e.second) for e in best.deciding} == {(0.75, 0.5)}
    assert set(values(best, decides=False)) == {-0.25}
    assert weaker.result is HOLDS
    assert {(e.first, e.second) for e in weaker.deciding} == {(0.5, 0.3), (0.5, 0.45)}
    pairs = {f"{cat} vs {other}" for cat in CAT for other in (REFERENCE, "trades")}
    assert of_sources(best) == dict.fromkeys(SOURCES, pairs)
    assert of_sources(weaker) == {source: set(methods) for source in SOURCES}
    assert best.assessment.missing == weaker.assessment.missing == ()
    assert {e.detail for e in best.deciding} == {"from natural"}
    assert eps == pytest.approx(0.03 * 0.2 / (8 / 255))


def test_transfer_from_a_source_that_lacks_is_named(tmp_path: Path) -> None:
    methods = study_of("table4").methods
    eps = table4(tmp_path, methods, ["from madry"])
    weaker = claim(tmp_path, "4b")
    assert of_sources(weaker)["from madry"] == set(methods)
    assert f"madry: no transfer from natural at eps {eps:.4g}" in weaker.assessment.missing
    assert len(weaker.assessment.missing) == 2 * len(methods)
    assert claim(tmp_path, "4a").deciding == []


def test_transfer_that_is_stronger_than_white_box_is_caught(tmp_path: Path) -> None:
    table4(tmp_path, ["cat-ce"], ["from natural"], transfer=50, white=150)
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
    tmp_path: Path, test: Sequence[int], train: Sequence[int], larger: str, high: str
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
    assert values(found) == [pytest.approx(cat / 5)] * 4
    assert margins.result is {HOLDS: FAILS, FAILS: HOLDS}.get(verdict, OPEN)
    assert values(margins) == [pytest.approx((11 - cat) / 6)] * 4


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
    assert values(radius) == [pytest.approx(0.4), pytest.approx(0.1)]
    assert labels.result is FAILS
    assert values(labels) == [pytest.approx(0.15), pytest.approx(-0.15)]
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
            products = {f"log10_product_{name}": log10 for name in COLUMNS}
            if number == 0:
                products["log10_product_weights_spectral"] = odd
            measured(cell(tmp_path, own, method), own, "complexity", products)
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
        arrays["index"] = np.arange(50)
        measured(cell(tmp_path, own, method), own, "margins", {}, arrays, n=50)
    found = claim(tmp_path, "10b")
    assert found.result is verdict
    assert {e.shown for e in found.assessment.evidence if not e.decides} == {False}


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
    assert set(values(found)) == {saved}


@pytest.mark.parametrize(("passes", "verdict"), [(12.0, HOLDS), (22.0, FAILS), (5.0, FAILS)])
def test_cost(tmp_path: Path, passes: float, verdict: ClaimResult) -> None:
    own = study_of("table3")
    for method in (REFERENCE, *CAT):
        cell(tmp_path, own, method, passes=passes if method in CAT else 11.0)
    found = claim(tmp_path, "12")
    assert found.result is verdict
    assert values(found) == [pytest.approx(passes / 11)] * 2


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
    assert claim(tmp_path, "13").result is verdict


def test_without_records_every_claim_says_what_to_run() -> None:
    text = make_claims(Records([])).pages["claims"]
    for one, found in zip(CLAIMS, assess_claims(Records([])), strict=True):
        assert found.result is (ClaimResult.MISSING if one.suite else ClaimResult.UNTESTED)
        section = text.split(f"## {one.key} {one.title}\n")[1].split("\n## ")[0]
        command = f"**Verdict:** no records: run `bench run --suite {one.suite}`."
        assert (command in section) is bool(one.suite)


def test_a_smaller_size_is_never_presented_as_the_paper_s(tmp_path: Path) -> None:
    table3(tmp_path / "tiny", everyone(140, 80))
    text = page(tmp_path / "tiny")
    assert "A verdict of a smaller size says nothing about the paper's own setting" in text
    assert "**Verdict:** at size tiny on digits: **holds** (14: 14 hold)." in text
    assert "Size tiny (digits, cnn, 4 epochs): not the paper's." in text
    table3(tmp_path / "full", everyone(140, 80), size="full")
    text = page(tmp_path / "full")
    assert "**Verdict:** **holds** (14: 14 hold)." in text
    assert "at size" not in text


def test_a_claim_that_holds_for_a_masked_model_is_marked(tmp_path: Path) -> None:
    runs = table3(tmp_path, everyone(140, 80))
    measured(runs["mart"], study_of("table3"), "C8", ALARM, n=32)
    assert verdict_text(claim(tmp_path, "1a")).endswith("**holds**")
    measured(runs["cat-ce"], study_of("table3"), "C8", ALARM, n=32)
    assert verdict_text(claim(tmp_path, "1a")).endswith("**holds** \u2020")


def test_the_csv_has_every_comparison(tmp_path: Path) -> None:
    curves(tmp_path, (190, 180, 170, 160, 150, 90, 10), (160, 150, 140, 120, 80, 40, 9))
    rows = make_claims(load_records(tmp_path)).numbers["claims"]
    assert set(rows["claim"]) == {one.key for one in CLAIMS}
    curve = rows[rows["claim"] == "6a"]
    assert len(curve) == len(CAT) * len(BASELINES) * 7
    last = curve[curve["decides"] == "0"]
    assert len(last) == len(CAT) * len(BASELINES)
    assert set(last["verdict"]) == {""}
    top = curve.iloc[0]
    assert (top["size"], top["paper_size"], top["claim_verdict"]) == ("tiny", "0", "holds")
    assert float(top["value"]) == pytest.approx(0.15)


def test_fast_attacks_do_not_decide_a_claim(tmp_path: Path) -> None:
    for name in TITLES:
        if "-fast" in name:
            table3(tmp_path, dict.fromkeys((*CAT, "madry"), 140), name)
    assert claim(tmp_path, "1a").deciding == claim(tmp_path, "1c").deciding == []


def test_each_claim_with_a_suite_has_a_test_and_its_texts_are_whole() -> None:
    assert TESTS.keys() == {one.key for one in CLAIMS if one.suite}
    assert len({one.key for one in CLAIMS}) == len(CLAIMS) == 27
    for one in CLAIMS:
        assert all((one.says, one.source, one.measured))
        assert bool(one.rule) == bool(one.suite)
        assert len(one.columns) == 3


def test_the_claims_on_the_radius_say_what_changes_with_it() -> None:
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
    measured_on = {one.key: one.measured for one in CLAIMS}
    for key in ("9a", "9b"):
        assert "radius, start and step" in measured_on[key]
        assert "steps of 0.007" in measured_on[key]


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Claims of each kind: refuted, confirmed, open, partly and wholly without records."""
    folder = tmp_path_factory.mktemp("claims")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.storage.os.fsync", lambda _: None)
        _golden_records(folder)
    made = make_claims(load_records(folder))
    return {"claims.md": made.pages["claims"], "claims.csv": csv_text(made.numbers["claims"], "x")}


def _golden_records(folder: Path) -> None:
    own = study_of("table3")
    kept = {"madry": (60, 50), "trades": (64, 58), "mart": (66, 50), "cat-ce": (90, 20)}
    for method, (pgd, hardest) in kept.items():
        run = cell(folder, own, method, passes=12.0 if method == "cat-ce" else 11.0)
        attacked(run, PGD, first(120, pgd), eps=own.eps)
        attacked(run, AUTOATTACK, first(120, hardest), eps=own.eps)
        for number, alarm in ((3, False), (8, method == "cat-ce")):
            check = ALARM | {"name": f"C{number}: x", "value": 0.9 * alarm}
            measured(run, own, f"C{number}", check, n=32)
    within, beyond = load_suite("figure1").studies
    for own, method, k in ((within, "madry", 600), (beyond, "madry", 500), (beyond, "cat-ce", 600)):
        right = first(600, k)
        run = cell(folder, own, method)
        attacked(run, "clean", right, clean=right, eps=own.eps, checkpoint="last")
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
    sections = {text.split()[0]: text for text in golden["claims.md"].split("\n## ")}
    assert {one.key for one in CLAIMS} <= sections.keys()
    for text in (
        "| cat-ce \u2020 vs madry ",
        "alarms on cat-ce (C8; 2 of 14 run)",
        "no alarm on madry (2 of 14 run)",
        "cat-mix: no training. Run `bench run --suite table3 --size tiny`",
    ):
        assert text in sections["1a"]
    assert "**does not hold** (3: 3 do not)" in sections["1c"]
