"""From executed notebooks, tables and figures to one static site that opens without a network."""

from __future__ import annotations

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
import psutil
from PIL import Image

from btlib import DataError, __version__, files
from btlib.data import datasets
from btlib.data import manifest as manifests
from btlib.fitting import runs
from btlib.params import Study
from btlib.site import TEMPLATES, pages
from btlib.study import tables

SITE = Path(__file__).resolve().parent
KINDS = {"tables": ("csv",), "figures": ("svg", "png", "json")}
"""What notebooks write, and the endings of its files."""
PACKAGES = ("keras", "tensorflow", "keras-cv", "keras-hub", "numpy", "scikit-learn", "h5py", "pandas", "papermill")
UNREAD = (
    ".doctrees",
    ".buildinfo",
    "_sphinx_design_static",
    "_static/locales",
    "_static/**/*.map",
    "_static/**/*.LICENSE.txt",
    "_static/*webpack-macros.html",
    "_static/images/logo_*",
    "_static/vendor/fontawesome/webfonts/fa-brands*",
    "_static/vendor/fontawesome/webfonts/fa-regular*",
    "_static/*.ipynb",
)
"""What Sphinx and its theme leave that no page of the report uses: half of the site's bytes."""


def build(profile: str, study: Study) -> Path:
    """Make reports/<profile>/html from the profile's executed notebooks, tables and figures; return its front page.

    Where it fails, the old site stays. Tables and figures that the last report held and this one does not are removed.

    Raises:
        DataError: a notebook, table or figure that the report needs is missing, unfinished or failed, or
            Sphinx has a complaint (a broken link, a picture that is not there); its lines are in the message.
    """
    root = tables.folder(profile)
    notebooks = _notebooks(profile)
    last = root / "provenance.json"
    earlier = _listed(json.loads(last.read_text(encoding="utf-8"))) if last.exists() else set()
    about = provenance(study)
    files.sweep(root, "html")
    with tempfile.TemporaryDirectory(prefix=files.prefix("html"), dir=root) as temporary:
        source, site = Path(temporary, "source"), Path(temporary, "html")
        _write_source(source, study, notebooks, about)
        _sphinx(source, site, profile, study)
        _swap(site, root / "html", Path(temporary, "old"))
    for kind, name in earlier - _listed(about):
        for path in (root / kind).glob(f"{name}.*"):
            path.unlink()
    return root / "html" / "index.html"


def provenance(study: Study) -> dict:
    """Say what made the profile's results: parameters, versions, machine, times, data, fits, and which notebook wrote what.

    It is written to reports/<profile>/provenance.json, and returned.

    Raises:
        DataError: there is no executed notebook, or one is unfinished; or a table or figure that one wrote is gone.
    """
    notebooks = _notebooks(study.profile)
    ran = {name: book.metadata["papermill"] for name, book in notebooks.items()}
    facts = {
        "profile": study.profile,
        "parameters": study.model_dump(mode="json"),
        "seed": study.seed,
        "versions": {"python": platform.python_version(), "btlib": __version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES}
        | {"keras backend": "tensorflow"},
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
    } | _contents(tables.folder(study.profile), notebooks)
    files.write_text(tables.folder(study.profile) / "provenance.json", json.dumps(facts, indent=2) + "\n")
    return facts


def _notebooks(profile: str) -> dict[str, nbformat.NotebookNode]:
    folder = tables.folder(profile) / "notebooks"
    books = {path.stem: nbformat.read(path, as_version=4) for path in sorted(folder.glob("[!.]*.ipynb"))}
    if not books:
        raise DataError(f"{folder}: no executed notebook; run `make report PROFILE={profile}`")
    for name, book in books.items():
        run = book.metadata.get("papermill", {})
        failed = any(out.output_type == "error" for cell in book.cells for out in cell.get("outputs", []))
        if failed or run.get("exception") or not run.get("end_time"):
            state = "stopped with an error" if failed or run.get("exception") else "was not run to its end by papermill"
            raise DataError(f"{folder / name}.ipynb: {state}; run `make report PROFILE={profile}` again")
    return books


def _contents(root: Path, notebooks: dict) -> dict[str, dict[str, str]]:
    """Collect what the executed notebooks say they wrote: {"tables": {name: notebook}, "figures": {...}}."""
    contents = {kind: {} for kind in KINDS}
    for notebook, book in notebooks.items():
        for output in (out for cell in book.cells for out in cell.get("outputs", [])):
            for kind, name in _noted(output).items():
                contents[f"{kind}s"].setdefault(name, notebook)
    for kind, names in contents.items():
        for name, ending in itertools.product(names, KINDS[kind]):
            if not (root / kind / f"{name}.{ending}").is_file():
                raise DataError(f"{root / kind / name}.{ending}: gone, though {names[name]} wrote it; run it again")
    return contents


def _noted(output: nbformat.NotebookNode) -> dict[str, str]:
    """What `tables` noted in an output: {"table": name} or {"figure": name}, or nothing."""
    return output.get("metadata", {}).get("btlib", {})


def _listed(about: dict) -> set[tuple[str, str]]:
    return {(kind, name) for kind in KINDS for name in about.get(kind, {})}


def _data(study: Study) -> list[dict]:
    sets = [("data", study.data, None), *((name, data, study.data) for name, data in study.external.items())]
    rows = []
    for name, data, copies_from in sets:
        if datasets.absent(data):
            continue
        manifest = datasets.manifest(data, copies_from)
        unnamed = manifests.unnamed(manifest)
        row = {"name": name, "source": data.source, "path": data.path}
        row["fingerprint"] = datasets.fingerprint(data, copies_from)
        patients = int(manifest.loc[~unnamed, "patient_id"].nunique())
        rows.append(row | {"n_slices": len(manifest), "n_patients": patients, "n_unnamed": int(unnamed.sum())})
    return rows


