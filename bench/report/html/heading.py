"""The head of a setting: its heading, its facts, and what forbids comparing it with the paper."""

from collections.abc import Mapping

from bench.data.sources import sources
from bench.experiments.study import is_variant
from bench.records import Records
from bench.records.manifest import FULL
from bench.report.formatting import counted, eps_both, span
from bench.report.groups import Setting
from bench.report.rows import Section

DEMONSTRATIONS = ("digits",)
"""Data sets that only show how the benchmark works."""


def heading(setting: Setting) -> str:
    """Return `cnn on digits, ε = 51/255 (0.2)`."""
    place = " on ".join([setting.arch or "Outside models", setting.dataset])
    radius = f"\u03b5 = {eps_both(setting.eps)}".replace(" ", "\u00a0")
    return f"{place}, {radius}" if setting.eps >= 0 else place


def chips(section: Section) -> list[str]:
    """Return what all methods of a setting share, in a few words each."""
    setting = section.setting
    found = [f"recipe {setting.recipe}" if setting.recipe else ""]
    found += [{"linf": "L\u221e attacks"}.get(setting.norm, f"{setting.norm} attacks")]
    found += [counted(len(section.groups), "method")]
    found += [counted(len(section.index), "test image") if len(section.index) else ""]
    if section.n_seeds:
        seeds = span(section.n_seeds)
        found.append(f"{seeds} seed{'s' * (seeds != '1')} each")
    return [chip for chip in found if chip]


def banners(section: Section, sizes: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Return what forbids reading the numbers as the paper's: a word in bold and a sentence."""
    name, found = section.setting.dataset, []
    if name in DEMONSTRATIONS:
        what = sources()[name].description if name in sources() else name
        found.append(("Demonstration", f"on {what}. These numbers say nothing about CIFAR-10."))
    base = next((key for key in sources() if key != name and is_variant(name, key)), "")
    if base:
        text = f"{name} is not {base}: compare it only with results on the same variant."
        found.append(("Data variant", text))
    run_ids = [run.run_id for group in section.groups for run in group.runs]
    own = set().union(*(sizes.get(run_id, set()) for run_id in run_ids))
    if own and FULL not in own:
        text = f"its trainings and attacks are shorter than the paper's: {_epochs(section)}."
        found.append((f"Size {', '.join(sorted(own))}", text))
    return found


def _epochs(section: Section) -> str:
    found = {run.spec.get("recipe", {}).get("epochs") for g in section.groups for run in g.runs}
    numbers = sorted(n for n in found if n is not None)
    return f"{' to '.join(map(str, dict.fromkeys((numbers[0], numbers[-1]))))} epochs"


def suite_sizes(records: Records) -> dict[str, set[str]]:
    """Return the sizes of the suites that each run belongs to."""
    found: dict[str, set[str]] = {}
    for manifest in records.manifests:
        for run in manifest.runs:
            found.setdefault(run.run_id, set()).add(manifest.size)
    return found
