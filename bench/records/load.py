"""The records of a results folder: their layout on disk, and reading them. Without torch.

    results/<run_id>/spec.json       specification, provenance, method card
    results/<run_id>/train.json      summary, cost, status, warnings, error
    results/<run_id>/history.jsonl   one line per epoch
    results/<run_id>/evaluations/<checkpoint>.npz   finished evaluations, joined from their chunks
    results/<run_id>/measures/<checkpoint>.npz      finished masking checks and measures
    results/<run_id>/evaluations/<eval_id>/eval.json          of an unfinished one, the EvalSpec
    results/<run_id>/evaluations/<eval_id>/<chunk>.npz .json  its chunks so far
    results/<run_id>/evaluations/<eval_id>/<chunk>.adversarials.safetensors   optional
    results/<run_id>/fingerprint.npz of a model from outside: its logits on a few images
    results/<run_id>/traceback.txt   of the last failure, ignored by git
    results/<run_id>/best.safetensors last.safetensors        weights, ignored by git
    results/suites/<suite>[@<size>].json   what belongs to a suite, see bench/records/manifest.py

Files are written atomically: a kill leaves nothing half-written. Reading changes nothing: damaged
files are listed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench.errors import RecordError, one_line
from bench.records.evaluation import EvaluationRecord, load_chunk
from bench.records.manifest import Manifest, load_manifest, manifest_files
from bench.records.measure import MeasureRecord, load_measure
from bench.records.spec import CHECKPOINTS, CHUNK, GIVEN, EvalSpec
from bench.storage import DAMAGE, Entry, read_archive, read_json

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
SCHEMA = 1
"""Version of the layout, in every spec.json."""
ARCHIVES = tuple(f"{checkpoint}.npz" for checkpoint in (*CHECKPOINTS, GIVEN))
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Levels of every NAME_quantiles in history.jsonl: the per-example state NAME after an epoch."""


@dataclass(frozen=True)
class RunRecord:
    """One model: its specification, its training, and every attack on it."""

    run_id: str
    path: Path
    kind: str
    """train, or model for a model from outside."""
    spec: Mapping[str, Any]
    card: Mapping[str, Any]
    """The method's title, paper, equation and parameters; empty for a model from outside."""
    provenance: Mapping[str, Any]
    """Versions, hardware, thread count, command; the id depends on none of them."""
    train: Mapping[str, Any] | None
    """Content of train.json; None while training is unfinished."""
    history: tuple[Mapping[str, Any], ...]
    evaluations: tuple[EvaluationRecord, ...]
    measures: tuple[MeasureRecord, ...] = ()

    @property
    def status(self) -> str:
        done = "done" if self.kind == "model" else "unfinished"
        return str(self.train["status"]) if self.train else done

    @property
    def method(self) -> str:
        """Name of the method, or reference of the model from outside."""
        return str(self.spec.get("method") or self.spec["model"])

    @property
    def arch(self) -> str:
        return str(self.spec.get("arch", ""))

    @property
    def dataset(self) -> str:
        return str(self.spec["dataset"])

    @property
    def seed(self) -> int | None:
        return self.spec.get("seed")


@dataclass(frozen=True)
class Damage:
    """A file that cannot be used, and why."""

    path: Path
    reason: str


