"""Take README's picture: the front page of the quick profile's report, made-up slices. Run by `make picture`."""

import io
import shutil

from PIL import Image
from playwright.sync_api import sync_playwright

from btlib import files, home

WIDTH, COLOURS = 1280, 48


def main() -> None:
    """Write reports/front_page.png: the page's top, down to the end of its table, in few colours."""
    page_file = home() / "reports" / "quick" / "html" / "index.html"
    if not page_file.is_file():
        raise SystemExit(f"{page_file}: no such report; `make report` builds it")
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(page_file.as_uri())
        end = page.evaluate("document.querySelector('table.claims').getBoundingClientRect().bottom")
        page.set_viewport_size({"width": WIDTH, "height": int(end) + 12})
        taken = page.screenshot()
        browser.close()
    with files.replacing(home() / "reports" / "front_page.png") as temporary:
        Image.open(io.BytesIO(taken)).convert("RGB").quantize(COLOURS).save(temporary, optimize=True)


if __name__ == "__main__":
    main()
