"""Claims from made records of whole suites: planted truths are found, planted lies refuted.

After an intended change of the page: `REGENERATE_GOLDEN=1 pytest tests/report/test_claims.py`, then
read the difference in git line by line before committing it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.experiments.suite import load_suite
from bench.papers.cat.claim_evidence import BASELINES
from bench.papers.cat.claim_page import claims_page, make_claims, verdict_text
from bench.papers.cat.claim_rules import ClaimResult
from bench.papers.cat.claim_tests import FIGURE_2, STEPS, TESTS, attack_radii
from bench.papers.cat.claims import CLAIMS, AssessedClaim, assess_claims
from bench.papers.cat.complexity import COLUMNS
from bench.papers.cat.stated import CAT
from bench.records import Records, load_records
from bench.registry import method_class, parameters
from bench.report.export import csv_text
from bench.report.published import REFERENCE, shown_name
from bench.report.titles import AUTOATTACK, CW, PGD, TITLES
from tests.report.made_claims import (
    ALARM,
    EPOCHS,
    SEEDS,
    N,
    accuracies,
    claim,
    everyone,
    surface,
    table3,
    team,
    values,
)
from tests.report.made_measures import attacked, checked, first, measured, study_of

SUPPORTED, CONTRADICTED = ClaimResult.SUPPORTED, ClaimResult.CONTRADICTED
OPEN = ClaimResult.INCONCLUSIVE
GOLDEN = Path(__file__).parent / "golden"
HIGH, LOW = 307, 276
"""Of N images: 6 points apart."""


@pytest.fixture(autouse=True)
def _fast_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk."""
    monkeypatch.setattr("bench.storage.os.fsync", lambda _: None)


def page(folder: Path) -> str:
    return make_claims(load_records(folder)).pages["claims"]


def reason(found: AssessedClaim) -> str:
    assert found.result is OPEN
    return found.reason


@pytest.mark.parametrize(
    ("key", "attack", "kept", "verdict"),
    [
        ("1a", PGD, everyone(HIGH, LOW, natural=N), SUPPORTED),
        ("1b", CW, everyone(HIGH, LOW), SUPPORTED),
        ("1c", AUTOATTACK, everyone(HIGH, LOW), SUPPORTED),
        ("1a", PGD, everyone(HIGH, LOW, mart=338), CONTRADICTED),
        ("1a", PGD, everyone(HIGH, LOW, mart=305), OPEN),
    ],
)
def test_every_cat_must_be_above_every_baseline(
    tmp_path: Path, key: str, attack: str, kept: dict[str, Any], verdict: ClaimResult
) -> None:
    table3(tmp_path, kept, attack)
    found = claim(tmp_path, key)
    assert found.result is verdict
    assert len(found.deciding) == len(CAT) * len(BASELINES)
    assert all(e.admissible for e in found.deciding)
    if verdict is OPEN:
        assert reason(found) == "CAT-CE vs MART: not significant; CAT-MIX vs MART: not significant"
    if verdict is CONTRADICTED:
        assert found.key_evidence is not None
        assert found.key_evidence.value == pytest.approx((HIGH - 338) / N)


GOOD = everyone(HIGH, LOW)
RISING = (*(0.3,) * 8, 0.4, 0.5)


@pytest.mark.parametrize(
    ("others", "why"),
    [
        # each of these would be supported but for one thing
        (
            {"radii": (0.1,) * 9 + (0.46,)},
            "CAT-CE untrained: median radius 0.46 eps, largest 0.46 eps",
        ),
        ({"radii": (0.9,) * 9 + (1.0,)}, "CAT-CE untrained: radius still moves by 10.0% of eps"),
        ({"robust": RISING}, "CAT-CE untrained: robust accuracy still rises, by 20.0 points"),
        ({"seeds": (0,)}, "1 seed: holds for these networks only"),
        ({"seeds": (0, 1), "kept": everyone(450, 100)}, "2 seeds: holds for these networks only"),
        (
            {"n": 16, "kept": everyone(4, 0)},
            "16 images and 3 seeds cannot show less than 62.5 points",
        ),
    ],
)
def test_a_claim_that_would_hold_is_inconclusive_for_a_reason(
    tmp_path: Path, others: dict[str, Any], why: str
) -> None:
    kept = others.pop("kept", GOOD)
    table3(tmp_path, kept, **others)
    found = claim(tmp_path, "1a")
    assert reason(found).startswith(why)
    assert all(e.value > 0 for e in found.deciding)
    assert not any(e.admissible for e in found.deciding)
    assert f"**Result:** **Inconclusive** ({why}" in page(tmp_path)


