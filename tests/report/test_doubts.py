"""A row that the evaluator warns of carries a mark, and a clean row none."""

from __future__ import annotations

from pathlib import Path

from bench.records import load_records
from bench.report.aggregate import Section, sections
from bench.report.brief import brief_table
from bench.report.layout import Line, Table, main_table
from bench.spec import GIVEN
from tests.report.made import evaluate, model_run, train_run


def section_of(folder: Path) -> Section:
    (section,) = sections(load_records(folder))
    return section


def notes_of(table: Table, line: Line) -> list[str]:
    return [table.notes[mark - 1] for text in line.head for mark in text.marks]


def test_the_checkpoint_that_is_warned_of_is_marked_and_no_other(tmp_path: Path) -> None:
    madry, trades = train_run(tmp_path, "madry"), train_run(tmp_path, "trades")
    evaluate(madry, "pgd-20", 0.5, 100)
    evaluate(madry, "pgd-20", 0.5, 100, checkpoint="last", warnings=["logits are random"])
    evaluate(trades, "pgd-20", 0.5, 100)
    section = section_of(tmp_path)
    table = main_table(section)
    assert [notes_of(table, line) for line in table.lines] == [
        [], ["The evaluator warns: logits are random."], [], [],
    ]  # fmt: skip
    short = brief_table(section)
    assert [notes_of(short, line) for line in short.lines] == [[], []]
    evaluate(trades, "cw", 0.5, 100, warnings=["logits are random"])
    short = brief_table(section_of(tmp_path))
    notes = [notes_of(short, line) for line in short.lines]
    assert notes == [[], ["The evaluator warns: logits are random."]]


def test_a_warning_at_an_eps_of_the_figure_alone_marks_no_row(tmp_path: Path) -> None:
    madry = train_run(tmp_path, "madry")
    evaluate(madry, "pgd-20", 0.5, 100)
    evaluate(madry, "pgd-20", 0.7, 100, eps=4 / 255, warnings=["left the ball"])
    table = main_table(section_of(tmp_path))
    assert all(notes_of(table, line) == [] for line in table.lines)


def test_many_warnings_are_one_note(tmp_path: Path) -> None:
    outside = model_run(tmp_path)
    for attack, texts in (("pgd-20", "abc"), ("cw", "cde")):
        evaluate(outside, attack, 0.5, 100, checkpoint=GIVEN, warnings=list(texts))
    table = main_table(section_of(tmp_path))
    (notes,) = (notes_of(table, line) for line in table.lines)
    assert len(notes) == 1
    shown, more = notes[0].removeprefix("The evaluator warns: ").split("; and ")
    assert more == "2 more, listed below."
    assert len(set(shown.split("; ")) & set("abcde")) == 3