def _fits(study: Study) -> list[dict]:
    plan = runs.plan(study, datasets.fingerprint(study.data))
    words = plan.assign(words=plan.apply(runs.what_for, axis=1)).groupby("id")["words"].unique()
    fits = [f for f in plan.drop_duplicates("id")["fit"] if runs.load(f)]
    return [{"id": f.id, "what_for": list(words[f.id]), **runs.Run(f).provenance()} for f in fits]


def _write_source(source: Path, study: Study, notebooks: dict, about: dict) -> None:
    """Write all that Sphinx reads: settings, pages, notebooks, pictures, and the files that readers download."""
    shutil.copytree(SITE / "templates" / "theme", source / "_templates")
    shutil.copytree(SITE / "static", source / "_static")
    for name in ("conf.py", "limitations.md"):
        shutil.copy(SITE / name, source / name)
    # `extra` is copied to the site's root as it is: links from pages to these files work in any folder.
    for folder in ("extra/tables", "figures"):
        (source / folder).mkdir(parents=True)
    root = tables.folder(study.profile)
    for name in about["tables"]:
        shutil.copy(root / "tables" / f"{name}.csv", source / "extra" / "tables")
    figures = {name: _figure(root / "figures" / name, source / "figures") for name in about["figures"]}
    real = pages.copy_kept(source, study.profile)
    context = pages.context(study, notebooks, about, figures, real)
    for page in ("index", "tables", "figures", "provenance", "sources"):
        text = TEMPLATES.get_template(f"{page}.md").render(context)
        (source / f"{page}.md").write_text(text, encoding="utf-8")
    plate = TEMPLATES.get_template("plate.md")
    for name, book in notebooks.items():
        written = _for_reading(book, lambda figure: plate.render(context | {"figure": figures[figure]}))
        nbformat.write(written, source / f"{name}.ipynb")


def _figure(path: Path, folder: Path) -> dict[str, str]:
    """Put a figure into `folder`, as SVG or, where it holds pictures, as WebP; return its title, caption, alt, file."""
    svg = path.with_suffix(".svg")
    pictures = b"<image" in svg.read_bytes()
    if pictures:
        Image.open(path.with_suffix(".png")).convert("RGB").save(folder / f"{path.name}.webp", quality=88, method=6)
    else:
        shutil.copy(svg, folder)
    said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    file = f"figures/{path.name}.{'webp' if pictures else 'svg'}"
    return {"name": path.name, "file": file, "pictures": pictures, **said}


def _for_reading(book: nbformat.NotebookNode, plate) -> nbformat.NotebookNode:
    """Copy a notebook with its figures as the site shows them, parameters folded away, and no widgets."""
    book, cells, heading = nbformat.from_dict(book), [], ""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^#+\s+(.+)$", cell.source, re.MULTILINE) or [heading])[-1]
        cells += [cell] if cell.cell_type != "code" else _code_for_reading(cell, heading, plate)
    book.cells = cells
    return book


def _code_for_reading(cell: nbformat.NotebookNode, heading: str, plate) -> list[nbformat.NotebookNode]:
    """Split a code cell where figures and other outputs meet: a saved figure becomes a cell of its own."""
    tags = set(cell.metadata.get("tags", []))
    if tags & {"parameters", "injected-parameters"}:
        cell.metadata |= {"tags": sorted(tags | {"hide-input"}), "mystnb": {"code_prompt_show": "Show the parameters"}}
    figures = [noted["figure"] for noted in map(_noted, cell.outputs) if "figure" in noted]
    outputs = [out for out in cell.outputs if not (_noted(out) or _is_widget(out))]
    named = iter(figures if len(figures) == sum(map(_is_picture, outputs)) else [])
    cell.outputs, cells = [], [cell]
    for output in outputs:
        figure = next(named, None) if _is_picture(output) else None
        if figure is not None:
            cells.append(nbformat.v4.new_markdown_cell(plate(figure)))
            continue
        if cells[-1].cell_type == "markdown":
            cells.append(nbformat.v4.new_code_cell("# continued", metadata={"tags": ["remove-input"]}))
        if _is_picture(output):
            cells[-1].metadata["mystnb"] = {"image": {"alt": f"Picture in the section {heading}"}}
        cells[-1].outputs.append(output)
    return cells


def _is_picture(output: nbformat.NotebookNode) -> bool:
    return any(kind.startswith("image/") for kind in output.get("data", {}))


def _is_widget(output: nbformat.NotebookNode) -> bool:
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def _sphinx(source: Path, site: Path, profile: str, study: Study) -> None:
    settings = {
        "html_title": f"Does 99.35 % hold? Profile {profile}",
        "html_theme_options.announcement": pages.banner(study),
        "html_theme_options.extra_footer": pages.footer(study),
    }
    options = [f"-D{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going", *options]
    done = subprocess.run([*command, source, site], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        complaints = done.stderr.replace(f"{source}{os.sep}", "").strip()
        raise DataError(f"reports/{profile}: the report was not made, an earlier one stays; Sphinx says:\n{complaints}")
    for path in [path for pattern in UNREAD for path in site.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _swap(new: Path, site: Path, old: Path) -> None:
    """Put a complete site in the place of the old one, which comes back where that fails."""
    if site.exists():
        os.rename(site, old)
    try:
        os.rename(new, site)
    except OSError:
        if old.exists():
            os.rename(old, site)
        raise
