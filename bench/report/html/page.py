"""index.html from its parts: template, styles, scripts and data in one file that loads nothing.

Its content security policy names every script by its hash, so that text from a record can never
run. The same records give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from bench.records import Records
from bench.report.artefact import ClaimSummary
from bench.report.formatting import MISSING, percent
from bench.report.html import charts, leaderboard, runs, survivors
from bench.report.html.claims import claim_boards
from bench.report.html.heading import banners, chips, heading, suite_sizes
from bench.report.html.masking import check_groups
from bench.report.html.sentences import sentences
from bench.report.revisions import section_code
from bench.report.rows import Section, core_first
from bench.report.tables.pairwise import pair_matrix, pairwise_legend
from bench.report.titles import CLEAN, attack_title

FOLDER = Path(__file__).parent
VENDORED = ("vega.min.js", "vega-lite.min.js", "vega-interpreter.js", "dataTables.min.js")
OWN = ("shared.js", "leaderboard.js", "charts.js", "images.js", "compare.js", "start.js")
"""Scripts in the order in which they run."""


def index_page(
    parts: Sequence[Section],
    records: Records,
    claims: Mapping[str, Sequence[ClaimSummary]],
    downloads: Sequence[tuple[str, Sequence[str]]],
    note: str,
    results: str | Path,
) -> str:
    """Return the page.

    claims: of each paper, by its title. downloads: headings and the files below them. note: where
    the numbers come from. results: the folder of the records, as the page names it.
    """
    views, data = [], []
    sizes = suite_sizes(records)
    for section in parts:
        view, own = _view(section, sizes)
        views.append(view)
        data.append(own)
    scripts = [*map(_vendored, VENDORED), *map(_asset, OWN)]
    style = _asset("page.css")
    return _template().render(
        views=views,
        boards=claim_boards(claims),
        downloads=downloads,
        note=note,
        results=str(results),
        scripts=[Markup(script) for script in scripts],
        style=Markup(style),
        policy=_policy(scripts, style),
        data=Markup(_json({"settings": data})),
        licences=licences(),
    )


def _view(section: Section, sizes: Mapping[str, set[str]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the template shows of a setting, and the data of its scripts."""
    setting, entries = section.setting, leaderboard.entries(section)
    points, matrix = charts.curve_points(section), pair_matrix(section)
    images = survivors.packed(section, entries)
    counts = survivors.fate_counts(section, entries) if images else []
    pairs = charts.comparisons(section)
    view = {
        "slug": setting.slug,
        "heading": heading(setting),
        "chips": chips(section),
        "banners": banners(section, sizes),
        "code": section_code(section),
        "sentences": sentences(section, entries),
        "over": [attack_title(attack) for attack in section.worst_over],
        "entries": entries,
        "attack_rows": _attack_rows(section),
        "curves": charts.curve_tables(points),
        "fates": list(zip(images.get("fates", ()), images.get("inks", ()), strict=True)),
        "counts": counts,
        "pairs": pairs,
        "usual": list(map(attack_title, matrix.usual[0])) if matrix else [],
        "pair_legend": pairwise_legend(matrix) if matrix else "",
        "checks": check_groups(entries),
        "checked": [e for e in entries if e.row.masking.findings],
        "runs": runs.run_views(section, entries),
    }
    return view, {
        "slug": setting.slug,
        "eps": setting.eps,
        "looks": charts.looks(entries),
        "curves": points,
        "images": images,
        "pairs": pairs,
        "histories": runs.histories(section, entries),
    }


def _attack_rows(section: Section) -> dict[str, Any]:
    """Return the table of every attack on best and last checkpoints, on every evaluated image."""
    attacks = sorted({label for row in section.rows for label in row.labels}, key=core_first)
    labels, names = [CLEAN, *attacks], leaderboard.shown_names(section)
    return {
        "labels": labels,
        "heads": [attack_title(label) for label in labels],
        "rows": [
            (
                row.group.label,
                names[row.group.label],
                row.checkpoint,
                [leaderboard.cell(row.whole.get(label)) for label in labels],
            )
            for row in leaderboard.other_rows(section)
        ],
    }


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = percent
    environment.globals["missing"] = MISSING
    return environment.get_template("index.html.j2")


def _json(value: Any) -> str:
    """Return JSON that cannot end the script element that holds it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(scripts: Sequence[str], style: str) -> str:
    """Return the content security policy; Vega sets attributes `style`, and nothing else may."""

    def sha(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    allowed = {
        "default-src": "'none'",
        "script-src": " ".join(map(sha, scripts)),
        "style-src-elem": sha(style),
        "style-src-attr": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in allowed.items())


def _asset(name: str) -> str:
    return (FOLDER / "assets" / name).read_text(encoding="utf-8")


@cache
def _vendored(name: str) -> str:
    """Return a library as an inline script; the interpreter, a module, as a plain script."""
    text = (FOLDER / "vendor" / name).read_text(encoding="utf-8")
    text = re.sub(r"//# sourceMappingURL=.*", "", text).strip()
    if name != "vega-interpreter.js":
        return text
    text = re.sub(r"^import (\{.*?\}) from 'vega-util';", r"const \1 = vega;", text)
    text, n = re.subn(r"export \{ (\w+) as (\w+) \};", r"vega.\2 = \1;", text)
    assert n == 1
    return f"(() => {{\n{text}\n}})();"


def licences() -> list[dict[str, str]]:
    """Return name, licence and its text of each library inside the page."""
    folder = FOLDER / "vendor"
    found = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return [
        {
            "package": entry["package"],
            "licence": entry["license"],
            "text": (folder / entry["license_file"]).read_text(encoding="utf-8"),
        }
        for entry in found.values()
    ]
