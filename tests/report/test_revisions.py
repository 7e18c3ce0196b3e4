"""Tables that join runs say whether the same code made them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.papers.cat.claim_page import make_claims
from bench.records import load_records
from bench.records.spec import GIVEN
from bench.report.cost import cost_facts
from bench.report.revisions import UNRECORDED, section_code
from bench.report.table3 import brief, facts
from tests.report.made import evaluate, model_run, section_of, train_run
from tests.report.made_suite import make_suite

ONE, OTHER = "1a2b3c4" + 33 * "0", "5d6e7f8" + 33 * "0"
CAVEAT = "; differences between these rows may come from the code."


def code(revision: str = ONE, clean: bool | None = True, **hashes: str) -> dict[str, Any]:
    return {"code": {"version": "0.1.0", "revision": revision, "clean": clean, **hashes}}


def trained(training: str = "aa", method: str = "mm", **values: Any) -> dict[str, Any]:
    return code(training_sha256=training, method_sha256=method, **values)


def made(
    results: Path,
    method: str,
    training: Mapping[str, Any] | None,
    evaluation: Mapping[str, Any] | None,
    *,
    seed: int = 0,
    attack: str = "pgd-20",
) -> None:
    run = train_run(results, method, seed=seed, provenance=training)
    evaluate(run, attack, 0.5, 20, info=evaluation)


def told(results: Path) -> list[str]:
    """Return what the table says, as README's does."""
    section = section_of(results)
    lines = section_code(section)
    assert facts(section)[-len(lines) :] == lines
    assert " ".join(lines) in brief(load_records(results), "results")
    return lines


def told_of_cost(results: Path) -> str:
    return cost_facts(section_of(results), "results")[-1]


def both(results: Path, training: Mapping[str, Any] | None, evaluation: Any) -> list[str]:
    """Two methods of the same code."""
    for method in ("madry", "trades"):
        made(results, method, training, evaluation)
    return told(results)


def test_records_from_before_code_was_recorded_say_so_once(tmp_path: Path) -> None:
    assert both(tmp_path, None, None) == [UNRECORDED]
    assert told_of_cost(tmp_path) == UNRECORDED


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "version 0.1.0 of the code, revision 1a2b3c4"),
        ({"clean": False}, "version 0.1.0 of the code, revision 1a2b3c4 with uncommitted changes"),
        ({"clean": None}, "version 0.1.0 of the code, revision 1a2b3c4"),
        ({"revision": "", "clean": None}, "version 0.1.0 without a revision"),
    ],
)
def test_the_same_code_is_named_once(values: dict[str, Any], text: str, tmp_path: Path) -> None:
    evaluation = code(evaluation_sha256="ee", **values)
    both(tmp_path, trained(**values), evaluation)
    outside = model_run(tmp_path)
    evaluate(outside, "pgd-20", 0.5, 20, checkpoint=GIVEN, info=evaluation)
    assert told(tmp_path) == [f"Made by {text}."]
    assert told_of_cost(tmp_path) == f"Made by {text}."


@pytest.mark.parametrize(
    ("evaluation", "attacked"),
    [
        (code(OTHER, evaluation_sha256="ee"), "version 0.1.0 of the code, revision 5d6e7f8."),
        (None, "code whose revision was not recorded."),
    ],
)
def test_attacks_by_other_code_than_the_trainings_are_told_apart(
    evaluation: Any, attacked: str, tmp_path: Path
) -> None:
    one = "version 0.1.0 of the code, revision 1a2b3c4."
    assert both(tmp_path, trained(), evaluation) == [f"Trained by {one}", f"Attacked by {attacked}"]
    assert told_of_cost(tmp_path) == f"Made by {one}"


def test_rows_by_different_code_are_named_with_their_revisions(tmp_path: Path) -> None:
    evaluation = code(evaluation_sha256="ee")
    made(tmp_path, "madry", trained(), evaluation)
    made(tmp_path, "trades", trained(), evaluation)
    made(tmp_path, "mart", trained("bb", revision=OTHER, clean=False), evaluation)
    made(tmp_path, "iaat", None, evaluation)
    mixed = (
        "Trained by different versions of the code: revision 1a2b3c4 (madry, trades), "
        f"revision 5d6e7f8 with uncommitted changes (mart), unknown (iaat){CAVEAT}"
    )
    assert told(tmp_path) == [mixed, "Attacked by version 0.1.0 of the code, revision 1a2b3c4."]
    assert told_of_cost(tmp_path) == mixed


def test_attacks_of_one_row_by_different_code_are_named(tmp_path: Path) -> None:
    old, new = (code(r, evaluation_sha256=h) for r, h in ((ONE, "ee"), (OTHER, "ff")))
    both(tmp_path, trained(), old)
    made(tmp_path, "trades", trained(), new, attack="autoattack")
    run = train_run(tmp_path, "trades", provenance=trained())
    evaluate(run, "pgd-20", 0.5, 20, eps=0.5, info=code(evaluation_sha256="other radius"))
    assert told(tmp_path)[1] == (
        "Attacked by different versions of the code: revision 1a2b3c4 (madry, trades, pgd-20), "
        f"revision 5d6e7f8 (trades, autoattack){CAVEAT}"
    )