@pytest.mark.parametrize(
    ("n", "kept", "verdict"),
    [
        (16, everyone(4, 0), OPEN),
        (16, everyone(0, 4), OPEN),
        (16, everyone(16, 0), SUPPORTED),  # surely beyond 5 points
        (16, everyone(0, 16), CONTRADICTED),
        (8, everyone(8, 0), OPEN),  # an exact test at 5% / 14 finds no 8 of 8
    ],
)
def test_few_images_decide_only_what_is_surely_large(
    tmp_path: Path, n: int, kept: dict[str, Any], verdict: ClaimResult
) -> None:
    """An exact test needs 10 images more on one side: p = 2 / 2^10, times 14."""
    table3(tmp_path, kept, AUTOATTACK, n=n)
    found = claim(tmp_path, "1c")
    assert found.result is verdict
    assert all((e.detectable or 0.0) >= min(10, n) / n for e in found.deciding)
    if verdict is OPEN:
        assert f"{n} images and 3 seeds cannot show less than" in reason(found)


@pytest.mark.parametrize(
    ("key", "attack", "kept", "masked", "verdict"),
    [
        ("1a", PGD, GOOD, "cat-ce", OPEN),
        ("1b", CW, GOOD, "cat-ce", OPEN),
        ("1c", AUTOATTACK, GOOD, "cat-ce", SUPPORTED),  # AutoAttack is not misled
        ("1a", PGD, GOOD, "mart", SUPPORTED),  # above even what is too high
        ("1a", PGD, everyone(HIGH, LOW, mart=338), "mart", OPEN),
        ("1a", PGD, everyone(LOW, HIGH), "cat-ce", CONTRADICTED),  # below although too high
    ],
)
def test_a_side_with_an_alarm_supports_nothing_under_gradient_attacks(
    tmp_path: Path, key: str, attack: str, kept: dict[str, Any], masked: str, verdict: ClaimResult
) -> None:
    runs = table3(tmp_path, kept, attack)
    measured(runs[masked, 1], study_of("table3", size="full"), "C8", ALARM, n=32)
    found = claim(tmp_path, key)
    assert found.result is verdict
    if verdict is OPEN:
        assert f"masking alarm on {shown_name(masked)} (logit scale)" in reason(found)
    assert f"{shown_name(masked)} \u2020" in page(tmp_path)


def test_the_variance_over_seeds_counts(tmp_path: Path) -> None:
    """Equal seeds settle it; seeds 20 points apart do not, whatever the number of images."""
    kept: dict[str, Any] = {"cat-ce": LOW, "cat-mix": HIGH}
    table3(tmp_path / "equal", kept, CW)
    table3(tmp_path / "apart", kept | {"cat-mix": (HIGH - 100, HIGH, HIGH + 100)}, CW)
    equal, apart = (claim(tmp_path / name, "1d") for name in ("equal", "apart"))
    assert equal.result is SUPPORTED
    assert "512 images and 3 seeds cannot show less than" in reason(apart)
    assert values(apart) == pytest.approx(values(equal))
    wide, narrow = (one.deciding[0].mean.error for one in (apart, equal))
    assert wide > 100 / N / 3**0.5 > narrow


def test_a_baseline_without_records_is_named_and_counted_by_holm(tmp_path: Path) -> None:
    kept = everyone(HIGH, LOW)
    del kept["mma"]
    table3(tmp_path, kept)
    found = claim(tmp_path, "1a")
    assert reason(found) == "1 record missing"
    assert found.missing == ("mma: no training",)
    assert "MMA: no training. Run `bench run --suite table3 --seeds 0,1,2`" in page(tmp_path)
    assert [e.p for e in found.deciding] == [pytest.approx(14 * e.mean.p()) for e in found.deciding]


def test_the_paper_s_own_effect_is_what_a_sample_must_show(tmp_path: Path) -> None:
    table3(tmp_path, {"cat-ce": HIGH, "madry": LOW, "iaat": LOW})
    limits = {e.what: e.limit for e in claim(tmp_path, "1a").deciding}
    assert limits["cat-ce vs madry"] == pytest.approx(0.7338 - 0.5268)
    assert {e.limit for e in claim(tmp_path, "1c").deciding} <= {0.05}
    assert claim(tmp_path, "2a").deciding[-1].limit == 0.05  # IAAT: 2.14 points


