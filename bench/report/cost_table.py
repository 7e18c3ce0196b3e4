"""The table of training costs in words, what it says of the paper's claim, and its .csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from bench.records import RunRecord
from bench.report.aggregate import Section, status
from bench.report.cost import GroupCost, Machine, RunCost, costs, mean
from bench.report.groups import Setting
from bench.report.layout import Line, Notes, Table, Text
from bench.report.published import CAT, COST_CLAIM, REFERENCE
from bench.report.revisions import code_facts
from bench.report.units import MISSING, eps_text

SAME = 1.25
"""Costs that differ by no larger factor count as about the same."""
COST_LEGEND = (
    "Forward, backward: passes through the network an image and epoch, counted while training; "
    "mean over the seeds. Relative passes: both kinds together, each counted as one. Seconds: of "
    "the training steps, an image, without validation; relative ones only to runs on an equal "
    f"machine (device, processor, threads) at equal batch size and precision. \u00b1: standard "
    f"deviation over seeds. {MISSING}: not on record, or nothing to compare with."
)
_RULE = (
    f"About the same: between {1 / SAME:.2f} and {SAME:.2f} times. Passes are counted, and no "
    "machine distorts them; seconds are of a machine that other work may have shared, so a small "
    "difference in them means nothing."
)
_HEAD = ("dataset", "arch", "recipe", "norm", "eps", "method", "label", "seed", "status")
_NUMBERS = (
    *("forward_per_image", "backward_per_image", "first_layer_per_image", "seconds_per_epoch"),
    *("images_per_second", "passes_relative", "seconds_relative"),
)


def cost_table(section: Section) -> Table:
    """A line for each way of training."""
    found, notes = costs(section), Notes()
    letters = _letters(found)
    several = sum(cost.group.method == REFERENCE and bool(cost.runs) for cost in found) > 1
    return Table(
        headings=(
            *("Method", "Forward", "Backward", f"Passes, relative to {REFERENCE}"),
            *(f"Seconds, relative to {REFERENCE}", "Images a second (machine)", "Seeds"),
        ),
        lines=tuple(_line(cost, letters, several, notes) for cost in found),
        notes=tuple(notes.texts),
    )


def cost_facts(section: Section, results: str | Path) -> list[str]:
    """Whether CAT costs what its paper claims, and the machines; `results` names the folder."""
    found = costs(section)
    trained = [run for group in section.groups if not group.outside for run in group.runs]
    cats = [cost for cost in found if cost.group.method in CAT and cost.reference]
    lines = []
    if cats:
        lines += [f"{COST_CLAIM} {' '.join(_verdict(cost) for cost in cats)}", _RULE]
    elif trained and not any(cost.reference for cost in found):
        lines.append(_no_reference(section.setting, trained, results))
    lines += [f"Machine {letter}: {machine}." for machine, letter in _letters(found).items()]
    rows = [(cost.group.label, [run.run for run in cost.runs]) for cost in found]
    return lines + (code_facts(rows) if sum(len(runs) for _, runs in rows) > 1 else [])


def cost_csv(sections: Sequence[Section], note: str) -> str:
    """A comment line with `note`, the header, and a line for each training run."""
    buffer = io.StringIO()
    buffer.write(f"# {note}\n")
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow([*_HEAD, *_NUMBERS, "reference", "device", "processor", "threads", "run_id"])
    for section in sections:
        for cost in costs(section):
            by_id = {run.run.run_id: run for run in cost.runs}
            for run in cost.group.runs if not cost.group.outside else ():
                rows.writerow(_csv_row(section.setting, cost, run, by_id.get(run.run_id)))
    return buffer.getvalue()


def _line(cost: GroupCost, letters: dict[Machine, str], several: bool, notes: Notes) -> Line:
    group, total = cost.group, len(cost.group.runs)
    unfinished = [(run.seed, status(run)) for run in group.runs if run.status != "done"]
    if not cost.runs:
        states = [f"seed {seed} {text}" if total > 1 else text for seed, text in unfinished]
        dashes = () if states else (Text(main=MISSING),) * 6
        return Line(head=(Text(main=group.label),), cells=dashes, status="; ".join(states))
    marks = [notes.mark(f"{group.label}, seed {seed} {text}.") for seed, text in unfinished]
    relative: tuple[int, ...] = ()
    if several:
        relative = (notes.mark(f"Relative to {cost.reference}."),)
    n = len(cost.runs)
    return Line(
        head=(Text(main=group.label, marks=tuple(marks)),),
        cells=(
            Text(main=f"{fmean(r.forward for r in cost.runs):.1f}", marks=_stem(cost, notes)),
            Text(main=f"{fmean(r.backward for r in cost.runs):.1f}"),
            _number([r.passes_relative for r in cost.runs], marks=relative),
            _seconds(cost, notes),
            Text(main=_speeds(cost.runs, letters)),
            Text(main=str(n) if n == total else f"{n} of {total}"),
        ),
    )


def _number(values: Sequence[float | None], marks: tuple[int, ...] = ()) -> Text:
    found = [value for value in values if value is not None]
    if not found:
        return Text(main=MISSING)
    spread = f"\u00b1 {stdev(found):.2f}" if len(found) > 1 else ""
    return Text(main=f"{fmean(found):.2f}", interval=spread, marks=marks)


def _stem(cost: GroupCost, notes: Notes) -> tuple[int, ...]:
    """A note where the first layer worked alone, which the passes do not count."""
    more = fmean(run.first_layer - run.forward for run in cost.runs)
    text = f"Besides, {more:.1f} through the first layer alone, which no column counts."
    return (notes.mark(text),) if more >= 0.05 else ()


def _seconds(cost: GroupCost, notes: Notes) -> Text:
    values = [run.seconds_relative for run in cost.runs]
    text = _number(values)
    n = sum(value is not None for value in values)
    if not cost.reference or n == len(values):
        return text
    where = "" if n == 0 else f", seeds left out: {len(values) - n}"
    reason = f"No {REFERENCE} run on an equal machine at equal batch size and precision{where}."
    return Text(main=text.main, interval=text.interval, marks=(notes.mark(reason),))


def _letters(found: Sequence[GroupCost]) -> dict[Machine, str]:
    """A name for each machine, in the order of the table."""
    machines = dict.fromkeys(run.machine for cost in found for run in cost.runs if run.machine)
    return {machine: _letter(number) for number, machine in enumerate(machines)}


def _letter(number: int) -> str:
    """A to Z, then A1 to Z1, and so on."""
    return chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")


def _speeds(runs: Sequence[RunCost], letters: dict[Machine, str]) -> str:
    """`5120 (A), 9400 (B)`: the mean over the seeds of each machine."""
    by_place: dict[str, list[float]] = {}
    for run in runs:
        place = letters[run.machine] if run.machine else "not on record"
        by_place.setdefault(place, []).append(run.images_per_second)
    means = {place: fmean(speeds) for place, speeds in sorted(by_place.items())}
    return ", ".join(f"{v:.{0 if v >= 100 else 1}f} ({place})" for place, v in means.items())


def _verdict(cost: GroupCost) -> str:
    """One sentence on one of the paper's methods."""
    passes, seconds = cost.passes_relative, cost.seconds_relative
    assert passes is not None
    assert cost.reference_passes is not None
    own = mean(run.passes for run in cost.runs)
    beside = f" and {seconds:.2f} times its seconds" if seconds is not None else ""
    return (
        f"{cost.group.label} takes {own:.1f} passes an image and epoch to {cost.reference}'s "
        f"{cost.reference_passes:.1f} ({passes:.2f} times){beside}: {_outcome(passes, seconds)}."
    )


