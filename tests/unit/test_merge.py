"""Finished work is merged into a few files: nothing changes, nothing is lost, damage is named."""

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from bench import storage
from bench.errors import RecordError
from bench.records import RunRecord, load_records
from bench.records.measure import Measured
from bench.records.run_folder import RunFolder
from bench.records.spec import EvalSpec, MeasureSpec
from bench.storage import (
    Entry,
    archived,
    mend_archive,
    npz_bytes,
    pair_files,
    read_archive,
    write_archive,
    write_files,
)
from tests.commands import bench, done
from tests.stored import store_chunk, store_measure
from tests.unit.test_spec import SPEC
from tests.unit.test_storage import chunk

RESULTS = Path(__file__).parents[2] / "results"
ENTRY = Entry({"spec": {"a": [1.5]}}, {"flags": np.arange(9) > 4, "by": np.zeros(3, np.int8)})


class Stopped(BaseException):
    """In place of a kill."""


@pytest.fixture(autouse=True)
def _no_disk_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.storage.os.fsync", lambda _: None)


def plain(value: object) -> Any:
    """Everything in a record but its path, with the types of arrays, as JSON."""
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, value.tolist()]
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name != "path"}
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def loaded(results: Path) -> str:
    records = load_records(results)
    assert records.damaged == ()
    return json.dumps([plain(run) for run in records])


def asked(attack: str = "pgd-20", n: int = 300) -> EvalSpec:
    return EvalSpec(checkpoint="best", attack=attack, eps=0.2, n_examples=n, data_sha256="cd")


