"""What holds of index.html without a browser: bytes, policy, libraries, sentences, ranks."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.records import load_records
from bench.records.run_folder import RunFolder
from bench.report import ReportResult, write_report
from bench.report.html import page, runs
from bench.report.html.leaderboard import entries, ranks
from bench.report.html.sentences import sentences
from bench.report.html.survivors import attacks_of, fate_counts, fates, packed
from bench.report.tables.pairwise import leaders
from tests.report.browser.made import check
from tests.report.made import attacked, evaluate, section_of, train_run
from tests.report.many import make_many

VENDORED = (page.FOLDER / "vendor", Path(__file__).parent / "browser" / "vendor")


def html(report: ReportResult) -> str:
    (path,) = (path for path in report.paths if path.name == "index.html")
    return path.read_text()


@pytest.mark.parametrize("folder", VENDORED, ids=["page", "tests"])
def test_libraries_are_the_published_files(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    licences = {entry["license_file"] for entry in manifest.values()}
    assert {path.name for path in folder.iterdir()} == {*manifest, *licences, "manifest.json"}
    for name, entry in manifest.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"]
        assert len((folder / entry["license_file"]).read_text()) > 500


def test_every_script_is_named_by_its_hash(report: ReportResult) -> None:
    text = html(report)
    policy = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)">', text)[0]
    policy = policy.replace("&#39;", "'")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert len(scripts) == len(page.VENDORED) + len(page.OWN)
    for content in (*scripts, *styles):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe-inline'" not in policy


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes(results: Path, tmp_path: Path) -> None:
    records = load_records(results)
    for name in ("one", "two"):
        write_report(records, tmp_path / name, command="bench report")
    one, two = ((tmp_path / name / "index.html").read_bytes() for name in ("one", "two"))
    assert one == two


def test_text_of_records_is_escaped(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script>"
    run = train_run(tmp_path / "results", "madry", card={"title": hostile, "paper": hostile})
    evaluate(run, "pgd-20", 0.5, 100)
    text = html(write_report(load_records(tmp_path / "results"), tmp_path / "r", command=hostile))
    assert hostile not in text
    assert text.count("</script>") == len(page.VENDORED) + len(page.OWN) + 1


def test_a_rank_is_an_interval(tmp_path: Path) -> None:
    for method, left in (("madry", 200), ("trades", 160), ("mart", 100)):
        attacked(tmp_path, method, 300, {"pgd-20": left})
    section = section_of(tmp_path)
    assert ranks(section) == {"madry": (1, 1), "trades": (2, 2), "mart": (3, 3)}
    assert [entry.row.group.label for entry in entries(section)] == ["madry", "trades", "mart"]
    assert sentences(section, entries(section))[0] == (
        "Madry AT has the highest worst-case accuracy, 66.7% [61.2, 71.8] under PGD-20, "
        "significantly above every method compared with it."
    )


def test_methods_that_cannot_be_told_apart_share_a_rank(tmp_path: Path) -> None:
    for method, left in (("madry", 200), ("trades", 199), ("mart", 100)):
        attacked(tmp_path, method, 300, {"pgd-20": left})
    section = section_of(tmp_path)
    assert ranks(section) == {"madry": (1, 2), "trades": (1, 2), "mart": (3, 3)}
    best, masked, limits = sentences(section, entries(section))
    assert best.endswith("; TRADES is not distinguishable from it.")
    assert masked.startswith("No masking check was made")
    assert "One seed does not rank methods" in limits


def test_one_method_alone_is_not_the_highest(tmp_path: Path) -> None:
    attacked(tmp_path, "madry", 300, {"pgd-20": 200, "autoattack": 190})
    train_run(tmp_path, "trades", error="the loss is not finite")
    section = section_of(tmp_path)
    assert ranks(section) == {}
    best, _, limits = sentences(section, entries(section))
    assert best == (
        "The worst-case accuracy of Madry AT is 63.3% [57.7, 68.6] under PGD-20 and AutoAttack "
        "together; no other method here was attacked alike on the same images."
    )
    assert limits.startswith("1 seed per method, on 300 test images.")


def test_a_weaker_adversary_ranks_nobody(tmp_path: Path) -> None:
    attacked(tmp_path, "madry", 300, {"pgd-20": 280})
    for method, left in (("trades", 200), ("mart", 100)):
        attacked(tmp_path, method, 300, {"pgd-20": 210, "autoattack": left})
    section = section_of(tmp_path)
    assert ranks(section) == {"trades": (1, 1), "mart": (2, 2)}
    assert leaders(section) == {"trades"}
    assert "significantly above every method" in sentences(section, entries(section))[0]
    attacks = attacks_of(section, entries(section))
    survive = {entry.name: shares[-1] for entry, shares in fate_counts(section, entries(section))}
    assert attacks == ["pgd-20", "autoattack"]
    assert survive == pytest.approx({"TRADES": 2 / 3, "MART": 1 / 3, "Madry AT": None})


def test_more_attacks_may_reverse_a_pair(tmp_path: Path) -> None:
    """The worst case joins attacks that half of the rows have; a pair all that it shares."""
    for method, square in (("madry", 100), ("trades", 195)):
        attacked(tmp_path, method, 300, {"pgd-20": 200, "square": square})
    for method, pgd in (("mart", 50), ("mma", 40), ("free", 30)):
        attacked(tmp_path, method, 300, {"pgd-20": pgd})
    section = section_of(tmp_path)
    assert section.worst_over == ("pgd-20",)
    assert leaders(section) == {"madry", "trades"}
    assert sentences(section, entries(section))[0].endswith(
        "under PGD-20; TRADES is significantly above it under more attacks."
    )


def test_the_sentence_on_checks_counts_the_checked_models(tmp_path: Path) -> None:
    for method in ("madry", "trades", "mart"):
        attacked(tmp_path, method, 100, {"pgd-20": 50})
    runs_ = {run.method: run for run in load_records(tmp_path)}
    check(RunFolder(tmp_path, runs_["madry"].run_id), 7, 0.0)
    check(RunFolder(tmp_path, runs_["trades"].run_id), 8, 0.06)

    def said() -> str:
        section = section_of(tmp_path)
        return sentences(section, entries(section))[1]

    assert said() == (
        "No masking check raises an alarm on the 2 of 3 models that were checked; values to watch "
        "on TRADES."
    )
    check(RunFolder(tmp_path, runs_["mart"].run_id), 7, 0.9)
    assert said() == (
        "Masking checks raise alarms on MART (C7): read their robust accuracy as an upper bound; "
        "values to watch on TRADES."
    )


def test_colours_of_the_legend_are_those_of_the_matrix(tmp_path: Path) -> None:
    for method in ("madry", "trades", "mart"):
        left = {"pgd-20": 50, "square": 60} if method == "madry" else {"pgd-20": 50}
        attacked(tmp_path, method, 100, left)
    section = section_of(tmp_path)
    found = packed(section, entries(section))
    assert dict(zip(found["fates"], found["inks"], strict=True)) == {
        "wrong without an attack": "0",
        "broken by PGD-20": "1",
        "only another attack": "other",
        "survives every attack": "last",
    }


def test_seeds_are_left_out_before_the_page_grows_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 1, 2):
        attacked(tmp_path, "madry", 80, {"pgd-20": 40}, seed=seed)
    section = section_of(tmp_path)
    found = entries(section)
    assert fates(section, ["pgd-20"])[1] == "broken by PGD-20"
    assert len(packed(section, found)["methods"][0]["seeds"]) == 3
    monkeypatch.setattr("bench.report.html.survivors.MAX_BYTES", 50)
    assert len(packed(section, found)["methods"][0]["seeds"]) == 2


def test_only_parameters_that_differ_from_recorded_defaults_are_shown(tmp_path: Path) -> None:
    params = {"steps": 10, "start": "zero"}
    card = {"defaults": {"steps": 10, "start": "uniform"}}
    train_run(tmp_path, "madry", params=params, card=card)
    (run,) = load_records(tmp_path)
    (group,) = section_of(tmp_path).groups
    assert run.spec["params"] == params
    heading, values = runs.changed_parameters(group)
    assert heading == "Parameters that differ from the defaults"
    assert values == {"start": "zero (default uniform)"}


@pytest.mark.slow
def test_a_page_of_many_runs_stays_small(tmp_path: Path) -> None:
    make_many(tmp_path / "results", 240, attacks=("pgd-20", "cw"))
    report = write_report(load_records(tmp_path / "results"), tmp_path / "r", command="x")
    assert len(html(report)) < 2_500_000


@pytest.mark.slow
def test_open_starts_the_browser(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def launch(url: str) -> int:
        opened.append(url)
        return 0

    monkeypatch.setattr("click.launch", launch)
    arguments = ["report", "--results", str(results), "--reports", str(tmp_path), "--open"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert opened == [str(tmp_path / "index.html")]
    refused = CliRunner().invoke(main, [*arguments, "--suite", "table3"])
    assert refused.exit_code == 2
    assert "leave out --suite" in refused.output