def _outcome(passes: float, seconds: float | None) -> str:
    work = _word(passes)
    time = work if seconds is None else _word(seconds)
    both = work if work == time else f"{work} by passes, {time} by seconds"
    if work != "about the same":
        return f"{both}, against the claim"
    return f"{both}, as claimed" if work == time else f"{both}; the claim holds for the work alone"


def _word(ratio: float) -> str:
    if ratio > SAME:
        return "dearer"
    return "cheaper" if ratio < 1 / SAME else "about the same"


def _no_reference(setting: Setting, runs: Sequence[RunRecord], results: str | Path) -> str:
    """Why nothing is relative, and the command that makes the missing run like its neighbours."""
    missing = f"No {REFERENCE} run in this table has ended, so nothing is relative to it"
    if any(run.method == REFERENCE and run.status == "failed" for run in runs):
        return f"{missing}: its training failed."  # and would again, so that no run repeats it
    run = max(runs, key=lambda run: run.status == "done")
    recipe, eps = run.spec.get("recipe", {}), eps_text(setting.eps)
    options = {
        "--suite": run.provenance.get("suite"),
        "--methods": REFERENCE,
        "--dataset": run.provenance.get("dataset_source") or setting.dataset,
        "--arch": setting.arch,
        "--recipe": setting.recipe,
        "--eps": eps if "/" in eps else run.spec["eps"],
        "--epochs": recipe.get("epochs"),
        "--batch-size": recipe.get("batch_size"),
        "--results": str(results) if str(results) != "results" else None,
    }
    words = " ".join(f"{name} {value}" for name, value in options.items() if value)
    return f"{missing}; `bench run {words}` adds it."


def _csv_row(
    setting: Setting, cost: GroupCost, run: RunRecord, measured: RunCost | None
) -> list[object]:
    group = cost.group
    state = status(run) if run.status != "done" else "done"
    head = [
        *(setting.dataset, setting.arch, setting.recipe, setting.norm, f"{setting.eps:.9g}"),
        *(group.method, group.label, run.seed, state),
    ]
    if measured is None:
        return [*head, *[""] * (len(_NUMBERS) + 4), run.run_id]
    values = (
        *(measured.forward, measured.backward, measured.first_layer, measured.seconds_per_epoch),
        *(measured.images_per_second, measured.passes_relative, measured.seconds_relative),
    )
    m = measured.machine
    machine = (m.device, m.processor, m.threads) if m else ("", "", "")
    numbers = ["" if value is None else f"{value:.6g}" for value in values]
    return [*head, *numbers, cost.reference, *machine, run.run_id]
