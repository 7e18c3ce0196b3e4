"""Masking checks through the command line: one file each, made once, mended where damaged."""

from pathlib import Path

import pytest

from bench.evaluation.checks import CHECKS
from bench.records import RunRecord, load_records
from tests.commands import done, files, linear_model

pytestmark = pytest.mark.slow

QUICK = ("C2", "C9", "C12", "C13")
"""Two of them need the undefended network."""
ASKED = ["--checks", "--check-size", "20", "--attacks", "clean", "--test-size", "20", "--quiet"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: CHECKS[name] for name in QUICK}
    monkeypatch.setattr("bench.experiments.evaluation_specs.CHECKS", few)


def evaluate(results: Path, *arguments: str) -> RunRecord:
    """The record of what was evaluated."""
    done("evaluate", *arguments, "--results", results, *ASKED)
    kind = "model" if "--model" in arguments else "train"
    return next(r for r in load_records(results) if r.kind == kind and r.measures)


def test_checks_are_made_once_and_mended(results: Path) -> None:
    (run_id,) = (p.name for p in results.iterdir())
    record = evaluate(results, run_id)
    assert record.run_id == run_id
    assert sorted(m.spec.name for m in record.measures) == sorted(QUICK)
    for measure in record.measures:
        assert measure.spec.n_examples == 20
        assert isinstance(measure.values["alarm"], bool)
        assert measure.values["value"] is not None
        assert measure.values["threshold"] is not None
    twins = {s for m in record.measures for s in m.spec.surrogates}
    (twin,) = (r for r in load_records(results) if r.run_id in twins)
    assert (twin.method, twin.seed) == ("natural", 1)  # trained for them, never the network itself

    before = files(results)
    evaluate(results, run_id)
    assert files(results) == before

    archive = record.path / "measures" / "best.npz"
    content = archive.read_bytes()
    place = content.index(b"facts.json", content.index(b"C13-")) + 20  # inside what it says
    archive.write_bytes(content[:place] + b"\xff" * 8 + content[place + 8 :])
    (damage,) = load_records(results).damaged
    assert "C13-" in damage.reason
    mended = evaluate(results, run_id)
    assert [m.values for m in mended.measures] == [m.values for m in record.measures]
    assert archive.with_name("best.npz.damaged").exists()
    assert not load_records(results).damaged
    after = files(results)
    assert {p for p in before if after[p] != before[p]} == {archive}


def test_an_outside_model_is_compared_with_the_surrogate_that_is_named(
    results: Path, tmp_path: Path
) -> None:
    (run_id,) = (p.name for p in results.iterdir())
    weights = ["--weights", str(tmp_path / "0.pt"), "--dataset", "digits"]
    model = [*linear_model(tmp_path, 1), *weights]
    alone = evaluate(results, *model)
    assert sorted(m.spec.name for m in alone.measures) == ["C13", "C9"]
    assert not any(m.spec.surrogates for m in alone.measures)
    beside = evaluate(results, *model, "--surrogate", run_id)
    with_twin = [m.spec.name for m in beside.measures if m.spec.surrogates]
    assert {"C2", "C12"} <= set(with_twin)
    assert {s for m in beside.measures for s in m.spec.surrogates} == {run_id}
