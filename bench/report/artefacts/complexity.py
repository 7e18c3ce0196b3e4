"""Section 3.5: the product of the layers' weight norms, relative to that of CAT."""

from __future__ import annotations

from bench.report.artefacts.artefact import Made
from bench.report.artefacts.measures import Found, found_measures
from bench.report.artefacts.trained import captioned
from bench.report.artefacts.written import alarm_notes, table_files
from bench.report.complexity_figure import complexity_pictures
from bench.report.complexity_table import (
    COLUMNS,
    PAPER_RATIOS,
    WeightNorms,
    complexity_csv,
    complexity_facts,
    complexity_table,
    reference,
)
from bench.report.groups import same_eps
from bench.report.published import CAT
from bench.report.suite_runs import SuiteRuns
from bench.suite import load_suite

TITLE = "Weight norms of networks trained at fixed radii, relative to CAT's"


def make_complexity(chosen: SuiteRuns, note: str) -> Made:
    """complexity.md, .csv and .tex; and the ratios drawn, where there are any."""
    found, lacks = found_measures(chosen, "complexity")
    if not found:
        return Made(files={}, lacks=tuple(lacks))
    norms, caption = [_norms(o) for o in found], captioned(chosen, (one.label for one in found))
    origin = f"{note} {caption}"
    table, facts = complexity_table(norms), complexity_facts(norms)
    facts += alarm_notes(one.label for one in found)
    files = table_files("complexity", TITLE, table, facts, chosen, note)
    files["complexity.csv"] = complexity_csv(norms, origin).encode()
    if reference(norms) is None:
        lacks.append(f"no network of {' or '.join(CAT)}: nothing is relative, so nothing is drawn")
    else:
        pictures = complexity_pictures(norms, _paper(chosen, found), origin, caption)
        files |= {f"complexity{suffix}": content for suffix, content in pictures.items()}
    return Made(files=files, lacks=tuple(lacks))


def _norms(found: Found) -> WeightNorms:
    values = found.record.values
    return WeightNorms(
        label=found.label,
        method=found.method,
        log10_products={name: values[f"log10_product_{name}"] for name in COLUMNS},
        n_layers=int(values["n_layers"]),
    )


def _paper(chosen: SuiteRuns, found: list[Found]) -> dict[str, float]:
    """Label -> the paper's ratio. A smaller size has other radii, in the full size's order."""
    full = load_suite(chosen.suite.name).studies
    ratios: dict[str, float] = {}
    for study, own in zip(full, chosen.studies, strict=True):
        ids = {run.run_id for runs in own.runs.values() for run in runs}
        stated = [ratio for eps, ratio in PAPER_RATIOS.items() if same_eps(study.eps, eps)]
        ratios |= {one.label: ratio for ratio in stated for one in found if one.run.run_id in ids}
    return ratios