def test_the_front_page_does_not_ask_for_last_checkpoints(tmp_path: Path) -> None:
    made(tmp_path, "madry", trained(), code(evaluation_sha256="ee"))
    last = train_run(tmp_path, "madry", provenance=trained())
    other = code(OTHER, evaluation_sha256="ff")
    evaluate(last, "pgd-20", 0.5, 20, checkpoint="last", info=other)
    section = section_of(tmp_path)
    assert "Attacked by different versions" in section_code(section)[1]
    assert "revision 1a2b3c4." in brief(load_records(tmp_path), "results")
    assert "5d6e7f8" not in brief(load_records(tmp_path), "results")


def test_seeds_of_one_row_by_different_code_are_named(tmp_path: Path) -> None:
    evaluation = code(evaluation_sha256="ee")
    made(tmp_path, "madry", trained(), evaluation, seed=0)
    made(tmp_path, "madry", trained("bb", revision=OTHER), evaluation, seed=1)
    made(tmp_path, "trades", trained(), evaluation)
    assert told(tmp_path)[0] == (
        "Trained by different versions of the code: revision 1a2b3c4 (madry, seed 0, trades), "
        f"revision 5d6e7f8 (madry, seed 1){CAVEAT}"
    )


def test_code_of_one_revision_that_differs_is_told_by_its_hash(tmp_path: Path) -> None:
    evaluation = code(evaluation_sha256="ee")
    for method, own in (("madry", "a" * 16), ("trades", "b" * 16)):
        made(tmp_path, method, trained(own, clean=False), evaluation)
    text = "revision 1a2b3c4 with uncommitted changes, code"
    assert told(tmp_path)[0] == (
        f"Trained by different versions of the code: {text} aaaaaaa (madry), "
        f"{text} bbbbbbb (trades){CAVEAT}"
    )


def test_hashes_that_are_declared_equal_are_the_same_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = code(evaluation_sha256="ee")
    made(tmp_path, "madry", trained(), evaluation)
    made(tmp_path, "trades", trained("bb", revision=OTHER), evaluation)
    assert "different versions" in told(tmp_path)[0]
    equal = {"bb": "aa"}
    monkeypatch.setattr("bench.report.revisions.canonical", lambda h: equal.get(h, h))
    both = "revision 1a2b3c4 and revision 5d6e7f8 (no difference that matters here)"
    assert told(tmp_path) == [
        f"Trained by version 0.1.0 of the code, {both}.",
        "Attacked by version 0.1.0 of the code, revision 1a2b3c4.",
    ]


def test_seeds_with_different_files_of_their_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = code(evaluation_sha256="ee")
    made(tmp_path, "madry", trained(), evaluation, seed=0)
    made(tmp_path, "madry", trained(method="nn", revision=OTHER), evaluation, seed=1)
    made(tmp_path, "trades", trained(method="tt"), evaluation)
    assert told(tmp_path)[-1] == (
        "The seeds of madry were trained by different versions of its method: revision 1a2b3c4 "
        "(seed 0), revision 5d6e7f8 (seed 1)."
    )
    monkeypatch.setattr("bench.report.revisions.canonical", lambda h: "mm" if h == "nn" else h)
    assert not any("of its method" in line for line in told(tmp_path))


def test_the_claims_say_once_what_holds_for_all(tmp_path: Path) -> None:
    make_suite(tmp_path, "table4")
    assert make_claims(load_records(tmp_path)).pages["claims"].count(UNRECORDED) == 1


def test_a_claim_says_where_its_own_models_are_by_different_code(tmp_path: Path) -> None:
    make_suite(tmp_path, "table4")
    make_suite(tmp_path, "table1", provenance=trained())
    text = make_claims(load_records(tmp_path)).pages["claims"]
    parts = text.split("\n## ")[1:]
    by_key = {part.partition("\n")[0].rpartition("(")[2].rstrip(")"): part for part in parts}
    assert f"\n- {UNRECORDED}" in by_key["4b"]
    assert "\n- Trained by version 0.1.0 of the code, revision 1a2b3c4." in by_key["5a"]
    assert "\n- Attacked by code whose revision was not recorded." in by_key["5a"]
    assert UNRECORDED not in text.split("\n## ")[0]


def test_a_table_notes_that_only_some_attacks_searched_in_tf32(tmp_path: Path) -> None:
    same = code(evaluation_sha256="ee")
    made(tmp_path, "madry", trained(), same | {"tf32": ["convolutions"]})
    assert len(told(tmp_path)) == 1
    made(tmp_path, "trades", trained(), same)
    assert told(tmp_path)[1:] == [
        "Attacks searched in TF32 on a GPU for madry, pgd-20, and in exact fp32 for trades, "
        "pgd-20; every image was judged in exact fp32."
    ]