@pytest.mark.parametrize(
    ("ce", "mix", "verdict"), [(HIGH, 0, SUPPORTED), (LOW - 30, N, CONTRADICTED)]
)
def test_clean_accuracy_is_claimed_of_cat_ce(
    tmp_path: Path, ce: int, mix: int, verdict: ClaimResult
) -> None:
    clean = everyone(0, LOW) | {"cat-ce": ce, "cat-mix": mix}
    table3(tmp_path, everyone(10, 10), clean=clean)
    found = claim(tmp_path, "2a")
    assert found.result is verdict
    assert len(found.deciding) == len(BASELINES)


@pytest.mark.parametrize(("cat", "verdict"), [(500, SUPPORTED), (470, CONTRADICTED), (495, OPEN)])
def test_little_clean_accuracy_is_lost(tmp_path: Path, cat: int, verdict: ClaimResult) -> None:
    table3(tmp_path, {"natural": 0, "cat-ce": 0}, clean={"natural": 505, "cat-ce": cat})
    assert claim(tmp_path, "2b").result is verdict


@pytest.mark.parametrize(("mix", "verdict"), [(HIGH, SUPPORTED), (LOW - 31, CONTRADICTED)])
def test_the_mixed_loss(tmp_path: Path, mix: int, verdict: ClaimResult) -> None:
    runs = table3(tmp_path, {"cat-ce": LOW, "cat-mix": mix}, CW)
    assert claim(tmp_path, "1d").result is verdict
    table3(tmp_path, {"cat-ce": HIGH}, runs=runs)
    assert claim(tmp_path, "1e").result is SUPPORTED  # PGD-20 above C&W, on the same networks


@pytest.mark.parametrize(
    ("autoattack", "alarm", "verdict"),
    [(300, False, SUPPORTED), (300, True, OPEN), (300, None, OPEN), (250, False, CONTRADICTED)],
)
def test_robustness_is_genuine_without_a_gap_and_without_alarms(
    tmp_path: Path, autoattack: int, alarm: bool | None, verdict: ClaimResult
) -> None:
    runs = table3(tmp_path, {**dict.fromkeys(CAT, 300), "mart": 300})
    hardest = {**dict.fromkeys(CAT, autoattack), "mart": 0}
    table3(tmp_path, hardest, AUTOATTACK, runs=runs)
    for (method, _), run in runs.items():
        if alarm is not None and method in CAT:
            checked(run, study_of("table3", size="full"), alarm=alarm)
    found = claim(tmp_path, "3")
    assert found.result is verdict
    if verdict is OPEN:
        assert ("no masking checks" if alarm is None else "masking alarm") in reason(found)
    assert [e.what for e in found.evidence if not e.decides] == ["mart"]


SOURCES = {"from natural": "transfer"} | {
    f"from {name}": f"transfer:{name}" for name in ("madry", "natural+madry")
}
"""How evidence names the sources of Table 4 -> the attack."""


def of_sources(found: AssessedClaim) -> dict[str, set[str]]:
    """Return the comparisons that were made, by source, without the network."""
    evidence = found.evidence
    return {s: {e.what.split(" (")[0] for e in evidence if e.detail == s} for s in SOURCES}


def table4(folder: Path, sources: Sequence[str], after: Mapping[str, int], **kept: int) -> None:
    """Attack by transfer, and with PGD-20 on the model itself, on both networks."""
    for number in (0, 1):
        own = study_of("table4", number, size="full")
        eps = attack_radii(own, PGD)[0]
        for (method, _), run in team(folder, own, after).items():
            for source in sources:
                names = source.removeprefix("from ").split("+")
                keep = first(N, kept.get("transfer", 180))
                right = first(N, after[method])
                attacked(run, SOURCES[source], keep, eps=eps, sources=names, after=right)
            attacked(run, PGD, first(N, kept.get("white", 150)), eps=eps)


def test_transfer_counts_all_images_and_only_the_natural_source(tmp_path: Path) -> None:
    table4(tmp_path, list(SOURCES), dict.fromkeys(FIGURE_2, LOW) | dict.fromkeys(CAT, HIGH))
    best, weaker = claim(tmp_path, "4a"), claim(tmp_path, "4b")
    assert (best.result, weaker.result) == (SUPPORTED, SUPPORTED)
    assert {(e.first, e.second) for e in best.deciding} == {(HIGH / N, LOW / N)}
    assert {(e.first, e.second) for e in weaker.deciding} == {(180 / N, 150 / N)}
    assert of_sources(weaker) == {source: {*FIGURE_2, *CAT} for source in SOURCES}
    assert {e.detail for e in best.deciding} == {"from natural"}
    assert best.missing == weaker.missing == ()


