"""The report of a small made-up profile: two executed notebooks, three tables, two figures."""

import base64
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import matplotlib.figure
import nbformat
import pandas as pd
import pytest

from btlib import DataError, files, params
from btlib.site import build as report
from btlib.study import tables

SENTENCE = "Made-up slices (phantoms): says nothing about patients."
FIRST = [
    ("markdown", "# 01 How good is *good*?\n\nIt asks, with `code`, what a score is worth."),
    ("markdown", "**Reads** nothing. **Writes** the table `models` and the figure `claims`."),
    ("parameters", 'profile = "fake"'),
    ("markdown", "## 1. A table"),
    ("table", "models"),
    ("markdown", "## 2. A picture"),
    ("picture", 'tables.save(study.profile, "claims", figures.claims(claims))'),
    ("markdown", "## 3. A picture without a name"),
    ("both", "axes.plot(x)"),
    ("widget", "explorer(study)"),
    ("markdown", "## What we saw\n\nSee [the second](02_second.ipynb). The word quokka is for the search."),
]
SECOND = [("markdown", "# What comes next?\n\nNothing does."), ("table", "claims")]


@pytest.fixture(scope="session")
def fake(tmp_path_factory):
    """A profile on disk, its report not built yet: (home, study)."""
    with pytest.MonkeyPatch.context() as patch:
        yield make_profile(tmp_path_factory.mktemp("home"), patch)


@pytest.fixture(scope="session")
def site(fake):
    """The folder of the built report; beside the notebooks lies what a killed attempt left, which is no page."""
    write_notebook(tables.folder("fake") / "notebooks" / ".02_second.123.ipynb", SECOND)
    return report.build("fake", fake[1]).parent


def make_profile(home: Path, patch: pytest.MonkeyPatch) -> tuple[Path, params.Study]:
    patch.setenv("BTLIB_HOME", str(home))
    patch.setattr(report, "_data", lambda study: [DATA])
    patch.setattr(report, "_fits", lambda study: [FIT])
    study = params.load("quick").model_copy(update={"profile": "fake"})
    name, weights = study.proposed.model, study.proposed.weights
    protocols = [p.protocol for p in study.protocols][:2]
    models = pd.DataFrame(
        {
            "model": [name, name, name, "vgg16"],
            "weights": [weights, weights, weights, "random"],
            "protocol": [protocols[0], protocols[0], protocols[1], protocols[0]],
            "n_test": [100, 300, 200, 400],
            "accuracy": [0.5, 0.9, 0.75, 0.1],
        }
    )
    claims = pd.DataFrame(
        {
            "claim": ["accuracy on the test set", "ahead of <VGG16>", "fewer parameters", "a second set"],
            "paper": ["0.9935", "yes", "", "0.9251"],
            "ours": ["0.812345", "yes", "12345", ""],
            "low": ["0.75", "", "", ""],
            "high": ["0.875", "", "", ""],
            "verdict": ["not reached", "holds", "holds", "not tested"],
            "data": ["phantom"] * 4,
        }
    )
    scores = pd.DataFrame(
        {"image_id": [f"slice {i:03}" for i in range(120)], "energy": [((i * 37) % 120) / 120 for i in range(120)]}
    )
    for table_name, table in (("models", models), ("claims", claims), ("gradcam_scores", scores)):
        tables.write("fake", table_name, table)
    for figure_name in ("claims", "roc_curve"):
        tables.save("fake", figure_name, picture())
    for book_name, cells in (("01_first", FIRST), ("02_second", SECOND)):
        write_notebook(tables.folder("fake") / "notebooks" / f"{book_name}.ipynb", cells)
    return home, study


FIT = {
    "id": "0123456789ab",
    "title": "a fit",
    "hardware": "a CPU",
    "backend": "tensorflow",
    "fit_seconds": 61.0,
    "commit": "f" * 40,
}
DATA = {"name": "data", "source": "phantom", "path": "data/x", "fingerprint": "f00d", "n_slices": 12, "n_patients": 3}


def picture() -> matplotlib.figure.Figure:
    figure = matplotlib.figure.Figure(figsize=(5, 3))
    figure.subplots().plot([1, 3, 2])
    return figure


