"""Files are whole or absent, records come back as they were written, damage is named."""

import errno
import io
import os
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import RecordError
from bench.records import Chunk, EvaluationRecord, load_records
from bench.records.run_folder import RunFolder
from bench.records.spec import EvalSpec
from bench.storage import (
    check_writable,
    npz_arrays,
    npz_bytes,
    quarantine,
    read_json,
    write_atomic,
    write_json,
)
from tests.harness import raises_line
from tests.stored import store_chunk
from tests.unit.test_spec import SPEC

EVAL = EvalSpec(checkpoint="best", attack="pgd-20", eps=0.2, n_examples=300, data_sha256="cd")


def chunk(index: range) -> Chunk:
    n = len(index)
    clean = np.arange(n) % 5 > 0
    survived = clean & (np.arange(n) % 2 > 0)
    broken = np.where(clean & ~survived, 0, -1).astype(np.int8)
    return Chunk(np.arange(index.start, index.stop), clean, survived, broken, ("pgd-20",), 1.5)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path, SPEC.run_id)
    made.write_spec(SPEC, {"title": "TRADES"}, {})
    return made


def test_a_full_disk_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with raises_line(RecordError, "No space left on device", "--results"):
        write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_what_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "a.json")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "a.json"):
        with raises_line(RecordError, f"cannot write {path}: ", "--out"):
            check_writable(path)
    with raises_line(RecordError, "cannot write"):
        write_atomic(tmp_path / "file" / "a", b"x")
    with raises_line(RecordError, "--results"):
        RunFolder(tmp_path / "file", "run").claimed().__enter__()
    with pytest.raises(ValueError, match=r"NaN|nan|Out of range"):
        write_json(tmp_path / "a.json", {"x": float("nan")})


def test_quarantine_never_overwrites(tmp_path: Path) -> None:
    names = []
    for text in ("1", "2", "3"):
        (tmp_path / "a").write_text(text)
        names.append(quarantine(tmp_path / "a").name)
    assert names == ["a.damaged", "a.damaged2", "a.damaged3"]
    assert (tmp_path / "a.damaged2").read_text() == "2"


def test_a_record_comes_back(folder: RunFolder) -> None:
    evaluation = folder.evaluation(EVAL)
    assert evaluation.missing() == [0, 1]
    store_chunk(evaluation, 1, chunk(range(256, 300)))
    assert evaluation.missing() == [0]
    store_chunk(evaluation, 0, chunk(range(256)))
    assert evaluation.missing() == []
    folder.write_history([{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 0.5}])
    (run,) = load_records(folder.path.parent)
    (found,) = run.evaluations
    assert found.complete
    assert found.index.tolist() == list(range(300))
    assert found.n_correct == chunk(range(256)).survived.sum() + chunk(range(44)).survived.sum()
    assert found.broken_by() == {"pgd-20": int((found.clean & ~found.survived).sum())}
    assert found.seconds == 3.0
    assert [row["epoch"] for row in run.history] == [0, 1]
    assert run.status == "unfinished"


@pytest.mark.parametrize("pack", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_numpy_reads_them(pack: Any) -> None:
    arrays: dict[str, np.ndarray] = {
        "index": np.arange(7),
        "few": np.zeros((0, 3), np.float32),
        "one": np.array(0.1),
        "square": np.arange(12, dtype=np.int8).reshape(3, 4),
        "columns": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "foreign": np.arange(3, dtype=">i4"),
        "names": np.array(["a", "\u00e9"]),
        "pairs": np.zeros(2, [("\u00e9", "i4")]),  # whose header has another version
    }
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        pack(file, **arrays)
    found = npz_arrays(file.getvalue())
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tolist() == array.tolist()
        found[name][...] = found[name]  # they can be written, like np.load's


def test_arrays_of_objects_or_damaged_ones_are_one_error() -> None:
    for array in (np.array([{}]), np.array(None)):
        file = io.BytesIO()
        np.savez(file, array)
        with pytest.raises(ValueError, match="objects"):
            npz_arrays(file.getvalue())
    content = npz_bytes({"a": np.arange(1000)})
    start = content.index(b"a.npy") + 60
    with pytest.raises(ValueError, match=r"a\.npy cannot be unpacked"):
        npz_arrays(content[:start] + b"\xff" * 40 + content[start + 40 :])
    with pytest.raises(zipfile.BadZipFile):
        npz_arrays(content[:50])


def test_the_frame_has_a_row_per_evaluation_and_one_for_a_run_without(folder: RunFolder) -> None:
    assert len(load_records(folder.path.parent / "nothing")) == 0
    assert load_records(folder.path.parent / "nothing").to_frame().empty
    frame = load_records(folder.path.parent).to_frame()
    found = frame[["run_id", "attack", "status"]].to_numpy().tolist()
    assert found == [[SPEC.run_id, "", "unfinished"]]
    write_json(folder.train_file, {"status": "done"})
    store_chunk(folder.evaluation(EVAL), 0, chunk(range(256)))
    (row,) = load_records(folder.path.parent).to_frame().to_dict("records")
    assert (row["attack"], row["n_examples"], row["n_expected"]) == ("pgd-20", 256, 300)
    assert (row["status"], row["run_status"], row["train_seed"]) == ("unfinished", "done", 0)


@pytest.mark.parametrize("name", ["0.json", "0.npz"])
@pytest.mark.parametrize("how", ["truncated", "flipped", "emptied", "removed"])
def test_a_damaged_chunk_is_named_kept_aside_and_missing_again(
    folder: RunFolder, name: str, how: str
) -> None:
    evaluation = folder.evaluation(EVAL)
    for number, rows in enumerate((range(256), range(256, 300))):
        store_chunk(evaluation, number, chunk(rows))
    path = evaluation.path / name
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if how == "flipped":
        content[middle] ^= 255
    damaged = {"truncated": bytes(content[:middle]), "emptied": b""}
    path.write_bytes(damaged.get(how, bytes(content)))
    if how == "removed":
        path.unlink()
    records = load_records(folder.path.parent)
    assert records[0].evaluations[0].n_examples == 44
    if not (how == "removed" and name == "0.json"):
        assert [d.path.name for d in records.damaged] == ["0.json"]
        assert "0." in records.damaged[0].reason
    assert evaluation.missing() == [0]
    store_chunk(evaluation, 0, chunk(range(256)))
    assert load_records(folder.path.parent)[0].evaluations[0].complete


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("spec.json", '{"half": '),
        ("train.json", '{"half": '),
        ("history.jsonl", '{"epoch": 0\n{"epoch": 2}\n'),
        ("history.jsonl", '{"epoch": 0}, {"epoch": 1}\n{"epoch": 2}\n'),
        ("history.jsonl", '{"epoch": 0}\n\n\n{"epoch": 2}\n'),
    ],
)
def test_any_other_damaged_file_harms_only_itself(
    folder: RunFolder, name: str, content: str
) -> None:
    write_json(folder.train_file, {"status": "done"})
    folder.write_history([{"epoch": 0}])
    (folder.path / name).write_text(content)
    records = load_records(folder.path.parent)
    assert [d.path.name for d in records.damaged] == [name]
    assert len(records) == (0 if name == "spec.json" else 1)
    if name == "history.jsonl":
        assert records[0].history == ()