def test_where_the_paper_does_not_say_which_cat_both_must_agree(tmp_path: Path) -> None:
    after = dict.fromkeys(FIGURE_2, LOW) | {"cat-ce": HIGH, "cat-mix": LOW - 31}
    table4(tmp_path / "a", ["from natural"], after)
    found = claim(tmp_path / "a", "4a")
    assert reason(found) == "CAT-CE: supported; CAT-MIX: contradicted"
    table4(tmp_path / "b", ["from natural"], after | {"cat-ce": LOW - 31})
    assert claim(tmp_path / "b", "4a").result is CONTRADICTED
    del after["cat-ce"]
    table4(tmp_path / "c", ["from natural"], after)
    assert "records missing" in reason(claim(tmp_path / "c", "4a"))


def test_transfer_from_a_source_that_lacks_is_named(tmp_path: Path) -> None:
    table4(tmp_path, ["from madry"], {"madry": LOW, "cat-ce": HIGH})
    weaker = claim(tmp_path, "4b")
    assert of_sources(weaker)["from madry"] == {"madry", "cat-ce"}
    assert any("no transfer from natural at eps 0.03" in text for text in weaker.missing)
    assert claim(tmp_path, "4a").deciding == []


def test_transfer_that_is_stronger_than_white_box_is_caught(tmp_path: Path) -> None:
    table4(tmp_path, ["from natural"], {"cat-ce": HIGH}, transfer=120, white=150)
    assert claim(tmp_path, "4b").result is CONTRADICTED


@pytest.mark.parametrize(
    ("test", "train", "harm", "high"),
    [
        ((307, 307, 276), (N, N, N), SUPPORTED, SUPPORTED),
        ((276, 276, 307), (N, N, 460), CONTRADICTED, CONTRADICTED),
        ((307, 277, 276), (N, N, 488), OPEN, OPEN),
    ],
)
def test_larger_radii_in_training(
    tmp_path: Path, test: Sequence[int], train: Sequence[int], harm: str, high: str
) -> None:
    for number in range(3):
        own = study_of("table1", number, size="full")
        at = attack_radii(own, PGD)[0]
        for run in team(tmp_path, own, [REFERENCE]).values():
            attacked(run, PGD, first(N, test[number]), eps=at, checkpoint="last")
            attacked(run, PGD, first(N, train[number]), eps=at, checkpoint="last", split="train")
            attacked(run, PGD, first(N, N - test[number]), eps=at)
    assert claim(tmp_path, "5a").result is harm
    assert claim(tmp_path, "5b").result is high


def curves(folder: Path, cat: Sequence[int], other: Sequence[int]) -> None:
    for number in (0, 1):
        own = study_of("figure2", number, size="full")
        for (method, _), run in team(folder, own, (*FIGURE_2, *CAT)).items():
            kept = cat if method in CAT else other
            for eps, k in zip(attack_radii(own, PGD), kept, strict=True):
                attacked(run, PGD, first(N, k), eps=eps)


def test_the_curve_must_be_above_wherever_anything_is_left(tmp_path: Path) -> None:
    curves(tmp_path / "up", (400, 390, 380, 370, 360, 200, 20), (370, 360, 350, 340, 330, 170, 19))
    found = claim(tmp_path / "up", "6a")
    assert found.result is SUPPORTED
    assert len(found.deciding) == 2 * len(CAT) * len(FIGURE_2) * 6  # the last is at chance
    assert "The 14 least favourable of 56 rows; claims.csv has all." in page(tmp_path / "up")
    curves(
        tmp_path / "down", (400, 390, 380, 370, 360, 200, 90), (370, 360, 350, 340, 330, 170, 120)
    )
    assert claim(tmp_path / "down", "6a").result is CONTRADICTED


@pytest.mark.parametrize(
    ("cat", "verdict"),
    [((205, 203, 201), SUPPORTED), ((160, 140, 110), CONTRADICTED), ((3, 2, 1), OPEN)],
)
def test_flat_is_flat_above_chance(
    tmp_path: Path, cat: tuple[int, ...], verdict: ClaimResult
) -> None:
    curves(tmp_path, (400, 390, 380, 370, *cat), (370, 360, 350, 340, 330, 170, 19))
    found = claim(tmp_path, "6c")
    assert found.result is verdict
    if verdict is OPEN:
        assert "may be at chance" in reason(found)


