"""What training in bf16 costs in robust accuracy: runs that differ in precision alone, paired."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from bench.outcomes import EvaluationRecord
from bench.precision import ALLOWED, Paired
from bench.records import RunRecord
from bench.report.interval import mean_difference

ATTACK = "pgd-20"
CHECKPOINT = "best"
Key = tuple[str, str, str, float, int, int]


def paired_precisions(runs: Iterable[RunRecord]) -> list[Paired]:
    """A row for each method, arch and data set whose seeds are on record in both precisions."""
    found: dict[Key, dict[str, dict[int, EvaluationRecord]]] = defaultdict(
        lambda: {"fp32": {}, "bf16": {}}
    )
    for run in runs:
        attacked = _attacked(run)
        if attacked is not None:
            spec = run.spec
            key = (
                *(str(spec["method"]), str(spec["arch"]), run.dataset, attacked.spec.eps),
                *(int(spec["n_train"]), int(spec["recipe"]["epochs"])),
            )
            found[key][spec["precision"]][int(spec["seed"])] = attacked
    rows = [_row(key, both["fp32"], both["bf16"]) for key, both in sorted(found.items())]
    return [row for row in rows if row is not None]


def _attacked(run: RunRecord) -> EvaluationRecord | None:
    """Its whole evaluation by the attack of the comparison."""
    for evaluation in run.evaluations:
        spec = evaluation.spec
        whole = len(evaluation.index) == spec.n_examples
        if (spec.attack, spec.checkpoint, spec.split) == (ATTACK, CHECKPOINT, "test") and whole:
            return evaluation
    return None


def _row(
    key: Key, fp32: dict[int, EvaluationRecord], bf16: dict[int, EvaluationRecord]
) -> Paired | None:
    seeds = sorted(set(fp32) & set(bf16))
    if not seeds:
        return None
    kept = [np.stack([runs[seed].survived for seed in seeds]) for runs in (fp32, bf16)]
    first, second = (survived.astype(float) for survived in kept)
    low, high = mean_difference((second - first).mean(0))
    method, arch, dataset, eps, n_train, epochs = key
    return Paired(
        method=method,
        arch=arch,
        dataset=dataset,
        attack=ATTACK,
        eps=eps,
        n_train=n_train,
        epochs=epochs,
        n_seeds=len(seeds),
        n_images=first.shape[1],
        fp32=float(first.mean()),
        bf16=float(second.mean()),
        low=low,
        high=high,
    )


def precision_page(rows: Sequence[Paired], verdict: str) -> str:
    """docs/precision.md. verdict: what `--precision auto` makes of the rows, and why."""
    head = (
        "| method | network | data | eps | training images | epochs | seeds | test images | fp32 "
        "| bf16 | difference | 95% |"
    )
    lines = [head, "| --- " * 12 + "|"]
    for row in rows:
        cells = (
            *(row.method, row.arch, row.dataset, f"{row.eps:.4g}"),
            *(str(row.n_train), str(row.epochs)),
            *(
                str(row.n_seeds),
                str(row.n_images),
                f"{100 * row.fp32:.1f}",
                f"{100 * row.bf16:.1f}",
            ),
            f"{100 * (row.bf16 - row.fp32):+.1f}",
            f"{100 * row.low:+.1f} to {100 * row.high:+.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return PAGE.format(table="\n".join(lines), allowed=f"{100 * ALLOWED:g}", verdict=verdict)


PAGE = """\
# Precision

Made from the records in `results/precision` by `make docs`.

`bench run --precision fp32|bf16|auto` chooses how a network trains; it is part of the run's id.
Attacks are evaluated in fp32 whatever the training was. In bf16 the image, the first layer and, in
attacks, the classifier stay in fp32: a pixel near 0.5 has a neighbour in bf16 0.002 to 0.004 away,
which is more than the start noise of TRADES. In attacks the gradient comes back through the first
layer in bf16, whose error is relative to it.

`auto` is bf16 where the device multiplies bf16 in hardware and the comparisons below, runs that
differ in precision alone, put the whole 95% interval within {allowed} points; otherwise fp32, and
the command says why.

{table}

Robust accuracy under PGD-20 of the best checkpoint, in percent, mean over the seeds; the
difference is bf16 minus fp32, with its interval over the test images, which are the sample: the
seeds are not. `cifar10-q75` is a JPEG copy of CIFAR-10, and no figure from it compares with a
published one.

With this evidence, on a device with bf16 in hardware: {verdict}.

    bench run --suite precision --results results/precision
    bench run --suite precision --precision bf16 --results results/precision

and each once more with `--methods madry --seeds 0 --dataset npz:cifar10-q75.npz --eps 8/255
--epochs 6 --train-size 4000 --test-size 5000`.
"""
