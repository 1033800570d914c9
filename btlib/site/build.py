"""From executed notebooks, tables and figures to one static site that opens without a network."""

from __future__ import annotations

import html
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import yaml

from btlib import DataError, __version__, files
from btlib.fitting import runs
from btlib.params import Study
from btlib.study import tables

SITE = Path(__file__).resolve().parent
MADE_UP = "Made-up slices (phantoms): says nothing about patients."
PERCENT = "\N{NO-BREAK SPACE}%"
ROWS = 50
"""Rows of a table that a page shows; the CSV beside it has all."""

CAPTIONS = yaml.safe_load((SITE / "captions.yaml").read_text(encoding="utf-8"))
"""Captions and alt texts of figures, captions of tables; what has none is shown under its name."""

PACKAGES = ("keras", "tensorflow", "keras-cv", "keras-hub", "numpy", "scikit-learn", "h5py", "pandas", "papermill")


def build(profile: str, study: Study) -> Path:
    """Make reports/<profile>/html from the profile's executed notebooks, tables and figures.

    The site is made beside the old one and takes its place when it is complete; where it fails, the old one stays.

    Args:
        profile: whose reports/<profile>/ is read.
        study: the parameters that the notebooks were run with.

    Returns:
        The path of the front page.

    Raises:
        DataError: a notebook, table or figure that the report needs is missing, unfinished or failed, or
            Sphinx has a complaint (a broken link, a picture that is not there); its lines are in the message.

    Used by `make report`, after the notebooks.
    """
    root = tables.folder(profile)
    notebooks = _notebooks(profile)
    about = provenance(study)
    files.sweep(root, "html")
    with tempfile.TemporaryDirectory(prefix=files.prefix("html"), dir=root) as temporary:
        source, site = Path(temporary, "source"), Path(temporary, "html")
        _write_source(source, study, notebooks, about)
        _sphinx(source, site, profile, study)
        _swap(site, root / "html", Path(temporary, "old"))
    return root / "html" / "index.html"


def provenance(study: Study) -> dict:
    """Say what made the profile's results, and write it to reports/<profile>/provenance.json.

    Args:
        study: the parameters that the notebooks were run with.

    Returns:
        Mapping with profile, parameters, seed, versions, hardware, wall_seconds (seconds by notebook), started,
        finished, data (a list of name, source, fingerprint, n_slices, n_patients), fits (where, when and at which
        commit each was fitted) and commit.

    Raises:
        DataError: there is no executed notebook, or one is unfinished.

    Used by `make report`.
    """
    ran = {name: book.metadata["papermill"] for name, book in _notebooks(study.profile).items()}
    found = {
        "profile": study.profile,
        "parameters": study.model_dump(mode="json"),
        "seed": study.seed,
        "versions": {"python": platform.python_version(), "btlib": __version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES}
        | {"keras backend": os.environ.get("KERAS_BACKEND", "tensorflow")},
        "hardware": {
            "platform": platform.platform(),
            "processor": runs.processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        },
        "wall_seconds": {name: round(run["duration"], 1) for name, run in ran.items()},
        "started": min(run["start_time"] for run in ran.values()),
        "finished": max(run["end_time"] for run in ran.values()),
        "data": _data(study),
        "fits": _fits(study),
        "commit": runs.commit(),
    }
    files.write_text(tables.folder(study.profile) / "provenance.json", json.dumps(found, indent=2) + "\n")
    return found


