"""The text of an accuracy, and the files of an artefact's output."""

from __future__ import annotations

from bench.report.accuracy import AccuracyEstimate
from bench.report.artefact import Artefact, Output
from bench.report.export import csv_text, figure_files, latex, latex_document, markdown, plain
from bench.report.formatting import MISSING, percent, span
from bench.report.suite_runs import SuiteRuns


def output_files(
    artefact: Artefact, output: Output, chosen: SuiteRuns, note: str
) -> dict[str, bytes]:
    """Return an artefact's files by name; `note` says where its numbers come from."""
    origin = " ".join(filter(None, [note, chosen.caption, output.note]))
    files: dict[str, bytes] = {}
    for name, table in output.tables.items():
        heading = [note, f"# {artefact.title}", plain(chosen.caption)]
        text = "\n\n".join([*heading, markdown(table, output.below)])
        tex = latex(table, f"{artefact.title}. {chosen.caption}", name, output.below)
        files |= {
            f"{name}.md": f"{text}\n".encode(),
            f"{name}.tex": latex_document(note, [tex]).encode(),
        }
    for name, numbers in output.numbers.items():
        files[f"{name}.csv"] = csv_text(numbers, origin).encode()
    for name, draw in output.figures.items():
        pictures = figure_files(draw, origin, name)
        files |= {f"{name}{suffix}": content for suffix, content in pictures.items()}
    return files


def accuracy_text(
    estimate: AccuracyEstimate | None, n_seeds: int = 1, n: tuple[int, ...] | None = None
) -> str:
    """Return `71.1 [66.2, 75.6]`, or `58.0 \u00b1 1.2`, with a remark on missing images or seeds.

    n: the images that the table names for the row; None where it has no such column.
    """
    if estimate is None:
        return MISSING
    parts = []
    if estimate.value is not None:
        parts.append(percent(estimate.value))
    if estimate.std is not None:
        parts.append(f"\u00b1 {percent(estimate.std)}")
    elif estimate.low is not None and estimate.high is not None:
        parts.append(f"[{percent(estimate.low)}, {percent(estimate.high)}]")
    remark = _remark(estimate, n_seeds, n)
    return " ".join([*parts, *([f"({remark})"] if remark else [])])


def _remark(estimate: AccuracyEstimate, n_seeds: int, n: tuple[int, ...] | None) -> str:
    parts, counts = [], zip(estimate.n, estimate.n_expected, strict=True)
    short = [(have, of) for have, of in counts if have < of]
    if short:
        where = f" in {len(short)} of {len(estimate.n)} seeds" if len(estimate.n) > 1 else ""
        parts.append(f"{short[0][0]} of {short[0][1]} images{where}")
    elif n is None or set(estimate.n) != set(n):
        parts.append(f"n = {span(estimate.n)}")
    if len(estimate.n) < n_seeds:
        parts.append(f"{len(estimate.n)} of {n_seeds} seeds")
    return ", ".join(parts)