def write_notebook(path: Path, cells: list[tuple[str, str]], **papermill) -> None:
    buffer = io.BytesIO()
    picture().savefig(buffer, format="png")
    png = base64.b64encode(buffer.getvalue()).decode()
    wide = pd.DataFrame({f"a_rather_long_name_{i}": [i, 2 * i] for i in range(12)})
    out = {
        "table": {"text/html": wide.to_html(), "text/plain": str(wide)},
        "picture": {"image/png": png, "text/plain": "<Figure>"},
        "both": {"text/markdown": "A sentence before its picture."},
        "widget": {
            "application/vnd.jupyter.widget-view+json": {"model_id": "1", "version_major": 2, "version_minor": 0}
        },
    }
    book = nbformat.v4.new_notebook(
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "papermill": {
                "start_time": "2030-01-01T00:00:00",
                "end_time": "2030-01-01T00:00:02",
                "duration": 2.0,
                "exception": None,
            }
            | papermill,
        }
    )
    for i, (kind, text) in enumerate(cells):
        if kind == "markdown":
            cell = nbformat.v4.new_markdown_cell(text)
        else:
            code = f'tables.read("fake", "{text}")' if kind == "table" else text
            cell = nbformat.v4.new_code_cell(code, execution_count=i)
            if kind == "parameters":
                cell.metadata["tags"] = ["parameters"]
            else:
                cell.outputs = [nbformat.v4.new_output("display_data", data=out[kind])]
            if kind == "both":
                cell.outputs.append(nbformat.v4.new_output("display_data", data=out["picture"]))
        cell.id = f"cell-{i}"
        book.cells.append(cell)
    files.write_text(path, nbformat.writes(book))


class Page(HTMLParser):
    """The parts of a page that the tests look at."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.tags, self.text, self.ids = path, [], "", set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids.add(dict(attributes).get("id"))

    def handle_data(self, data):
        self.text += data

    def all(self, *names):
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.fixture(scope="session")
def pages(site):
    return {path.stem: Page(path) for path in sorted(site.glob("*.html"))}


def test_every_page_is_there(pages):
    assert set(pages) == {"index", "01_first", "02_second", "tables", "figures", "provenance", "limitations", "search"}


def test_every_page_says_that_the_slices_are_made_up(pages):
    for page in pages.values():
        banner = page.path.read_text(encoding="utf-8").split('class="bd-header-announcement"')[1].split("</aside>")[0]
        assert SENTENCE in banner, page.path


def test_front_page_shows_the_claims_and_the_deciding_sentence(pages):
    text = " ".join(pages["index"].text.split())
    # (0.5 * 100 + 0.9 * 300) / 400 = 0.8, other models left out
    assert "is right on 80.0 % of test slices where slices are split at random; on 75.0 %" in text
    assert "accuracy on the test set 99.35 % 81.23 % 95 %: 75.00 % to 87.50 % not reached phantom" in spaced(
        pages["index"]
    )
    assert "ahead of <VGG16>" in text
    assert "12,345" in text
    assert "How good is good?" in text and "It asks, with code, what a score is worth." in text


def spaced(page: Page) -> str:
    body = re.sub(r"<(?!/?strong|VGG)[^>]*>", " ", page.path.read_text(encoding="utf-8"))
    return " ".join(re.sub(r"</?strong>", " ", body).split())


def test_every_picture_has_an_alt_text_and_each_figure_its_caption(pages):
    for page in pages.values():
        for picture in page.all("img"):
            assert len(picture.get("alt", "")) > 10, (page.path, picture)
    first = pages["01_first"]
    caption, alt = (report.CAPTIONS["figures"]["claims"][key] for key in ("caption", "alt"))
    assert {p["alt"] for p in first.all("img")} == {alt, "Picture in the section 3. A picture without a name"}
    assert caption in first.text and "Shown under: 3. A picture without a name" in first.text
    # Tables and sentences are no figures.
    assert len(first.all("figure")) == len(first.all("figcaption")) == 2
    assert len(pages["figures"].all("figure")) == len(pages["figures"].all("figcaption")) == 2


def test_pictures_of_one_cell_get_their_captions_in_order(fake):
    study, figures = fake[1], report.CAPTIONS["figures"]
    two = 'display(tables.save(study.profile, "roc", a))\ntables.save(study.profile, "claims", b)'
    assert [alt for _, alt in report._captions_of(two, 2, "", study)] == [figures[n]["alt"] for n in ("roc", "claims")]
    loop = 'tables.save(study.profile, f"learning_curves_{name}", a)'
    caption = f"{figures['learning_curves']['caption']} {SENTENCE}"
    assert [found for found, _ in report._captions_of(loop, 3, "", study)] == [caption] * 3
    assert report._caption("learning_curves_vgg16", study)[1] == f"{figures['learning_curves']['alt'][:-1]} (vgg16)."
    assert report._caption("claimsmaking", study) == (f"Claimsmaking. {SENTENCE}", "Figure: Claimsmaking.")


def test_links_lead_somewhere_and_nothing_comes_from_outside(pages, site):
    by_path = {page.path: page for page in pages.values()}
    for page in pages.values():
        for attributes in page.all("a", "link", "script", "img", "iframe", "source", "form"):
            target = attributes.get("href") or attributes.get("src") or attributes.get("action")
            if target is None or target.startswith("data:"):
                continue
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                assert attributes in page.all("a"), f"{page.path.name} loads {target}"
                continue
            path = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            assert path.exists(), f"{page.path.name} links {target}"
            assert site in path.parents
            if parts.fragment and path in by_path:
                assert unquote(parts.fragment) in by_path[path].ids, f"{page.path.name} links {target}"
        assert "cdn." not in page.path.read_text(encoding="utf-8")


def test_style_sheets_fetch_nothing_from_outside(site):
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", text), path


def test_tables_have_headers_a_caption_and_their_csv(pages, site):
    page = pages["tables"]
    assert len(page.all("table")) == len(page.all("caption")) == 3
    for page in pages.values():
        for header in page.all("th"):
            assert header.get("scope") in ("col", "row"), (page.path, header)
    for name in ("models", "claims", "gradcam_scores"):
        assert (site / "tables" / f"{name}.csv").read_bytes() == (site.parent / "tables" / f"{name}.csv").read_bytes()


def test_a_long_table_is_cut_and_says_so(pages):
    text = pages["tables"].text
    assert "slice 049" in text and "slice 050" not in text
    assert "The first 50 of 120 rows; the CSV has all." in text


def test_a_widget_needs_no_script_from_outside(pages):
    assert "widget" not in pages["01_first"].text
    assert not any("widget" in (s.get("type") or "") for s in pages["01_first"].all("script"))


def test_provenance_is_written_and_shown(fake, pages):
    written = json.loads((tables.folder("fake") / "provenance.json").read_text(encoding="utf-8"))
    assert written["wall_seconds"] == {"01_first": 2.0, "02_second": 2.0}
    assert written["parameters"] == fake[1].model_dump(mode="json")
    assert written["data"] == [DATA]
    assert written["versions"]["numpy"].count(".") == 2
    for shown in ("f00d", written["commit"], written["hardware"]["processor"], "4.0 s"):
        assert shown in pages["provenance"].text


def test_every_figure_and_table_of_the_notebooks_has_a_caption():
    notebooks = sorted((Path(report.__file__).parents[2] / "notebooks").glob("*.ipynb"))
    if not notebooks:
        pytest.skip("no notebooks beside btlib: it is installed without them")
    source = "\n".join(path.read_text(encoding="utf-8").replace('\\"', "'") for path in notebooks)
    for kind, writer in (("figures", "save"), ("tables", "write")):
        names = re.findall(rf"tables\.{writer}\([^,]+,\s*f?'([\w-]+)", source)
        assert names and {name.rstrip("_") for name in names} <= set(report.CAPTIONS[kind]), kind


def test_real_slices_have_no_banner(fake):
    real = fake[1].model_copy(update={"data": fake[1].data.model_copy(update={"source": "figshare"}), "external": None})
    assert report._banner(real) == ""
    mixed = real.model_copy(update={"external": fake[1].data})
    assert report._banner(mixed).startswith("The external set is made up")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A profile of one's own to spoil, with an earlier report in place."""
    _, study = make_profile(tmp_path, monkeypatch)
    old = tables.folder("fake") / "html"
    old.mkdir()
    (old / "index.html").write_text("the old one")
    return study