def test_one_claim_at_a_time(folder: RunFolder) -> None:
    with folder.claimed() as first, RunFolder(folder.path.parent, SPEC.run_id).claimed() as second:
        assert first
        assert not second
    with folder.claimed() as again:
        assert again


def test_a_file_system_that_cannot_lock_is_not_taken_for_another_process(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("fcntl.flock", refuse)
    with folder.claimed() as ours:
        assert ours is None


# Accuracies in which each class counts the same, from the labels that evaluations keep.


def labelled(first: int, labels: Sequence[int] | None, survived: Sequence[int]) -> Chunk:
    """Images from `first` on, all of them clean-correct but those of class 2."""
    n, flags = len(survived), np.array(survived, dtype=bool)
    label = None if labels is None else np.array(labels, dtype=np.int64)
    clean = np.ones(n, dtype=bool) if label is None else label != 2
    broken = np.where(flags, -1, 0).astype(np.int8)
    index = np.arange(first, first + n)
    return Chunk(index, clean, flags, broken, ("pgd-20",), 1.0, label=label)


def stored(folder: RunFolder, *chunks: Chunk) -> EvaluationRecord:
    for number, part in enumerate(chunks):
        store_chunk(folder.evaluation(EVAL), number, part)
    (record,) = load_records(folder.path.parent)[0].evaluations
    return record


def test_labels_come_back_and_every_class_counts_the_same(folder: RunFolder) -> None:
    # class 0: 8 of 8 and 1 of 2; class 1: 0 of 1; class 2: 0 of 1; class 5: 1 of 2
    found = stored(
        folder,
        labelled(0, [0] * 8 + [1], [1] * 8 + [0]),
        labelled(256, [0, 5, 0, 2, 5], [1, 0, 0, 0, 1]),
    )
    assert found.label is not None
    assert found.label.tolist() == [0] * 8 + [1, 0, 5, 0, 2, 5]
    assert found.class_accuracies() == {0: 0.9, 1: 0.0, 2: 0.0, 5: 0.5}
    assert found.balanced_accuracy() == pytest.approx((0.9 + 0.5) / 4)
    assert found.n_correct / found.n_examples == 10 / 14
    assert found.class_accuracies(clean=True) == {0: 1.0, 1: 1.0, 2: 0.0, 5: 1.0}
    assert found.balanced_accuracy(clean=True) == 0.75
    frame = load_records(folder.path.parent).to_frame()
    assert frame.balanced_accuracy.tolist() == [pytest.approx(0.35)]


@pytest.mark.parametrize("labels", [None, [0, 1]])
def test_records_without_labels_stay_readable(
    labels: Sequence[int] | None, folder: RunFolder
) -> None:
    found = stored(folder, labelled(0, labels, [1, 0]), labelled(256, None, [1, 1]))
    assert found.survived.tolist() == [True, False, True, True]
    assert found.label is None
    assert found.class_accuracies() is None
    assert found.balanced_accuracy() is None
    assert load_records(folder.path.parent).to_frame().balanced_accuracy.isna().all()


def test_an_evaluation_without_images_has_no_accuracy() -> None:
    empty = EvaluationRecord(eval_id="e", spec=EVAL, chunks=())
    assert empty.class_accuracies() == {}
    assert empty.balanced_accuracy() is None
