"""Bytes of the report's page, and seconds until it is ready in chromium, next to their limits.

The large page is of made records: 10,000 images, 10 methods, 20 attacks.
"""

import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import click
from playwright.sync_api import sync_playwright

from bench.errors import ConfigError
from bench.listing import aligned
from bench.records import load_records
from bench.report import write_report
from tests.report.made import evaluate, train_run
from tests.report.many import METHODS

ATTACKS = ("pgd-20", "cw", "autoattack", *(f"pgd-{10 * step}" for step in range(3, 20)))
SECONDS = 5.0


def make_large(results: Path, n_images: int) -> None:
    """Write records of one training of each method under all attacks."""
    for place, method in enumerate(METHODS):
        run = train_run(results, method, dataset="cifar10", arch="resnet-18", epochs=110)
        for step, attack in enumerate(ATTACKS):
            evaluate(run, attack, 0.6 - place / 50 - step / 200, n_images, clean=0.9)
        run.merge()


def seconds(page: Path) -> float:
    """Return the seconds from opening the page to its ready flag."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise ConfigError("this needs chromium: `apt-get install chromium`")
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        tab = browser.new_context(offline=True).new_page()
        since = time.perf_counter()
        tab.goto(page.as_uri())
        tab.wait_for_selector('body[data-ready="1"]', timeout=60_000)
        found = time.perf_counter() - since
        browser.close()
    return found


@click.command()
@click.option("--images", default=10_000, show_default=True, help="Test images of the large page.")
def main(images: int) -> None:
    """Measure the page of results/digits and that of many images."""
    with TemporaryDirectory() as folder:
        large = Path(folder, "results")
        with mock.patch("bench.storage.os.fsync"):  # made records need not survive a power cut
            make_large(large, images)
        rows = [("page", "bytes", "limit", "seconds to ready", "limit")]
        pages = (
            ("results/digits", Path("results/digits"), 1_500_000),
            (f"{images:,} images x {len(METHODS)} x {len(ATTACKS)}", large, 4_000_000),
        )
        for name, results, limit in pages:
            reports = Path(folder, f"reports-{len(rows)}")
            write_report(load_records(results), reports, command="bench report")
            page = reports / "index.html"
            size, needed = page.stat().st_size, seconds(page)
            rows.append((name, f"{size:,}", f"{limit:,}", f"{needed:.1f}", f"{SECONDS:.0f}"))
    click.echo(aligned(rows))


if __name__ == "__main__":
    main()