@pytest.mark.parametrize(("cat", "verdict"), [(HIGH, SUPPORTED), (LOW - 40, CONTRADICTED)])
def test_clean_accuracy_on_both_networks(tmp_path: Path, cat: int, verdict: ClaimResult) -> None:
    for number in (0, 1):
        clean = dict.fromkeys(FIGURE_2, LOW) | dict.fromkeys(CAT, cat if number == 0 else HIGH)
        accuracies(
            tmp_path,
            study_of("figure2", number, size="full"),
            PGD,
            dict.fromkeys(clean, 0),
            clean=clean,
        )
    found = claim(tmp_path, "6d")
    assert found.result is verdict
    assert len(found.deciding) == 2 * len(CAT) * len(FIGURE_2)


@pytest.mark.parametrize(
    ("n", "why"), [(100, ""), (8, "8 images and 3 seeds cannot show less than")]
)
@pytest.mark.parametrize("cat", [2.0, 9.0, 5.0])
def test_landscapes(tmp_path: Path, cat: float, n: int, why: str) -> None:
    own = study_of("figure3", size="full")
    for (method, _), run in team(tmp_path, own, own.methods).items():
        reach, scale = (cat, 10.0) if method in CAT else (5.0, 1.0)
        # the margin rises the other way round, and its logits are ten times as large in CAT
        margin = scale * surface(-1.0, 10 - reach, n)
        arrays = {"ce": surface(-1.0, reach - 1, n), "margin": margin, "index": np.arange(n)}
        measured(run, own, "landscape", {}, arrays, n=n)
    found, margins = claim(tmp_path, "7a"), claim(tmp_path, "7b")
    if why:
        assert reason(found).startswith(why)
        return
    verdict = {2.0: SUPPORTED, 9.0: CONTRADICTED, 5.0: OPEN}[cat]
    assert found.result is verdict
    assert set(values(found)) == {np.sign(cat - 5)}
    assert (found.deciding[0].first, found.deciding[0].second) == (cat - 1, 4.0)
    assert margins.result is {2.0: CONTRADICTED, 9.0: SUPPORTED, 5.0: OPEN}[cat]


@pytest.mark.parametrize(
    ("many", "loss", "always"),
    [
        (HIGH - 2, SUPPORTED, SUPPORTED),
        (LOW - 40, CONTRADICTED, CONTRADICTED),
        (HIGH - 14, OPEN, SUPPORTED),
    ],
)
def test_steps(tmp_path: Path, many: int, loss: ClaimResult, always: ClaimResult) -> None:
    own = study_of("figure4a", size="full")
    for (method, _), run in team(tmp_path, own, own.methods).items():
        for n in STEPS:
            kept = (many if n == 500 else HIGH) if method in CAT else LOW
            attacked(run, f"pgd-{n}", first(N, kept), eps=own.eps)
    assert claim(tmp_path, "8a").result is loss
    assert claim(tmp_path, "8b").result is always
    assert len(claim(tmp_path, "8b").deciding) == 2 * 2 * len(STEPS)


def ablation(folder: Path, attack: str, **kept: int) -> None:
    methods = {"madry": LOW, "adp-adv": LOW, "adv-ls": LOW, "cat-ce": HIGH}
    asked = methods | {name.replace("_", "-"): k for name, k in kept.items()}
    accuracies(folder, study_of("figure4b", size="full"), attack, asked)


@pytest.mark.parametrize(
    ("alone", "verdict"),
    [
        (LOW, SUPPORTED),
        (LOW - 60, SUPPORTED),  # harm is no boost either
        (LOW + 12, OPEN),  # surely a boost, and surely below 5 points
        (LOW + 23, CONTRADICTED),  # surely a boost, and perhaps above 5 points
    ],
)
def test_no_significant_boost_is_an_equivalence_test(
    tmp_path: Path, alone: int, verdict: ClaimResult
) -> None:
    ablation(tmp_path, PGD, adp_adv=alone)
    found = claim(tmp_path, "9a")
    assert found.result is verdict
    if verdict is OPEN:
        assert reason(found) == "Adp-Adv vs Madry AT: a boost, but of less than 5 points"
    assert claim(tmp_path, "9b").result is SUPPORTED


def test_both_parts_together_must_beat_each_alone(tmp_path: Path) -> None:
    ablation(tmp_path / "a", PGD)
    ablation(tmp_path / "b", PGD, adp_adv=HIGH + 31)
    ablation(tmp_path / "c", AUTOATTACK)
    ablation(tmp_path / "d", AUTOATTACK, cat_ce=LOW - 31)
    assert claim(tmp_path / "a", "9c").result is SUPPORTED
    assert claim(tmp_path / "b", "9c").result is CONTRADICTED
    assert claim(tmp_path / "c", "9d").result is SUPPORTED
    assert claim(tmp_path / "d", "9d").result is CONTRADICTED
    assert claim(tmp_path / "a", "9d").result is ClaimResult.MISSING


