"""Write the folder of one run; the layout is in bench/records/load.py."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import RecordError
from bench.provenance import UNKNOWN, canonical
from bench.records.evaluation import Chunk, EvaluationRecord, load_chunk
from bench.records.load import ARCHIVES, SCHEMA, unmerged_evaluations, unmerged_measures
from bench.records.measure import MeasureRecord, load_measure
from bench.records.spec import EvalSpec, MeasureSpec, ModelSpec, TrainSpec
from bench.storage import (
    Entry,
    archived,
    json_bytes,
    mend_archive,
    open_lock,
    pair_files,
    quarantine,
    read_archive,
    read_json,
    write_archive,
    write_atomic,
    write_json,
)

T = TypeVar("T")


class RunFolder:
    """Paths, the claim and writes below results/<run_id>."""

    def __init__(self, results: Path, run_id: str) -> None:
        self.run_id = run_id
        self.path = results / run_id
        self.train_file = self.path / "train.json"
        """Summary of the training; written when it ends."""
        self.earlier_train_file = self.path / "train.json.earlier"
        """Summary of an earlier training, while its lost weights are trained again."""
        self.traceback_file = self.path / "traceback.txt"
        """Tracebacks of the last command's failures; ignored by git."""

    def earlier_weights(self) -> Any:
        """Return the checkpoints of the earlier training, if there was one."""
        return (_read(read_json, self.earlier_train_file) or {}).get("checkpoints")

    def weights(self, checkpoint: str) -> Path:
        return self.path / f"{checkpoint}.safetensors"

    def keep_traceback(self, text: str) -> None:
        path = self.traceback_file
        write_atomic(path, (path.read_bytes() if path.exists() else b"") + text.encode())

    @contextmanager
    def claimed(self) -> Iterator[bool | None]:
        """Yield whether this process may write here; None if the file system cannot tell.

        The operating system holds the lock, so the claim ends with the block or the process.
        """
        with open_lock(self.path) as file:
            ours: bool | None = True
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                ours = False
            except OSError:
                ours = None
            yield ours

    def write_spec(
        self,
        spec: TrainSpec | ModelSpec,
        card: Mapping[str, Any],
        provenance: Mapping[str, Any],
    ) -> None:
        head = {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "kind": "train" if isinstance(spec, TrainSpec) else "model",
            "spec": spec.to_dict(),
            "card": card,
            "provenance": provenance,
        }
        if not (self.path / "spec.json").exists():
            write_json(self.path / "spec.json", head)

    def other_code(self, code: Mapping[str, Any]) -> str:
        """Return the revision in spec.json if its code may give other weights, else empty."""
        spec = _read(read_json, self.path / "spec.json") or {}
        began = spec.get("provenance", {}).get("code", {})
        hashes = ("training_sha256", "method_sha256")
        if all(canonical(began.get(h, UNKNOWN)) == canonical(code[h]) for h in hashes):
            return ""
        return str(began.get("revision") or UNKNOWN)

    def train_summary(self) -> dict[str, Any] | None:
        """Return the content of train.json; None if training is unfinished or it is damaged."""
        return _read(read_json, self.train_file)

    def quarantine_damaged(self) -> list[Path]:
        """Rename damaged files, so that they are made again, and remove what a kill left.

        Returns the new names.
        """
        before = set(self.path.rglob("*.damaged*"))
        for left in self.path.rglob(".*.partial"):
            left.unlink(missing_ok=True)
        chunks = [p for p in self.path.glob("evaluations/*/*.json") if p.name != "eval.json"]
        damaged = [
            *(path for path in chunks if _read(load_chunk, path) is None),
            *(p for p in self.path.glob("measures/*.json") if _read(load_measure, p) is None),
        ]
        damaged += [path.with_suffix(".npz") for path in damaged]
        heads = [self.path / "spec.json", self.train_file]
        heads += self.path.glob("evaluations/*/eval.json")
        for path in [*(head for head in heads if _read(read_json, head) is None), *damaged]:
            if path.exists():
                quarantine(path)
        for left in self.path.glob("evaluations/*/*.unfinished"):
            if left.with_suffix(".json").exists():
                left.unlink(missing_ok=True)
        self.merge()
        return sorted({*self.path.rglob("*.damaged*")} - before)

    def unmerged(self) -> dict[Path, dict[str, Entry]]:
        """Return what is finished and in files of its own, by the archive to move it to, and id."""
        kinds: dict[str, Mapping[str, EvaluationRecord | MeasureRecord]] = {
            "evaluations": unmerged_evaluations(self.path / "evaluations", []),
            "measures": unmerged_measures(self.path / "measures", []),
        }
        found: dict[Path, dict[str, Entry]] = {}
        for kind, records in kinds.items():
            for record_id, record in records.items():
                if (entry := record.entry()) is not None:
                    path = self.path / kind / f"{record.spec.checkpoint}.npz"
                    found.setdefault(path, {})[record_id] = entry
        return found

    def merge(self) -> int:
        """Move finished evaluations and measures into an archive per checkpoint; return how many.

        For one process at a time. A file is removed only after its content was read back from the
        archive, so after a kill the next call continues. Damaged files and unfinished evaluations
        stay; a damaged archive is kept aside, and one with its undamaged entries takes its place.
        """
        archives = [self.path / k / name for k in ("evaluations", "measures") for name in ARCHIVES]
        for path in archives:
            if path.exists():
                mend_archive(path)
        found = self.unmerged()
        for path, entries in found.items():
            there, _ = read_archive(path)
            if not entries.keys() <= there.keys():
                write_archive(path, {**entries, **there})
        for path in archives:
            for record_id in archived(path):
                _remove_chunks(path.with_name(record_id))
                for suffix in (".json", ".npz"):  # of a measure
                    path.with_name(record_id + suffix).unlink(missing_ok=True)
        return sum(len(entries) for entries in found.values())

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        write_atomic(self.path / "history.jsonl", lines.encode())

    def evaluation(self, spec: EvalSpec) -> EvaluationFolder:
        return EvaluationFolder(self.path / "evaluations" / spec.eval_id, spec)

    def measure(self, spec: MeasureSpec) -> Path:
        return self.path / "measures" / f"{spec.measure_id}.json"

    def has_measure(self, spec: MeasureSpec) -> bool:
        """Whether a measure is there and undamaged, arrays included."""
        path = self.measure(spec)
        in_archive = spec.measure_id in archived(path.with_name(f"{spec.checkpoint}.npz"))
        return in_archive or _read(load_measure, path) is not None


