"""Made records that belong to the cells of a suite: what a run of the suite would leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.folder import RunFolder
from bench.measured import Measured, write_measure
from bench.recipe import load_recipe
from bench.records import Chunk
from bench.spec import EvalSpec, MeasureSpec, TrainSpec
from bench.storage import write_json
from bench.study import Study

N_TRAIN, N_VAL = 1294, 143


def cell(
    results: Path,
    study: Study,
    method: str,
    *,
    seed: int = 0,
    robust: Sequence[float] = (0.3, 0.5),
    passes: float = 11.0,
    num_classes: int = 10,
) -> RunFolder:
    """A finished training; `robust`: robust validation accuracy, an entry an epoch."""
    recipe, params = load_recipe(
        study.recipe, arch=study.arch, dataset=study.dataset, method=method
    )
    spec = TrainSpec(
        method=method,
        params=params,
        arch=study.arch,
        num_classes=num_classes,
        in_channels=1,
        image_size=8,
        dataset=study.dataset,
        data_sha256="a" * 64,
        n_train=N_TRAIN,
        n_val=N_VAL,
        eps=study.eps,
        seed=seed,
        recipe=recipe.replaced(study.training, study.suite),
        recipe_name=study.recipe,
    )
    folder = RunFolder(results, spec.run_id)
    folder.write_spec(spec, {}, {})
    rows = [{"epoch": e, "val_robust": value, "n_val": N_VAL} for e, value in enumerate(robust)]
    folder.write_history(rows)
    cost = {
        "train_seconds": 10.0,
        "images_per_second": 100.0,
        "forward_per_image": passes,
        "backward_per_image": passes,
        "first_layer_per_image": passes,
    }
    summary = {"status": "done", "epochs": len(robust), "cost": cost, "warnings": [], "error": None}
    write_json(folder.train_file, summary)
    return folder


def attacked(
    folder: RunFolder,
    attack: str,
    survived: Sequence[bool] | np.ndarray,
    *,
    eps: float,
    clean: Sequence[bool] | np.ndarray | None = None,
    checkpoint: str = "best",
    split: str = "test",
    sources: Sequence[str] = (),
    after: Sequence[bool] | np.ndarray | None = None,
) -> None:
    """One evaluation, an entry an image; all are right without an attack without `clean`."""
    kept = np.asarray(survived, bool)
    correct = np.ones(len(kept), bool) if clean is None else np.asarray(clean, bool)
    assert (correct | ~kept).all(), "an image that survives is correct without the attack"
    spec = EvalSpec(
        checkpoint=checkpoint,
        attack=attack,
        params={"sources": list(sources)} if sources else {},
        eps=eps,
        split=split,
        n_examples=len(kept),
        data_sha256="d" * 64,
    )
    out = folder.evaluation(spec)
    for number, places in enumerate(spec.chunks()):
        index = np.array(places)
        chunk = Chunk(
            index=index,
            clean=correct[index],
            survived=kept[index],
            broken_by=np.where(correct & ~kept, 0, -1).astype(np.int8)[index],
            parts=(attack,),
            seconds=1.0,
            after=None if after is None else np.asarray(after, bool)[index],
        )
        out.write_chunk(number, chunk)


def first(n: int, k: int) -> np.ndarray:
    """(n,) bool: the first k."""
    return np.arange(n) < k


def measured(
    folder: RunFolder,
    name: str,
    *,
    eps: float,
    n: int,
    values: Mapping[str, Any] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
    checkpoint: str = "best",
) -> None:
    """One measure or masking check."""
    asked = MeasureSpec(
        checkpoint=checkpoint, name=name, eps=eps, n_examples=n, data_sha256="d" * 64
    )
    outcome = Measured(values=values or {}, arrays=arrays or {})
    write_measure(folder.measure(asked), asked, outcome, 1.0, {})
