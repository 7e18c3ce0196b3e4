"""What tests read: the page's tables by label, and the .csv files next to it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from bench.report.formatting import MISSING, percent

CELLS = """(table) => [...table.querySelectorAll('tbody tr')].map((row) => ({
    ...row.dataset,
    cells: [...row.children].map((cell) => ({
        ...cell.dataset, text: cell.textContent.replace(/\\s+/g, ' ').trim(),
    })),
}))"""


def rows(page: Page, selector: str) -> list[dict[str, Any]]:
    """Return the rows of a table: their data attributes, and those and the text of their cells."""
    found: list[dict[str, Any]] = page.eval_on_selector(selector, CELLS)
    return found


def by_key(row: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    return {cell["key"]: cell for cell in row["cells"] if "key" in cell}


def numbers(folder: Path, name: str) -> list[dict[str, str]]:
    """Return the rows of a .csv as text."""
    with (folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def accuracy_text(row: Mapping[str, str], key: str, *, error: bool = True) -> str:
    """Return what the page writes for an accuracy of a .csv row."""
    if not row[key]:
        return MISSING
    text = percent(float(row[key]))
    if not error:
        return text
    if row[f"{key}_std"]:
        return f"{text} \u00b1 {percent(float(row[f'{key}_std']))}"
    low, high = (percent(float(row[f"{key}_{end}"])) for end in ("low", "high"))
    return f"{text} [{low}, {high}]"
