"""Draw docs/assets/report.png, README's picture: the committed page down to its first curves.

`make picture` runs it, after a change of the page. It needs Debian's chromium.
"""

import shutil
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
PAGE, PICTURE = ROOT / "reports" / "digits" / "index.html", ROOT / "docs" / "assets" / "report.png"
WIDTH, MARGIN, COLOURS = 1200, 10, 256
END = "document.querySelector('[data-curves]').getBoundingClientRect().bottom"


def screenshot(page: Path) -> bytes:
    """Return the top of a report's page as a PNG."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("this needs chromium: `apt-get install chromium`")
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        tab = browser.new_context(offline=True, viewport={"width": WIDTH, "height": 900}).new_page()
        tab.goto(page.as_uri())
        tab.wait_for_selector('body[data-ready="1"]')
        tab.wait_for_selector("[data-curves] svg")
        picture = tab.screenshot(
            full_page=True,
            clip={"x": 0, "y": 0, "width": WIDTH, "height": tab.evaluate(END) + MARGIN},
        )
        browser.close()
    return picture


def main() -> None:
    picture = Image.open(BytesIO(screenshot(PAGE))).convert("RGB")
    picture.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        PICTURE, optimize=True
    )
    print(f"wrote {PICTURE.relative_to(ROOT)} ({PICTURE.stat().st_size // 1000} kB)")


if __name__ == "__main__":
    main()