@pytest.mark.parametrize(("autoattack", "verdict"), [(100, SUPPORTED), (0, CONTRADICTED)])
def test_labels_alone(tmp_path: Path, autoattack: int, verdict: ClaimResult) -> None:
    own = study_of("figure4b", size="full")
    runs = accuracies(tmp_path, own, PGD, {"natural-ls": 100})
    accuracies(tmp_path, own, AUTOATTACK, {"natural-ls": autoattack}, runs=runs)
    assert claim(tmp_path, "9e").result is verdict


@pytest.mark.parametrize(
    ("fixed", "odd", "verdict"), [(3.0, 3.0, SUPPORTED), (1.0, 1.0, CONTRADICTED), (3.0, 1.0, OPEN)]
)
def test_complexity_needs_all_norms(
    tmp_path: Path, fixed: float, odd: float, verdict: ClaimResult
) -> None:
    for own in load_suite("theory", "full").studies[:4]:
        for (method, seed), run in team(tmp_path, own, own.methods).items():
            log10 = (2.0 if method in CAT else fixed) + 0.001 * seed
            products = {f"log10_product_{name}": log10 for name in COLUMNS}
            if method not in CAT:
                products["log10_product_weights_spectral"] = odd + 0.001 * seed
            measured(run, own, "complexity", products)
    found = claim(tmp_path, "10a")
    assert found.result is verdict
    assert found.deciding[0].value == pytest.approx(fixed - 2)
    assert {f.what.rpartition(" vs ")[2][:6] for f in found.deciding} == {"cat-ce"}
    if verdict is SUPPORTED:
        assert "| 10 [9.9" in page(tmp_path)  # the ratio, not its logarithm


@pytest.mark.parametrize(("cat", "verdict"), [(0.5, SUPPORTED), (0.05, CONTRADICTED), (0.1, OPEN)])
def test_margins(tmp_path: Path, cat: float, verdict: ClaimResult) -> None:
    own = load_suite("theory", "full").studies[-1]
    for (method, _), run in team(tmp_path, own, (*BASELINES, *CAT)).items():
        size = np.full(100, cat if method in CAT else 0.1)
        index = np.arange(100)
        arrays = {"margin": size, "index": index}
        measured(run, own, "bilateral", {}, arrays, n=100, split="train")
        # beside, and the other way round
        measured(run, own, "margins", {}, {"margin_both": 0.1 / size, "index": index}, n=100)
    found = claim(tmp_path, "10b")
    assert found.result is verdict
    assert len(found.deciding) == len(found.evidence) / 2


@pytest.mark.parametrize(
    ("late", "verdict"), [((0, 0, 1), SUPPORTED), ((20, 21, 20), CONTRADICTED), ((9, 10, 11), OPEN)]
)
def test_convergence(tmp_path: Path, late: Sequence[int], verdict: ClaimResult) -> None:
    own = load_suite("theory", "full").studies[-1]
    for method in (REFERENCE, *CAT):
        for seed in SEEDS:
            start = late[seed] if method in CAT else 10
            team(
                tmp_path, own, [method], seeds=[seed], robust=(0.1,) * start + (0.9,) * (40 - start)
            )
    found = claim(tmp_path, "11")
    assert found.result is verdict
    assert values(found) == [pytest.approx(sum(late) / 3 - 10)] * 2


@pytest.mark.parametrize(
    ("passes", "verdict"), [(12.0, SUPPORTED), (22.0, CONTRADICTED), (5.0, SUPPORTED)]
)
def test_cost(tmp_path: Path, passes: float, verdict: ClaimResult) -> None:
    own = study_of("table3", size="full")
    for method in (REFERENCE, *CAT):
        team(tmp_path, own, [method], seeds=[0], passes=passes if method in CAT else 11.0)
    found = claim(tmp_path, "12")
    assert found.result is verdict
    assert [10**value for value in values(found)] == [pytest.approx(passes / 11)] * 2