def decisive(study: Study) -> str:
    """Write the sentence that decides: the proposed model's accuracy under each split, from models.csv.

    Args:
        study: names the proposed model and the protocols, of which the first is compared with the others.

    Returns:
        Plain text; accuracies are of all test slices of a protocol's folds and seeds together, in percent.

    Raises:
        DataError: models.csv is missing or has no row of the proposed model.
    """
    rows = tables.read(study.profile, "models")
    rows = rows[(rows["model"] == study.proposed.model) & (rows["weights"] == (study.proposed.weights or "random"))]
    if rows.empty:
        raise DataError(f"tables/models.csv: no row of the proposed model {study.proposed.model}; run notebook 04")
    right = (rows["accuracy"] * rows["n_test"]).groupby(rows["protocol"], sort=False).sum()
    share = right / rows.groupby("protocol", sort=False)["n_test"].sum()
    parts = [
        f"{100 * share[p.protocol]:.1f}{PERCENT} {_SPLIT[p.protocol]}" for p in study.protocols if p.protocol in share
    ]
    return f"The proposed model, {study.proposed.model}, is right on {'; on '.join(parts)}."


_SPLIT = {
    "image_holdout": "of test slices where slices are split at random",
    "image_folds": "in folds of slices drawn at random",
    "patient_holdout": "where a patient's slices stay together",
    "patient_folds": "in folds that keep a patient's slices together",
    "group_holdout": "where possible repeat examinations stay together too",
    "group_folds": "in folds that keep possible repeat examinations together too",
    "author_folds": "in the data set's own patient folds",
}


def polish(app, pagename, templatename, context, doctree) -> None:
    """Give every table of a page headers with a scope and a frame that scrolls, and every picture an alt text.

    A Sphinx listener for html-page-context (see site/conf.py): pandas and notebook authors write neither.
    """
    if not context.get("body"):
        return
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(context["body"], "html.parser")
    for style in soup.find_all("style"):
        style.decompose()
    for picture in soup.find_all("img"):
        if not (picture.get("alt") or "").strip():
            picture["alt"] = f"Picture in the section {_section(picture)}"
    for table in soup.find_all("table"):
        _polish_table(soup, table)
    context["body"] = str(soup)


def _section(tag) -> str:
    heading = tag.find_previous(["h1", "h2", "h3", "h4"])
    return heading.get_text().rstrip("#").strip() if heading else "at the top"


def _polish_table(soup, table) -> None:
    for attribute in ("border", "style"):
        table.attrs.pop(attribute, None)
    for row in table.find_all("tr"):
        row.attrs.pop("style", None)
    for cell in table.find_all("th"):
        if not cell.get_text(strip=True):
            cell.name = "td"
        elif not cell.get("scope"):
            cell["scope"] = "col" if cell.find_parent("thead") else "row"
    if not table.find_parent(class_=["table-scroll", "pst-scrollable-table-container", "highlighttable"]):
        label = table.caption.get_text(" ", strip=True) if table.caption else f"Table in the section {_section(table)}"
        frame = soup.new_tag(
            "div", attrs={"class": "table-scroll", "tabindex": "0", "role": "region", "aria-label": label}
        )
        table.wrap(frame)


def _notebooks(profile: str) -> dict[str, nbformat.NotebookNode]:
    folder = tables.folder(profile) / "notebooks"
    found = {path.stem: nbformat.read(path, as_version=4) for path in sorted(folder.glob("[!.]*.ipynb"))}
    if not found:
        raise DataError(f"{folder}: no executed notebook; run `make report PROFILE={profile}`")
    for name, book in found.items():
        run = book.metadata.get("papermill", {})
        failed = any(out.output_type == "error" for cell in book.cells for out in cell.get("outputs", []))
        if failed or run.get("exception") or not run.get("end_time"):
            state = "stopped with an error" if failed or run.get("exception") else "was not run to its end by papermill"
            raise DataError(f"{folder / name}.ipynb: {state}; run `make report PROFILE={profile}` again")
    return found


def _data(study: Study) -> list[dict]:
    from btlib.data import datasets

    sets = [("data", study.data, None), ("external", study.external, study.data)]
    found = []
    for name, data, copies_from in sets[: 1 if study.external is None else 2]:
        patients = datasets.manifest(data, copies_from)["patient_id"]
        found.append(
            {
                "name": name,
                "source": data.source,
                "path": data.path,
                "fingerprint": datasets.fingerprint(data, copies_from),
                "n_slices": len(patients),
                "n_patients": int(patients.nunique()),
            }
        )
    return found