class EvaluationFolder:
    """Paths below results/<run_id>/evaluations/<eval_id>."""

    def __init__(self, path: Path, spec: EvalSpec) -> None:
        self.path = path
        self.spec = spec

    def missing(self, *, images: bool = False) -> list[int]:
        """Return the numbers of missing or damaged chunks; with `images`, also without images."""
        n, archive = len(self.spec.chunks()), self.path.with_name(f"{self.spec.checkpoint}.npz")
        if not (self.path.exists() or archive.exists()):
            return list(range(n))
        return [c for c in range(n) if not self.has(c, images=images)]

    def has(self, number: int, *, images: bool = False) -> bool:
        """Whether a chunk is complete, with `images` including its adversarial images."""
        if images and not self.adversarials(number).exists():
            return False
        if self.spec.eval_id in archived(self.path.with_name(f"{self.spec.checkpoint}.npz")):
            return True
        reads = ((read_json, "eval.json"), (load_chunk, f"{number}.json"))
        return all(_read(read, self.path / name) is not None for read, name in reads)

    def adversarials(self, number: int) -> Path:
        return self.path.parent.parent / adversarials_name(self.spec, number)

    def partial(self, number: int) -> Path:
        """The outcome so far of a chunk under the first attacks of a cascade."""
        return self.path / f"{number}.unfinished"

    def unfinished(self, number: int) -> bytes | None:
        with suppress(OSError):
            return self.partial(number).read_bytes()
        return None


def chunk_files(spec: EvalSpec, number: int, chunk: Chunk) -> dict[str, bytes]:
    """Return the files of a chunk, below the run's folder, in the order to write them.

    `RunFolder.merge` joins the chunks of an evaluation once all are there.
    """
    folder = f"evaluations/{spec.eval_id}"
    head = {f"{folder}/eval.json": json_bytes(spec.to_dict())}
    return head | pair_files(f"{folder}/{number}", chunk.entry())


def _remove_chunks(folder: Path) -> None:
    """Remove the chunks of an evaluation that is in an archive; adversarial images stay."""
    (folder / "eval.json").unlink(missing_ok=True)  # first: without it no chunk is read
    for path in folder.glob("[0-9]*"):
        if path.stem.isdecimal() and path.suffix in (".json", ".npz", ".unfinished"):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # what is left are images, or files that were damaged
        folder.rmdir()


def adversarials_name(spec: EvalSpec, number: int) -> str:
    """Return the place of a chunk's adversarial images below the run's folder."""
    return f"evaluations/{spec.eval_id}/{number}.adversarials.safetensors"


def _read(read: Callable[[Path], T], path: Path) -> T | None:
    try:
        return read(path)
    except RecordError:
        return None
