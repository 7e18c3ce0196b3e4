"""`bench run --tensorboard`: the histories of trainings as scalars, each epoch once."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bench.records import load_records
from bench.records.run_folder import RunFolder
from bench.tensorboard import HistoryScalars
from tests.commands import bench as command
from tests.commands import done, files, refused


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run: name -> (step, value)."""
    events = EventAccumulator(str(folder))
    events.Reload()
    names = events.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_epochs_of_every_run_are_there_once(tmp_path: Path, workers: int) -> None:
    arguments = ("run", "--methods", "natural,cat-ce", "--seeds", 0, "--attacks", "clean")
    small = ("--train-size", 200, "--test-size", 50, "--epochs", 3, "--workers", workers)
    results, board = tmp_path / "results", tmp_path / "board"
    where = ("--results", results, "--tensorboard", board, "--quiet")
    done(*arguments, *small, *where)
    runs = load_records(results)
    assert {run.method for run in runs} == {"natural", "cat-ce"}
    for run in runs:
        shown = scalars(board / run.run_id)
        assert len(run.history) == 3
        for name in ("loss", "lr", "val_clean", "val_robust", "train_seconds"):
            expected = [(row["epoch"], float(np.float32(row[name]))) for row in run.history]
            assert shown[name] == expected
        median = [float(np.float32(row["radius_quantiles"][3])) for row in run.history
                  if run.method == "cat-ce"]  # fmt: skip
        assert [value for _, value in shown.get("radius_quantiles/0.5", [])] == median
    before = files(board)
    done(*arguments, *small, *where)
    assert files(board) == before


def write(run: RunFolder, *losses: float) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_history([{"epoch": e, "loss": loss, "n_val": 9} for e, loss in enumerate(losses)])


def test_an_epoch_with_another_outcome_replaces_the_earlier_one(tmp_path: Path) -> None:
    run, board = RunFolder(tmp_path / "results", "run"), tmp_path / "board"
    HistoryScalars(board).update(run)  # no history yet
    write(run, 3.0, 2.0, 1.0)
    HistoryScalars(board).update(run)
    again = HistoryScalars(board)
    for losses in ((3.0,), (3.0, 2.5), (3.0, 2.5, 0.1, 0.5)):
        write(run, *losses)
        again.update(run)
    again.close(run)
    assert scalars(board / "run") == {"loss": [(0, 3.0), (1, 2.5), (2, np.float32(0.1)), (3, 0.5)]}


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    result = command("run", "--results", tmp_path / "results", "--tensorboard", tmp_path / "board")
    refused(result, "tensorboard", "pip install 'atbench[tensorboard]'")
    assert not list(tmp_path.iterdir())
