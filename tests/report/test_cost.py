from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.commands.run import run
from bench.records import load_records
from bench.report import write_report
from bench.report.cost import cost_csv, cost_facts, cost_table, costs, group_costs
from tests.report.made import MACHINE, evaluate, model_run, section_of, train_run

GPU = {"device": "H100", "processor": "Host", "threads": 16}


def cells(results: Path) -> dict[str, list[str]]:
    """Label -> each cell without the numbers of notes and the deviation over seeds."""
    rows = cost_table(section_of(results)).text.to_numpy().tolist()
    bare = [
        [re.sub(r" \u00b1.*| [\u00b9\u00b2\u00b3\u2074-\u2079]+", "", c) for c in row]
        for row in rows
    ]
    return {row[0]: row[1:] for row in bare}


def test_costs_are_relative_to_the_mean_of_the_reference(tmp_path: Path) -> None:
    for seed, seconds in ((0, 1.0), (1, 3.0)):
        train_run(tmp_path, "madry", seed=seed, passes=(11, 11), epoch_seconds=seconds)
    for seed, forward in ((0, 4.0), (1, 8.0)):
        passes = (forward, 5.0)
        train_run(tmp_path, "dynamic", seed=seed, passes=passes, epoch_seconds=4.0)
    found = group_costs(section_of(tmp_path)).loc["dynamic"]
    assert found["passes_relative"] == pytest.approx((9 + 13) / 2 / 22)
    assert found["seconds_relative"] == pytest.approx(4.0)  # of the fastest seeds
    assert (found["reference"], found["n_seeds"]) == ("madry", 2)
    seeds = costs(section_of(tmp_path)).set_index(["label", "seed"])["seconds_relative"]
    assert seeds["madry"].tolist() == pytest.approx([1.0, 3.0])
    assert cells(tmp_path)["Dynamic AT"][:4] == ["6.0", "5.0", "0.50", "4.00"]


def test_an_epoch_of_more_images_is_not_slower(tmp_path: Path) -> None:
    train_run(tmp_path, "madry", epoch_seconds=2.0)
    file = train_run(tmp_path, "trades", epoch_seconds=2.0).train_file
    twice = file.read_text().replace('"images_per_second": 647.0', '"images_per_second": 1294.0')
    file.write_text(twice)
    found = group_costs(section_of(tmp_path)).loc["trades"]
    assert found["seconds_relative"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("machine", "batch_size"),
    [
        (GPU, 128),
        ({**MACHINE, "threads": 4}, 128),
        ({**MACHINE, "processor": "Other CPU"}, 128),
        (None, 128),
        (MACHINE, 64),
    ],
)
def test_seconds_of_another_machine_are_not_compared(
    tmp_path: Path, machine: dict[str, object] | None, batch_size: int
) -> None:
    train_run(tmp_path, "madry")
    train_run(tmp_path, "trades", machine=machine, batch_size=batch_size, passes=(14, 12))
    row = cells(tmp_path)["TRADES"]
    assert row[2:4] == ["1.18", "\u2013"]
    assert "No Madry AT run on an equal machine at equal batch size and precision." in (
        cost_table(section_of(tmp_path)).notes
    )


def test_ranks_that_share_a_training_are_another_machine(tmp_path: Path) -> None:
    train_run(tmp_path, "madry")
    train_run(tmp_path, "trades", ranks=(4,))
    assert cells(tmp_path)["TRADES"][3] == "\u2013"
    found = costs(section_of(tmp_path)).set_index("label")["machine"]
    assert found["trades"] == f"{found['madry']}, 4 ranks"


def test_machines_are_not_equal_by_being_unknown(tmp_path: Path) -> None:
    for method in ("madry", "trades"):
        train_run(tmp_path, method, machine=None)
    assert cells(tmp_path)["TRADES"][3:5] == ["\u2013", "647 (not on record)"]


def test_seeds_on_two_machines_are_shown_apart(tmp_path: Path) -> None:
    train_run(tmp_path, "madry", machine=MACHINE)
    train_run(tmp_path, "trades", machine=MACHINE, epoch_seconds=4.0)
    train_run(tmp_path, "trades", seed=1, machine=GPU, epoch_seconds=0.01)
    row = cells(tmp_path)["TRADES"]
    assert row[3:5] == ["2.00", "324 (A), 129400 (B)"]
    assert any("seeds left out: 1" in note for note in cost_table(section_of(tmp_path)).notes)
    assert "Machine B: H100 (host: Host, 16 threads)." in cost_facts(
        section_of(tmp_path), "results"
    )


