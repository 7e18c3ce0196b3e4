"""The generated pages: equal to what code and records say, and the same on every machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.attacks import list_attacks
from bench.evaluation.checks import CHECKS
from bench.records import load_records
from bench.registry import list_methods, method_class
from bench.report.table3 import brief
from docs.generate import DIGITS, PAGES, ROOT, filled, generated, main, methods_page, prose
from tests.report.made import evaluate, evaluate_all, train_run

START, END = "<!-- digits-table:start -->", "<!-- digits-table:end -->"
README = f"Before.\n\n{START}\nan old table\n{END}\n\nAfter.\n"


def our_methods() -> list[str]:
    """Without those that other tests of this process registered."""
    return [n for n in list_methods() if method_class(n).__module__.startswith("methods.")]


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("docs.generate.list_methods", our_methods)
        yield methods_page()


@pytest.mark.slow
def test_every_generated_file_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docs.generate.list_methods", our_methods)
    files = generated(ROOT)
    assert len(files) == 7
    assert [p for p, text in files.items() if p.read_text() != text] == [], "run `make docs`"
    evaluation = files[ROOT / "docs" / "evaluation.md"]
    for name in list_attacks():
        assert f"| `{name}` |" in evaluation
    assert evaluation.count("\n| C") == len(CHECKS)


def test_every_parameter_has_a_meaning(page: str) -> None:
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert [row for row in rows if row.split(" | ")[-1].strip(" |") == ""] == []


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
    assert rows["Method"].split(" | ")[6].strip() == "Lowest seen"
    assert rows["madry"].split(" | ")[10].strip(" |") == "1.00"
    assert "80.0" in rows["cat-ce"]
    assert " mart: failed: the loss is not finite." in text
    assert " PGD-20 is more than 5 points above AutoAttack" in text
    assert "last" not in text
    assert "3 attacks (pgd-20, cw, autoattack) unless a note says otherwise" in text
    assert text.removesuffix(f"\n\n{END}\n\nAfter.\n").endswith("code was not recorded.")
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
    rows = {r.split(" | ")[0].strip("| "): r for r in text.splitlines() if r.startswith("| ")}
    images = {name: row.split(" | ")[-3].strip(" |") for name, row in rows.items()}
    assert (images["Method"], images["madry"], images["mart"]) == ("n", "100", "50")


def test_seeds_and_settings_are_named(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = train_run(tmp_path, "madry", seed=seed)
        evaluate_all(run, clean=0.9, pgd=0.6, cw=0.6, autoattack=0.5)
    evaluate_all(train_run(tmp_path, "madry", eps=0.2), clean=0.9, pgd=0.4, cw=0.4,
                 autoattack=0.3, eps=0.2)  # fmt: skip
    text = brief(load_records(tmp_path), "results/digits")
    assert text.count("| Method ") == 2
    assert "digits, cnn, recipe common, eps 51/255 (0.2); best checkpoints; seeds: 0." in text
    assert "best checkpoints; seeds: 0, 1." in text
    assert "\u00b1: sample standard deviation over the seeds" in text


def test_what_is_out_of_date_is_named_and_then_written(
    tmp_path: Path, page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PAGES, "docs/methods.md", lambda root: page)
    evaluate_all(train_run(tmp_path / DIGITS, "madry"), clean=0.9, pgd=0.6, cw=0.6,
                 autoattack=0.5)  # fmt: skip
    methods, readme = tmp_path / "docs" / "methods.md", tmp_path / "README.md"
    methods.parent.mkdir()
    methods.write_text(page.replace("radius", "Radius"))
    assert main(["--check"], tmp_path) == 1
    assert capsys.readouterr().err == "docs/methods.md is out of date: run `make docs`\n"
    readme.write_text(README)
    assert main(["--check"], tmp_path) == 1
    assert "README.md is out of date" in capsys.readouterr().err
    assert readme.read_text() == README
    assert main([], tmp_path) == 0
    assert capsys.readouterr().out == "wrote docs/methods.md\nwrote README.md\n"
    assert methods.read_text() == page
    assert main(["--check"], tmp_path) == 0
    assert capsys.readouterr() == ("", "")
