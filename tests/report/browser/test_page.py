"""What a reader does with the page: opens it offline, sorts, filters, points, prints, listens."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from bench.records import load_records
from bench.report import write_report
from tests.report.browser.conftest import OpenPage
from tests.report.browser.made import HOSTILE, WARNING, many
from tests.report.browser.reading import rows
from tests.report.made import evaluate, train_run

pytestmark = pytest.mark.browser
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
DIGITS_BYTES = 1_500_000
BOARD = ".setting:is([data-chosen], html:not(.ready) *) [data-board]"


def test_it_opens_offline_from_one_file(digits: Path, open_page: OpenPage) -> None:
    assert (digits / "index.html").stat().st_size < DIGITS_BYTES
    opened = open_page(digits)
    page = opened.ready()
    assert [url.rpartition("/")[2] for url in opened.requests] == ["index.html"]
    loads = "[...document.querySelectorAll('[src], link')].map(e => e.src || e.href)"
    assert set(page.evaluate(loads)) <= {"data:,"}


def labels(page: Page) -> list[str]:
    return [row["cells"][1]["text"] for row in rows(page, BOARD) if len(row["cells"]) > 1]


def values(page: Page, key: str) -> list[float]:
    cells = [c for row in rows(page, BOARD) for c in row["cells"] if c.get("key") == key]
    return [float(cell["order"]) if cell["order"] else float("-inf") for cell in cells]


def head(page: Page, name: str) -> Any:
    return page.locator("[data-board]:visible thead th").filter(has_text=name).first


@pytest.mark.parametrize(
    ("name", "key"), [("Clean", "clean"), ("Worst case", "worst_case"), ("Cost", "cost")]
)
def test_a_heading_sorts_by_number(several: Path, open_page: OpenPage, name: str, key: str) -> None:
    page = open_page(several).ready()
    missing = float("-inf")
    for direction, reverse in (("ascending", False), ("descending", True)):
        head(page, name).click()
        page.wait_for_selector(f"{BOARD} th[aria-sort={direction}]:has-text('{name}')")
        found = values(page, key)
        present = [value for value in found if value != missing]
        assert present == sorted(present, reverse=reverse)
        assert len(set(present)) > 2
        assert found[len(present) :] == [missing] * (len(found) - len(present))


def test_the_keyboard_sorts(digits: Path, open_page: OpenPage) -> None:
    page = open_page(digits).ready()
    page.focus("[data-filter]")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('thead th')?.innerText.trim()") == "Clean":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-board] th[aria-sort=ascending]:has-text('Clean')")
    assert values(page, "clean") == sorted(values(page, "clean"))


def test_filters_narrow_and_restore(demanding_report: Path, open_page: OpenPage) -> None:
    page = open_page(demanding_report).ready()
    page.locator("[data-choose^=digits]").click()
    board = page.locator(".setting:visible")
    everything = board.locator("[data-board] tbody tr")
    assert everything.count() == 4
    board.locator("[data-filter]").fill("madry")
    assert everything.count() == 1
    board.locator("[data-filter]").fill("")
    board.locator("[data-hide=alarm]").check()
    assert everything.count() == 3
    assert not any("\u2020" in text for text in everything.all_inner_texts())
    board.locator("[data-hide=alarm]").uncheck()
    assert everything.count() == 4


def test_the_table_is_copied_in_three_formats(digits: Path, open_page: OpenPage) -> None:
    page = open_page(digits).ready()
    root = "document.querySelector('.setting').board.text"
    lines = list(csv.reader(io.StringIO(page.evaluate(f"{root}('csv')"))))
    assert [line[1] for line in lines[1:]] == labels(page)
    assert lines[0][:3] == ["Rank", "Method", "Worst case"]
    head_, rule, *body = page.evaluate(f"{root}('markdown')").splitlines()
    assert {line.count(" | ") for line in (head_, *body)} == {len(lines[0]) - 1}
    assert rule.count("|") == len(lines[0]) + 1
    latex = page.evaluate(f"{root}('latex')")
    assert latex.count(r" \\") == len(lines)
    assert {line.count("&") for line in latex.splitlines() if r"\\" in line} == {len(lines[0]) - 1}
    assert latex.isascii()
    page.get_by_role("button", name="CSV").click()
    page.get_by_text("Copied.").wait_for()


def test_a_marker_tells_its_numbers(digits: Path, open_page: OpenPage) -> None:
    page = open_page(digits).ready()
    page.locator("[data-curves]").scroll_into_view_if_needed()
    (data,) = page.evaluate("bench.data.settings")
    point = next(p for p in data["curves"] if p["radius"] == "0.15" and p["method"] == "Natural")
    page.locator("[data-curves] [aria-roledescription=point][aria-label*=Natural]").nth(3).hover()
    text = page.inner_text("#tooltip")
    for shown in ("Natural", point["radius"], f"{100 * point['accuracy']:.1f}%", point["interval"]):
        assert shown in text
    assert str(point["n"]) in text


def test_the_legend_singles_out_a_method(digits: Path, open_page: OpenPage) -> None:
    page = open_page(digits).ready()

    def opaque() -> int:
        lines = page.locator("[data-curves] path[aria-roledescription='line mark']").all()
        return sum(float(line.get_attribute("opacity") or 1) > 0.5 for line in lines)

    assert opaque() == 7
    label = page.locator("[data-curves] .role-legend-label text").filter(has_text="MART")
    label.scroll_into_view_if_needed()
    box = label.bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_timeout(200)
    assert opaque() == 1


def test_a_curve_breaks_at_a_radius_that_was_not_attacked(
    demanding_report: Path, open_page: OpenPage
) -> None:
    page = open_page(demanding_report).ready()
    page.locator("[data-choose^=digits]").click()
    path = "path[aria-roledescription='line mark']"
    drawn = page.locator(f".setting:visible [data-curves] {path}")
    drawn.first.wait_for()
    pieces = {
        "TRADES" in str(line.get_attribute("aria-label")): (line.get_attribute("d") or "").count(
            "M"
        )
        for line in drawn.all()
    }
    assert drawn.count() == 4
    assert pieces == {True: 2, False: 1}
    table = rows(page, ".setting:visible [data-curve-table='PGD-20']")
    (trades,) = (row for row in table if row["cells"][0]["text"].startswith("TRADES"))
    assert [cell["text"] for cell in trades["cells"]].count("\u2013") == 1


def test_an_image_is_found_by_pointer_and_by_keyboard(digits: Path, open_page: OpenPage) -> None:
    page = open_page(digits).ready()
    root = "document.querySelector('.setting')"
    canvas = page.locator("[data-canvas]")
    canvas.scroll_into_view_if_needed()
    order = page.evaluate(f"{root}.matrix.order()")
    canvas.click(position=page.evaluate(f"{root}.matrix.place(10)"))
    shown = page.locator("[data-shown]")
    assert shown.get_attribute("data-shown") == str(order[10])
    assert page.locator("[data-image] canvas").get_attribute("aria-label")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert shown.get_attribute("data-shown") == str(order[11])
    assert page.locator("[data-image] tbody tr").count() == 7


def test_images_that_one_method_gets_right_and_another_wrong(
    digits: Path, open_page: OpenPage
) -> None:
    page = open_page(digits).ready()
    page.select_option("[data-right]", label="Madry AT")
    page.select_option("[data-wrong]", label="CAT-CE")
    order = page.evaluate("document.querySelector('.setting').matrix.order()")
    pair = "bench.data.settings[0].pairs.find(p => p.first === 'Madry AT' && p.second === 'CAT-CE')"
    seed = "bench.split(bench.data.settings[0].images, pair, '0')"
    split = page.evaluate(f"(() => {{ const pair = {pair}; return {seed}; }})()")
    assert sorted(order) == sorted(split["first"])
    assert 0 < len(order) < 360
    assert f"{len(order)} of 360 images" in page.inner_text("[data-count]")


def test_training_curves_are_drawn_when_a_run_is_opened(digits: Path, open_page: OpenPage) -> None:
    page = open_page(digits).ready()
    run = page.locator("[data-run='CAT-CE']")
    run.locator("summary").first.click()
    run.locator("svg.marks").nth(3).wait_for()
    names = run.locator("[data-history] [role=graphics-document]").evaluate_all(
        "found => found.map(e => e.ariaLabel)"
    )
    assert any("loss" in name for name in names)
    assert any("quantiles" in name for name in names)
    assert "results/digits/cat-ce" in run.inner_text() or "cat-ce-cnn" in run.inner_text()


def test_without_scripts_everything_is_there(digits: Path, open_page: OpenPage) -> None:
    page = open_page(digits, java_script_enabled=False).page
    assert len(rows(page, BOARD)) == 7
    assert page.locator("[data-checks] tbody tr[data-check]").count() == 15
    assert page.locator("#claims").count() == 1
    assert page.locator("[data-fates] tbody tr").count() == 7
    assert page.locator("[data-pairs] tbody tr").count() == 21
    assert not page.locator("[data-tools]").is_visible()


@pytest.mark.parametrize("name", ["digits", "several", "demanding_report"])
def test_print_clips_nothing(
    name: str, open_page: OpenPage, request: pytest.FixtureRequest
) -> None:
    page = open_page(request.getfixturevalue(name), width=720).ready()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(WIDE) <= 0
    hidden = "[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)"
    assert max(page.evaluate(hidden)) <= 1
    assert page.pdf().count(b"/Type /Page\n") >= 1


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("name", ["digits", "several", "demanding_report"])
def test_axe_finds_nothing(
    name: str, width: int, open_page: OpenPage, request: pytest.FixtureRequest
) -> None:
    page = open_page(request.getfixturevalue(name), width=width).ready()
    assert page.evaluate(WIDE) <= 0
    page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
    page.wait_for_timeout(600)
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run().then(r => r.violations)")
    said = [(v["id"], v["help"], [node["html"][:150] for node in v["nodes"][:3]]) for v in found]
    assert said == [], json.dumps(said, indent=1)


def test_charts_have_names_and_motion_is_reduced_on_request(
    digits: Path, open_page: OpenPage
) -> None:
    page = open_page(digits, reduced_motion="reduce").ready()
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    chart = page.locator("[data-curves]")
    assert chart.get_attribute("role") == "graphics-document"
    assert (chart.get_attribute("aria-label") or "").startswith("Chart: accuracy under PGD-20")
    assert page.locator("[data-curves] [aria-label]").count() > 40
    assert page.locator("[data-canvas]").get_attribute("aria-label")


def test_hostile_text_is_text(demanding_report: Path, open_page: OpenPage) -> None:
    opened = open_page(demanding_report)
    page = opened.ready()
    n_scripts = page.locator("script").count()
    page.locator("[data-choose^=digits]").click()
    page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
    page.wait_for_timeout(500)
    canvas = page.locator(".setting:visible [data-canvas]")
    canvas.hover()
    canvas.click(position={"x": 400, "y": 50})
    assert HOSTILE in page.inner_text(".setting:visible [data-board]")
    assert " ".join(WARNING.split()) in " ".join(page.inner_text("#runs").split())
    assert page.locator("script").count() == n_scripts == 11
    assert page.locator("img").count() == 0
    assert opened.problems == []


@pytest.mark.parametrize("n_methods", [0, 1, 60])
def test_any_number_of_methods(n_methods: int, tmp_path: Path, open_page: OpenPage) -> None:
    if n_methods:
        many(tmp_path / "results", n_methods)
    else:
        train_run(tmp_path / "results", "madry", n_epochs_done=3)
    write_report(load_records(tmp_path / "results"), tmp_path / "r", command="bench report")
    page = open_page(tmp_path / "r").ready()
    assert page.locator("[data-board] tbody tr").count() == max(1, n_methods)
    text = page.inner_text("main")
    assert page.evaluate(WIDE) <= 0
    if n_methods == 0:
        assert "unfinished: 3 of 20 epochs" in text
        assert "No attack at this radius is on record." in text
    if n_methods < 2:
        assert "no two methods here that share an attack" in text


def test_without_autoattack_the_page_says_what_is_missing(
    tmp_path: Path, open_page: OpenPage
) -> None:
    for method in ("madry", "trades"):
        run = train_run(tmp_path / "results", method)
        evaluate(run, "pgd-20", 0.5, 100)
    write_report(load_records(tmp_path / "results"), tmp_path / "r", command="bench report")
    page = open_page(tmp_path / "r").ready()
    assert "No masking check was made" in page.inner_text(".short")
    cells = [c["text"] for row in rows(page, BOARD) for c in row["cells"]]
    assert cells.count("\u2013") >= 4
    assert "not until AutoAttack" not in page.inner_text("main")


def test_settings_are_never_mixed(several: Path, open_page: OpenPage) -> None:
    page = open_page(several).ready()
    links = page.locator("[data-choose]")
    assert links.count() == 3
    for place in range(links.count()):
        links.nth(place).click()
        chosen = links.nth(place).get_attribute("data-choose")
        assert page.locator(".setting:visible").count() == 1
        assert page.locator(".setting:visible").get_attribute("id") == chosen
        assert page.locator("#runs [data-setting]:visible").count() == 1
        assert page.locator("[data-part=board]").get_attribute("href") == f"#s{place + 1}-board"


def test_a_link_to_a_part_opens_its_setting(several: Path, open_page: OpenPage) -> None:
    page = open_page(several).ready()
    shown = page.locator(".setting:visible")
    first = shown.get_attribute("id")
    url = page.url
    page.goto("about:blank")  # a reload would keep the place on the page
    page.goto(f"{url}#s1-masking")
    page.wait_for_selector('body[data-ready="1"]')
    assert shown.get_attribute("id") != first
    assert page.locator("#s1-masking").bounding_box()["y"] < 200  # type: ignore[index]


def test_a_chart_that_was_hidden_while_the_window_changed_is_drawn_anew(
    several: Path, open_page: OpenPage
) -> None:
    page = open_page(several).ready()
    other = page.locator("[data-choose]:not([aria-current])").first
    slug = page.locator("[data-choose][aria-current]").get_attribute("data-choose")
    width = page.locator(".setting:visible [data-curves] svg").bounding_box()
    other.click()
    page.set_viewport_size({"width": 900, "height": 800})
    page.wait_for_timeout(200)
    page.locator(f"[data-choose='{slug}']").click()
    page.wait_for_timeout(300)
    now = page.locator(".setting:visible [data-curves] svg").bounding_box()
    assert width
    assert now
    assert 400 < now["width"] < width["width"]
