"""The generated pages: equal to what code and records say, and the same on every machine."""

import re
from pathlib import Path

import pytest

from bench.records import load_records
from bench.report.table3 import brief
from docs.generate import DIGITS, PAGES, ROOT, filled, generated, main
from docs.reference_pages import PARTS, method_pages, prose
from tests.report.made import evaluate, evaluate_all, train_run

START, END = "<!-- digits-table:start -->", "<!-- digits-table:end -->"
README = f"Before.\n\n{START}\nan old table\n{END}\n\nAfter.\n"


@pytest.mark.slow
def test_every_generated_file_is_up_to_date() -> None:
    files = generated(ROOT)
    assert len(files) == 5
    assert [p for p, text in files.items() if p.read_text() != text] == [], "run `make docs`"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return method_pages()


def test_each_method_has_a_page_and_each_parameter_a_meaning(pages: dict[str, str]) -> None:
    ours = {path.stem for path in (ROOT / "results" / "pinned").glob("method-*.json")}
    assert {f"method-{name}" for name in pages if name != "index"} == ours
    rows = [line for page in pages.values() for line in page.splitlines() if line[:3] == "| `"]
    assert len(rows) > 50
    assert [row for row in rows if row.split(" | ")[-1].strip(" |") == ""] == []


@pytest.mark.parametrize("name", PARTS)
def test_each_part_made_from_code_is_on_one_page(name: str) -> None:
    marker = f"<!-- {name} -->"
    pages = [path for path in (ROOT / "docs").rglob("*.md") if marker in path.read_text()]
    assert len(pages) == 1
    assert PARTS[name]().count("\n") > 5


def named(pattern: str, *folders: str) -> set[str]:
    """What the texts in these folders and at the top name."""
    texts = [path for name in folders for path in (ROOT / name).rglob("*.*")]
    texts = [path for path in texts if path.suffix not in (".pyc", ".png")]
    texts += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return {name for path in texts for name in re.findall(pattern, path.read_text())}


def test_every_file_that_a_text_names_exists() -> None:
    pages = named(r"docs/[\w/-]+\.md", "bench", "benchmarks", "methods", "docs")
    assert len(pages) > 5
    code = named(r"`((?:bench|benchmarks|methods|tests)/[\w/]+(?:\.\w+)?)`", "docs")
    code = {name for name in code if not re.search("[A-Z]{3}", name)}
    assert len(code) > 10
    assert [name for name in pages | code if not (ROOT / name).exists()] == []


def test_a_docstring_becomes_paragraphs_and_code() -> None:
    text = prose(
        "One line\nand 2*3, a *star*, y'_y < z, <b>, `a*b`.\n\n    x = 1\n\n        y = 2\n\nEnd.\n"
        "Agrees with it.\nDiffers from it: so\nfar."
    )
    assert text == (
        "One line and 2\\*3, a \\*star\\*, y'\\_y < z, \\<b>, `a*b`.\n\n"
        "```text\nx = 1\n\n    y = 2\n```\n\nEnd.\n\nAgrees with it.\n\nDiffers from it: so far."
    )


def in_readme(results: Path, page: str = README) -> str:
    """The page with the table of these records."""
    return filled(page, "digits-table", brief(load_records(results), DIGITS))


def test_the_readme_gets_the_records_between_its_markers(tmp_path: Path) -> None:
    results = tmp_path / "results"
    run = {"command": f"bench run --results {results} --eps 8/255", "suite": "digits"}
    evaluate_all(train_run(results, "madry", provenance=run), clean=0.9, pgd=0.6, cw=0.6,
                 autoattack=0.5)  # fmt: skip
    cat = train_run(results, "cat-ce", provenance=run, passes=(12, 11))
    evaluate_all(cat, clean=0.95, pgd=0.8, cw=0.6, autoattack=0.3)
    evaluate(cat, "pgd-20", 0.7, 360, clean=0.95, checkpoint="last")
    train_run(results, "mart", provenance=run, error="the loss is not finite")
    text = in_readme(results)
    assert text.startswith(f"Before.\n\n{START}\n\n| Method ")
    assert text.endswith(f"\n\n{END}\n\nAfter.\n")
    assert "an old table" not in text
    assert in_readme(results, text) == text
    rows = {r.split(" | ")[0].strip("| "): r for r in text.splitlines() if r.startswith("| ")}
    assert rows["Method"].split(" | ")[5].strip() == "Worst case"
    assert rows["Madry AT"].split(" | ")[6].strip(" |") == "1.00"
    assert "80.0" in rows["CAT-CE"]
    assert " MART: failed: the loss is not finite." in text
    assert " PGD-20 is more than 5 points above AutoAttack" in text
    assert "last" not in text
    assert "Worst case: correct under each of PGD-20, C&W and AutoAttack." in text
    assert text.removesuffix(f"\n\n{END}\n\nAfter.\n").endswith(
        "code was not recorded.\n\n</details>"
    )
    assert "seeds: 0." in text
    assert "Trained on: Made CPU @ 2 GHz, 2 threads." in text
    assert "made by `bench run --results results --eps 8/255`." in text
    assert str(tmp_path) not in text


def test_a_page_without_both_markers_stays() -> None:
    for page in ("No markers.", f"{END} {START}", START):
        assert filled(page, "digits-table", "a table") == page


def test_rows_of_other_images_say_how_many(tmp_path: Path) -> None:
    for method, n in (("madry", 100), ("trades", 100), ("mart", 50)):
        run = train_run(tmp_path, method)
        evaluate_all(run, clean=0.9, pgd=0.6, cw=0.6, autoattack=0.5, n_autoattack=n)
    text = brief(load_records(tmp_path), "results/digits")
    assert "95% interval over 100 images" in text
    assert "MART: 50 images." in text


def test_seeds_and_settings_are_named(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = train_run(tmp_path, "madry", seed=seed)
        evaluate_all(run, clean=0.9, pgd=0.6, cw=0.6, autoattack=0.5)
    evaluate_all(train_run(tmp_path, "madry", eps=0.2), clean=0.9, pgd=0.4, cw=0.4,
                 autoattack=0.3, eps=0.2)  # fmt: skip
    text = brief(load_records(tmp_path), "results/digits")
    assert text.count("| Method ") == 2
    assert "digits, cnn, recipe common, eps 51/255 (0.2); seeds: 0." in text
    assert "seeds: 0, 1." in text
    assert "Mean \u00b1 sample standard deviation over 2 seeds" in text


def test_what_is_out_of_date_is_named_and_then_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PAGES, "docs/made.md", lambda root: "made")
    evaluate_all(train_run(tmp_path / DIGITS, "madry"), clean=0.9, pgd=0.6, cw=0.6,
                 autoattack=0.5)  # fmt: skip
    made, readme = tmp_path / "docs" / "made.md", tmp_path / "README.md"
    made.parent.mkdir()
    made.write_text("older")
    assert main(["--check"], tmp_path) == 1
    assert capsys.readouterr().err == "docs/made.md is out of date: run `make docs`\n"
    readme.write_text(README)
    assert main(["--check"], tmp_path) == 1
    assert "README.md is out of date" in capsys.readouterr().err
    assert readme.read_text() == README
    assert main([], tmp_path) == 0
    assert capsys.readouterr().out == "wrote docs/made.md\nwrote README.md\n"
    assert made.read_text() == "made"
    assert main(["--check"], tmp_path) == 0
    assert capsys.readouterr() == ("", "")
