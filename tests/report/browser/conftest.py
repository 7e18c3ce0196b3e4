"""Debian's chromium, driven by playwright, and the pages that it opens from disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright

from bench.records import load_records
from bench.report import write_report
from tests.report.browser.made import demanding

ROOT = Path(__file__).parent.parent.parent.parent


@dataclass
class Opened:
    """An opened page, and what happened since."""

    page: Page
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Messages of the console, errors, dialogs."""

    def ready(self) -> Page:
        try:
            self.page.wait_for_selector('body[data-ready="1"]', timeout=5000)
        except TimeoutError:
            self.problems.append("the page is not ready after 5 seconds")
        assert self.problems == []
        return self.page


OpenPage: TypeAlias = Callable[..., Opened]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium")
    assert found, "these tests need chromium: `apt-get install chromium`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Open a report's page offline, in a window of some width."""
    contexts = []

    def opened(folder: Path, width: int = 1200, **options: Any) -> Opened:
        context = browser.new_context(
            offline=True, viewport={"width": width, "height": 1000}, **options
        )
        contexts.append(context)
        one = Opened(context.new_page())
        one.page.on("request", lambda request: one.requests.append(request.url))
        one.page.on("pageerror", lambda error: one.problems.append(str(error)))
        one.page.on("dialog", lambda dialog: one.problems.append(dialog.message))
        one.page.on(
            "console",
            lambda message: (
                one.problems.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        one.page.goto((folder / "index.html").as_uri())
        return one

    yield opened
    for context in contexts:
        context.close()


def _written(results: Path, folder: Path) -> Path:
    write_report(load_records(results), folder, command="bench report")
    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of results/digits: seven methods, five seeds, every attack and check."""
    return _written(ROOT / "results" / "digits", tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def several(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of one of everything: settings, failures, gaps, outside models."""
    return _written(results, tmp_path_factory.mktemp("several"))


@pytest.fixture(scope="session")
def demanding_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of alarms, hostile names, a missing radius, claims with verdicts."""
    folder = tmp_path_factory.mktemp("demanding")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.storage.os.fsync", lambda _: None)
        demanding(folder / "results")
    return _written(folder / "results", folder / "report")
