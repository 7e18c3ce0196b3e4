"""What each training computed, and how much of Madry AT's that is.

Passes are counted by the engine, and no machine distorts them. Seconds are those of one machine:
two trainings are compared only where they ran on equal ones, in equal batches.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from bench.records import RunRecord
from bench.report.export import Notes, Table
from bench.report.formatting import MISSING, eps_text
from bench.report.groups import Group, Setting, training_values
from bench.report.published import REFERENCE, shown_name
from bench.report.revisions import code_facts
from bench.report.rows import Section, status

SAME = 1.25
"""Costs that differ by no larger factor count as about the same."""
COST_LEGEND = (
    "Forward, backward: passes through the network per image and epoch, counted while training; "
    "mean over the seeds, \u00b1 their standard deviation. Relative passes: both kinds together, "
    "each counted as one. Seconds: of the training steps, per image, without validation; relative "
    "only to runs on an equal machine (device, processor, threads) at equal batch size and "
    "precision. Speeds are the fastest seed's, since other work on the machine only slows a "
    f"training down. {MISSING}: not on record, or nothing to compare with."
)
_RECORDED = ("forward_per_image", "backward_per_image", "first_layer_per_image")
"""Passes per image and epoch; those through the first layer include the whole network's."""
_NUMBERS = (
    *(*_RECORDED, "seconds_per_epoch", "images_per_second"),
    *("passes_relative", "seconds_relative"),
)
"""In cost.csv."""
_FACTS = ("device", "processor", "threads")
"""Of a machine, in cost.csv."""


@lru_cache(maxsize=64)
def costs(section: Section) -> pd.DataFrame:
    """Return a row per training of a table, in its order.

    Columns: label and method of its group, run, seed, the numbers of cost.csv (NaN where the
    training left no cost), passes (forward and backward), device, processor, threads, machine (in
    words; None where the record does not name it), reference (label of the group that it is
    relative to; empty for none). Passes are relative to the reference's mean; seconds to its
    fastest run on an equal machine, at equal batch size and precision.
    """
    rows = [
        {"label": group.label, "method": group.method, "run": run, "seed": run.seed, **_cost(run)}
        for group in section.groups
        if not group.outside
        for run in group.runs
    ]
    heads = ("label", "method", "run", "seed", *_NUMBERS, "passes", *_FACTS, "machine", "key")
    found = pd.DataFrame(rows, columns=list(heads), dtype=object)
    found = found.astype(dict.fromkeys((*_NUMBERS, "passes"), float))
    ended = found[found["passes"].notna()]
    alike = references([group for group in section.groups if group.label in set(ended["label"])])
    found["reference"] = ended["label"].map(alike)
    found["reference"] = found["reference"].astype(object).fillna("")
    mean_passes = ended.groupby("label")["passes"].mean()
    found["passes_relative"] = found["passes"] / found["reference"].map(mean_passes)
    fastest = ended.groupby(["label", "key"])["images_per_second"].max().to_dict()
    theirs = [fastest.get(pair) for pair in zip(found["reference"], found["key"], strict=True)]
    found["seconds_relative"] = pd.Series(theirs, dtype=float) / found["images_per_second"]
    return found.drop(columns="key")


def _cost(run: RunRecord) -> dict[str, Any]:
    """Return nothing where the training has not ended, failed, or left no cost.

    key: what must be equal before seconds are compared; None where the machine is unknown.
    """
    train, machine = run.train or {}, run.provenance.get("machine") or {}
    cost = train.get("cost") or {}
    names = (*_RECORDED, "images_per_second")
    if any(name not in cost for name in (*names, "train_seconds")):
        return {}
    found = {name: float(cost[name]) for name in names} | {
        "passes": float(cost["forward_per_image"]) + float(cost["backward_per_image"]),
        "seconds_per_epoch": float(cost["train_seconds"]) / int(train["epochs"]),
    }
    if any(name not in machine for name in _FACTS):
        return found
    facts = {name: machine[name] for name in _FACTS}
    text = _machine(**facts)
    if ranks := train.get("ranks"):  # one that shares a training is another machine
        text += f", {' and '.join(map(str, ranks))} ranks"
    recipe = run.spec.get("recipe", {})
    batch = recipe.get("batch_size"), recipe.get("micro_batch")
    return {**found, **facts, "machine": text, "key": (text, *batch, run.spec.get("precision"))}


def _machine(device: str, processor: str, threads: int) -> str:
    host = f"{processor or 'unnamed processor'}, {threads} thread{'s' * (threads != 1)}"
    return host if device == "cpu" else f"{device} (host: {host})"


def references(groups: Sequence[Group]) -> dict[str, str]:
    """Return each label's reference: that trained most alike; of equals the one of most seeds."""
    values = {group.label: training_values(group) for group in groups}
    references = [group for group in groups if group.method == REFERENCE]

    def unlike(label: str, reference: Group) -> tuple[int, int, str]:
        own, theirs = values[label], values[reference.label]
        names = [name for name in own.keys() | theirs.keys() if not name.startswith("params.")]
        n_unlike = sum(own.get(name) != theirs.get(name) for name in names)
        return n_unlike, -len(reference.runs), reference.label

    if not references:
        return {}
    return {label: min(unlike(label, reference) for reference in references)[2] for label in values}