def test_without_a_reference_the_command_that_adds_it_is_named(tmp_path: Path) -> None:
    source = {"suite": "digits", "dataset_source": "digits"}
    train_run(tmp_path, "cat-ce", passes=(12, 11), provenance=source)
    assert cells(tmp_path)["CAT-CE"][2:4] == ["\u2013", "\u2013"]
    (line, _) = cost_facts(section_of(tmp_path), "results/mine")
    assert line.startswith(
        "No Madry AT run in this table has ended, so nothing is relative to it; `"
    )
    command = line.split("`")[1].split()
    assert command[:2] == ["bench", "run"]
    options = run.make_context("run", command[2:]).params
    assert options["methods"] == ("madry",)
    assert (options["suite"], options["dataset"], options["arch"]) == ("digits", "digits", "cnn")
    assert (options["epochs"], options["batch_size"]) == (20, 128)
    assert options["eps"] == pytest.approx(8 / 255)
    assert options["results"] == Path("results/mine")


def test_a_failed_reference_is_not_asked_for_again(tmp_path: Path) -> None:
    train_run(tmp_path, "cat-ce", passes=(12, 11))
    train_run(tmp_path, "madry", error="the loss is not finite")
    assert cells(tmp_path)["CAT-CE"][2:4] == ["\u2013", "\u2013"]
    assert cost_facts(section_of(tmp_path), "results")[0].endswith("its training failed.")


def test_of_two_references_the_one_trained_alike_counts(tmp_path: Path) -> None:
    train_run(tmp_path, "madry", epochs=20, passes=(11, 11))
    train_run(tmp_path, "madry", epochs=10, passes=(4, 4))
    train_run(tmp_path, "trades", epochs=10, passes=(8, 8))
    found = group_costs(section_of(tmp_path)).loc["trades"]
    assert found["reference"] == "madry (epochs=10)"
    assert found["passes_relative"] == 2.0
    assert "Relative to Madry AT (epochs=10)." in cost_table(section_of(tmp_path)).notes


def test_a_model_from_outside_has_no_cost(tmp_path: Path) -> None:
    model_run(tmp_path)
    found = section_of(tmp_path)
    assert set(cells(tmp_path)["mine.py:make (outside model)"]) == {"\u2013"}
    assert cost_facts(found, "results") == []
    assert cost_csv([found]).empty


def test_a_report_of_outside_models_alone_has_no_page_of_costs(tmp_path: Path) -> None:
    evaluate(model_run(tmp_path / "r"), "clean", 0.9, 20, checkpoint="given")
    report = write_report(load_records(tmp_path / "r"), tmp_path / "p", command="x")
    assert "mine.py:make (outside model)" in report.text
    assert "Cost of training" not in report.text
    assert not (tmp_path / "p" / "cost.md").exists()


def test_the_csv_has_a_line_for_each_run(tmp_path: Path) -> None:
    train_run(tmp_path, "madry", epoch_seconds=2.0)
    train_run(tmp_path, "cat-ce", seed=0, passes=(12, 11), epoch_seconds=3.0)
    train_run(tmp_path, "cat-ce", seed=1, error="it broke")
    frame = cost_csv([section_of(tmp_path)])
    rows = {(r["method"], r["seed"]): r for r in frame.to_dict("records")}
    assert len(rows) == 3
    done, failed = rows["cat-ce", 0], rows["cat-ce", 1]
    assert float(done["passes_relative"]) == pytest.approx(23 / 22, abs=1e-5)
    assert (done["seconds_relative"], done["reference"], done["threads"]) == ("1.5", "madry", 2)
    assert (failed["status"], failed["forward_per_image"]) == ("failed: it broke", "")


@pytest.mark.slow
def test_a_real_training_leaves_what_the_table_needs(tmp_path: Path) -> None:
    options = (
        "--methods natural,madry --seeds 0 --epochs 1 --train-size 64 --test-size 8 --attacks clean"
    )
    done = CliRunner().invoke(
        main, ["run", *options.split(), "--results", str(tmp_path), "--quiet"]
    )
    assert done.exit_code == 0, done.output
    row = cells(tmp_path)["Natural"]
    assert row[:3] == ["1.0", "1.0", "0.09"]
    assert float(row[3]) > 0
    assert row[4].endswith(" (A)")
