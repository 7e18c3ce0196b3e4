"""Records that no training made, written through the folders that real runs use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.records import Chunk, load_records
from bench.records.run_folder import RunFolder
from bench.records.spec import EvalSpec, ModelSpec, Recipe, TrainSpec
from bench.report.rows import Section, sections
from bench.storage import write_json
from tests.stored import store_chunk

MACHINE = {"device": "cpu", "processor": "Made CPU @ 2 GHz", "threads": 2}
PARTS = ("apgd-ce", "apgd-t", "fab-t", "square")


def train_run(
    results: Path,
    method: str,
    *,
    seed: int = 0,
    params: Mapping[str, Any] | None = None,
    dataset: str = "digits",
    arch: str = "cnn",
    recipe: str = "common",
    eps: float = 8 / 255,
    epochs: int = 20,
    n_epochs_done: int | None = None,
    error: str | None = None,
    warnings: Sequence[str] = (),
    card: Mapping[str, Any] | None = None,
    batch_size: int = 128,
    values: Recipe | None = None,
    passes: tuple[float, float] = (11.0, 11.0),
    first_layer: float | None = None,
    epoch_seconds: float = 2.0,
    machine: Mapping[str, Any] | None = MACHINE,
    provenance: Mapping[str, Any] | None = None,
    precision: str = "fp32",
    ranks: Sequence[int] = (),
) -> RunFolder:
    """A run that is done; with `error`, failed; with `n_epochs_done` alone, unfinished.

    `passes`: forward and backward, an image and epoch; `first_layer`: as many as forward ones
    unless it is given. `machine`: None where the record names none. `values`: of the recipe, in
    place of `epochs` and `batch_size`.
    """
    spec = TrainSpec(
        method=method,
        params=params or {},
        arch=arch,
        num_classes=10,
        in_channels=1,
        image_size=8,
        dataset=dataset,
        data_sha256="a" * 64,
        n_train=1294,
        n_val=143,
        eps=eps,
        seed=seed,
        precision=precision,
        recipe=values or Recipe(epochs=epochs, batch_size=batch_size, lr=0.1),
        recipe_name=recipe,
    )
    folder = RunFolder(results, spec.run_id)
    known = {} if machine is None else {"machine": machine}
    folder.write_spec(spec, card or {}, {**known, **(provenance or {})})
    done = epochs if n_epochs_done is None else n_epochs_done
    folder.write_history([{"epoch": epoch} for epoch in range(done)])
    if error is not None:
        _end(folder, {"status": "failed", "warnings": list(warnings), "error": error})
    elif n_epochs_done is None:
        cost = {
            "train_seconds": epoch_seconds * epochs,
            "images_per_second": spec.n_train / epoch_seconds,
            "forward_per_image": passes[0],
            "backward_per_image": passes[1],
            "first_layer_per_image": passes[0] if first_layer is None else first_layer,
        }
        summary = {"status": "done", "epochs": epochs, "cost": cost, "warnings": list(warnings)}
        summary |= {"ranks": list(ranks)} if ranks else {}
        _end(folder, summary | {"error": None})
    return folder


def _end(folder: RunFolder, summary: dict[str, Any]) -> None:
    write_json(folder.train_file, summary)


def attacked(
    results: Path, method: str, n: int, left: Mapping[str, int], **options: Any
) -> RunFolder:
    """A run of which each attack leaves the first so many of n images; options: of `train_run`."""
    run = train_run(results, method, **options)
    for attack, n_left in left.items():
        evaluate(run, attack, range(n_left), n)
    return run


def section_of(results: Path) -> Section:
    """Return the only table of the records."""
    (section,) = sections(load_records(results))
    return section


def model_run(results: Path, model: str = "mine.py:make", *, dataset: str = "digits") -> RunFolder:
    """A model that was not trained here."""
    spec = ModelSpec(
        model=model,
        weights_sha256="b" * 64,
        source_sha256="c" * 64,
        num_classes=10,
        dataset=dataset,
    )
    folder = RunFolder(results, spec.run_id)
    folder.write_spec(spec, {}, {})
    return folder


def evaluate(
    folder: RunFolder,
    attack: str,
    survived: float | Sequence[int],
    n: int,
    *,
    clean: float = 1.0,
    checkpoint: str = "best",
    eps: float = 8 / 255,
    split: str = "test",
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    data_sha256: str = "d" * 64,
    chunks: Sequence[int] | None = None,
    warnings: Sequence[str] = (),
    labels: Sequence[int] | None = None,
    package_checks: Sequence[Mapping[str, Any]] = (),
    after: float | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """One evaluation of n images.

    `survived`: about which fraction of the images survives, or the indices that do. `clean`:
    about which fraction is correct without an attack, `after`: under it, whatever before.
    `chunks`: those that are written.
    """
    spec = EvalSpec(
        checkpoint=checkpoint,
        attack=attack,
        params=params or {},
        eps=eps,
        split=split,
        n_examples=n,
        data_sha256=data_sha256,
        seed=seed,
    )
    out = folder.evaluation(spec)
    kept = np.zeros(n, bool)
    if isinstance(survived, float):
        kept = _hardness(n) < survived
    else:
        kept[list(survived)] = True
    correct = _hardness(n) < clean
    assert (correct | ~kept).all(), "an image that survives is correct without the attack"
    for number in range(len(spec.chunks())) if chunks is None else chunks:
        index = np.array(spec.chunks()[number])
        broken = correct[index] & ~kept[index]
        store_chunk(
            out,
            number,
            Chunk(
                index=index,
                clean=correct[index],
                survived=kept[index],
                broken_by=np.where(broken, 0, -1).astype(np.int8),
                parts=PARTS if attack == "autoattack" else (attack,),
                seconds=1.0,
                warnings=tuple(warnings),
                label=None if labels is None else np.array(labels)[index],
                after=None if after is None else _hardness(n)[index] < after,
                package_checks=tuple(package_checks),
                info=info or {},
            ),
        )


def _hardness(n: int) -> np.ndarray:
    """(n,) in [0, 1): a fixed scatter, so that one image is as hard in every evaluation."""
    scatter: np.ndarray = np.arange(n) * 7919 % 10007 / 10007
    return scatter


def evaluate_all(
    folder: RunFolder,
    *,
    clean: float,
    pgd: float,
    cw: float,
    autoattack: float,
    n: int = 360,
    n_autoattack: int = 100,
    checkpoint: str = "best",
    eps: float = 8 / 255,
    labels: Sequence[int] | None = None,
) -> None:
    """The usual four, AutoAttack on fewer images."""
    for attack, survived, n_images in (
        ("clean", clean, n),
        ("pgd-20", pgd, n),
        ("cw", cw, n),
        ("autoattack", autoattack, n_autoattack),
    ):
        evaluate(
            folder,
            attack,
            survived,
            n_images,
            clean=clean,
            checkpoint=checkpoint,
            eps=eps,
            labels=labels,
        )