@pytest.mark.parametrize(
    ("small", "large", "cat", "verdict"),
    [
        (600, 540, 600, SUPPORTED),
        (600, 300, 600, SUPPORTED),  # such samples show no less than 7 points; surely above 5
        (600, 560, 600, SUPPORTED),
        (600, 540, 480, CONTRADICTED),  # CAT is harmed more
        (540, 600, 600, CONTRADICTED),  # the large radius does no harm
        (600, 520, 572, CONTRADICTED),  # CAT is better, but loses too much
        (600, 540, 594, OPEN),
    ],
)
def test_the_plane(tmp_path: Path, small: int, large: int, cat: int, verdict: ClaimResult) -> None:
    within, beyond = load_suite("figure1").studies
    for own, method, right in (
        (within, REFERENCE, small),
        (beyond, REFERENCE, large),
        (beyond, "cat-ce", cat),
    ):
        for run in team(tmp_path, own, [method]).values():
            for checkpoint, k in (("last", right), ("best", 600 - right)):
                kept = first(600, k)
                attacked(run, "clean", kept, clean=kept, eps=own.eps, checkpoint=checkpoint)
    assert claim(tmp_path, "13").result is verdict


@pytest.mark.parametrize(("pgd", "verdict"), [(LOW, SUPPORTED), (LOW + 40, CONTRADICTED)])
def test_earlier_adaptive_methods(tmp_path: Path, pgd: int, verdict: ClaimResult) -> None:
    kept = {"madry": LOW, "mma": pgd, "iaat": LOW}
    table3(tmp_path, kept, clean={"madry": 470, "mma": 505, "iaat": 505})
    found = claim(tmp_path, "14b")
    assert found.result is verdict
    assert len({(e.what, e.detail) for e in found.evidence}) == len(found.evidence) == 4


def test_without_records_every_claim_says_what_to_run() -> None:
    made = make_claims(Records([]))
    assert (made.pages, len(made.numbers["claims"])) == ({}, len(CLAIMS))
    text = claims_page(assess_claims(Records([])))
    for one, found in zip(CLAIMS, assess_claims(Records([])), strict=True):
        assert found.result is (ClaimResult.MISSING if one.suite else ClaimResult.UNTESTED)
        section = text.split(f"## {one.title} ({one.key})\n")[1].split("\n## ")[0]
        seeds = "" if one.suite == "figure1" else " --seeds 0,1,2"  # which has 20
        command = f"No records of its suite: run `bench run --suite {one.suite}{seeds}`."
        assert (command in section) is bool(one.suite)


def test_the_smoke_size_gives_no_verdict_and_a_smaller_one_is_not_the_paper_s(
    tmp_path: Path,
) -> None:
    table3(tmp_path / "tiny", GOOD, size="tiny")
    found, text = claim(tmp_path / "tiny", "1a"), page(tmp_path / "tiny")
    assert found.result is ClaimResult.RAN
    assert verdict_text(found) == "Ran without a verdict"
    section = text.split(" (1a)\n")[1].split("\n## ")[0]
    assert "Verdict" not in section
    assert "supported" not in section
    assert "Size tiny (digits, cnn, 4 epochs): not the paper's." in section
    rows = make_claims(load_records(tmp_path / "tiny")).numbers["claims"]
    assert set(rows["verdict"]) == {""}
    table3(tmp_path / "small", GOOD, size="small")
    assert verdict_text(claim(tmp_path / "small", "1a")) == "**Agrees** at size small on cifar10"
    table3(tmp_path / "worse", everyone(LOW, HIGH), size="small")
    assert verdict_text(claim(tmp_path / "worse", "1a")).startswith("**Disagrees** at size small")
    table3(tmp_path / "full", GOOD)
    assert verdict_text(claim(tmp_path / "full", "1a")) == "**Supported**"
    assert "Comparisons: 14: 14 supported." in page(tmp_path / "full")


def test_the_csv_has_every_comparison_and_why_it_counts(tmp_path: Path) -> None:
    table3(tmp_path, everyone(HIGH, LOW, mart=305), radii=(1.0,) * EPOCHS)
    rows = make_claims(load_records(tmp_path)).numbers["claims"]
    assert set(rows["claim"]) == {one.key for one in CLAIMS}
    own = rows[rows["claim"] == "1a"].set_index("comparison")
    good, close = own.loc["cat-ce vs madry"], own.loc["cat-ce vs mart"]
    assert (good["verdict"], good["admissible"], good["reason"]) == ("supported", "1", "")
    assert (close["verdict"], close["admissible"]) == ("inconclusive", "1")
    assert close["reason"] == "CAT-CE vs MART: not significant"
    assert (good["n"], good["seeds_first"], good["seeds_second"]) == (str(N), "3", "3")
    assert 0 < float(str(good["smallest_detectable"])) < 0.05
    assert (good["size"], good["paper_size"], good["claim_verdict"]) == (
        "full",
        "1",
        "inconclusive",
    )


