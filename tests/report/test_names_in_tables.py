"""Names from outside in markdown and LaTeX: letter for letter, whatever they hold.

The markdown is read back by a reader of CommonMark with GitHub's tables, which rich brings.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from bench.records import load_records
from bench.report import write_report
from bench.report.export import (
    Markup,
    Table,
    alternative,
    bullets,
    latex,
    latex_escaped,
    markdown,
    plain,
)
from tests.report.made import evaluate_all, model_run, train_run

HOSTILE = (
    *("[bold]x[/bold]", "[x](https://example.org)", "![x](y.png)", "a|b", "a`b", "**x**", "*x*"),
    *("_x_", "__init__", "_hidden", "~~x~~", "~x~", "<b>x</b>", "<script>", "&lt;x&#39;"),
    *("a\\b", "\\*x\\*", "a\\|b", "$x$", "# x", "- x", "> x", "+ x", "1. x", "2) x", "[ ] x"),
    *("trailing\\", "`", "*", "_", "[", "]", "|", "a_b_c", "100% & more", "{x}^~"),
)
READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def words(text: str) -> list[str]:
    """The text of every leaf; fails where one of them is not mere text."""
    found = []
    for token in READER.parse(text):
        if token.type == "inline":
            children = token.children or []
            assert {child.type for child in children} <= {"text"}, children
            found.append("".join(child.content for child in children))
    return found


def words_of_tables(text: str) -> set[str]:
    """The text of every cell."""
    tokens = READER.parse(text)
    cells = [after for before, after in pairwise(tokens) if before.type == "td_open"]
    return {"".join(child.content for child in cell.children or []) for cell in cells}


def kinds(text: str) -> set[str]:
    return {token.type.removesuffix("_open").removesuffix("_close") for token in READER.parse(text)}


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_shows_the_name(name: str) -> None:
    text = markdown(Table(text=pd.DataFrame([[name, "1.0"]], columns=["Method", name])))
    assert words(text) == ["Method", name, name, "1.0"]
    assert kinds(text) == {"table", "thead", "tbody", "tr", "th", "td", "inline"}
    text = bullets([name, f"about {name}: more"])
    assert words(text) == [name, f"about {name}: more"]
    assert kinds(text) == {"bullet_list", "list_item", "paragraph", "inline"}
    (_, inline, _) = READER.parse(f"![{alternative(name)}](file.png)")
    (image,) = inline.children or []
    assert (image.type, image.attrs["src"]) == ("image", "file.png")
    assert "".join(child.content for child in image.children or []) == name


def test_names_with_line_breaks_stay_on_their_line() -> None:
    assert plain("a\n\n# b\tc") == "a # b c"
    assert latex_escaped("a\n\n% b") == r"a \% b"


def test_what_is_ours_stays_markup() -> None:
    command = "`bench run --methods ./_a_b*.py --param x=<y>`"
    assert plain(f"Made by {command}.") == f"Made by {command}."
    assert plain(Markup("at size tiny: **holds**")) == "at size tiny: **holds**"
    cell = Table(text=pd.DataFrame({"a": [Markup("**x**")]}, dtype=object))
    assert "| **x** |" in markdown(cell)
    assert plain("step_size = 2, [21.0, 38.5], 5 of 6") == "step_size = 2, [21.0, 38.5], 5 of 6"


@pytest.mark.parametrize("name", ["[2em]", "*", "[bold]x[/bold]"])
def test_a_row_of_latex_does_not_begin_with_what_its_neighbour_takes(name: str) -> None:
    lines = [[label, "1"] for label in (name, "madry", name)]
    text = latex(Table(text=pd.DataFrame(lines, columns=["M", "n"])), "c", "l", ())
    rows = [row for row in text.splitlines() if row.endswith(r"\\")]
    assert rows[1] == rows[3] == rf"{{}}{name} & 1 \\"
    assert rows[2] == r"madry & 1 \\"


@pytest.mark.parametrize("name", HOSTILE)
def test_latex_has_no_special_character_of_a_name(name: str) -> None:
    text = latex_escaped(name)
    for command in ("textbackslash", "textasciitilde", "textasciicircum", "textless",
                    "textgreater", "textbar"):  # fmt: skip
        text = text.replace(rf"\{command}{{}}", "")
    for character in "&%$#_{}":
        text = text.replace(rf"\{character}", "")
    assert not set(text) & set("\\&%$#_{}~^<>|"), text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["$x$ [a](b) | _c_", "_hid`den", r"$\frac"])
def test_a_report_of_such_names_is_made(tmp_path: Path, name: str) -> None:
    results = tmp_path / "results"
    for run in (
        train_run(results, name, error=f"the loss of {name} is not finite", seed=1),
        train_run(results, name, warnings=(f"a warning of {name}",)),
        train_run(results, "madry", dataset=f"npz:{name}", recipe=name),
        model_run(results, f"{name}.py:make"),
    ):
        evaluate_all(run, clean=0.9, pgd=0.6, cw=0.6, autoattack=0.5)
    reports = tmp_path / "reports"
    write_report(load_records(results), reports, command="bench report")
    for file in ("table3.md", "cost.md", "index.md"):
        inline = [token for token in READER.parse((reports / file).read_text()) if token.children]
        leaves = [child for token in inline for child in token.children or []]
        assert not {leaf.type for leaf in leaves} & {"em_open", "s_open", "html_inline"}
        for leaf in leaves:
            target = leaf.attrs.get("href") or leaf.attrs.get("src")
            assert target is None or (reports / str(target)).is_file(), target
    cells = words_of_tables((reports / "table3.md").read_text())
    assert any(cell.startswith(name) for cell in cells)
    assert f"{name}.py:make (outside model)".rpartition("/")[2] in cells