def _fits(study: Study) -> list[dict]:
    from btlib.data import datasets

    plan = runs.plan(study, datasets.fingerprint(study.data)).drop_duplicates("id")
    return [{"id": f.id, **runs.Run(f).provenance()} for f in plan["fit"] if runs.load(f)]


def _write_source(source: Path, study: Study, notebooks: dict, about: dict) -> None:
    """Write all that Sphinx reads: settings, pages, notebooks, and the files that readers download."""
    pages = {
        "index": _front_page(study, notebooks),
        "tables": _tables_page(study),
        "figures": _figures_page(study),
        "provenance": _provenance_page(about),
    }
    (source / "_static").mkdir(parents=True)
    for name in ("report.css", "report.js"):
        shutil.copy(SITE / name, source / "_static" / name)
    for name in ("conf.py", "limitations.md"):
        shutil.copy(SITE / name, source / name)
    for name in ("tables", "figures"):
        # `extra` is copied to the site's root as it is: links from pages to these files work in any folder.
        folder = tables.folder(study.profile) / name
        shutil.copytree(folder, source / "extra" / name, ignore=shutil.ignore_patterns(".*"))
    for name, book in notebooks.items():
        nbformat.write(_for_reading(book, study), source / f"{name}.ipynb")
    for name, text in pages.items():
        (source / f"{name}.md").write_text(text, encoding="utf-8")


def _for_reading(book: nbformat.NotebookNode, study: Study) -> nbformat.NotebookNode:
    """Copy a notebook with captions on its pictures, parameters folded away, and no widgets."""
    book, cells, heading = nbformat.from_dict(book), [], ""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^#+\s+(.+)$", cell.source, re.MULTILINE) or [heading])[-1]
        cells += [cell] if cell.cell_type != "code" else _code_for_reading(cell, heading, study)
    book.cells = cells
    return book


def _code_for_reading(cell: nbformat.NotebookNode, heading: str, study: Study) -> list[nbformat.NotebookNode]:
    """Split a code cell where pictures and other outputs meet: myst-nb puts one caption on all outputs of a cell."""
    tags = set(cell.metadata.get("tags", []))
    if tags & {"parameters", "injected-parameters"}:
        cell.metadata |= {"tags": sorted(tags | {"hide-input"}), "mystnb": {"code_prompt_show": "Show the parameters"}}
    outputs = [out for out in cell.outputs if not _is_widget(out)]
    captions = _captions_of(cell.source, sum(map(_is_picture, outputs)), heading, study)
    parts = []
    for pictured, group in itertools.groupby(outputs, _is_picture):
        for outs in [[out] for out in group] if pictured else [list(group)]:
            part = nbformat.v4.new_code_cell("# continued", metadata={"tags": ["remove-input"]}) if parts else cell
            part.outputs = outs
            if pictured:
                caption, alt = next(captions)
                part.metadata["mystnb"] = {"image": {"alt": alt}, "figure": {"caption": caption}}
            parts.append(part)
    if not parts:
        cell.outputs = []
    return parts or [cell]


def _captions_of(source: str, pictures: int, heading: str, study: Study):
    """Give the pictures of a cell the captions of the figures that it saves, in their order."""
    names = [name.rstrip("_") for name in re.findall(r"tables\.save\([^,]+,\s*f?[\"']([\w-]+)", source)]
    captions = [_caption(name, study) for name in names]
    if len(captions) != pictures:
        unnamed = f"Shown under: {heading}", f"Picture in the section {heading}"
        captions = (captions[:1] or [unnamed]) * pictures
    return iter(captions)


def _is_picture(output: nbformat.NotebookNode) -> bool:
    return any(kind.startswith("image/") for kind in output.get("data", {}))