def test_fast_attacks_do_not_decide_a_claim(tmp_path: Path) -> None:
    for name in TITLES:
        if "-fast" in name:
            table3(tmp_path, dict.fromkeys((*CAT, "madry"), HIGH), name, seeds=(0,))
    assert claim(tmp_path, "1a").deciding == claim(tmp_path, "1c").deciding == []


def test_each_claim_with_a_suite_has_a_test_and_its_texts_are_whole() -> None:
    assert TESTS.keys() == {one.key for one in CLAIMS if one.suite}
    assert len({one.key for one in CLAIMS}) == len(CLAIMS) == 35
    for one in CLAIMS:
        assert all((one.says, one.source, one.measured))
        assert bool(one.rule) == bool(one.suite)
        assert len(one.columns) == 3
        ours = one.says.startswith(("Not a claim of the paper", "Implied by"))
        assert ours or "\u201c" in one.says, f"{one.key} does not quote the paper"


def test_the_claims_on_the_radius_say_what_changes_with_it() -> None:
    attack = {
        name: (own["start"].default, own["step_size"].default)
        for name in ("cat-ce", "adp-adv", "madry", "adv-ls")
        if (own := parameters(method_class(name)))
    }
    assert attack == {
        **dict.fromkeys(("cat-ce", "adp-adv"), ("zero", 0.007)),
        **dict.fromkeys(("madry", "adv-ls"), ("uniform", 2 / 255)),
    }
    measured_on = {one.key: one.measured for one in CLAIMS}
    for key in ("9a", "9c"):
        assert "radius, start and step" in measured_on[key]
        assert "steps of 0.007" in measured_on[key]


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Claims of each kind: supported, contradicted, inconclusive, smoke, without records."""
    folder = tmp_path_factory.mktemp("claims")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.storage.os.fsync", lambda _: None)
        _golden_records(folder)
    made = make_claims(load_records(folder))
    return {"claims.md": made.pages["claims"], "claims.csv": csv_text(made.numbers["claims"], "x")}


def _golden_records(folder: Path) -> None:
    own = study_of("table3", size="full")
    kept = {"madry": LOW, "trades": LOW, "mart": LOW, "cat-ce": HIGH}
    runs = table3(folder, kept)
    table3(folder, kept | {"cat-ce": LOW - 40}, AUTOATTACK, runs=runs)
    for (method, _), run in runs.items():
        for number, alarm in ((3, False), (8, method == "cat-ce")):
            check = ALARM | {"name": f"C{number}: x", "value": 0.9 * alarm}
            measured(run, own, f"C{number}", check, n=32)
    within, beyond = load_suite("figure1").studies
    for study, method, k in (
        (within, "madry", 600),
        (beyond, "madry", 540),
        (beyond, "cat-ce", 600),
    ):
        right = first(600, k)
        for run in team(folder, study, [method]).values():
            attacked(run, "clean", right, clean=right, eps=study.eps, checkpoint="last")
    own = study_of("table1")
    at = attack_radii(own, PGD)[0]
    for run in team(folder, own, ["madry"], seeds=(1,)).values():
        for split, k in (("test", 80), ("train", 119)):
            attacked(run, PGD, first(120, k), eps=at, checkpoint="last", split=split)


@pytest.mark.parametrize("name", ["claims.md", "claims.csv"])
def test_equals_the_golden_text(golden: dict[str, str], name: str) -> None:
    if os.environ.get("REGENERATE_GOLDEN"):
        (GOLDEN / name).write_text(golden[name])
    assert golden[name] == (GOLDEN / name).read_text()


def test_the_page_says_what_is_masked_and_what_is_missing(golden: dict[str, str]) -> None:
    parts = golden["claims.md"].split("\n## ")
    sections = {m[1]: text for text in parts if (m := re.search(r"\((\w+)\)\n", text))}
    assert {one.key for one in CLAIMS} <= sections.keys()
    for text in (
        "| CAT-CE \u2020 vs Madry AT ",
        "alarms on CAT-CE (logit scale; 2 of 14 run)",
        "no alarm on Madry AT (2 of 14 run)",
        "CAT-MIX: no training",
    ):
        assert text in sections["1a"]
    assert "**Result:** **Contradicted**. Comparisons: 3: 3 contradicted." in sections["1c"]
    assert "**Result:** **Supported**. Comparisons: 3: 3 supported." in sections["13"]
    text = golden["claims.md"]
    assert text.index("| Claim") < text.index("(1a)\n") < text.index("## How a verdict")
