"""The folder of one run, for the process that writes it."""

from __future__ import annotations

import fcntl
import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from bench.errors import BenchError, RecordError, one_line
from bench.measured import whole
from bench.provenance import UNKNOWN, canonical
from bench.records import SCHEMA, Chunk, load_chunk
from bench.spec import EvalSpec, MeasureSpec, ModelSpec, TrainSpec
from bench.storage import keep_aside, npz_bytes, read_json, sha256, write_atomic, write_json


class RunFolder:
    """Paths and writes below results/<run_id>; the layout is in bench/records.py."""

    def __init__(self, results: Path, run_id: str) -> None:
        self.run_id = run_id
        self.path = results / run_id

    @property
    def train_file(self) -> Path:
        """Summary of the training; it is there once the training has ended."""
        return self.path / "train.json"

    @property
    def earlier_train_file(self) -> Path:
        """Summary of an earlier training, while one whose weights are gone is made again."""
        return self.path / "train.json.earlier"

    def earlier_weights(self) -> Any:
        """Checkpoints of that earlier training; None where there was none."""
        return (_content(self.earlier_train_file) or {}).get("checkpoints")

    def weights(self, checkpoint: str) -> Path:
        """Weights of the best or the last checkpoint."""
        return self.path / f"{checkpoint}.safetensors"

    @property
    def state(self) -> Path:
        """The resumable state of an unfinished training."""
        return self.path / "state.pt"

    @property
    def traceback_file(self) -> Path:
        """Where the last command's failures were, for the author of the code; ignored by git."""
        return self.path / "traceback.txt"

    def failure(self, error: BaseException) -> str:
        """Why something failed, in a line; the traceback of what nobody foresaw is kept."""
        if isinstance(error, BenchError):
            return one_line(str(error), 10_000)
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "site-packages" not in f.filename] or frames
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}; " if own else ""
        before = self.traceback_file.read_bytes() if self.traceback_file.exists() else b""
        text = "".join(traceback.format_exception(error))
        write_atomic(self.traceback_file, before + text.encode())
        return f"{one_line(error)} ({place}its traceback is in {self.traceback_file})"

    @contextmanager
    def claimed(self, *, shared: bool = False) -> Iterator[bool]:
        """Whether this process may write here now; the claim ends with the process or the block.

        Training and mending need the folder alone; any number of processes may share it to
        attack the model, each unit of which has a claim of its own. The locks are the operating
        system's, so a kill releases them.
        """
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        with self._lock_file(".lock") as file:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError as error:
                raise self._cannot_lock(error) from None
            yield True

    @contextmanager
    def claimed_unit(self, name: str) -> Iterator[bool]:
        """Whether this process may make the unit `name`: one chunk of an evaluation, a measure.

        A byte of one file stands for each unit, so that claims leave no litter. Such a lock is
        the process's, not the thread's.
        """
        place = int(sha256(name.encode())[:15], 16)
        with self._lock_file(".units.lock") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except (BlockingIOError, PermissionError):
                yield False
                return
            except OSError as error:
                raise self._cannot_lock(error) from None
            yield True

    def _lock_file(self, name: str) -> IO[str]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return (self.path / name).open("a")
        except OSError as error:
            raise RecordError(
                f"cannot write the results folder {self.path.parent}: {error.strerror}; "
                "name another with --results"
            ) from None

    def _cannot_lock(self, error: OSError) -> RecordError:
        return RecordError(
            f"{self.path.parent} cannot lock files ({error.strerror}): name a results "
            "folder on a local disk with --results"
        )

    def write_spec(
        self,
        spec: TrainSpec | ModelSpec,
        card: Mapping[str, Any],
        provenance: Mapping[str, Any],
    ) -> None:
        """What is asked and on which machine, once; a damaged file is kept aside and redone."""
        path = self.path / "spec.json"
        if path.exists():
            return
        head = {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "kind": "train" if isinstance(spec, TrainSpec) else "model",
            "spec": spec.to_dict(),
            "card": card,
            "provenance": provenance,
        }
        write_json(path, head)

    def other_code(self, code: Mapping[str, Any]) -> str:
        """The revision that spec.json says, where its code can give other weights; else empty."""
        spec = _content(self.path / "spec.json") or {}
        began = spec.get("provenance", {}).get("code", {})
        hashes = ("training_sha256", "method_sha256")
        if all(canonical(began.get(h, UNKNOWN)) == canonical(code[h]) for h in hashes):
            return ""
        return str(began.get("revision") or UNKNOWN)

    def train_summary(self) -> dict[str, Any] | None:
        """Content of train.json; None where the training has not ended, or the file is damaged."""
        return _content(self.train_file)

    def set_damage_aside(self) -> None:
        """Put aside what is damaged, so that it is made again, and remove what a kill left.

        For the process that holds the claim.
        """
        for left in self.path.rglob(".*.partial"):
            left.unlink(missing_ok=True)
        files = [self.path / "spec.json", self.train_file]
        for path in (*files, *self.path.glob("evaluations/*/eval.json")):
            if path.exists() and _content(path) is None:
                keep_aside(path)
        for path in self.path.glob("evaluations/*/*.json"):
            if path.name == "eval.json" or _chunk(path) is not None:
                continue
            _pair_aside(path)
        for path in self.path.glob("measures/*.json"):
            if not whole(path):
                _pair_aside(path)
        for left in self.path.glob("evaluations/*/*.unfinished"):
            if _chunk(left.with_suffix(".json")) is not None:
                left.unlink(missing_ok=True)

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """All epochs so far."""
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        write_atomic(self.path / "history.jsonl", lines.encode())

    def evaluation(self, spec: EvalSpec) -> EvaluationFolder:
        """The folder of one evaluation."""
        return EvaluationFolder(self.path / "evaluations" / spec.eval_id, spec)

    def measure(self, spec: MeasureSpec) -> Path:
        """The file of one measure."""
        return self.path / "measures" / f"{spec.measure_id}.json"


