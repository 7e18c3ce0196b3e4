from __future__ import annotations

import pytest

from bench.report.complexity_table import COMPLEXITY_CLAIM
from bench.report.published import CAVEAT, TABLE_2_NOTES, TABLE_3, differences


def test_the_values_are_the_paper_s_in_its_order() -> None:
    """Typed again from the paper's Table 3, in percent; None where it has a cross."""
    assert [(name, *(v and 100 * v for v in row.values)) for name, row in TABLE_3.items()] == [
        pytest.approx(row)
        for row in (
            ("natural", 95.93, 0, 0),
            ("madry", 87.30, 52.68, 50.73),
            ("dynamic", 84.51, 55.03, 51.98),
            ("trades", 84.22, 56.40, 51.98),
            ("bilateral", 91.00, 57.5, 56.2),
            ("mma", 84.36, 47.18, None),
            ("mart", 84.17, 58.56, 54.58),
            ("iaat", 91.34, 48.53, 56.80),
            ("cat-ce", 93.48, 73.38, 61.88),
            ("cat-mix", 89.61, 73.16, 71.67),
        )
    ]


def test_values_are_fractions_and_robust_accuracy_is_below_clean() -> None:
    for name, row in TABLE_3.items():
        known = [value for value in row.values if value is not None]
        assert all(0 < value < 1 for value in known) or name == "natural", name
        assert row.clean == max(known), name
    assert TABLE_3["natural"].values == (0.9593, 0.0, 0.0)


def test_the_rows_with_defects_say_so() -> None:
    assert TABLE_3["trades"].cw == TABLE_3["dynamic"].cw
    assert "slip" in TABLE_3["trades"].notes[0]
    for name in ("madry", "dynamic", "iaat", "mma", "bilateral", "cat-ce", "cat-mix"):
        assert TABLE_3[name].notes, name
    for name, row in TABLE_3.items():
        assert None not in row.values or "no C&W value" in row.notes[0], name


def test_what_the_paper_s_table_states_of_its_attacks() -> None:
    """Its marks are (20), (10) and (*), on PGD and C&W."""
    unstated = [name for name, row in TABLE_3.items() if any("not state" in n for n in row.notes)]
    assert unstated == ["madry", "dynamic", "mma"]
    restarts = [name for name, row in TABLE_3.items() if any("restarts" in n for n in row.notes)]
    assert restarts == ["bilateral", "iaat", "cat-ce", "cat-mix"]
    assert "20 steps of PGD for TRADES, Bilateral, MART and CAT, 10 for IAAT" in CAVEAT
    assert "restarts for Bilateral, IAAT and CAT" in CAVEAT
    assert "eps 8/255 for all" in CAVEAT
    assert "PGD-10" in TABLE_3["iaat"].notes[0]


def test_the_differences_of_the_paper_s_table_of_losses() -> None:
    assert "swaps the arguments" in TABLE_2_NOTES["mart"]
    assert "BCE inside the maximum" in TABLE_2_NOTES["mart"]
    assert "no weights" in TABLE_2_NOTES["mma"]
    assert "fixed eps" in TABLE_2_NOTES["mma"]


def test_the_paper_s_complexity_ratios_name_no_network() -> None:
    assert "neither the network nor the norm" in COMPLEXITY_CLAIM


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (("cifar10", "wrn-34-10", 8 / 255), []),
        (("cifar10-q75", "wrn-34-10", 8 / 255), ["another data set"]),
        (("cifar10", "vgg-16", 8 / 255), ["another network"]),
        (("cifar10", "wrn-34-10", 0.031), ["another eps"]),
        (("digits", "cnn", None), ["another data set", "another network", "another eps"]),
    ],
)
def test_differences(setting: tuple[str, str, float | None], expected: list[str]) -> None:
    assert differences(*setting) == expected