def measure(name: str) -> MeasureSpec:
    return MeasureSpec(checkpoint="best", name=name, eps=0.2, n_examples=9, data_sha256="cd")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Two finished evaluations, one that is not, and two measures, in files of their own."""
    made = RunFolder(tmp_path / "results", SPEC.run_id)
    made.write_spec(SPEC, {}, {})
    for attack in ("pgd-20", "cw"):
        for number, rows in enumerate((range(256), range(256, 300))):
            part = replace(chunk(rows), seconds=number + 0.1, info={"threads": number})
            store_chunk(made.evaluation(asked(attack)), number, part)
    store_chunk(made.evaluation(asked("fgsm")), 1, chunk(range(256, 300)))
    for name in ("C1", "margins"):
        arrays = {"margin": np.arange(3.0)} if name == "margins" else {}
        found = Measured(values={"value": None}, arrays=arrays)
        store_measure(made, measure(name), found)
    return made


def unmerged_copy(run: RunRecord, results: Path) -> None:
    """Write a run as earlier versions did: a pair of files per chunk, one or two per measure."""
    folder = RunFolder(results, run.run_id)
    folder.path.mkdir(parents=True)
    (folder.path / "spec.json").write_bytes((run.path / "spec.json").read_bytes())
    for evaluation in run.evaluations:
        for number, part in enumerate(evaluation.chunks):
            out = folder.evaluation(evaluation.spec)
            store_chunk(out, number, part)
            path = out.path / f"{number}.json"
            facts = json.loads(path.read_text())
            facts |= {"n_examples": len(part.index), "n_clean": int(part.clean.sum())}
            path.write_text(json.dumps(facts))
    for record in run.measures:
        write_files(folder.path, pair_files(f"measures/{record.measure_id}", record.entry()))


def of_the_committed(kind: Callable[[RunRecord], bool]) -> RunRecord:
    paths = sorted(path for path in RESULTS.iterdir() if any(path.glob("*/spec.json")))
    return next(run for path in paths for run in load_records(path) if kind(run))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        lambda run: any(e.package_checks for e in run.evaluations) and len(run.measures) > 10,
        lambda run: any(len(m.arrays) > 1 for m in run.measures),
    ],
    ids=["checks", "arrays"],
)
def test_a_committed_run_is_the_same_before_and_after(
    kind: Callable[[RunRecord], bool], tmp_path: Path
) -> None:
    run = of_the_committed(kind)
    committed = json.dumps([plain(replace(run, train=None, history=()))])
    unmerged_copy(run, tmp_path)
    assert loaded(tmp_path) == committed
    n_files = len(list((tmp_path / run.run_id).rglob("*.*")))
    said = done("convert", tmp_path, "--dry-run").stdout
    n = len(run.evaluations) + len(run.measures)
    assert f"{n} evaluations and measures of 1 runs would be merged" in said
    assert len(list((tmp_path / run.run_id).rglob("*.*"))) == n_files
    done("convert", tmp_path)
    assert loaded(tmp_path) == committed
    assert len([p for p in tmp_path.rglob("*.*") if not p.name.endswith("lock")]) <= 7
    assert "0 evaluations and measures of 0 runs" in done("convert", tmp_path).stdout


def test_what_is_finished_moves_and_what_is_not_stays(folder: RunFolder) -> None:
    before, results = loaded(folder.path.parent), folder.path.parent
    assert folder.merge() == 4
    assert loaded(results) == before
    left = {str(p.relative_to(folder.path)) for p in folder.path.rglob("*.*") if p.is_file()}
    begun = f"evaluations/{asked('fgsm').eval_id}"
    assert left == {
        *("spec.json", "evaluations/best.npz", "measures/best.npz"),
        *(f"{begun}/eval.json", f"{begun}/1.json", f"{begun}/1.npz"),
    }
    assert folder.evaluation(asked()).missing() == []
    assert folder.evaluation(asked("fgsm")).missing() == [0]
    assert folder.has_measure(measure("C1"))
    assert not folder.has_measure(measure("C2"))
    store_chunk(folder.evaluation(asked("fgsm")), 0, chunk(range(256)))
    assert folder.merge() == 1
    assert len(archived(folder.path / "evaluations" / "best.npz")) == 3


def test_a_kill_at_any_moment_loses_nothing(folder: RunFolder, tmp_path: Path) -> None:
    """Before each rename and each removal in turn, the folder holds all that it held."""
    before = loaded(folder.path.parent)
    for n_calls in range(100):
        results = Path(shutil.copytree(folder.path.parent, tmp_path / str(n_calls)))
        run = RunFolder(results, SPEC.run_id)
        with pytest.MonkeyPatch.context() as patch:
            calls = iter(range(n_calls))
            for name in ("replace", "unlink", "rmdir"):
                patch.setattr(Path, name, _stopping(getattr(Path, name), calls))
            try:
                assert run.merge() == 4
                break
            except Stopped:
                pass
        assert loaded(results) == before
        run.merge()
        assert loaded(results) == before
    assert n_calls > 15


def _stopping(own: Callable[..., Any], calls: Iterator[int]) -> Callable[..., Any]:
    """Stop before the call after the last of `calls`."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) is None:
            raise Stopped
        return own(*args, **kwargs)

    return call


def test_chunks_that_differ_in_what_they_hold_are_not_merged(folder: RunFolder) -> None:
    """Records from before labels were stored may have gone on with them."""
    spec, results = asked("square"), folder.path.parent
    store_chunk(folder.evaluation(spec), 0, chunk(range(256)))
    labelled = replace(chunk(range(256, 300)), label=np.zeros(44, np.int64))
    store_chunk(folder.evaluation(spec), 1, labelled)
    before = loaded(results)
    folder.merge()
    assert loaded(results) == before
    assert spec.eval_id not in archived(folder.path / "evaluations" / "best.npz")
    assert folder.evaluation(spec).missing() == []