class EvaluationFolder:
    """Paths and writes below results/<run_id>/evaluations/<eval_id>."""

    def __init__(self, path: Path, spec: EvalSpec) -> None:
        self.path = path
        self.spec = spec

    def missing(self, *, images: bool = False) -> list[int]:
        """Numbers of the chunks that have no outcome, or a damaged one; with `images`, or none."""
        return [c for c in range(len(self.spec.chunks())) if not self.has(c, images=images)]

    def has(self, number: int, *, images: bool = False) -> bool:
        """Whether a chunk has an outcome that is whole, and with `images` also its images."""
        if _content(self.path / "eval.json") is None:
            return False
        kept = not images or self.adversarials(number).exists()
        return kept and _chunk(self.path / f"{number}.json") is not None

    def write_chunk(self, number: int, chunk: Chunk) -> None:
        """The flags first: the .json beside them says that the chunk is there."""
        if _content(self.path / "eval.json") is None:
            write_json(self.path / "eval.json", self.spec.to_dict())
        arrays = {
            "index": chunk.index,
            "clean": chunk.clean,
            "survived": chunk.survived,
            "broken_by": chunk.broken_by,
        }
        optional = {"label": chunk.label, "after": chunk.after}
        arrays |= {name: array for name, array in optional.items() if array is not None}
        flags = npz_bytes(arrays)
        facts = {
            "n_examples": len(chunk.index),
            "n_clean": int(chunk.clean.sum()),
            "n_correct": int(chunk.survived.sum()),
            "parts": list(chunk.parts),
            "seconds": chunk.seconds,
            "warnings": list(chunk.warnings),
            "info": dict(chunk.info),
            "npz_sha256": sha256(flags),
        }
        if chunk.package_checks:
            facts["package_checks"] = [dict(check) for check in chunk.package_checks]
        write_atomic(self.path / f"{number}.npz", flags)
        write_json(self.path / f"{number}.json", facts)
        self.partial(number).unlink(missing_ok=True)

    def adversarials(self, number: int) -> Path:
        """The adversarial images of a chunk, where they are kept."""
        return self.path / f"{number}.adversarials.safetensors"

    def partial(self, number: int) -> Path:
        """What the first parts of a cascade did to a chunk that is not finished."""
        return self.path / f"{number}.unfinished"


def _content(path: Path) -> dict[str, Any] | None:
    """Of a JSON file; None where it is missing or damaged."""
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = read_json(path)
    except RecordError:
        return None
    return content


def _pair_aside(path: Path) -> None:
    """A damaged .json and the .npz that belongs to it."""
    for damaged in (path, path.with_suffix(".npz")):
        if damaged.exists():
            keep_aside(damaged)


def _chunk(path: Path) -> Chunk | None:
    """The outcome whose facts are in `path`; None where it is missing or damaged."""
    if not path.exists():
        return None
    try:
        return load_chunk(path)
    except RecordError:
        return None