def _is_widget(output: nbformat.NotebookNode) -> bool:
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def _caption(name: str, study: Study) -> tuple[str, str]:
    family = max((key for key in CAPTIONS["figures"] if f"{name}_".startswith(f"{key}_")), key=len, default=None)
    words = name.replace("_", " ").capitalize()
    known = CAPTIONS["figures"].get(family, {"caption": f"{words}.", "alt": f"Figure: {words}."})
    which = f" ({name.removeprefix(family).strip('_')})" if family not in (None, name) else ""
    caption, alt = (f"{known[key].rstrip('.')}{which}." for key in ("caption", "alt"))
    return f"{caption} {MADE_UP}" if _made_up(study) else caption, alt


def _made_up(study: Study) -> bool:
    return study.data.source == "phantom"


def _banner(study: Study) -> str:
    if _made_up(study):
        return MADE_UP
    if study.external is not None and study.external.source == "phantom":
        return "The external set is made up (phantoms): its scores say nothing about patients."
    return ""


def _front_page(study: Study, notebooks: dict) -> str:
    figures = tables.folder(study.profile) / "figures"
    shown = next((name for name in ("claims", "leakage") if (figures / f"{name}.svg").exists()), None)
    if shown is None:
        raise DataError(f"{figures}: neither claims.svg nor leakage.svg; run notebook 07 with `make report`")
    banner = f"<strong>{html.escape(_banner(study))}</strong> " if _banner(study) else ""
    questions = "".join(_question(name, book) for name, book in notebooks.items())
    return f"""# Does 99.35 % hold?

Guo, Lyu, Wang and Zhao (2026) report that an optimized EfficientNet tells three kinds of brain tumour apart on
99.35 % of the Figshare test slices. Only the abstract is public. This study repeats the work in the open and asks
what the number means. Profile: **{study.profile}**.

{_raw(f'<p class="decides">{banner}{html.escape(decisive(study))}</p>')}

## What was claimed, what came out

{_raw(_claims_table(study))}

{_raw(_plate(shown, study))}

## The questions, one notebook each

{_raw(f'<ol class="questions">{questions}</ol>')}

All numbers are on the page [All tables](tables.md), all pictures on [All figures](figures.md). How they were made is
under [Provenance](provenance.md), what they cannot tell under [Limitations](limitations.md).

:::{{rubric}} The paper
:::

Guo, Lyu, Wang, Zhao: Research on optimizing interpretability of EfficientNet architecture brain tumor classification
model. *Electronic Measurement Technology* 49(6), 2026, 220-228.
[doi 10.19651/j.cnki.emt.2519530](https://doi.org/10.19651/j.cnki.emt.2519530)

```{{toctree}}
:hidden:
:caption: Notebooks

{chr(10).join(notebooks)}
```

```{{toctree}}
:hidden:
:caption: Results

tables
figures
```

```{{toctree}}
:hidden:
:caption: About

provenance
limitations
```
"""


def _question(name: str, book: nbformat.NotebookNode) -> str:
    """Give a notebook's title, as a link, and the sentence under it, without Markdown's marks."""
    lines = [line.strip() for line in book.cells[0].source.splitlines() if line.strip()]
    if not lines or not lines[0].startswith("# "):
        raise DataError(f"{name}.ipynb: the first cell starts with {lines[:1]}; allowed: a title, '# ...'")
    plain = [re.sub(r"\[([^\]]+)\]\([^)]*\)|[*`_]{1,2}(?=\S)|(?<=\S)[*`]{1,2}", r"\1", line) for line in lines]
    title, sentence = re.sub(r"^# (\d+\s+)?", "", plain[0]), plain[1] if len(plain) > 1 else ""
    number = int(re.match(r"\d*", name)[0] or 0)
    link = f'<a href="{name}.html">{html.escape(title)}</a>'
    return f'<li value="{number}">{link}<span>{html.escape(sentence)}</span></li>'


_CLAIMS = ("claim", "paper", "ours", "low", "high", "verdict", "data")


