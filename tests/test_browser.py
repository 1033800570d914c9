"""The report in a real browser, opened from the file system: Debian's chromium, without a screen or a network."""

import os
import shutil
from pathlib import Path

import pytest
from test_report import fake, site  # noqa: F401  (fixtures)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None and "BTLIB_NEEDS_BROWSER" in os.environ:
    raise RuntimeError("BTLIB_NEEDS_BROWSER is set and chromium is not installed (Debian: apt-get install chromium)")
if CHROMIUM is None:
    pytest.skip("chromium is not installed (Debian: apt-get install chromium)", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install -e .[test])")

PAGES = (
    "index",
    "01_first",
    "02_second",
    "tables",
    "figures",
    "provenance",
    "sources",
    "limitations",
    "search",
    "real/index",
)
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
QUIET += ("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield running
        running.close()


@pytest.fixture
def open_page(browser, site):  # noqa: F811
    """Open a page of the report; at the end nothing may have failed, complained or left the machine."""
    faults, contexts = [], []

    def guard(route):
        if route.request.url.startswith(("file://", "data:", "blob:")):
            return route.continue_()
        faults.append(f"request to {route.request.url}")
        return route.abort()

    def go(name: str, width: int = 1280, colours: str = "light", query: str = ""):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=colours)
        contexts.append(context)
        page = context.new_page()
        page.route("**/*", guard)
        page.on("console", lambda m: faults.append(f"console: {m.text}") if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: faults.append(f"script: {error}"))
        page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
        page.goto((site / f"{name}.html").as_uri() + query, wait_until="load")
        return page

    yield go
    for context in contexts:
        context.close()
    assert faults == []


@pytest.mark.parametrize(("width", "colours"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("name", PAGES)
def test_page_is_sound(open_page, name, width, colours):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = open_page(name, width, colours)
    assert page.evaluate("document.documentElement.dataset.theme") == colours
    page.evaluate("document.querySelectorAll('img').forEach(picture => picture.loading = 'eager')")
    page.wait_for_function("[...document.images].every(picture => picture.complete)")
    broken = page.evaluate("[...document.images].filter(i => !i.complete || i.naturalWidth === 0).map(i => i.src)")
    assert broken == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    # Without `preload: False` axe itself fetches style sheets, which no page opened from the file system may; without
    # `resultTypes` it describes every element that passed, which takes more than half of its time.
    found = axe.Axe().run(page, options={"preload": False, "resultTypes": ["violations"]}).response
    assert len(found["passes"]) > 10
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert [(v["id"], n["target"], n["failureSummary"]) for v in serious for n in v["nodes"]] == []


@pytest.mark.parametrize("width", [390, 800, 1100, 1400])
def test_menu_and_contents_open_and_close(open_page, width):
    page = open_page("01_first", width)
    menu, question = page.locator("button.primary-toggle"), page.locator("nav.bd-docs-nav >> text=What comes next?")
    beside = width >= 992  # where the menu stands beside the page, its button puts it away
    assert (menu.count(), question.is_visible()) == (1, beside)
    menu.click()
    question.wait_for(state="hidden" if beside else "visible")
    if beside:
        menu.click()
    else:
        page.keyboard.press("Escape")
    question.wait_for(state="visible" if beside else "hidden")

    contents, entry = page.locator("button.secondary-toggle"), page.locator("#pst-page-toc-nav >> text=2. A picture")
    if contents.is_visible():
        assert not entry.is_visible()
        contents.click()
    entry.wait_for(state="visible")
    entry.click()
    page.wait_for_url("**/01_first.html#a-picture")


@pytest.mark.parametrize(
    ("term", "where"),
    [
        ("quokka", "01_first.html"),
        ("gradcam_scores", "tables.html"),
        ("Grad-CAM", "tables.html"),
        ("99.35", "index.html"),
        ("specificity", "01_first.html"),
        ("cross-dataset", "01_first.html"),
        ("baselines", "01_first.html"),
        ("wombat", "real/index.html"),
    ],
)
def test_search_finds_a_known_term(open_page, term, where):
    page = open_page("search", query=f"?q={term}")
    page.wait_for_selector("#search-results ul.search li a")
    assert any(where in (a.get_attribute("href") or "") for a in page.query_selector_all("#search-results ul.search a"))


def test_a_picture_is_loaded_when_it_comes_near(open_page):
    page = open_page("figures")
    assert page.locator("figure img").evaluate_all("all => all.map(i => i.loading)") == ["lazy", "lazy"]


def test_a_wide_table_scrolls_on_a_phone_and_not_at_1400(open_page):
    wide = "box => box.scrollWidth > box.clientWidth"
    phone, desk = open_page("01_first", 390), open_page("tables", 1400)
    assert phone.locator(".cell_output > .output.text_html").evaluate(wide)
    assert not any(box.evaluate(wide) for box in desk.locator(".table-scroll").all())


def test_search_starts_from_the_keyboard(open_page):
    page = open_page("index")
    page.keyboard.press("Control+K")
    page.keyboard.type("quokka")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=quokka*")
    page.wait_for_selector("#search-results ul.search li a")


def test_tables_sort_by_the_keyboard(open_page):
    page = open_page("tables")
    table = page.locator("table.sortable", has_text="slice 000")
    button = table.locator("th button", has_text="Energy")
    energies = "table => [...table.tBodies[0].rows].map(row => Number(row.cells[1].textContent))"
    shown = table.evaluate(energies)
    assert len(shown) == 25 and shown != sorted(shown)
    button.focus()
    page.keyboard.press("Enter")
    assert table.evaluate(energies) == sorted(shown)
    page.keyboard.press("Space")
    assert table.evaluate(energies) == sorted(shown, reverse=True)
    assert table.locator("th[aria-sort]").evaluate_all("h => h.map(x => [x.textContent, x.ariaSort])") == [
        ["Energy", "descending"]
    ]


def test_the_first_key_press_leads_to_the_content(open_page):
    page = open_page("index")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#main-content"


def test_numbers_need_no_script(browser, site):  # noqa: F811
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(Path(site / "tables.html").as_uri())
    assert "81.23" not in page.title() and page.locator("table.sortable tbody tr").count() == 4 + 4 + 25
    context.close()