def test_an_archive_is_an_npz_file_with_the_same_bytes_for_the_same_entries(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.npz", {"x": ENTRY, "b": ENTRY})
    write_archive(tmp_path / "b.npz", {"b": ENTRY, "x": ENTRY})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as file:
        assert file["x/flags"].tolist() == ENTRY.arrays["flags"].tolist()
    assert read_archive(tmp_path / "none.npz") == ({}, {})
    objects = {"x": Entry({}, {"a": np.array([{}])})}
    with pytest.raises(ValueError, match="allow_pickle"):
        write_archive(tmp_path / "c.npz", objects)
    (tmp_path / "c.npz").write_bytes(npz_bytes({"x/a": np.arange(3)}))  # without facts
    assert list(read_archive(tmp_path / "c.npz")[1]) == ["", "x"]


@pytest.mark.slow
def test_no_flipped_byte_of_an_archive_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_archive(path, {"one": ENTRY, "two": ENTRY})
    whole, expected = path.read_bytes(), plain(read_archive(path)[0])
    flipped = [whole[:i] + bytes([whole[i] ^ 0x11]) + whole[i + 1 :] for i in range(len(whole))]
    n_damaged = 0
    for content in (*flipped, *(whole[:length] for length in range(len(whole)))):
        path.write_bytes(content)
        try:
            entries, reasons = read_archive(path)
        except RecordError:
            n_damaged += 1
            continue
        n_damaged += bool(reasons)
        assert reasons or list(entries) == ["one", "two"]
        assert all(plain(entry) == expected[key] for key, entry in entries.items())
    assert n_damaged > 1.5 * len(whole)


def test_one_damaged_entry_is_named_and_kept_aside_and_the_others_stay(folder: RunFolder) -> None:
    folder.merge()
    path, results = folder.path / "evaluations" / "best.npz", folder.path.parent
    content = path.read_bytes()
    name = asked("cw").eval_id
    place = content.index(f"{name}/survived.npy".encode()) + len(name) + 20
    path.write_bytes(content[:place] + b"\xff" * 4 + content[place + 4 :])
    records = load_records(results)
    (damage,) = records.damaged
    assert damage.path == path
    assert damage.reason.startswith(f"{path}: {name} is damaged")
    assert [e.spec.attack for e in records[0].evaluations] == ["fgsm", "pgd-20"]
    assert folder.evaluation(asked("cw")).missing() == [0, 1]
    folder.quarantine_damaged()
    assert load_records(results).damaged == ()
    assert path.with_name("best.npz.damaged").exists()
    assert len(load_records(results)[0].evaluations) == 2
    path.write_bytes(content[:-200])
    assert [d.path for d in load_records(results).damaged] == [path]
    mend_archive(path)
    assert path.with_name("best.npz.damaged2").read_bytes() == content[:-200]
    assert not path.exists()


def test_an_archive_that_cannot_be_read_is_not_taken_for_damaged(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.merge()
    path = folder.path / "evaluations" / "best.npz"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", Mock(side_effect=OSError(errno.EIO, "I/O error")))
        with pytest.raises(RecordError, match=r"best\.npz cannot be read"):
            mend_archive(path)
    assert len(archived(path)) == 2
    assert not list(folder.path.rglob("*.damaged*"))


def test_convert_removes_what_a_kill_left_of_the_merged_files(folder: RunFolder) -> None:
    chunks = [p for p in folder.path.glob("evaluations/*/*") if p.name != "eval.json"]
    left = {path: path.read_bytes() for path in chunks}
    folder.merge()
    for path, content in left.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    assert bench("convert", folder.path.parent).exit_code == 0
    archive = archived(folder.path / "evaluations" / "best.npz")
    assert not [path for path in left if path.exists() and path.parent.name in archive]


def test_a_run_in_use_is_not_converted(folder: RunFolder) -> None:
    results = folder.path.parent
    with folder.claimed():
        result = bench("convert", results)
    assert result.exit_code == 1
    assert f"{SPEC.run_id}: another command works on it" in result.stderr
    assert len(archived(folder.path / "evaluations" / "best.npz")) == 0
    assert bench("convert", results / "none").exit_code == 2


def test_archives_are_read_again_only_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    assert archived(path) == frozenset()
    write_archive(path, {"x": ENTRY})
    assert archived(path) == {"x"}
    with monkeypatch.context() as patch:
        patch.setattr(storage, "read_archive", lambda _: pytest.fail("it was read again"))
        assert archived(path) == {"x"}
    write_archive(path, {"y": ENTRY})
    assert archived(path) == {"y"}