def _claims_table(study: Study) -> str:
    claims, level = tables.read(study.profile, "claims"), f"{100 * study.statistics.level:g} %"
    missing = [column for column in _CLAIMS if column not in claims]
    if missing:
        raise DataError(f"tables/claims.csv: no column {', '.join(missing)}; run notebook 07 again")
    columns = ("Claim", "Paper", "Here", "Verdict", "On which data")
    head = "".join(f'<th role="columnheader" scope="col">{label}</th>' for label in columns)
    rows = []
    for row in claims.to_dict("records"):
        claim, paper, ours, low, high, verdict, data = (_value(row[column]) for column in _CLAIMS)
        interval = f' <span class="interval">{level}: {low} to {high}</span>' if low and high else ""
        data = data.replace("/", "/<wbr>")
        shown = zip(columns[1:], (paper, ours and f"<strong>{ours}</strong>{interval}", verdict, data), strict=True)
        cells = "".join(
            f'<td role="cell" class="{label.lower()}" data-label="{label}">{text}</td>' for label, text in shown
        )
        rows.append(f'<tr role="row"><th role="rowheader" scope="row">{claim}</th>{cells}</tr>')
    # A phone shows the rows as blocks, which takes a table's roles away unless they are written down.
    return (
        '<div class="table-scroll"><table class="report claims" role="table">'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(rows)}</tbody></table></div>'
    )


def _value(value) -> str:
    """Write a claim's value: a share of 1, or a difference of shares, in percent, another number to four digits."""
    try:
        number = float(value)
    except ValueError:
        return html.escape(str(value))
    if pd.isna(number):
        return ""
    return (
        f"{100 * number:.2f}{PERCENT}"
        if -1 <= number <= 1
        else f"{number:,.0f}"
        if abs(number) >= 1000
        else f"{number:.4g}"
    )


def _plate(name: str, study: Study) -> str:
    caption, alt = _caption(name, study)
    picture = f'<a href="figures/{name}.svg"><img src="figures/{name}.svg" alt="{html.escape(alt)}"></a>'
    text = f'{html.escape(caption)} <a href="figures/{name}.png">PNG of the figure {name}</a>'
    return f'<figure class="plate">{picture}<figcaption>{text}</figcaption></figure>'


def _figures_page(study: Study) -> str:
    names = sorted(path.stem for path in (tables.folder(study.profile) / "figures").glob("*.svg"))
    plates = "\n".join(f"## {name.replace('_', ' ').capitalize()}\n\n{_raw(_plate(name, study))}" for name in names)
    return f"# All figures\n\nA picture opens in full size when it is followed as a link.\n\n{plates}"


def _tables_page(study: Study) -> str:
    names = sorted(path.stem for path in (tables.folder(study.profile) / "tables").glob("*.csv"))
    parts = [f"## {name}\n\n{_raw(_table(name, study))}" for name in names]
    lead = "Every number of this report is in one of these tables. A column's name sorts the table by that column."
    return f"# All tables\n\n{lead}\n\n" + "\n".join(parts)


