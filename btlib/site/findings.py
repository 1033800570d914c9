"""The results page of a profile: README.md and figures in its folder, made from the kept tables alone."""

import re
from pathlib import Path

import jinja2
import pandas as pd

from btlib import files, home, params
from btlib.figures import claims, data, external, gradcam, learning, performance, theme
from btlib.site import checklist, readable
from btlib.study import digest, tables

SITE = Path(__file__).resolve().parent
LITERATURE = "literature.csv"
START = {"imagenet": "ImageNet"}


def write(profile: str) -> Path:
    """Write reports/<profile>/README.md, checklist.md and figures/*.svg from its kept tables and predictions: no data, no fit.

    Args:
        profile: whose reports/<profile>/ holds provenance.json and tables/*.csv; predictions/*.csv where they are kept.

    Returns:
        The path of README.md.

    Raises:
        DataError: nothing is kept of the profile.

    Used by `make results`.
    """
    kept = digest.Kept(tables.folder(profile))
    figures = {}
    theme.use_theme()
    for name, figure in drawn(kept).items():
        path = kept.folder / "figures" / f"{name}.svg"
        with files.replacing(path) as temporary:
            figure.savefig(temporary, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
        # A blank line would end the paragraph in which a page shows the picture.
        words = {key: " ".join(getattr(figure, key).split()) for key in ("alt", "caption")}
        figures[name] = {"file": f"figures/{name}.svg", **words}
    loader = jinja2.FileSystemLoader(SITE / "templates")
    environment = jinja2.Environment(
        loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    text = environment.get_template("findings.md").render(context(kept, figures, profile))
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    files.write_text(kept.folder / "README.md", text)
    checklist.write(kept)
    return kept.folder / "README.md"


def drawn(kept: digest.Kept) -> dict:
    """Return every figure that the kept tables allow, by its name. Used by `write`."""
    made = {}
    ladder, flow, looks = digest.ladder(kept), digest.flow(kept), digest.looks(kept)
    erased, copies, bins = digest.erased(kept["gradcam_erase"]), digest.copies(kept), digest.reliability(kept)
    confusion, classes, curves = (digest.own(kept, name)[0] for name in ("confusion", "per_class", "roc"))
    for name, function, table in (
        ("ladder", claims.ladder, ladder),
        ("patient_flow", data.patient_flow, flow),
        ("where_it_looks", gradcam.where_it_looks, looks),
        ("erased", gradcam.erased, erased),
        ("shared_patients", data.crossing, kept["splits"]),
        ("errors", performance.confusion, confusion),
        ("classes", performance.per_class, classes),
        ("curves", performance.roc, curves),
        ("coverage", performance.coverage, kept["selective"]),
        ("robustness", performance.robustness, kept["robustness"]),
    ):
        if table is not None:
            made[name] = function(table)
    if kept["models"] is not None:
        fits = kept["models"]
        made["fits"] = learning.fits(fits[(fits["model"] == kept.model) & (fits["weights"] == kept.weights)])
    if copies:
        made["copies"] = external.copies(*copies)
    if bins:
        made["confidence"] = performance.reliability(*bins, slices="test slices, patients apart")
    if kept["ablation"] is not None:
        made["changes"] = learning.ablation(kept["ablation"].rename(columns={"seeds": "fits"}))
    return made


def context(kept: digest.Kept, figures: dict, profile: str) -> dict:
    """Return all that templates/findings.md reads. Used by `write`."""
    confusion, protocol = digest.own(kept, "confusion")
    again, claimed = kept.folder / "reproduced.csv", kept["claims"]
    literature = home() / "reports" / LITERATURE
    limitations = (SITE / "limitations.md").read_text(encoding="utf-8")
    return {
        "figures": figures,
        "measured": measured(kept),
        "findings": findings(kept),
        "claims": [] if claimed is None else [_claim(row) for row in claimed.to_dict("records")],
        "classes": [] if confusion is None else digest.per_class(confusion).to_dict("records"),
        "tested": tables.WORDS["words"].get(protocol, protocol.replace("_", " ")),
        "calibration": [] if kept["calibration"] is None else kept["calibration"].to_dict("records"),
        "costs": [] if (costs := digest.costs(kept)) is None else costs.to_dict("records"),
        "literature": pd.read_csv(literature).to_dict("records") if literature.exists() else [],
        "again": pd.read_csv(again).to_dict("records") if again.exists() else [],
        "limitations": [words.strip(" ,.") for words in re.findall(r"^- \*\*(.+?)\*\*", limitations, re.M)],
        "csvs": {path.stem: _holds(path.stem) for path in sorted(kept.folder.glob("tables/*.csv"))},
        "profile": profile,
        "share": lambda value: "" if pd.isna(value) else f"{100 * value:.1f} %",
        "class_name": theme.class_name,
        "model_name": theme.model_name,
        "words": tables.WORDS["words"],
        "sets": sorted(path.parent.name for path in home().glob("reports/nickparvar/README.md")),
    }


def measured(kept: digest.Kept) -> dict[str, str]:
    """Say what the kept tables are of, in words by a heading, as provenance.json tells. Used by `write`."""
    about = kept.about["parameters"]
    proposed, recipe = about["proposed"], about["recipes"][about["proposed"]["recipe"]]
    fits = [f for f in kept.about["fits"] if f["title"].startswith(f"{kept.model} (")]
    size = proposed.get("image_size") or about["preprocessing"]["image_size"]
    stride = proposed.get("output_stride") or 32
    epochs = sum(stage["epochs"] for stage in recipe["stages"])
    guided, erasing = recipe.get("cam_loss"), recipe.get("erase")
    how = "maps guided by the masks of training slices" if guided else "maps not guided by masks"
    data = next(d for d in kept.about["data"] if d["name"] == "data")
    commits = list(dict.fromkeys(f["commit"][:12] + "+changes" * f["commit"].endswith("+changes") for f in fits))
    hours = sum(f["fit_seconds"] for f in kept.about["fits"]) / 3600
    train, validation = ([f[key] for f in fits] for key in ("n_train", "n_validation"))
    held = (
        f"{min(validation)} to {max(validation)} more held out for validation" if max(validation) else "none held out"
    )
    return {
        "Network": f"{theme.model_name(kept.model)}, {START.get(kept.weights, kept.weights)} weights, {epochs} epochs; {how}; "
        + ("trained with erased tumours" if erasing else "no tumours erased in training"),
        "Slices seen": f"{size} x {size} pixels; the last features, and so the maps, have {-(-size // stride)} x "
        f"{-(-size // stride)} cells (one for {stride} pixels)",
        "Data": f"{said_of(data)}: {data['n_slices']:,} slices of {data['n_patients']} patients, fingerprint "
        f"{data['fingerprint']}; compact copies (8 bits, 256 pixels, scaled back), not the originals",
        "Training slices": f"{min(train):,} to {max(train):,} a fit; {held}",
        "Code": f"commits {', '.join(commits)}; tables at {kept.about['commit'][:12]}"
        + "+changes" * kept.about["commit"].endswith("+changes"),
        "Cost": f"{len(kept.about['fits'])} fits, {hours:.1f} hours on {kept.about['hardware']['processor']}, "
        f"{kept.about['hardware']['cores']} cores",
    } | _earlier(kept)


def said_of(entry: dict) -> str:
    """Name a data set of provenance.json; made-up slices as such."""
    if entry["source"] == "phantom":
        return "made-up slices (phantoms), which say nothing about patients"
    return "Figshare 1512427" if entry["source"] == "figshare" else entry["path"]


def _earlier(kept: digest.Kept) -> dict[str, str]:
    """Say where the parameter file now describes another network than the tables are of."""
    path = params.PARAMS_DIR / f"{kept.about['profile']}.yaml"
    if not path.exists():
        return {}
    now, then = params.load(kept.about["profile"]).model_dump(mode="json"), kept.about["parameters"]
    recipes = [about["recipes"][about["proposed"]["recipe"]] for about in (now, then)]
    changed = [key for key in now["proposed"] if now["proposed"][key] != then["proposed"].get(key)]
    changed += [
        key for key in recipes[0] if recipes[0][key] != recipes[1].get(key) and (recipes[0][key] or key in recipes[1])
    ]
    changed += ["validation_fraction"] * (now["split"]["validation_fraction"] != then["split"]["validation_fraction"])
    if not changed:
        return {}
    return {
        "Earlier network": f"`params/{path.name}` now describes another network ({', '.join(changed)} differ); no number "
        "below is of that one"
    }


def findings(kept: digest.Kept) -> list[str]:
    """Return what the tables decide, a sentence each, of those that are there. Used by `write` and the README's test."""
    made, split = [], kept["leakage"]
    if split is not None:
        last = split.groupby("protocol", sort=False).last()
        apart = next((p for p in digest.APART if p in last.index), None)
        if apart and "image_holdout" in last.index:
            one, other = last.loc["image_holdout"], last.loc[apart]
            gap, low, high = (-100 * other[c] for c in ("difference", "difference_high", "difference_low"))
            made.append(
                f"**The split decides.** {100 * one['accuracy']:.1f} % of slices are right when slices are split at random, "
                f"{100 * other['accuracy']:.1f} % when patient groups are kept apart: {gap:.1f} points less "
                f"({low:.1f} to {high:.1f})."
            )
    looks = digest.looks(kept)
    if looks is not None:
        rows = looks[looks["label"] == "all"].set_index("row")
        first = rows[rows["kind"] == "map"].iloc[0]
        control = rows[rows["kind"] == "control"].sort_values("value").iloc[-1]
        made.append(
            f"**Where it looks.** The map peaks inside the tumour on {_interval(first)} of test slices; the best control "
            f"({control.name}), which does not see the slice, on {_interval(control)}."
        )
    for name, part in digest.second_sets(kept).items():
        rows, copied = part.set_index("slices"), digest.share_of_copies(kept)[name]
        made.append(
            f"**The second set is the first.** {100 * copied:.0f} % of the tumour slices of {name} are copies of the study's: "
            f"{100 * rows.loc['all', 'value']:.1f} % are right as downloaded, {_interval(rows.loc['clean'])} of the "
            f"{int(rows.loc['clean', 'n'])} that are no copies."
        )
    errors = kept["confusion"]
    if errors is not None:
        table, protocol = digest.own(kept, "confusion")
        worst = digest.per_class(table).sort_values("recall").iloc[0]
        words = tables.WORDS["words"].get(protocol, protocol)
        made.append(
            f"**Classes differ.** Of {worst['support']} slices of {theme.class_name(worst['label']).lower()}, "
            f"{100 * worst['recall']:.1f} % are recognised ({words}), the fewest of the classes."
        )
    return made


def _interval(row) -> str:
    return f"{100 * row['value']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def _claim(row: dict) -> dict[str, str]:
    """A claim's row in words; ours is a share, a difference in points where the paper has no number."""
    kind = "share" if not pd.isna(row["paper"]) else "points"
    cells = {key: "" if pd.isna(row[key]) else str(row[key]) for key in ("ours", "low", "high")}
    paper = "" if pd.isna(row["paper"]) else f"{100 * row['paper']:.2f} %"
    if paper and not pd.isna(row.get("paper_low")):
        paper += f" ({100 * row['paper_low']:.1f} to {100 * row['paper_high']:.1f})"
    return {
        **{k: row[k] for k in ("claim", "verdict")},
        "paper": paper,
        "ours": readable.interval(*cells.values(), kind),
    }


def _holds(name: str) -> str:
    about = tables.WORDS["tables"].get(name)
    return f"{about['title']}. {about['caption']}" if about else name.replace("_", " ").capitalize() + "."