class Records(tuple[RunRecord, ...]):
    """The runs of a results folder, ordered by run id; its damaged files; its manifests."""

    damaged: tuple[Damage, ...] = ()
    manifests: tuple[Manifest, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """Return one row per evaluation, and one with an empty attack for a run without any."""
        import pandas as pd

        rows = [_row(run, found) for run in self for found in run.evaluations or (None,)]
        return pd.DataFrame(rows, columns=list(COLUMNS))


COLUMNS = (
    *("run_id", "method", "arch", "dataset", "recipe", "train_seed", "train_eps", "precision"),
    *("run_status", "checkpoint", "attack", "eps", "split", "n_examples", "n_expected"),
    *("n_clean", "n_correct", "balanced_accuracy", "seconds", "status"),
)


def _row(run: RunRecord, evaluation: EvaluationRecord | None) -> dict[str, Any]:
    row = {
        "run_id": run.run_id,
        "method": run.method,
        "arch": run.arch,
        "dataset": run.dataset,
        "recipe": run.spec.get("recipe_name", ""),
        "train_seed": run.seed,
        "train_eps": run.spec.get("eps"),
        "precision": run.spec.get("precision", ""),
        "run_status": run.status,
    }
    if evaluation is None:
        return row | {"checkpoint": "", "attack": "", "n_examples": 0, "status": run.status}
    spec = evaluation.spec
    return row | {
        "checkpoint": spec.checkpoint,
        "attack": spec.attack,
        "eps": spec.eps,
        "split": spec.split,
        "n_examples": evaluation.n_examples,
        "n_expected": spec.n_examples,
        "n_clean": int(evaluation.clean.sum()),
        "n_correct": evaluation.n_correct,
        "balanced_accuracy": evaluation.balanced_accuracy(),
        "seconds": evaluation.seconds,
        "status": "done" if evaluation.complete else "unfinished",
    }


def load_records(results: str | Path) -> Records:
    """Return the records of a results folder; empty where it does not exist.

    Damaged files are left out and listed in `.damaged`; the rest stays usable.
    """
    damaged: list[Damage] = []
    folders = [Path(results, name) for name in _names(results)]
    runs = [_load_run(f, damaged) for f in folders if (f / "spec.json").exists()]
    records = Records(run for run in runs if run is not None)
    records.manifests = _all_undamaged(load_manifest, manifest_files(results), damaged)
    records.damaged = tuple(damaged)
    return records


def _names(folder: str | Path) -> list[str]:
    """Return the sorted names in a folder, if it exists; faster than a glob."""
    try:
        return sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return []


def _undamaged(read: Callable[[Path], T], path: Path, damaged: list[Damage]) -> T | None:
    """Return what `read` makes of a file; if it is damaged, list it and return None."""
    try:
        return read(path)
    except RecordError as error:
        damaged.append(Damage(path, str(error)))
    except DAMAGE as error:
        damaged.append(Damage(path, f"{path} is damaged: {one_line(error)}"))
    return None


def _all_undamaged(
    read: Callable[[Path], T], paths: Iterable[Path], damaged: list[Damage]
) -> tuple[T, ...]:
    found = (_undamaged(read, path, damaged) for path in paths)
    return tuple(one for one in found if one is not None)


def _load_run(folder: Path, damaged: list[Damage]) -> RunRecord | None:
    head = _undamaged(_load_head, folder / "spec.json", damaged)
    if head is None:
        return None
    train, history = folder / "train.json", folder / "history.jsonl"
    return RunRecord(
        **head,
        path=folder,
        train=_undamaged(read_json, train, damaged) if train.exists() else None,
        history=tuple(_undamaged(lambda _: load_history(folder), history, damaged) or ()),
        evaluations=load_evaluations(folder, damaged),
        measures=load_measures(folder, damaged),
    )


def _load_head(path: Path) -> dict[str, Any]:
    head = read_json(path)
    return {name: head[name] for name in ("run_id", "kind", "spec", "card", "provenance")}


def load_history(folder: Path) -> list[dict[str, Any]]:
    """Return the epochs of a run, if it has any; raises RecordError for a damaged file."""
    path = folder / "history.jsonl"
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} is damaged or unreadable: {error}") from None


def load_evaluations(run: Path, damaged: list[Damage]) -> tuple[EvaluationRecord, ...]:
    """Return the evaluations of a run by id, finished or not; add unusable files to `damaged`."""
    return _with_archived(run / "evaluations", unmerged_evaluations, EvaluationRecord.of, damaged)


def load_measures(run: Path, damaged: list[Damage]) -> tuple[MeasureRecord, ...]:
    """Return the measures of a run by id; add unusable files to `damaged`."""
    return _with_archived(run / "measures", unmerged_measures, MeasureRecord.of, damaged)


def _with_archived(
    folder: Path,
    unmerged: Callable[[Path, list[Damage]], dict[str, T]],
    of: Callable[[str, Entry], T],
    damaged: list[Damage],
) -> tuple[T, ...]:
    """Return what a folder holds, sorted by id; of what is there twice, that in the archive."""
    aside: list[Damage] = []
    found = unmerged(folder, aside)  # first: another process may be moving it into the archive
    for path in (folder / name for name in _names(folder) if name in ARCHIVES):
        entries, reasons = _undamaged(read_archive, path, damaged) or ({}, {})
        for key, entry in entries.items():
            try:
                found[key] = of(key, entry)
                aside = [d for d in aside if key not in (d.path.parent.name, d.path.stem)]
            except DAMAGE as error:
                reasons[key] = f"{path}: {key} is damaged: {one_line(error)}"
        damaged += [Damage(path, reason) for reason in reasons.values()]
    damaged += aside
    return tuple(record for _, record in sorted(found.items()))


def unmerged_measures(folder: Path, damaged: list[Damage]) -> dict[str, MeasureRecord]:
    """Return the measures that are not in an archive; add unusable files to `damaged`."""
    paths = (folder / name for name in _names(folder) if name.endswith(".json"))
    return {m.measure_id: m for m in _all_undamaged(load_measure, paths, damaged)}


def unmerged_evaluations(folder: Path, damaged: list[Damage]) -> dict[str, EvaluationRecord]:
    """Return the evaluations that are not in an archive, with their chunks so far.

    Unusable files are added to `damaged`.
    """
    found = {}
    for place in (folder / name for name in _names(folder)):
        head = place / "eval.json"
        if not head.exists():
            continue
        spec = _undamaged(lambda path: EvalSpec(**read_json(path)), head, damaged)
        if spec is not None:
            present = set(_names(place))
            names = [f"{number}.json" for number in range(-(-spec.n_examples // CHUNK))]
            paths = (place / name for name in names if name in present)
            chunks = _all_undamaged(load_chunk, paths, damaged)
            found[place.name] = EvaluationRecord(eval_id=place.name, spec=spec, chunks=chunks)
    return found
