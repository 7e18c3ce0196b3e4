"""What belongs to a suite is planned, not guessed: the same run ids, whatever the command said."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import RecordError
from bench.experiments.plan import make_plan, make_plans, suite_manifests
from bench.experiments.study import AttackConfig, Study, changed
from bench.experiments.suite import load_suite
from bench.records import load_records
from bench.records.manifest import Manifest, PlannedRun, add_to_manifests, load_manifest
from tests.commands import done

RESULTS = Path(__file__).parent.parent.parent / "results"
FIGURE4A = load_suite("figure4a", "tiny").only()


def owners(study: Study) -> dict[str, set[str]]:
    """Suite -> the methods of its runs, for a plan of one study."""
    found = suite_manifests(make_plan(study))
    return {f"{m.suite}@{m.size}": {run.method for run in m.runs} for m in found}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "suite", "size"),
    [("digits", "digits", None), ("smoke", "paper", "tiny"), ("precision", "precision", None)],
)
def test_committed_manifests_are_what_their_suites_plan(
    folder: str, suite: str, size: str | None
) -> None:
    """A changed default of a method, an attack or a suite shows here too."""
    studies = load_suite(suite, size).studies
    plans = make_plans("t", studies)
    planned = {m.file_name: m.merged(m) for plan in plans for m in suite_manifests(plan)}
    records = load_records(RESULTS / folder)
    assert {m.file_name: m for m in records.manifests} == planned
    runs = {run.run_id: run for run in records}
    own = [m for m in planned.values() if m.suite in {study.suite for study in studies}]
    for planned_run in (run for m in own for run in m.runs):
        run = runs[planned_run.run_id]
        assert set(planned_run.evaluations) <= {e.eval_id for e in run.evaluations}
        assert set(planned_run.measures) <= {m.measure_id for m in run.measures}


def test_runs_belong_to_every_suite_that_trains_them() -> None:
    found = owners(replace(FIGURE4A, methods=("madry", "mart")))
    assert found["figure4a@tiny"] == {"madry"}  # which has no MART
    assert found["table3@tiny"] == {"madry", "mart"}
    assert "table3@full" not in found


@pytest.mark.parametrize(
    ("change", "belongs"),
    [
        (lambda study: changed(study, attacks=("clean",), seeds=("3",), test_size=50), True),
        (lambda study: changed(study, params=["madry.steps=10"]), True),  # the default
        (lambda study: changed(study, recipe="paper"), True),
        (lambda study: changed(study, params=["madry.steps=3"]), False),
        (lambda study: changed(study, epochs=1), False),
        (lambda study: changed(study, eps=0.1), False),
        (lambda study: changed(study, train_size=500), False),
        (lambda study: changed(study, precision="bf16"), False),
    ],
)
def test_only_what_changes_the_training_takes_a_run_out_of_its_suite(
    change: Callable[[Study], Study], belongs: bool
) -> None:
    study = change(replace(FIGURE4A, methods=("madry",)))
    assert ("figure4a@tiny" in owners(study)) == belongs


def test_a_manifest_asks_for_all_that_the_suite_asks_of_a_run() -> None:
    study = replace(FIGURE4A, methods=("madry",), attacks=(AttackConfig.parse("clean"),))
    (found,) = (m for m in suite_manifests(make_plan(study)) if m.suite == "table3")
    (run,) = found.runs
    ids = [*run.evaluations, *run.measures]
    for name in ("pgd-20", "autoattack", "C1", "C14"):
        assert any(one.startswith(f"{name}-best") for one in ids)
    # a training that only serves as a surrogate belongs to no suite
    table4 = load_suite("table4", "tiny").studies[0]
    assert "natural" not in owners(table4).get("table3@tiny", set())


def planned(seed: int) -> Manifest:
    run = PlannedRun(
        study=0, dataset="digits", method="madry", seed=seed, arch="cnn", eps=0.2,
        run_id=f"r{seed}", evaluations=("a",),
    )  # fmt: skip
    return Manifest(suite="s", size="tiny", runs=(run,))


def test_commands_at_once_add_to_one_manifest(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: add_to_manifests(tmp_path, [planned(seed)]), range(8)))
    (manifest,) = load_records(tmp_path).manifests
    assert [run.seed for run in manifest.runs] == list(range(8))
    assert manifest.file_name == "s@tiny.json"
    content = (tmp_path / "suites" / "s@tiny.json").read_bytes()
    add_to_manifests(tmp_path, [planned(3)])
    assert (tmp_path / "suites" / "s@tiny.json").read_bytes() == content


def test_a_damaged_manifest_is_named_and_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "suites" / "s@tiny.json"
    path.parent.mkdir()
    path.write_text('{"suite": "s"}')
    with pytest.raises(RecordError, match="damaged"):
        load_manifest(path)
    assert [damage.path for damage in load_records(tmp_path).damaged] == [path]
    add_to_manifests(tmp_path, [planned(0)])
    assert load_manifest(path) == planned(0)
    assert path.with_name("s@tiny.json.damaged").exists()


@pytest.mark.slow
def test_the_command_writes_the_manifest_and_a_dry_run_does_not(tmp_path: Path) -> None:
    command = ["run", "--methods", "natural", "--attacks", "clean", "--results", tmp_path]
    done(*command, "--dry-run")
    assert not load_records(tmp_path).manifests
    done(*command)
    records = load_records(tmp_path)
    (manifest,) = (m for m in records.manifests if m.suite == "digits")
    assert [run.run_id for run in manifest.runs] == [run.run_id for run in records]