def _table(name: str, study: Study) -> str:
    path = tables.folder(study.profile) / "tables" / f"{name}.csv"
    text = pd.read_csv(path, dtype=str, keep_default_na=False)
    numeric = {column: pd.to_numeric(text[column].replace("", None), errors="coerce").notna().any() for column in text}
    caption = CAPTIONS["tables"].get(name, f"{name.replace('_', ' ').capitalize()}.")
    rest = f" The first {ROWS} of {len(text):,} rows; the CSV has all." if len(text) > ROWS else ""
    rows = []
    for row in text.head(ROWS).to_dict("records"):
        cells = (
            f'<td class="number" data-value="{html.escape(value)}">{_short(value)}</td>'
            if numeric[column]
            else f"<td>{html.escape(value)}</td>"
            for column, value in row.items()
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(
        f'<th scope="col"{" class=number" if numeric[column] else ""}>{html.escape(column)}</th>' for column in text
    )
    note = f" {MADE_UP}" if _made_up(study) else ""
    return (
        f'<div class="table-scroll" tabindex="0" role="region" aria-label="Table {name}">'
        f'<table class="report sortable"><caption>{html.escape(caption + note + rest)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f'<p><a href="tables/{name}.csv" download>Download {name}.csv</a></p>'
    )


def _short(value: str) -> str:
    """Shorten a number with a decimal point to four digits; identifiers and counts stay as they are."""
    return f"{float(value):.4g}" if re.fullmatch(r"-?\d+\.\d+(e[+-]?\d+)?", value) else html.escape(value)


def _provenance_page(about: dict) -> str:
    run = {
        "profile": about["profile"],
        "seed": about["seed"],
        "commit of the code": about["commit"],
        "started": about["started"],
        "finished": about["finished"],
    }
    times = {name: f"{seconds:,.1f} s" for name, seconds in about["wall_seconds"].items()}
    times["all notebooks"] = f"{sum(about['wall_seconds'].values()):,.1f} s"
    data = [
        [d["name"], d["source"], d["path"], d["n_slices"], d["n_patients"], d["fingerprint"]] for d in about["data"]
    ]
    fits = [
        [f["id"], f["title"], f["hardware"], f["backend"], f"{f['fit_seconds']:,.0f} s", f["commit"][:12]]
        for f in about["fits"]
    ]
    return f"""# Provenance

What made the numbers of this report; the same facts are in `reports/{about["profile"]}/provenance.json`.

## Run

{_pairs(run)}

## Data

{_grid(["data set", "source", "path", "slices", "patients", "fingerprint"], data)}

## Fits

{_grid(["id", "fit", "hardware", "backend", "time", "commit"], fits)}

## Wall time

Each notebook as papermill ran it; a fit made earlier is loaded, not made again.

{_pairs(times)}

## Hardware

{_pairs(about["hardware"])}

## Versions

{_pairs(about["versions"])}

## Parameters

```yaml
{yaml.safe_dump(about["parameters"], sort_keys=False, default_flow_style=None, width=100).rstrip()}
```
"""


def _pairs(pairs: dict) -> str:
    rows = "".join(
        f'<tr><th scope="row">{html.escape(str(key).replace("_", " "))}</th><td>{html.escape(str(value))}</td></tr>'
        for key, value in pairs.items()
    )
    return _raw(f'<table class="report pairs"><tbody>{rows}</tbody></table>')


def _grid(columns: list[str], rows: list[list]) -> str:
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return _raw(f'<table class="report"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>')


def _raw(text: str) -> str:
    return f"```{{raw}} html\n{text}\n```"


def _sphinx(source: Path, site: Path, profile: str, study: Study) -> None:
    settings = {
        "html_title": f"Does 99.35 % hold? Profile {profile}",
        "html_theme_options.announcement": _banner(study),
    }
    options = [word for key, value in settings.items() for word in ("-D", f"{key}={value}")]
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going", *options]
    done = subprocess.run([*command, source, site], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        complaints = done.stderr.replace(f"{source}{os.sep}", "").strip()
        raise DataError(f"reports/{profile}: the report was not made, an earlier one stays; Sphinx says:\n{complaints}")
    # What Sphinx keeps for its next build is of no use to a reader.
    shutil.rmtree(site / ".doctrees", ignore_errors=True)
    (site / ".buildinfo").unlink(missing_ok=True)


def _swap(new: Path, site: Path, old: Path) -> None:
    """Put a complete site in the place of the old one; of two reports made at once, the later stays."""
    while new.exists():
        if site.exists():
            os.rename(site, old)
        try:
            os.rename(new, site)
        except OSError:
            # Another report took the place in between: it is older than this one. Anything else is a fault.
            if not site.exists():
                os.rename(old, site)
                raise
        shutil.rmtree(old, ignore_errors=True)
