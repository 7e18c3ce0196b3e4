from __future__ import annotations

import pytest

from bench.report.published import TABLE_3, differences


def test_values_are_fractions_and_robust_accuracy_is_below_clean() -> None:
    for name, row in TABLE_3.items():
        known = [value for value in row.values if value is not None]
        assert all(0 < value < 1 for value in known), name
        if len(known) == 3:
            assert row.clean == max(known), name


def test_the_rows_with_defects_say_so() -> None:
    assert TABLE_3["trades"].cw == TABLE_3["dynamic"].cw
    assert "slip" in TABLE_3["trades"].notes[0]
    for name in ("madry", "dynamic", "iaat", "mma", "bilateral", "cat-ce", "cat-mix"):
        assert TABLE_3[name].notes, name
    for name, row in TABLE_3.items():
        assert None not in row.values or name == "natural" or row.notes, name


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
