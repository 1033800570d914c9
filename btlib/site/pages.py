"""What the pages say: banner, deciding sentence, claims, questions, and the kept results on real slices."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path

import yaml

from btlib import DataError, params
from btlib.data import splits
from btlib.params import Study
from btlib.study import readable, tables, verdicts

KEPT = "figshare"
"""The profile whose results are kept in the repository."""
MADE_UP = "Made-up slices (phantoms): says nothing about patients."
ATTRIBUTION = "Slices: Jun Cheng, brain tumor dataset, Figshare 1512427, CC BY 4.0."
NO_DEVICE = "Not a medical device: nothing here is fit for diagnosis."


def context(study: Study, notebooks: dict, about: dict, figures: dict[str, dict], real: dict) -> dict:
    """Collect all that the templates of the pages read.

    Args:
        study: the parameters that the notebooks were run with.
        notebooks: name to executed notebook.
        about: what `build.provenance` returns.
        figures: name to name, file, title, caption, alt and pictures (whether it shows slices).
        real: what `copy_kept` returns.

    Raises:
        DataError: a table that the front page needs is missing, or none of the figures that it may show is there.
    """
    if "claims" not in about["tables"]:
        raise DataError(f"{tables.folder(study.profile)}: no notebook wrote the table claims; run notebook 07")
    front = {
        place: next((figures[name] for name in names if name in figures), None)
        for place, names in tables.WORDS["front"].items()
    }
    if front["main"] is None:
        folder = tables.folder(study.profile) / "figures"
        raise DataError(f"{folder}: none of {', '.join(tables.WORDS['front']['main'])}.svg; run notebook 07")
    for figure in figures.values():
        if made_up(study):
            figure["caption"] += f" {MADE_UP}"
        elif figure["pictures"] and study.data.source == "figshare":
            figure["caption"] += f" {ATTRIBUTION}"
    rows = claims(study)
    return {
        "study": study,
        "made_up": made_up(study),
        "banner": banner(study),
        "front": front,
        "decisive": decisive(study),
        "claims": rows,
        "level": f"{100 * study.statistics.level:g}{readable.SPACE}%",
        "real": real,
        "questions": [question(name, book) for name, book in notebooks.items()],
        "tables": {name: readable.read(study.profile, name) for name in about["tables"]}
        | {"claims": _claims_table(rows)},
        "figures": figures,
        "about": about,
        "records": _records(about),
        "parameters": yaml.safe_dump(about["parameters"], sort_keys=False, default_flow_style=None, width=80),
        "sources": yaml.safe_load(Path(__file__).with_name("sources.yaml").read_text(encoding="utf-8")),
    }


def made_up(study: Study) -> bool:
    """Tell whether the study's own slices are phantoms."""
    return study.data.source == "phantom"


def banner(study: Study) -> str:
    """Return what stands above every page: whether slices are made up."""
    if made_up(study):
        return MADE_UP
    if phantoms := [name for name, data in study.external.items() if data.source == "phantom"]:
        return f"The external set {', '.join(phantoms)} is made up (phantoms): its scores say nothing about patients."
    return ""


def footer(study: Study) -> str:
    """Return what stands below every page: whose slices these are, as their licence asks."""
    return " ".join([NO_DEVICE, *([ATTRIBUTION] if study.data.source == "figshare" else [])])


def decisive(study: Study) -> str:
    """Write the sentence that decides: the proposed model's accuracy under each split, all its folds and seeds together.

    Raises:
        DataError: models.csv is missing or has no row of the proposed model.
    """
    rows = tables.read(study.profile, "models")
    rows = rows[(rows["model"] == study.proposed.model) & (rows["weights"] == (study.proposed.weights or "random"))]
    if rows.empty:
        raise DataError(f"tables/models.csv: no row of the proposed model {study.proposed.model}; run notebook 04")
    right = (rows["accuracy"] * rows["n_test"]).groupby(rows["protocol"], sort=False).sum()
    share = right / rows.groupby("protocol", sort=False)["n_test"].sum()
    listed = [p.protocol for p in study.protocols if p.protocol in share]
    words = [f"{readable.cell(str(share[p]), 'share')} ({splits.rule(p).words})" for p in listed]
    name = tables.WORDS["words"].get(study.proposed.model, study.proposed.model)
    name += "" if study.proposed.weights else ", from random weights"
    return f"The proposed network, {name}, is right on these shares of test slices: {', '.join(words)}."