@lru_cache(maxsize=64)
def group_costs(section: Section) -> pd.DataFrame:
    """Return by label the costs of each way of training, of the trainings that left one.

    Columns: method, reference, n_seeds, passes_relative (mean over the seeds), seconds_relative
    (of the fastest seed: other work on the machine only slows a training down).
    """
    found = costs(section)
    return (
        found[found["passes"].notna()]
        .groupby("label", sort=False)
        .agg(
            method=("method", "first"),
            reference=("reference", "first"),
            n_seeds=("seed", "size"),
            passes_relative=("passes_relative", "mean"),
            seconds_relative=("seconds_relative", "min"),
        )
    )


def cost_table(section: Section) -> Table:
    """Return a row per way of training."""
    found, notes = costs(section), Notes()
    ended = found[found["passes"].notna()]
    several = ended.loc[ended["method"] == REFERENCE, "label"].nunique() > 1
    heads = [
        *("Method", "Forward", "Backward", f"Passes, relative to {shown_name(REFERENCE)}"),
        *(f"Seconds, relative to {shown_name(REFERENCE)}", "Images per second (machine)", "Seeds"),
    ]
    letters = _letters(found)
    by_label = dict(iter(ended.groupby("label")))
    lines = [
        _line(group, by_label.get(group.label, ended[:0]), letters, several, notes)
        for group in section.groups
    ]
    text = pd.DataFrame(lines, columns=heads, dtype=object)
    return Table(text=text, notes=tuple(notes.texts))


def _line(
    group: Group, own: pd.DataFrame, letters: Mapping[str, str], several: bool, notes: Notes
) -> list[str]:
    """Return a group's cells; own: its trainings that left a cost."""
    total, n = len(group.runs), len(own)
    states = [
        f"{group.title}{f', seed {run.seed}' * (total > 1)}: {status(run)}."
        for run in group.runs
        if run.status != "done"
    ]
    name = f"{group.title}{notes.mark(*states)}"
    if not n:
        return [name, *[MISSING] * 6]
    mean, reference = own[[*_RECORDED, "passes_relative"]].mean(), own["reference"].iloc[0]
    more = mean["first_layer_per_image"] - mean["forward_per_image"]
    stem = [f"Also {more:.1f} through only the first layer, which no column counts."]
    passes, seconds = MISSING, MISSING
    if reference:
        spread = f" \u00b1 {own['passes_relative'].std():.2f}" if n > 1 else ""
        passes = f"{mean['passes_relative']:.2f}{spread}"
    passes += notes.mark(f"Relative to {shown_name(reference)}.") if several else ""
    lacks = int(own["seconds_relative"].isna().sum())
    if lacks < n:
        seconds = f"{own['seconds_relative'].min():.2f}"
    where = f", seeds left out: {lacks}" if lacks < n else ""
    unlike = (
        f"No {shown_name(REFERENCE)} run on an equal machine at equal batch size and "
        f"precision{where}."
    )
    return [
        name,
        f"{mean['forward_per_image']:.1f}{notes.mark(*stem) if more >= 0.05 else ''}",
        f"{mean['backward_per_image']:.1f}",
        passes,
        f"{seconds}{notes.mark(unlike) if reference and lacks else ''}",
        _speeds(own, letters),
        str(n) if n == total else f"{n} of {total}",
    ]


def _letters(found: pd.DataFrame) -> dict[str, str]:
    """Return a name for each machine: A to Z, then A1 to Z1, and so on."""
    return {
        machine: chr(ord("A") + i % 26) + (str(i // 26) if i >= 26 else "")
        for i, machine in enumerate(found["machine"].dropna().unique())
    }


def _speeds(own: pd.DataFrame, letters: Mapping[str, str]) -> str:
    """Return `5120 (A), 9400 (B)`: the fastest seed of each machine."""
    places = [letters.get(machine, "not on record") for machine in own["machine"]]
    fastest = own.groupby(places)["images_per_second"].max()
    return ", ".join(f"{v:.{0 if v >= 100 else 1}f} ({place})" for place, v in fastest.items())


def cost_facts(section: Section, results: str | Path) -> list[str]:
    """Return the machines and what is missing for a comparison; `results` names the folder."""
    found, lines = costs(section), []
    if len(found) and not found["reference"].any():
        lines.append(_no_reference(section.setting, found["run"], results))
    lines += [f"Machine {letter}: {machine}." for machine, letter in _letters(found).items()]
    ended = found[found["passes"].notna()]
    rows = [(str(label), [*own["run"]]) for label, own in ended.groupby("label", sort=False)]
    return lines + (code_facts(rows) if len(ended) > 1 else [])


def _no_reference(setting: Setting, runs: Iterable[RunRecord], results: str | Path) -> str:
    """Return why nothing is relative, and the command that makes the missing run."""
    missing = (
        f"No {shown_name(REFERENCE)} run in this table has ended, so nothing is relative to it"
    )
    if any(run.method == REFERENCE and run.status == "failed" for run in runs):
        return f"{missing}: its training failed."  # and would again
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


def cost_csv(parts: Sequence[Section]) -> pd.DataFrame:
    """Return a row per training run; the numbers of one that left no cost are empty."""
    rows = [
        {
            **section.setting.cells,
            **{name: row[name] for name in ("method", "label", "seed")},
            "status": "done" if row["run"].status == "done" else status(row["run"]),
            **{name: "" if pd.isna(row[name]) else f"{row[name]:.6g}" for name in _NUMBERS},
            **{name: row[name] for name in ("reference", *_FACTS)},
            "run_id": row["run"].run_id,
        }
        for section in parts
        for row in costs(section).to_dict("records")
    ]
    return pd.DataFrame(rows, dtype=object).fillna("")
