"""The rules behind verdicts: each is reached, and a planted wrong direction is caught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.papers.cat.claim_rules import (
    ABOVE,
    BELOW,
    NO_BOOST,
    ClaimResult,
    Evidence,
    Rule,
    at_most,
    judged,
    tally,
    untrained,
    verdict,
)
from bench.papers.cat.claim_tests import epochs_to_level
from bench.records import RunRecord

SUPPORTED, CONTRADICTED = ClaimResult.SUPPORTED, ClaimResult.CONTRADICTED
OPEN, MISSING = ClaimResult.INCONCLUSIVE, ClaimResult.MISSING


def evidence(value: float = 0.02, half: float = 0.01, **others: Any) -> Evidence:
    """Evidence of three seeds a side, with a 95% interval of about value +- half."""
    sample = np.full((3, 3, 10_000), value)
    sample[..., ::2] += 50 * half
    sample[..., 1::2] -= 50 * half
    asked: dict[str, Any] = {"what": "a vs b", "n": 10_000, "seeds": (3, 3)}
    return Evidence(value=value, sample=sample, **(asked | others))


@pytest.mark.parametrize(
    ("rule", "value", "result"),
    [
        (ABOVE, 0.02, SUPPORTED),
        (ABOVE, -0.02, CONTRADICTED),
        (ABOVE, 0.005, OPEN),
        (BELOW, -0.02, SUPPORTED),
        (BELOW, 0.02, CONTRADICTED),
        (BELOW, 0.005, OPEN),
        (at_most(0.03), 0.015, SUPPORTED),
        (at_most(0.03), -0.5, SUPPORTED),
        (at_most(0.03), 0.045, CONTRADICTED),
        (at_most(0.03), 0.025, OPEN),
        (at_most(0.03), 0.035, OPEN),
        (Rule(0.95), 0.97, SUPPORTED),
        (Rule(0.95), 0.93, CONTRADICTED),
        (Rule(0.95), 0.945, OPEN),
        (NO_BOOST, 0.0, SUPPORTED),
        (NO_BOOST, -0.2, SUPPORTED),
        (NO_BOOST, 0.02, OPEN),  # surely a boost, surely below 5 points
        (NO_BOOST, 0.045, CONTRADICTED),  # surely a boost, perhaps of 5 points
        (NO_BOOST, 0.2, CONTRADICTED),
    ],
)
def test_the_value_must_be_surely_on_one_side(
    rule: Rule, value: float, result: ClaimResult
) -> None:
    (found,) = judged([evidence(value, rule=rule)])
    assert found.result is result
    assert (found.reason == "") is (result is not OPEN)
    assert found.interval is not None
    assert found.interval[1] - found.interval[0] == pytest.approx(0.02, rel=0.1)


def test_holm_s_correction_is_over_the_claim_with_what_it_lacks() -> None:
    close = evidence(0.0115)  # p = 0.02
    assert judged([close])[0].result is SUPPORTED
    assert judged([close] * 3)[0].result is OPEN
    assert judged([close], n_missing=2)[0].result is OPEN
    context = replace(close, decides=False)
    assert judged([close, context, context])[0].result is SUPPORTED
    assert judged([context])[0].p is None


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"untrained": "a untrained: radius 0.46 eps"}, "a untrained: radius 0.46 eps"),
        (
            {"value": 0.015, "limit": 0.01},
            "10000 images and 3 seeds cannot show less than 1.4 points; significant, but not by "
            "1.0 points at the corrected level",
        ),
        ({"seeds": (3, 2)}, "2 seeds: holds for these networks only"),
        ({"seeds": (1, 1), "value": -0.02}, "1 seed: fails for these networks only"),
        ({"seeds": (1, 1), "value": 0.0}, "1 seed: undecided for these networks only"),
        ({"seeds": (1, 1), "what": "a"}, "1 seed: holds for this network only"),
        ({"value": 0.0}, "a vs b: not significant"),
        ({"doubt": "a may be at chance"}, "a may be at chance"),
        ({"alarms": ("a (C7)", "")}, "masking alarm on a (C7)"),
        ({"alarms": ("", "b (C7)"), "value": -0.02}, "masking alarm on b (C7)"),
    ],
)
def test_each_reason_alone_keeps_a_comparison_from_deciding(
    others: dict[str, Any], reason: str
) -> None:
    (found,) = judged([evidence(**others)])
    assert (found.result, found.reason) == (OPEN, reason)
    outright = found.result is OPEN and others.keys() & {"untrained", "limit", "seeds"}
    assert found.admissible is not bool(outright)


def few_images(right: int, wrong: int, n: int, **others: Any) -> Evidence:
    """Three equal seeds a side; the first is better on `right` images and worse on `wrong`."""
    image = np.zeros(n)
    image[:right], image[n - wrong :] = 1.0, -1.0
    sample = np.broadcast_to(image, (3, 3, n))
    asked: dict[str, Any] = {"what": "a vs b", "n": n, "seeds": (3, 3)}
    return Evidence(value=float(image.mean()), sample=sample, **(asked | others))


@pytest.mark.parametrize(
    ("made", "result"),
    [
        (few_images(2, 1, 40), OPEN),  # small
        (few_images(7, 0, 40), OPEN),  # 18 points: surely above 0, perhaps below 5
        (few_images(20, 2, 40), SUPPORTED),  # 45 points: surely above 5
        (few_images(2, 20, 40), CONTRADICTED),
        (few_images(20, 2, 40, limit=0.27), OPEN),  # the paper's own effect: perhaps below it
        (few_images(2, 20, 40, limit=0.27), OPEN),
        (few_images(20, 2, 40, rule=at_most(0.03)), CONTRADICTED),
        (few_images(2, 20, 40, rule=at_most(0.03)), SUPPORTED),
        (few_images(9, 1, 40, rule=at_most(0.15)), OPEN),
        (few_images(20, 2, 40, rule=NO_BOOST), CONTRADICTED),
        (few_images(2, 20, 40, rule=NO_BOOST), SUPPORTED),
        (few_images(9, 0, 40, rule=NO_BOOST), CONTRADICTED),  # surely above 0 by 5 points
        (few_images(0, 7, 40, rule=NO_BOOST), SUPPORTED),  # surely below 5 points by 5
        (few_images(7, 0, 40, rule=NO_BOOST), OPEN),
        (few_images(0, 4, 40, rule=NO_BOOST), OPEN),
        (few_images(8, 0, 8, limit=0.3), OPEN),  # (1.3 / 2)^8 = 0.03, above 2.5%
        (few_images(9, 0, 9, limit=0.3), SUPPORTED),
        (few_images(4, 0, 4), OPEN),  # Student's test is sure, an exact one has p = 0.125
        (few_images(0, 4, 4), OPEN),
    ],
)
def test_a_small_sample_decides_only_what_is_surely_beyond_the_limit(
    made: Evidence, result: ClaimResult
) -> None:
    (found,) = judged([made])
    assert found.detectable is not None
    assert found.detectable > found.limit
    assert found.result is result
    assert found.admissible is (result is not OPEN)
    assert ("cannot show less than" in found.reason) is (result is OPEN)


def test_surely_beyond_the_limit_is_judged_at_the_level_of_the_claim() -> None:
    made = few_images(12, 0, 40)
    assert judged([made])[0].result is SUPPORTED
    (found,) = judged([made], n_missing=30)
    assert found.result is OPEN
    assert found.p is not None
    assert found.p < 0.05  # surely above 0 all the same
    assert found.interval is not None
    assert found.corrected is not None
    assert found.corrected[0] < found.limit < found.interval[0]


def test_an_alarm_does_not_protect_the_side_that_has_it() -> None:
    (below,) = judged([evidence(-0.02, alarms=("a (C7)", ""))])
    (above,) = judged([evidence(0.02, alarms=("", "b (C7)"))])
    assert (below.result, above.result) == (CONTRADICTED, SUPPORTED)
    # two attacks on one network: a gap that is found is there, one that is not proves nothing
    gap: dict[str, Any] = {"what": "a", "alarms": ("a (C7)",) * 2, "rule": at_most(0.03)}
    assert judged([evidence(0.06, **gap)])[0].result is CONTRADICTED
    assert judged([evidence(0.0, **gap)])[0].reason == "masking alarm on a (C7)"


def test_a_value_without_error_needs_no_seeds() -> None:
    counted = Evidence(what="a", value=0.1, unit="times", rule=at_most(0.1))
    assert judged([counted])[0].result is SUPPORTED
    assert judged([replace(counted, value=0.11)])[0].result is CONTRADICTED
    known = replace(counted, value=0.11, sample=np.array([[0.11]]), what="a vs b")
    assert judged([known])[0].reason == "1 seed: fails for these networks only"


def reading(result: ClaimResult, name: str = "", why: str = "") -> Evidence:
    return Evidence(what="a vs b", value=0.0, result=result, reading=name, reason=why)


def test_one_contradiction_refutes_and_all_must_support() -> None:
    good, bad, open_ = reading(SUPPORTED), reading(CONTRADICTED), reading(OPEN, why="x")
    assert verdict([good, good]) == (SUPPORTED, "")
    assert verdict([good, bad, open_]) == (CONTRADICTED, "")
    assert verdict([good, bad], ["m"]) == (CONTRADICTED, "")
    assert verdict([good], ["m"]) == (OPEN, "1 record missing")
    assert verdict([good, open_, open_]) == (OPEN, "x")
    assert verdict([replace(bad, decides=False), good]) == (SUPPORTED, "")
    assert verdict([replace(bad, decides=False)]) == (MISSING, "")
    few = [
        replace(reading(OPEN, why=f"n cannot show less than {k} points"), detectable=float(k))
        for k in (7, 9, 8)
    ]
    assert verdict(few) == (OPEN, "n cannot show less than 9 points")  # the worst, once
    many = [reading(OPEN, why=why) for why in "abcd"]
    assert verdict(many) == (OPEN, "a; b; 2 more reasons")


def test_readings_must_agree() -> None:
    for result in (SUPPORTED, CONTRADICTED):
        assert verdict([reading(result, "x"), reading(result, "y")])[0] is result
    split = verdict([reading(SUPPORTED, "x"), reading(CONTRADICTED, "y")])
    assert split == (OPEN, "x: supported; y: contradicted")
    half = [reading(CONTRADICTED, "x"), reading(OPEN, "y", "why")]
    assert verdict(half) == (OPEN, "why")
    assert verdict([reading(CONTRADICTED, "x")], ["y: no training"])[0] is OPEN


def test_tally() -> None:
    found = [reading(result) for result in (SUPPORTED, CONTRADICTED, CONTRADICTED, OPEN)]
    assert tally(found) == "1 supported, 2 contradicted, 1 inconclusive"
    assert tally([]) == ""


def run(
    robust: Sequence[float | None],
    medians: Sequence[float] = (),
    name: str = "radius",
    **params: Any,
) -> RunRecord:
    """A training at eps 8/255 with `medians` of all images, in units of eps."""
    history: list[dict[str, Any]] = [
        {"epoch": epoch, "val_robust": value, "n_val": 100} for epoch, value in enumerate(robust)
    ]
    for row, median in zip(history, medians, strict=False):
        row[f"{name}_quantiles"] = [median * 8 / 255] * 7
    return RunRecord(
        run_id="x",
        path=Path(),
        kind="train",
        spec={"eps": 8 / 255, "params": params},
        card={},
        provenance={},
        train=None,
        history=tuple(history),
        evaluations=(),
    )


FLAT = (0.5,) * 20


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (run(FLAT), ""),
        (run(FLAT, (1.0,) * 20), ""),
        (run(FLAT, (0.46,) * 20), "median radius 0.46 eps, largest 0.46 eps"),
        (run(FLAT, (0.5,) * 20, eps_max=4 / 255), ""),  # its own bound
        (run(FLAT, (1.0,) * 20, eps_max=None), ""),
        (run(FLAT, (1.0,) * 17 + (0.979, 1.0, 1.0)), "radius still moves by 2.1% of eps"),
        (run(FLAT, (1.0,) * 17 + (0.981, 1.0, 1.0)), ""),
        (run(FLAT, (0.5, *(1.0,) * 19)), ""),  # long before the last tenth
        (run(FLAT, (0.3,) * 20, "margin"), ""),  # an outcome, not a schedule
        (run(FLAT, (0.3,) * 19 + (0.33,), "margin"), "margin still moves by 3.0% of eps"),
        # half of Wilson's half-width at 50 of 100 is 4.8 points
        (run((*(0.5,) * 16, 0.51, 0.52, 0.53, 0.54)), ""),
        (run((*(0.5,) * 16, 0.51, 0.52, 0.53, 0.56)), "robust accuracy still rises, by 6.0 points"),
        (run((*(0.6,) * 16, 0.5, 0.5, 0.5, 0.5)), ""),  # overfitting is not a rise
        (run((None,) * 20), "no robust validation accuracy on record"),
        (run((0.5,)), "no robust validation accuracy on record"),
    ],
)
def test_a_training_counts_once_it_has_reached_what_it_is_about(
    made: RunRecord, reason: str
) -> None:
    assert untrained([made]) == reason


def test_every_seed_must_have_its_radius_and_the_mean_its_plateau() -> None:
    good, short = run(FLAT, (1.0,) * 20), run(FLAT, (0.6,) * 20)
    assert untrained([good, short]) == "median radius 0.60 eps, largest 0.60 eps"
    noisy = run((*(0.5,) * 19, 0.56))
    assert untrained([noisy]) != ""
    assert untrained([noisy, run(FLAT)]) == ""
    assert untrained([]) == ""


def test_epochs_to_a_level() -> None:
    history = [{"epoch": e, "val_robust": v} for e, v in enumerate((None, 0.42, 0.5, 0.7))]
    assert [epochs_to_level(history, level) for level in (0.4, 0.5, 0.6, 0.9)] == [2, 3, 4, 5]