def left_as_it_was() -> bool:
    root = tables.folder("fake")
    hidden = [path.name for path in root.iterdir() if path.name.startswith(".")]
    return hidden == [] and os.listdir(root / "html") == ["index.html"]


def test_a_broken_link_stops_the_report_and_the_old_one_stays(own):
    write_notebook(
        tables.folder("fake") / "notebooks" / "02_second.ipynb", [("markdown", "# A?\n\n[gone](nowhere.ipynb)")]
    )
    with pytest.raises(DataError, match=r"02_second.ipynb.*nowhere.ipynb"):
        report.build("fake", own)
    assert left_as_it_was()


@pytest.mark.parametrize("papermill", [{"end_time": None}, {"exception": True}])
def test_an_unfinished_notebook_stops_the_report(own, papermill):
    write_notebook(tables.folder("fake") / "notebooks" / "02_second.ipynb", SECOND, **papermill)
    with pytest.raises(DataError, match=r"02_second\.ipynb: (was not run to its end|stopped with an error)"):
        report.build("fake", own)
    assert left_as_it_was()


@pytest.mark.parametrize("gone", ["tables/claims.csv", "tables/models.csv", "figures/claims.svg", "notebooks/*.ipynb"])
def test_a_missing_part_is_named(own, gone):
    for path in tables.folder("fake").glob(gone):
        path.unlink()
    with pytest.raises(DataError, match=Path(gone).stem.replace("*", "notebook")):
        report.build("fake", own)
    assert left_as_it_was()


def test_a_new_report_takes_the_place_of_the_old(own):
    index = report.build("fake", own)
    assert index == tables.folder("fake") / "html" / "index.html"
    assert "Does 99.35 % hold?" in index.read_text(encoding="utf-8")
    assert sorted(path.name for path in tables.folder("fake").iterdir()) == [
        "figures",
        "html",
        "notebooks",
        "provenance.json",
        "tables",
    ]


def test_swap_keeps_the_old_site_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    new, site = tmp_path / "new", tmp_path / "html"
    new.mkdir()
    site.mkdir()
    (site / "old").touch()
    rename = os.rename

    def full(source, target):
        if source == new:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space"):
        report._swap(new, site, tmp_path / "aside")
    assert (site / "old").exists()
