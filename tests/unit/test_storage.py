"""Files are whole or absent, records come back as they were written, damage is named."""

from __future__ import annotations

import errno
import io
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import RecordError
from bench.folder import RunFolder
from bench.records import Chunk, load_records
from bench.spec import EvalSpec
from bench.storage import (
    check_writable,
    keep_aside,
    npz_arrays,
    npz_bytes,
    read_json,
    write_atomic,
    write_json,
)
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
    with pytest.raises(RecordError, match=r"No space left on device.*--results"):
        write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_what_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "a.json")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "a.json"):
        with pytest.raises(RecordError, match=f"cannot write {path}: .*--out"):
            check_writable(path)


def test_a_folder_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="cannot write"):
        write_atomic(tmp_path / "file" / "a", b"x")
    claim = RunFolder(tmp_path / "file", "run").claimed()
    with pytest.raises(RecordError, match="--results"):
        claim.__enter__()


def test_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"NaN|nan|Out of range"):
        write_json(tmp_path / "a.json", {"x": float("nan")})


def test_keep_aside_never_overwrites(tmp_path: Path) -> None:
    names = []
    for text in ("1", "2", "3"):
        (tmp_path / "a").write_text(text)
        names.append(keep_aside(tmp_path / "a").name)
    assert names == ["a.damaged", "a.damaged2", "a.damaged3"]
    assert (tmp_path / "a.damaged2").read_text() == "2"


def test_a_record_comes_back(folder: RunFolder) -> None:
    evaluation = folder.evaluation(EVAL)
    assert evaluation.missing() == [0, 1]
    evaluation.write_chunk(1, chunk(range(256, 300)))
    assert evaluation.missing() == [0]
    evaluation.write_chunk(0, chunk(range(256)))
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
        found[name][...] = found[name]  # as np.load's, they can be written


@pytest.mark.parametrize("array", [np.array([{}]), np.array(None)])
def test_an_array_of_objects_is_not_read(array: np.ndarray) -> None:
    file = io.BytesIO()
    np.savez(file, array)
    with pytest.raises(ValueError, match="objects"):
        npz_arrays(file.getvalue())


def test_arrays_that_cannot_be_unpacked_are_one_error() -> None:
    content = npz_bytes({"a": np.arange(1000)})
    start = content.index(b"a.npy") + 60
    with pytest.raises(ValueError, match=r"a\.npy cannot be unpacked"):
        npz_arrays(content[:start] + b"\xff" * 40 + content[start + 40 :])
    with pytest.raises(zipfile.BadZipFile):
        npz_arrays(content[:50])


@pytest.mark.parametrize("lines", ['{"epoch": 0', '{"epoch": 0}, {"epoch": 1}', '{"epoch": 0}\n\n'])
def test_a_damaged_history_is_named(folder: RunFolder, lines: str) -> None:
    (folder.path / "history.jsonl").write_text(f'{lines}\n{{"epoch": 2}}\n')
    records = load_records(folder.path.parent)
    assert records[0].history == ()
    assert [d.path.name for d in records.damaged] == ["history.jsonl"]


def test_the_frame_has_a_row_an_evaluation_and_one_for_a_run_without(folder: RunFolder) -> None:
    frame = load_records(folder.path.parent).to_frame()
    assert frame[["run_id", "attack", "status"]].to_numpy().tolist() == [
        [SPEC.run_id, "", "unfinished"]
    ]
    write_json(folder.train_file, {"status": "done"})
    folder.evaluation(EVAL).write_chunk(0, chunk(range(256)))
    (row,) = load_records(folder.path.parent).to_frame().to_dict("records")
    assert row["attack"] == "pgd-20"
    assert row["n_examples"] == 256
    assert row["n_expected"] == 300
    assert row["status"] == "unfinished"
    assert row["run_status"] == "done"
    assert row["train_seed"] == 0


@pytest.mark.parametrize("name", ["0.json", "0.npz"])
@pytest.mark.parametrize("how", ["truncated", "flipped", "emptied", "removed"])
def test_a_damaged_chunk_is_named_kept_aside_and_asked_for_again(
    folder: RunFolder, name: str, how: str
) -> None:
    evaluation = folder.evaluation(EVAL)
    for number, rows in enumerate((range(256), range(256, 300))):
        evaluation.write_chunk(number, chunk(rows))
    path = evaluation.path / name
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(
            {
                "truncated": content[:middle],
                "flipped": content[:middle]
                + bytes([content[middle] ^ 255])
                + content[middle + 1 :],
                "emptied": b"",
            }[how]
        )
    records = load_records(folder.path.parent)
    assert records[0].evaluations[0].n_examples == 44
    if not (how == "removed" and name == "0.json"):
        assert [d.path.name for d in records.damaged] == ["0.json"]
        assert "0." in records.damaged[0].reason
    assert evaluation.missing() == [0]
    evaluation.write_chunk(0, chunk(range(256)))
    assert load_records(folder.path.parent)[0].evaluations[0].complete


@pytest.mark.parametrize("name", ["spec.json", "train.json", "history.jsonl"])
def test_any_other_damaged_file_harms_only_itself(folder: RunFolder, name: str) -> None:
    write_json(folder.train_file, {"status": "done"})
    folder.write_history([{"epoch": 0}])
    (folder.path / name).write_text('{"half": ')
    records = load_records(folder.path.parent)
    assert [d.path.name for d in records.damaged] == [name]
    assert len(records) == (0 if name == "spec.json" else 1)


def test_one_claim_at_a_time(folder: RunFolder) -> None:
    with folder.claimed() as first, RunFolder(folder.path.parent, SPEC.run_id).claimed() as second:
        assert first
        assert not second
    with folder.claimed() as again:
        assert again


def test_an_empty_folder_has_no_records(tmp_path: Path) -> None:
    assert len(load_records(tmp_path / "nothing")) == 0
    assert load_records(tmp_path).to_frame().empty
