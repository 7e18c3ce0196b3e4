"""Which runs, evaluations and measures belong to a suite, written when they are planned. No torch.

    results/suites/NAME.json         the suite in the paper's size
    results/suites/NAME@SIZE.json    a smaller size

`bench run` adds to these files and never removes from them, so they also hold the seeds, data
variants and earlier versions of other commands. A run is in the manifest of every suite that would
train it, whichever suite the command named; a run trained otherwise (other epochs, say) is in none.
"""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.errors import RecordError
from bench.storage import open_lock, quarantine, read_json, write_json

FULL = "full"
FOLDER = "suites"


@dataclass(frozen=True, kw_only=True, order=True)
class PlannedRun:
    """One training of a suite, and what the suite asks of its checkpoints."""

    study: int
    """Position of the study among the suite's own, without those of suites that it includes."""
    dataset: str
    method: str
    seed: int
    arch: str
    eps: float
    run_id: str
    evaluations: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What belongs to a suite in one size, done or not."""

    suite: str
    size: str
    runs: tuple[PlannedRun, ...]

    @property
    def file_name(self) -> str:
        return f"{self.suite}.json" if self.size == FULL else f"{self.suite}@{self.size}.json"

    def merged(self, other: Manifest) -> Manifest:
        runs: dict[tuple[int, str], PlannedRun] = {}
        for run in (*self.runs, *other.runs):
            earlier = runs.get((run.study, run.run_id), run)
            runs[run.study, run.run_id] = replace(
                run,
                evaluations=tuple(sorted({*earlier.evaluations, *run.evaluations})),
                measures=tuple(sorted({*earlier.measures, *run.measures})),
            )
        return replace(self, runs=tuple(sorted(runs.values())))


def manifest_files(results: str | Path) -> list[Path]:
    return sorted(Path(results, FOLDER).glob("*.json"))


def load_manifest(path: Path) -> Manifest:
    content = read_json(path)
    try:
        lists = ("evaluations", "measures")
        runs = (run | {key: tuple(run[key]) for key in lists} for run in content["runs"])
        planned = tuple(PlannedRun(**run) for run in runs)
        return Manifest(suite=content["suite"], size=content["size"], runs=planned)
    except (AttributeError, KeyError, TypeError) as error:
        raise RecordError(f"{path} is damaged: {error!r}") from None


def add_to_manifests(results: Path, manifests: Sequence[Manifest]) -> None:
    """Merge manifests into those of a results folder; safe with several processes at once.

    On a file system without locks, the last of them wins.
    """
    if not manifests:
        return
    folder = results / FOLDER
    with open_lock(folder) as lock:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        for manifest in manifests:
            path = folder / manifest.file_name
            earlier = None
            try:
                earlier = load_manifest(path) if path.exists() else None
            except RecordError:
                quarantine(path)
            merged = (earlier or manifest).merged(manifest)
            if merged != earlier:
                write_json(path, asdict(merged))
