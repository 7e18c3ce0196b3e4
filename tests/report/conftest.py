from __future__ import annotations

from pathlib import Path

import pytest

from bench.experiments.recipe import load_recipe
from bench.records import load_records
from bench.records.spec import GIVEN
from bench.report import ReportResult, write_report
from tests.report.made import evaluate, evaluate_all, model_run, train_run

LABELS = tuple(image % 10 for image in range(360))
GPU = {"device": "Made GPU", "processor": "Made Host", "threads": 16}


@pytest.fixture(autouse=True)
def _no_disk_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made records need not survive a power cut, and the sync is most of their time."""
    monkeypatch.setattr("bench.storage.os.fsync", lambda _: None)


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything: seeds, failures, gaps, damage, outside models, more. Read only."""
    folder = tmp_path_factory.mktemp("report") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.storage.os.fsync", lambda _: None)
        _digits(folder)
        _trades_twice(folder)
        mix = train_run(
            folder,
            "cat-mix",
            dataset="cifar10",
            arch="wrn-34-10",
            recipe="paper",
            values=load_recipe("paper", arch="", dataset="", method="cat-mix")[0],
            passes=(12.0, 11.0),
            machine=GPU,
        )
        evaluate_all(mix, clean=0.89, pgd=0.72, cw=0.70, autoattack=0.69)
    return folder


@pytest.fixture(scope="session")
def report(results: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportResult:
    """The report of `results`. Read only."""
    folder = tmp_path_factory.mktemp("report") / "reports"
    return write_report(load_records(results), folder, command="bench report")


def _trades_twice(folder: Path) -> None:
    for beta, epochs, clean in ((6.0, 20, 0.78), (1.0, 2, 0.83)):
        trades = train_run(
            folder,
            "trades",
            params={"beta": beta},
            epochs=epochs,
            dataset="cifar10-q75",
            arch="resnet-18",
            machine=None,
            provenance={"suite": "cifar10", "dataset_source": "npz:data/cifar10.npz"},
        )
        evaluate_all(trades, clean=clean, pgd=0.46, cw=0.43, autoattack=0.40)


def _digits(folder: Path) -> None:
    natural = train_run(
        folder,
        "natural",
        card={"title": "Natural training", "paper": ""},
        passes=(1.0, 1.0),
        epoch_seconds=0.25,
    )
    evaluate_all(natural, clean=0.97, pgd=0.01, cw=0.01, autoattack=0.0)
    evaluate_all(natural, clean=0.98, pgd=0.01, cw=0.0, autoattack=0.0, checkpoint="last")
    for seed, pgd in ((0, 0.56), (1, 0.59)):
        madry = train_run(
            folder,
            "madry",
            seed=seed,
            card={"paper": "arXiv 1706.06083"},
            epoch_seconds=2.0 + seed / 5,
        )
        cw, hardest = pgd - 0.01, pgd - 0.04
        evaluate_all(madry, clean=0.92, pgd=pgd, cw=cw, autoattack=hardest, labels=LABELS)
    train_run(folder, "madry", seed=2, error="the loss is not finite at epoch 1, step 9")
    trades = train_run(
        folder,
        "trades",
        params={"beta": 6.0},
        warnings=["state.pt was damaged"],
        passes=(14.0, 12.0),
        epoch_seconds=0.1,
        machine=GPU,
    )
    evaluate_all(
        trades, clean=0.83, pgd=0.58, cw=0.57, autoattack=0.54, n_autoattack=300, labels=LABELS
    )
    evaluate(trades, "pgd-20", 0.52, 360, clean=0.83, checkpoint="last")
    autoattack = next(trades.path.glob("evaluations/autoattack-*"))
    (autoattack / "1.npz").write_bytes(b"cut")
    train_run(folder, "mart", error="the loss is not finite at epoch 3, step 12")
    train_run(folder, "mma", n_epochs_done=7)
    train_run(folder, "bilateral", passes=(3.0, 2.0), epoch_seconds=0.4)
    train_run(folder, "yopo", passes=(5.0, 5.0), first_layer=20.0, epoch_seconds=0.9)
    cat = train_run(
        folder, "cat-ce", params={"c": 10.0, "eta": 0.005}, passes=(12.0, 11.0), epoch_seconds=2.3
    )
    evaluate_all(cat, clean=0.94, pgd=0.78, cw=0.61, autoattack=0.35, labels=LABELS)
    for eps, survived in ((4, 0.86), (16, 0.70)):
        evaluate(cat, "pgd-20", survived, 360, clean=0.94, eps=eps / 255)
    evaluate(
        cat, "square", 0.33, 100, clean=0.94, warnings=["Square broke images that PGD-20 did not"]
    )
    evaluate(cat, "pgd-20", 0.8, 300, clean=0.95, split="train")
    outside = model_run(folder, "zoo/models/mine.py:make")
    evaluate_all(
        outside,
        clean=0.86,
        pgd=0.53,
        cw=0.52,
        autoattack=0.5,
        n_autoattack=50,
        checkpoint=GIVEN,
    )