def claims(study: Study) -> list[dict[str, str]]:
    """Put every claim of claims.csv into words.

    Returns:
        Rows of claim, notebook (that answers it), paper, ours (with its interval; a difference in points), verdict, data, and
        for made-up slices real and real_verdict, what the kept results on real slices say of it ("" where there are none).
    """
    table = tables.read(study.profile, "claims", dtype=str, na_values=[])
    keys = {claim["text"]: key for key, claim in verdicts.listed_claims().items()}
    other = {"notebook": "07_paper_vs_reproduction", "unit": "share"}
    kept = {}
    if made_up(study) and (tables.folder(KEPT) / "tables" / "claims.csv").exists():
        kept = tables.read(KEPT, "claims", dtype=str, na_values=[]).set_index("claim").to_dict("index")
    rows = []
    for row in table.to_dict("records"):
        about = tables.WORDS["claims"].get(keys.get(row["claim"]), other)
        real = kept.get(row["claim"])
        rows.append(
            {
                "claim": row["claim"],
                "notebook": about["notebook"],
                "paper": _published(row["paper"]),
                "ours": _with_interval(row, about["unit"]),
                "verdict": row["verdict"],
                "data": row["data"],
                "real": _with_interval(real, about["unit"]) if real else "",
                "real_verdict": real["verdict"] if real else "",
            }
        )
    return rows


def question(name: str, book) -> dict[str, str]:
    """Return a notebook's name, number, term, title (a question) and the sentence under it, without Markdown's marks."""
    lines = [line.strip() for line in book.cells[0].source.splitlines() if line.strip()]
    plain = [re.sub(r"\[([^\]]+)\]\([^)]*\)|[*`_]{1,2}(?=\S)|(?<=\S)[*`]{1,2}", r"\1", line) for line in lines]
    number = int(re.match(r"\d*", name)[0] or 0)
    term = tables.WORDS["notebooks"].get(name, re.sub(r"^\d+_", "", name).replace("_", " ").capitalize())
    title = re.sub(r"^# (\d+\s+)?", "", plain[0])
    return {"name": name, "number": number, "term": term, "title": title, "says": plain[1] if plain[1:] else ""}


def shown(profile: str) -> list[Path]:
    """Return the files of the kept results on real slices that a profile's pages show: none for the profile `KEPT` itself."""
    kept = tables.folder(KEPT)
    if profile == KEPT or not (kept / "README.md").exists():
        return []
    patterns = ("README.md", "checklist.md", "figures/*.svg", "figures/*.json", "tables/*.csv", "*.csv", "*.json")
    return sorted(path for pattern in patterns for path in kept.glob(pattern))


def copy_kept(source: Path, profile: str) -> dict:
    """Copy the kept results on real slices to where Sphinx reads, as the pages real/index and real/checklist.

    Returns:
        page: whether there are such, as there are none for the profile `KEPT` itself; says: the sentence that decides, on real
        slices, or ""; figure: the front page's, as `context` takes figures, or None.
    """
    kept, files = tables.folder(KEPT), shown(profile)
    says, figure = "", None
    if not files:
        return {"page": False, "says": says, "figure": figure}
    with contextlib.suppress(DataError):  # the kept tables may be of another model, or of an earlier recipe
        says = decisive(params.load(KEPT)).replace("The proposed network", "The network of the kept tables", 1)
    for path in files:
        target = source / "real" / (path.relative_to(kept) if path.name != "README.md" else "index.md")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    name = next((n for n in tables.WORDS["front"]["main"] if (kept / "figures" / f"{n}.svg").exists()), None)
    if name:
        said = json.loads((kept / "figures" / f"{name}.json").read_text(encoding="utf-8"))
        said["caption"] = f"Real slices: {said['caption']}"
        figure = {"name": name, "file": f"real/figures/{name}.svg", **said}
    return {"page": True, "says": says, "figure": figure}


def _records(about: dict) -> dict[str, list]:
    of_data = ("name", "source", "path", "n_slices", "n_patients", "fingerprint")
    fits = []
    for fit in about["fits"]:
        commit = fit["commit"][:12] + fit["commit"][40:]
        fits.append([fit["id"], fit["title"], "; ".join(fit["what_for"]), fit["hardware"], fit["fit_seconds"], commit])
    times = about["wall_seconds"] | {"all notebooks": sum(about["wall_seconds"].values())}
    return {
        "data": [[row[key] for key in of_data] for row in about["data"]],
        "fits": fits,
        "times": [(name, f"{seconds:,.1f} s") for name, seconds in times.items()],
    }


def _claims_table(claims: list[dict[str, str]]) -> readable.Table:
    columns = {"claim": "Claim", "paper": "Paper", "ours": "This study", "verdict": "Verdict", "data": "On which data"}
    rows = [[row[key] for key in columns] for row in claims]
    about = tables.WORDS["tables"]["claims"]
    says = {"This study": "A difference is in percentage points; an interval stands beside its value."}
    return readable.Table(
        "claims", about["title"], about["caption"], [*columns.values()], [False] * 5, says, rows, len(rows)
    )


def _with_interval(row: dict, unit: str) -> str:
    """Write what a claim's row found: a share or a difference of shares in its unit, another number as it is."""
    try:
        kind = unit if -1 <= float(row["ours"]) <= 1 else "number"
    except ValueError:
        kind = "text"
    return readable.interval(row["ours"], row["low"], row["high"], kind)


def _published(value: str) -> str:
    """Write what the paper says, with the paper's two decimals."""
    try:
        return f"{100 * float(value):.2f}{readable.SPACE}%"
    except ValueError:
        return value
