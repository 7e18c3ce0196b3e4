"""An artefact's output as files: the only place that makes them."""

from __future__ import annotations

from bench.report.artefact import Artefact, Output
from bench.report.export import csv_text, figure_files, latex, latex_document, markdown, plain
from bench.report.suite_runs import SuiteRuns


def output_files(
    artefact: Artefact, output: Output, chosen: SuiteRuns | None, note: str
) -> dict[str, bytes]:
    """Return an artefact's files by name; `note` says where its numbers come from."""
    caption = chosen.caption if chosen else ""
    origin = " ".join(filter(None, [note, caption, output.note]))
    files: dict[str, str | bytes] = {}
    for name, table in output.tables.items():
        blocks = [note, f"# {artefact.title}", plain(caption), markdown(table, output.below)]
        files[f"{name}.md"] = "\n\n".join(filter(None, blocks)) + "\n"
        heading = f"{artefact.title}. {caption}".strip()
        files[f"{name}.tex"] = latex_document(note, [latex(table, heading, name, output.below)])
    files |= {f"{name}.csv": csv_text(frame, origin) for name, frame in output.numbers.items()}
    files |= {f"{name}.md": f"{note}\n\n{page}" for name, page in output.pages.items()}
    files |= {f"{name}.tex": f"% {origin}\n{text}\n" for name, text in output.latex.items()}
    for name, draw in output.figures.items():
        pictures = figure_files(draw, origin, name)
        files |= {f"{name}{suffix}": content for suffix, content in pictures.items()}
    return {n: text.encode() if isinstance(text, str) else text for n, text in files.items()}
