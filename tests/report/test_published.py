from __future__ import annotations

from typing import Any

import pytest

from bench.errors import ConfigError
from bench.report.published import published

CAT = published("cat")


def test_the_values_are_the_paper_s_in_its_order() -> None:
    """Typed again from the paper's Table 3, in percent; None where it has a cross."""
    assert [(name, *(v and 100 * v for v in row.values)) for name, row in CAT.table3.items()] == [
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
    assert CAT.order == tuple(CAT.table3)


def test_the_rows_with_defects_say_so() -> None:
    rows = CAT.table3
    assert rows["trades"].cw == rows["dynamic"].cw
    assert "slip" in rows["trades"].notes[0]
    for name in ("madry", "dynamic", "iaat", "mma", "bilateral", "cat-ce", "cat-mix"):
        assert rows[name].notes, name
    for name, row in rows.items():
        assert None not in row.values or "no C&W value" in row.notes[0], name


def test_what_the_paper_s_table_states_of_its_attacks() -> None:
    """Its marks are (20), (10) and (*), on PGD and C&W."""
    rows = CAT.table3
    unstated = [name for name, row in rows.items() if any("not state" in n for n in row.notes)]
    assert unstated == ["madry", "dynamic", "mma"]
    restarts = [name for name, row in rows.items() if any("restarts" in n for n in row.notes)]
    assert restarts == ["bilateral", "iaat", "cat-ce", "cat-mix"]
    assert "20 steps of PGD for TRADES, Bilateral, MART and CAT, 10 for IAAT" in CAT.caveat
    assert "restarts for Bilateral, IAAT and CAT" in CAT.caveat
    assert "eps 8/255 for all" in CAT.caveat
    assert "PGD-10" in rows["iaat"].notes[0]


def test_what_only_the_paper_s_own_artefacts_read() -> None:
    losses = CAT.more["table2"]
    assert "swaps the arguments" in losses["mart"]
    assert "BCE inside the maximum" in losses["mart"]
    assert "no weights" in losses["mma"]
    assert "fixed eps" in losses["mma"]
    assert "neither the network nor the norm" in CAT.more["complexity"]["claim"]
    # typed again from Tables 1 and 4
    rows = [[row["test"], row["train"]] for row in CAT.more["table1"]["rows"]]
    assert rows == [[0.6979, 0.9996], [0.6906, 0.9999], [0.6604, 0.9916]]
    transfer = CAT.more["table4"]
    assert transfer["vgg-16"] == {"madry": 0.7913, "trades": 0.8353, "cat": 0.8658}
    assert transfer["wrn-34-10"] == {"madry": 0.8584, "trades": 0.8390, "cat": 0.8866}


def test_an_unknown_paper_is_one_line() -> None:
    with pytest.raises(ConfigError, match="unknown paper 'dog'"):
        published("dog")


STATED = {
    "epochs": 200, "batch_size": 128, "lr": 0.1, "milestones": [0.4, 0.7, 0.9], "pad": 4,
    "flip": True, "eps": None,
}  # fmt: skip
"""The paper's recipe as a record of CIFAR-10 holds it."""


@pytest.mark.parametrize(
    ("setting", "recipe", "expected"),
    [
        (("cifar10", "wrn-34-10", 8 / 255), {}, []),
        (("cifar10-q75", "wrn-34-10", 8 / 255), {}, ["data set"]),
        (("cifar10", "vgg-16", 8 / 255), {"lr": 0.01}, ["network"]),
        (("cifar10", "wrn-34-10", 0.031), {}, ["eps"]),
        (("cifar10", "wrn-34-10", 8 / 255), {"epochs": 110}, ["recipe"]),
        (("cifar10", "wrn-34-10", 8 / 255), {"decay": "weights"}, ["recipe"]),
        (
            ("digits", "cnn", None),
            {"milestones": [0.5]},
            ["data set", "network", "eps", "recipe"],
        ),
    ],
)
def test_differences(
    setting: tuple[str, str, float | None], recipe: dict[str, Any], expected: list[str]
) -> None:
    assert CAT.differences(*setting, "madry", STATED | recipe) == expected
