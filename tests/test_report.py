"""The report of a small made-up profile: two executed notebooks, three tables, two figures."""

import base64
import html
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
from btlib.site import pages as texts
from btlib.study import readable, tables

SENTENCE = "Made-up slices (phantoms): says nothing about patients."
FIRST = [
    ("markdown", "# 01 How good is *good*?\n\nIt asks, with `code`, what a score is worth."),
    ("markdown", "**Reads** nothing. **Writes** the table `models` and the figure `claims`."),
    ("parameters", 'profile = "fake"'),
    ("markdown", "## 1. A table"),
    ("table", "models"),
    ("markdown", "## 2. A picture"),
    ("figure", "claims"),
    ("markdown", "## 3. A picture without a name"),
    ("both", "axes.plot(x)"),
    ("widget", "explorer(study)"),
    ("markdown", "## What we saw\n\nSee [the second](02_second.ipynb). The word quokka is for the search."),
    ("markdown", "A cross-dataset score, its specificity and two baselines."),
]
SECOND = [
    ("markdown", "# What comes next?\n\nNothing does."),
    ("table", "claims"),
    ("table", "gradcam_scores"),
    ("figure", "roc_curve"),
]


KEPT = """# Real slices

![The ladder](figures/leakage.svg)

The word wombat is for the search. [leakage.csv](tables/leakage.csv) holds the numbers; [params](../../params/figshare.yaml)
lies in the repository.
"""


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
    ahead = "Accuracy ahead of the best of VGG16, ResNet152V2 and Vision Transformer (difference)"
    claims = pd.DataFrame(
        {
            "claim": ["accuracy on the test set", ahead, "ahead of <VGG16>", "fewer parameters"],
            "paper": ["0.9935", "", "yes", ""],
            "ours": ["0.812345", "0.1234", "yes", "12345"],
            "low": ["0.75", "0.1", "", ""],
            "high": ["0.875", "0.15", "", ""],
            "verdict": ["no verdict"] * 4,
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
    keep(home, claims.head(1).assign(ours=["0.9"], low=["0.8"], high=["0.95"], verdict=["not reached"]))
    return home, study


def keep(home: Path, claims: pd.DataFrame) -> None:
    """Put kept results on real slices into the repository: the page, a figure, three tables."""
    real = params.load("figshare")
    names = {"model": real.proposed.model, "weights": real.proposed.weights or "random"}
    row = names | {"protocol": real.protocols[0].protocol, "n_test": 10, "accuracy": 0.9}
    tables.write("figshare", "models", pd.DataFrame([row]))
    tables.save("figshare", "leakage", picture())
    tables.write("figshare", "claims", claims)
    tables.write("figshare", "leakage", pd.DataFrame({"protocol": ["image_holdout"], "accuracy": [0.9]}))
    files.write_text(home / "reports" / "figshare" / "README.md", KEPT)
    files.write_text(
        home / "reports" / "figshare" / "checklist.md", "# Checklists\n\n| | Item |\n| --- | --- |\n| 1 | Title |\n"
    )


FIT = {
    "id": "0123456789ab",
    "title": "a fit",
    "what_for": ["proposed", "ablation proposed"],
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
            code = f'tables.read("fake", "{text}")' if kind in ("table", "figure") else text
            cell = nbformat.v4.new_code_cell(code, execution_count=i)
            if kind == "parameters":
                cell.metadata["tags"] = ["parameters"]
            else:
                shown = "picture" if kind == "figure" else kind
                cell.outputs = [nbformat.v4.new_output("display_data", data=out[shown])]
            if kind == "both":
                cell.outputs.append(nbformat.v4.new_output("display_data", data=out["picture"]))
            if kind in ("table", "figure"):  # what `tables` leaves in a notebook that runs
                cell.outputs.insert(0, nbformat.v4.new_output("display_data", metadata={"btlib": {kind: text}}))
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
    return {str(path.relative_to(site))[:-5]: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_page_is_there(pages):
    own = {"index", "01_first", "02_second", "tables", "figures", "provenance", "sources", "limitations", "search"}
    assert set(pages) == own | {"real/index", "real/checklist"}


def test_every_page_but_that_of_real_slices_says_that_the_slices_are_made_up(pages):
    for name, page in pages.items():
        marked = 'class="bd-header-announcement"' in page.path.read_text(encoding="utf-8")
        assert marked == (not name.startswith("real/")), name
        if marked:
            banner = page.path.read_text(encoding="utf-8").split('class="bd-header-announcement"')[1]
            assert SENTENCE in banner.split("</aside>")[0], name


def test_the_deciding_sentence_says_when_weights_were_random(fake):
    study = fake[1]
    other = study.proposed.model_copy(update={"model": "vgg16", "weights": None})
    said = texts.decisive(study.model_copy(update={"proposed": other}))
    assert said.startswith("The proposed network, VGG16, from random weights, is right on these shares")
    assert said.endswith(f": 10.0{readable.SPACE}% (slices at random, hold-out).")
    assert "random weights" not in texts.decisive(study)


def test_front_page_shows_the_claims_and_the_deciding_sentence(fake, pages):
    text = plain(pages["index"])
    # (0.5 * 100 + 0.9 * 300) / 400 = 0.8, other models left out
    assert "is right on these shares of test slices: 80.0 % (slices at random, hold-out), 75.0 %" in text
    assert (
        "On real slices, kept with the code: The network of the kept tables" in text and "test slices: 90.0 % (" in text
    )
    assert "Claim Paper Real slices Verdict Made-up slices" in text
    first = "accuracy on the test set 99.35 % 90.0 % (80.0 to 95.0) not reached 81.2 % (75.0 to 87.5)"
    assert f"{first} Accuracy ahead of the best" in text
    assert "(difference) +12.3 points (+10.0 to +15.0) ahead of <VGG16>" in text
    assert "12,345" in text and "no verdict" not in text.split("What was claimed")[1].replace("and no verdict.", "")
    assert "How good is good?" in text and "It asks, with code, what a score is worth." in text
    links = {a.get("href") for a in pages["index"].all("a")}
    assert "real/index.html" in links
    # A claim is linked to the notebook that answers it, where the report has that notebook.
    assert texts.claims(fake[1])[1]["notebook"] == "03_baselines" and "03_baselines.html" not in links


def plain(page: Page) -> str:
    body = re.sub(r"<(?!VGG)[^>]*>", " ", page.path.read_text(encoding="utf-8"))
    return html.unescape(" ".join(body.split())).replace("\N{NO-BREAK SPACE}", " ")


def test_sidebar_has_number_term_and_question(pages):
    text = plain(pages["tables"])
    assert "1 First: How good is good?" in text and "2 Second: What comes next?" in text
    assert texts.question("05_gradcam", nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Why?")])) == {
        "name": "05_gradcam",
        "number": 5,
        "term": "Grad-CAM",
        "title": "Why?",
        "says": "",
    }


def test_every_picture_has_an_alt_text_and_each_figure_its_caption(pages):
    for page in pages.values():
        for shown in page.all("img"):
            assert len(shown.get("alt", "")) > 9, (page.path, shown)
            assert shown.get("loading") == "lazy" or shown["src"].startswith("data:"), (page.path, shown)
    first, saved = pages["01_first"], tables.said_of("claims")
    assert {p["alt"] for p in first.all("img")} == {saved["alt"], "Picture in the section 3. A picture without a name"}
    assert f"{saved['caption']} {SENTENCE}".replace("'", "\N{RIGHT SINGLE QUOTATION MARK}") in " ".join(
        first.text.split()
    )
    # Tables, sentences and unnamed pictures are no figures; a figure of plain lines is shown as SVG.
    assert len(first.all("figure")) == len(first.all("figcaption")) == 1
    assert first.all("img")[0]["src"] == "_images/claims.svg"
    assert len(pages["figures"].all("figure")) == len(pages["figures"].all("figcaption")) == 2


def test_caption_and_alt_lie_beside_their_figure(own):
    drawn = picture()
    drawn.caption, drawn.alt = "Mine.", "A line."
    tables.save("fake", "roc", drawn)
    saved = json.loads((tables.folder("fake") / "figures" / "roc.json").read_text(encoding="utf-8"))
    assert saved == {"title": "ROC curves of the proposed network", "caption": "Mine.", "alt": "A line."}
    tables.save("fake", "learning_curves_vgg16", picture())
    saved = json.loads((tables.folder("fake") / "figures" / "learning_curves_vgg16.json").read_text(encoding="utf-8"))
    assert saved["title"] == "Learning curves: VGG16"
    assert tables.said_of("unheard_of")["caption"] == "Unheard of."


def test_pictures_of_one_cell_become_their_figures_in_order():
    note = [nbformat.v4.new_output("display_data", metadata={"btlib": {"figure": name}}) for name in ("roc", "claims")]
    shown = [nbformat.v4.new_output("display_data", data={"image/png": "", "text/plain": name}) for name in "ab"]
    cell = nbformat.v4.new_code_cell("draw()", outputs=[note[0], shown[0], note[1], shown[1]])
    cells = report._code_for_reading(cell, "A section", str.upper)
    assert [(c.cell_type, c.source) for c in cells] == [("code", "draw()"), ("markdown", "ROC"), ("markdown", "CLAIMS")]
    cell = nbformat.v4.new_code_cell("draw()", outputs=[note[0], shown[0], shown[1]])
    (only,) = report._code_for_reading(cell, "A section", str.upper)  # which of two pictures it is nobody can tell
    assert [out.data["text/plain"] for out in only.outputs] == ["a", "b"]


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
    for page in (pages[name] for name in ("index", "tables", "provenance")):
        for header in page.all("th"):
            assert header.get("scope") in ("col", "row"), (page.path, header)
    for name in ("models", "claims", "gradcam_scores"):
        assert (site / "tables" / f"{name}.csv").read_bytes() == (site.parent / "tables" / f"{name}.csv").read_bytes()


def test_tables_stand_in_the_order_of_their_notebooks_under_titles_in_words(pages):
    text = plain(pages["tables"])
    titles = [text.rindex(title) for title in ("Every fit of the study", "What the paper claims", "Grad-CAM scores of")]
    assert titles == sorted(titles)
    assert "Slices that are classified rightly." in text


def test_a_long_table_is_cut_and_says_so(pages):
    text = " ".join(pages["tables"].text.split())
    assert "slice 024" in text and "slice 025" not in text
    assert "25 rows of 120; the CSV has all." in text


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        ("0.951371", "share", "95.1 %"),
        ("-0.0344911", "points", "\N{MINUS SIGN}3.4 points"),
        ("1839", "count", "1,839"),
        ("3416867", "millions", "3.4 million"),
        ("0.0483046", "number", "0.048"),
        ("0.00123", "number", "0.0012"),
        ("1", "number", "1"),
        ("5e-94", "p", "< 0.001"),
        ("0.25", "p", "0.250"),
        ("image_holdout", "text", "slices at random"),
        ("recall_glioma", "name", "recall glioma"),
        ("007", "text", "007"),
        ("", "share", ""),
    ],
)
def test_a_cell_in_words(value, kind, shown):
    assert readable.cell(value, kind).replace("\N{NO-BREAK SPACE}", " ") == shown


def test_an_interval_stands_in_the_cell_of_its_value():
    raw = pd.DataFrame(
        {"protocol": ["author_folds"], "accuracy": ["0.951"], "accuracy_low": ["0.932"], "accuracy_high": ["0.967"]}
        | {"difference": ["-0.034"], "difference_low": ["-0.053"], "difference_high": ["-0.02"], "seed": ["0"]}
    )
    table = readable.readable("leakage", raw)
    assert table.headings == ["Split", "Seed", "Accuracy", "Difference"]
    assert table.numeric == [False, False, True, True]
    row = [cell.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-") for cell in table.rows[0]]
    folds = "author's folds (patients apart)"
    assert row == [folds, "0", "95.1 % (93.2 to 96.7)", "-3.4 points (-5.3 to -2.0)"]


def test_an_interval_may_belong_to_a_column_that_is_not_before_it():
    raw = pd.DataFrame({"accuracy": ["0.9"], "risk": ["0.1"], "low": ["0.8"], "high": ["0.95"], "n": ["20"]})
    table = readable.readable("selective", raw)
    assert [row.replace("\N{NO-BREAK SPACE}", " ") for row in table.rows[0]] == ["20", "90.0 % (80.0 to 95.0)"]


def test_a_confusion_matrix_is_a_matrix():
    raw = pd.DataFrame(
        {"label": ["b", "b", "a", "a"], "predicted": ["b", "a", "b", "a"], "n": ["5", "1", "0", "1234"]}
    ).assign(share="0.5")
    table = readable.readable("confusion", raw)
    assert table.headings == ["Class", "b", "a"] and table.rows == [["b", "5", "1"], ["a", "0", "1,234"]]


def test_an_unknown_table_shows_its_first_seven_columns():
    raw = pd.DataFrame({f"column_{i}": ["0007", "0.123456"] for i in range(9)})
    table = readable.readable("some_table", raw)
    assert (table.title, len(table.headings), table.rows[1][0]) == ("Some table", 7, "0.123")


def test_every_kept_table_has_a_line_on_each_column_that_it_shows():
    kept = sorted((Path(report.__file__).parents[2] / "reports" / "figshare" / "tables").glob("*.csv"))
    if not kept:
        pytest.skip("no kept tables beside btlib: it is installed without them")
    for path in kept:
        table = readable.readable(path.stem, pd.read_csv(path, dtype=str, keep_default_na=False))
        assert table.title and 1 < len(table.headings) <= 7, path
        if path.stem != "claims":  # the front page has them in words
            assert len(table.says) >= len(table.headings) or "pivot" in tables.WORDS["tables"][path.stem], path
    kinds = {"share", "points", "count", "millions", "number", "p", "text", "name", "network"}
    for heading, kind, says in tables.WORDS["columns"].values():
        assert heading and kind in kinds and says.endswith("."), heading


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
    assert {path.stem for path in notebooks} <= set(tables.WORDS["notebooks"])
    source = "\n".join(path.read_text(encoding="utf-8").replace('\\"', "'") for path in notebooks)
    for kind, writer in (("figures", "save"), ("tables", "write")):
        names = re.findall(rf"tables\.{writer}\([^,]+,\s*f?'([\w-]+)", source)
        known = {key.rstrip("*") for key in tables.WORDS[kind]}
        assert names and set(names) <= known, set(names) - known


def test_every_claim_has_its_notebook_and_unit():
    import yaml

    listed = yaml.safe_load((params.PARAMS_DIR / "claims.yaml").read_text(encoding="utf-8"))
    assert set(listed) == set(tables.WORDS["claims"])
    for about in tables.WORDS["claims"].values():
        assert about["notebook"] in tables.WORDS["notebooks"] and about["unit"] in ("share", "points")


def test_real_slices_have_no_banner(fake):
    real = fake[1].model_copy(update={"data": fake[1].data.model_copy(update={"source": "figshare"}), "external": {}})
    assert texts.banner(real) == ""
    assert "CC BY 4.0" in texts.footer(real) and "CC BY" not in texts.footer(fake[1])
    mixed = real.model_copy(update={"external": {"made": fake[1].data}})
    assert texts.banner(mixed).startswith("The external set made is made up")


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
        tables.folder("fake") / "notebooks" / "02_second.ipynb",
        [("markdown", "# A?\n\n[gone](nowhere.ipynb)"), ("table", "claims")],
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


@pytest.mark.parametrize(
    "gone", ["tables/claims.csv", "tables/models.csv", "figures/claims.svg", "figures/claims.json", "notebooks/*.ipynb"]
)
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


def test_leftovers_of_other_parameters_leave_the_report(own):
    root = tables.folder("fake")
    report.build("fake", own)
    write_notebook(root / "notebooks" / "02_second.ipynb", [*SECOND[:2]])  # run again: fewer results
    tables.save("fake", "a_stranger", picture())  # and what no report ever held
    index = report.build("fake", own)
    assert not (root / "tables" / "gradcam_scores.csv").exists() and not list(root.glob("figures/roc_curve.*"))
    assert (root / "figures" / "a_stranger.svg").exists() and (root / "tables" / "models.csv").exists()
    for path in index.parent.rglob("*"):
        assert not re.search("gradcam_scores|roc_curve|a_stranger", path.name)
        if path.suffix == ".html":
            assert not re.search("gradcam_scores|roc_curve|a_stranger", path.read_text(encoding="utf-8")), path
    written = json.loads((root / "provenance.json").read_text(encoding="utf-8"))
    assert written["tables"] == {"models": "01_first", "claims": "02_second"}
    assert written["figures"] == {"claims": "01_first"}


def test_a_notebook_that_runs_bears_what_it_wrote(tmp_path):
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    shell = InteractiveShell.instance()
    try:
        with capture_output() as captured:
            tables._note("table", "models")
    finally:
        InteractiveShell.clear_instance()
        assert shell is not None
    assert [(out.data, out.metadata) for out in captured.outputs] == [({}, {"btlib": {"table": "models"}})]


def test_a_repository_without_kept_results_has_no_page_of_them(own):
    for name in ("README.md", "checklist.md", "tables/claims.csv", "tables/models.csv"):
        (tables.folder("figshare") / name).unlink()
    index = report.build("fake", own)
    assert not (index.parent / "real").exists()
    text = plain(Page(index))
    assert "Claim Paper Made-up slices" in text and "On real slices" not in text


def test_the_page_of_real_slices_has_its_figures_and_tables(pages):
    page = pages["real/index"]
    (figure,) = page.all("img")
    assert (figure["alt"], figure["src"]) == ("The ladder", "../_images/leakage.svg")
    assert any(re.search(r"_downloads/.*leakage\.csv", a.get("href", "")) for a in page.all("a"))
    assert "params lies in the repository" in " ".join(page.text.split())  # where it is no link
    assert tables.said_of("leakage")["alt"] == pages["index"].all("img")[0]["alt"]


def test_the_site_is_light(site):
    files_ = [path for path in site.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files_) < 2_500_000 and len(files_) < 60
    assert not [path for path in files_ if path.suffix == ".map" or "locales" in path.parts]


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
