"""Write the files that are made from records: pages in docs, README's table and
bench/precision.json. What is made from code, `docs/hooks.py` makes when the site is built.

`make docs` runs it; `python docs/generate.py --check` writes nothing, names the files that are out
of date, and exits with 1.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.machine import machine_text
from bench.precision import Paired, automatic
from bench.records import load_records
from bench.report.precision import paired_precisions, precision_page
from bench.report.table3 import brief

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks/ is not installed
from benchmarks.pages import (
    fused_table,
    gpu_table,
    launches_table,
    profile_tables,
    scaling_tables,
    speed_table,
)

ROOT = Path(__file__).parent.parent
DIGITS, PRECISION, SPEED = "results/digits", "results/precision", "results/speed"
TEMPLATES = Environment(  # of Markdown, without HTML to escape
    loader=FileSystemLoader(ROOT / "docs" / "templates"),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
)
TEMPLATES.globals |= {
    "machine_text": machine_text,
    "speed_table": speed_table,
    "gpu_table": gpu_table,
    "launches_table": launches_table,
    "fused_table": fused_table,
    "profile_tables": profile_tables,
    "scaling_tables": scaling_tables,
}


def digits_table(root: Path = ROOT) -> str:
    """Return the table of the committed records; empty without records."""
    records = load_records(root / DIGITS)
    return brief(records, DIGITS) if len(records) else ""


@cache
def _paired(root: Path) -> list[Paired]:
    return paired_precisions(load_records(root / PRECISION))


def _precision(root: Path) -> str:
    rows = _paired(root)
    choice, why = automatic(True, rows)
    return precision_page(rows, f"`auto` is {choice}, since {why}") if rows else ""


def _evidence(root: Path) -> str:
    """The evidence of `--precision auto`, for installations without records."""
    rows = _paired(root)
    return json.dumps([asdict(row) for row in rows], indent=1) + "\n" if rows else ""


def _speed(root: Path) -> str:
    found = _speeds(root)
    rows = [row for kept in found.values() if isinstance(kept, list) for row in kept]
    machines: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        name = f"{machine_text(row['machine'])}, torch {row['machine']['packages']['torch']}"
        machines.setdefault(name, []).append(row)
    return _rendered("speed.md.j2", found, machines=machines) if rows else ""


def _scaling(root: Path) -> str:
    found = _speeds(root)
    return _rendered("scaling.md.j2", found) if found else ""


def _speeds(root: Path) -> dict[str, Any]:
    return {p.stem: json.loads(p.read_text()) for p in sorted((root / SPEED).glob("*.json"))}


def _rendered(template: str, found: dict[str, Any], **values: Any) -> str:
    page = TEMPLATES.get_template(template)
    return page.render(**found, **values, pictures=f"../../{SPEED}")


Make = Callable[[Path], str]
"""The text for a checkout; empty without its records."""
PAGES: dict[str, Make] = {
    "docs/explanation/precision.md": _precision,
    "bench/precision.json": _evidence,
    "docs/explanation/speed.md": _speed,
    "docs/explanation/scaling.md": _scaling,
}
SECTIONS: dict[tuple[str, str], Make] = {
    ("README.md", "digits-table"): digits_table,
}
"""File and name of its markers, `<!-- NAME:start -->` and `<!-- NAME:end -->`."""


def filled(page: str, name: str, content: str) -> str:
    """Return `page` with `content` between the markers of `name`; unchanged without both."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    return f"{before}{start}\n\n{content}\n\n{end}{after}" if found and closed else page


def generated(root: Path) -> dict[Path, str]:
    """Return each generated file with the text that it should have."""
    files = {root / path: text for path, make in PAGES.items() if (text := make(root))}
    for (name, marker), make in SECTIONS.items():
        path = root / name
        content = make(root) if path.exists() else ""
        if content:
            files[path] = filled(files.get(path) or path.read_text(), marker, content)
    return files


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Write the files, or compare them with --check; return the exit code."""
    stale = [
        (path, text)
        for path, text in generated(root).items()
        if not path.exists() or path.read_text() != text
    ]
    for path, text in stale:
        name = path.relative_to(root)
        if "--check" in arguments:
            print(f"{name} is out of date: run `make docs`", file=sys.stderr)
        else:
            path.write_text(text)
            print(f"wrote {name}")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
