"""Merge what a run has finished into one file per checkpoint. Without torch.

Chunks and measures are written to files of their own, so that a kill loses none of them. Merging
moves an evaluation with all its chunks into evaluations/<checkpoint>.npz, and a measure into
measures/<checkpoint>.npz (`bench.storage.write_archive`), so that a run has a handful of files.
"""

from contextlib import suppress
from pathlib import Path

from bench.records.load import unmerged_evaluations, unmerged_measures
from bench.records.spec import CHECKPOINTS, GIVEN
from bench.storage import Entry, archived, mend_archive, read_archive, write_archive


def archives(folder: Path) -> list[Path]:
    """Return where a run's `evaluations` or `measures` keeps what is finished."""
    return [folder / f"{name}.npz" for name in (*CHECKPOINTS, GIVEN)]


def finished(run: Path) -> dict[Path, dict[str, Entry]]:
    """Return what is finished and not merged, by archive and id."""
    found: dict[Path, dict[str, Entry]] = {}
    for evaluation in unmerged_evaluations(run / "evaluations", []).values():
        if (entry := evaluation.entry()) is not None:
            path = run / "evaluations" / f"{evaluation.spec.checkpoint}.npz"
            found.setdefault(path, {})[evaluation.eval_id] = entry
    for measure in unmerged_measures(run / "measures", []).values():
        path = run / "measures" / f"{measure.spec.checkpoint}.npz"
        found.setdefault(path, {})[measure.measure_id] = measure.entry()
    return found


def merge_finished(run: Path) -> int:
    """Move finished evaluations and measures of a run's folder into archives; return how many.

    For one process at a time. A file is removed only after its content was read back from the
    archive, so after a kill the next call continues. Damaged files and unfinished evaluations stay;
    a damaged archive is kept aside, and one with its undamaged entries takes its place.
    """
    evaluations, measures = archives(run / "evaluations"), archives(run / "measures")
    for path in (*evaluations, *measures):
        if path.exists():
            mend_archive(path)
    found = finished(run)
    for path, entries in found.items():
        there, _ = read_archive(path)
        if not entries.keys() <= there.keys():
            write_archive(path, {**entries, **there})
    for path in evaluations:
        for eval_id in archived(path):
            _remove_chunks(path.with_name(eval_id))
    for path in measures:
        for measure_id in archived(path):
            for suffix in (".json", ".npz"):
                path.with_name(measure_id + suffix).unlink(missing_ok=True)
    return sum(len(entries) for entries in found.values())


def _remove_chunks(folder: Path) -> None:
    """Remove the chunks of an evaluation that is in an archive; adversarial images stay."""
    (folder / "eval.json").unlink(missing_ok=True)  # first: without it no chunk is read
    for path in folder.glob("[0-9]*"):
        if path.stem.isdecimal() and path.suffix in (".json", ".npz", ".unfinished"):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # what is left are images, or files that were damaged
        folder.rmdir()
