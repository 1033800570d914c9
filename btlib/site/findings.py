"""The results page of a profile: README.md and figures in its folder, made from the kept tables alone."""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from btlib import files, home, params
from btlib.data import splits
from btlib.figures import claims, data, external, gradcam, learning, performance, theme
from btlib.site import TEMPLATES, checklist
from btlib.study import digest, readable, tables

SITE = Path(__file__).resolve().parent


def write(profile: str) -> Path:
    """Write reports/<profile>/README.md, checklist.md and figures/*.svg from what is kept there; return the first.

    Raises:
        DataError: nothing is kept of the profile.
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
        files.write_text(path.with_suffix(".json"), json.dumps(tables.said_of(name) | words, indent=2) + "\n")
        figures[name] = {"file": f"figures/{name}.svg", **words}
    text = TEMPLATES.get_template("findings.md").render(context(kept, figures, profile))
    files.write_text(kept.folder / "README.md", re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")
    checklist.write(kept)
    return kept.folder / "README.md"


def drawn(kept: digest.Kept) -> dict:
    """Return every figure that the kept tables allow, by its name."""
    fits = kept["models"]
    if fits is not None:
        fits = fits[(fits["model"] == kept.model) & (fits["weights"] == kept.weights)]
    reliability = functools.partial(performance.reliability, slices="test slices, patients apart, T of the other folds")
    coverage = functools.partial(performance.coverage, protocol=kept.about["parameters"]["comparison"]["protocol"])
    networks = digest.compared(kept)
    figures = {
        "ladder": (claims.ladder, digest.ladder(kept)),
        "patient_flow": (data.patient_flow, digest.flow(kept)),
        "where_it_looks": (gradcam.where_it_looks, digest.looks(kept)),
        "erased": (gradcam.erased, digest.erased(kept["gradcam_erase"])),
        "shared_patients": (data.crossing, kept["splits"]),
        "errors": (performance.confusion, digest.own(kept, "confusion")[0]),
        "classes": (performance.per_class, digest.own(kept, "per_class")[0]),
        "curves": (performance.roc, digest.own(kept, "roc")[0], digest.own(kept, "per_class")[0]),
        "coverage": (coverage, digest.answered(kept)),
        "spoiled": (performance.robustness, kept["robustness"]),
        "fits": (learning.fits, fits),
        "copies": (external.copies, *(digest.copies(kept) or [None])),
        "confidence": (reliability, *(digest.reliability(kept) or [None])),
        "changes": (learning.ablation, kept["ablation"]),
        "changes_looks": (gradcam.changes, kept["gradcam_ablation"]),
        "networks": (claims.size, None if networks is None or len(networks) == 1 else networks),
    }
    return {name: draw(*tables) for name, (draw, *tables) in figures.items() if tables[0] is not None}


def context(kept: digest.Kept, figures: dict, profile: str) -> dict:
    """Return all that templates/findings.md reads."""
    confusion, protocol = digest.own(kept, "confusion")
    claimed = kept["claims"] if kept.of_the_paper else None
    limitations = (SITE / "limitations.md").read_text(encoding="utf-8")
    if not kept.of_the_paper:  # what is said of the paper and of Figshare's slices is not of this data set
        limitations = limitations[limitations.index("\n## The task") :]
    limitations = limitations[limitations.index("\n## ") : limitations.index("\n## Use")].replace("\n## ", "\n### ")
    return {
        "figures": figures,
        "measured": measured(kept),
        "findings": findings(kept),
        "claims": [_claim(row, kept["claims"]["data"].iloc[0]) for row in _rows(claimed)],
        "classes": [] if confusion is None else _rows(digest.per_class(confusion)),
        "tested": tables.WORDS["words"].get(protocol, protocol.replace("_", " ")),
        "calibration": _rows(digest.calibrated(kept)),
        "foreign": _rows(kept["foreign"]),
        "set_name": tables.part_name,
        "costs": _rows(digest.costs(kept)),
        "own_rows": _own_rows(kept),
        "own_model": kept.model,
        "literature": _rows(_csv(home() / "reports" / "literature.csv")) if kept.beside_the_paper else [],
        "again": again(kept),
        "limitations": limitations.strip(),
        "first_fit": _first_fit(kept),
        "csvs": {path.stem: _holds(path.stem) for path in sorted(kept.folder.glob("tables/*.csv"))},
        "profile": profile,
        "part_name": tables.part_name,
        "share": lambda value: "" if pd.isna(value) else f"{100 * value:.1f} %",
        "class_name": theme.class_name,
        "model_name": theme.model_name,
        "words": tables.WORDS["words"],
        "sets": profile != "nickparvar" and (home() / "reports" / "nickparvar" / "README.md").exists(),
    }


def _own_rows(kept: digest.Kept) -> list[dict]:
    """This study's accuracy under each split, for the table of earlier papers."""
    if kept["leakage"] is None:
        return []
    last = kept["leakage"].drop_duplicates("protocol", keep="last")
    apart = last["protocol"].isin(digest.APART).map({True: "yes", False: "no"})
    return _rows(last.assign(apart=apart, split=[" ".join(theme.in_print(name).split()) for name in last["protocol"]]))


def _csv(path: Path) -> pd.DataFrame | None:
    return pd.read_csv(path, dtype={"id": str}) if path.exists() else None


def _rows(table: pd.DataFrame | None) -> list[dict]:
    return [] if table is None else table.to_dict("records")


def again(kept: digest.Kept) -> list[str]:
    """Say how far fits that were made twice lie apart, a sentence for each pair of machines and backends, from reproduced.csv."""
    table = _csv(kept.folder / "reproduced.csv")
    if table is None:
        return []
    # Fits of an earlier network are of no row here.
    table = table[table["id"].isin([fit["id"] for fit in kept.about["fits"]])]
    said, words = [], tables.WORDS["words"]
    for (here, backend, there, before), some in table.groupby(["hardware", "backend", "kept_hardware", "kept_backend"]):
        gaps = some["accuracy"] - some["kept"]
        slices = (gaps * some["n_test"]).round().astype(int)
        sizes = dict.fromkeys((str(some["n_test"].min()), str(some["n_test"].max())))
        said.append(
            f"{len(some)} fits made on {there} by {words.get(before, before)}, and again on {here} by "
            f"{words.get(backend, backend)}: from {slices.min():+d} to {slices.max():+d} slices right, of "
            f"{' to '.join(sizes)} a fit, {100 * np.sqrt((gaps**2).mean()):.1f} points as root mean square; {some['inside'].sum()} within the first's "
            f"interval; {100 * some['alike'].min():.1f} to {100 * some['alike'].max():.1f} % of slices called the same by both"
        )
    return said


def measured(kept: digest.Kept) -> dict[str, str]:
    """Say what the kept tables are of, in words by a heading, as provenance.json tells."""
    about, of_all = kept.about["parameters"], kept.about["fits"]
    proposed, recipe = about["proposed"], about["recipes"][about["proposed"]["recipe"]]
    fits = [f for f in of_all if f["title"].startswith(f"{kept.model} (")]
    size = proposed.get("image_size") or about["preprocessing"]["image_size"]
    stride = proposed.get("output_stride") or 32
    cells = -(-size // stride)
    start = tables.WORDS["words"].get(kept.weights, kept.weights)
    guided = "guided by the masks of training slices" if recipe.get("cam_loss") else "not guided by masks"
    erased = "trained with erased tumours" if recipe.get("erase") else "no tumours erased in training"
    train, validation = ([f[key] for f in fits] for key in ("n_train", "n_validation"))
    more = f"{min(validation)} to {max(validation)} more held out for validation"
    held = more if max(validation) else "no validation part"
    data, hardware = next(d for d in kept.about["data"] if d["name"] == "data"), kept.about["hardware"]
    named = {"phantom": "made-up slices (phantoms), which say nothing about patients", "figshare": "Figshare 1512427"}
    source = about["data"].get("origin") or named.get(data["source"], data["path"])
    unnamed = f", {data['n_unnamed']:,} of these slices of none that is known" if data.get("n_unnamed") else ""
    return {
        "Network": f"{theme.model_name(kept.model)}, {start} weights, {_epochs(recipe)} epochs; maps {guided}; {erased}",
        "Slices seen": f"{size} x {size} pixels; the last features, and so the maps, have {cells} x {cells} cells (one for "
        f"{stride} pixels)",
        "Data": f"{source}: {data['n_slices']:,} slices of {data['n_patients']} patients{unnamed}; fingerprint "
        f"{data['fingerprint']}; compact copies (8 bits, 256 pixels, scaled back), not the originals",
        "Training slices": f"{min(train):,} to {max(train):,} a fit; {held}",
        "Intervals": f"{100 * about['statistics']['level']:g} % of {about['statistics']['bootstrap']:,} samples that resample "
        "patients, or slices where a set names no patients; Wilson's where no sample differs, and for patients counted whole",
        "Code": f"commits {', '.join(dict.fromkeys(_short(f['commit']) for f in fits))}; tables at "
        f"{_short(kept.about['commit'])}",
        "Cost": "; ".join(_hours(of_all, name) for name in dict.fromkeys(f["hardware"] for f in of_all))
        + f"; tables made on {hardware['processor']}, {hardware['cores']} core{'s' * (hardware['cores'] > 1)}",
    } | _earlier(kept)


def _hours(fits: list[dict], hardware: str) -> str:
    there = [f["fit_seconds"] for f in fits if f["hardware"] == hardware]
    return f"{len(there)} fits on {hardware}, {sum(there) / 3600:.1f} hours in sum"


def _short(commit: str) -> str:
    return commit[:12] + "+changes" * commit.endswith("+changes")


def _earlier(kept: digest.Kept) -> dict[str, str]:
    """Say where the parameter file now describes another network than the tables are of."""
    path = params.PARAMS_DIR / f"{kept.about['profile']}.yaml"
    if not path.exists():
        return {}
    now, then = params.load(kept.about["profile"]).model_dump(mode="json"), kept.about["parameters"]
    recipe, of_then = (study["recipes"][study["proposed"]["recipe"]] for study in (now, then))
    changed = [key for key in now["proposed"] if now["proposed"][key] != then["proposed"].get(key)]
    changed += [key for key in recipe if recipe[key] != of_then.get(key) and (recipe[key] or key in of_then)]
    changed += ["validation_fraction"] * (now["split"]["validation_fraction"] != then["split"]["validation_fraction"])
    words = f"`params/{path.name}` now describes another network ({', '.join(changed)} differ); no number below is of that one"
    return {"Earlier network": words} if changed else {}


def findings(kept: digest.Kept) -> list[str]:
    """Return what the tables decide, a sentence each, of those that are there."""
    made, split = [], kept["leakage"]
    if split is not None:
        last = split.groupby("protocol", sort=False).last()
        apart = next((p for p in digest.APART if p in last.index), None)
        loose = next((p for p in splits.LOOSE if p in last.index), None)
        if apart and loose:
            one, other = last.loc[loose], last.loc[apart]
            how = "as published" if loose == "published" else "at random"
            gap, low, high = (-100 * other[c] for c in ("difference", "difference_high", "difference_low"))
            made.append(
                f"**What the split takes.** {100 * one['accuracy']:.1f} % of slices are right when slices are split {how}, "
                f"{100 * other['accuracy']:.1f} % when patient groups are kept apart: {gap:.1f} points less "
                f"({low:.1f} to {high:.1f})."
            )
    looks = digest.looks(kept)
    if looks is not None:
        rows = looks[looks["label"] == "all"].set_index("row")
        maps = rows[rows["kind"] == "map"]
        plain = maps[maps.index.str.startswith(maps.index[0].split(",")[0] + ", plain")]
        beside = f"; a plain network's on {_of_ceiling(rows, plain.iloc[0])}" if len(plain) else ""
        blind = rows[(rows["kind"] == "control") & rows.index.str.startswith(digest.BLIND)]
        control = blind.sort_values("value").iloc[-1]
        made.append(
            f"**Where it looks.** The map peaks inside the tumour on {_of_ceiling(rows, maps.iloc[0])}{beside}; the best "
            f"control that does not see the slice, {control.name.split(' (')[0]}, on {_interval(control)}."
        )
    made += _rests(kept)
    sets, (scores, protocol) = digest.second_sets(kept), digest.own(kept, "per_class")
    if sets:
        made.append(_second(kept, sets))
    made += _by_change(kept)
    made += _beside(kept)
    if scores is not None:
        recalls = scores[scores["score"].str.startswith("recall_")].sort_values("value")
        told = _listed(f"{_interval(r)} of {_class(r['score'].removeprefix('recall_'))}" for _, r in recalls.iterrows())
        words = tables.WORDS["words"].get(protocol, protocol)
        made.append(f"**Classes.** With {words}, {told} are recognised.")
    return made


def _of_ceiling(rows: pd.DataFrame, drawn: pd.Series) -> str:
    """Say a map's score, and the ceiling of its grid, from `digest.looks` of all slices."""
    grid = drawn.name.partition(" (")[2]
    ceiling = rows[(rows["kind"] == "ceiling") & rows.index.str.endswith(grid)]
    allowed = f", where its grid allows {100 * ceiling['value'].iloc[0]:.0f} %" if len(ceiling) else ""
    return f"{_interval(drawn)} of test slices{allowed}"


def _first_fit(kept: digest.Kept) -> str:
    """Name the fit that second sets and costs are told of: the comparison's first."""
    comparison = kept.about["parameters"]["comparison"]
    protocol = theme.in_print(comparison["protocol"]).replace("\n", " ")
    return f"{protocol[:1].lower()}{protocol[1:]}, seed {comparison['seeds'][0]}"


def _rests(kept: digest.Kept) -> list[str]:
    """Say what is left of a network's accuracy, and of a plain one's, without the tumour, by fills it never trained on."""
    table = kept["gradcam_erase"]
    if table is None:
        return []
    table = table[table["by"] == "all"]
    networks = dict(list(table.groupby("model", sort=False)))
    own = networks.pop(table["model"].iloc[0])
    fills = own.loc[~own["trained"], "fill"]
    confusion = digest.own(kept, "confusion")[0]
    most = "" if confusion is None else _most(confusion)

    def said(rows, region):
        shares = 100 * rows.loc[(rows["erased"] == region) & rows["fill"].isin(fills), "accuracy"]
        return f"{shares.min():.1f} to {shares.max():.1f} %"

    def whole(rows):
        return f"{100 * rows.loc[rows['erased'] == 'nothing', 'accuracy'].iloc[0]:.1f} %"

    plain = next((rows for name, rows in networks.items() if "/plain" in name), None)
    told = ("", "") if plain is None else (said(plain, "tumour"), whole(plain))
    erased, intact = (f" (a plain network's: {share})" if share else "" for share in told)
    return [
        f"**What the answer rests on.** With the tumour erased, by fills that the network never trained on, {said(own, 'tumour')} "
        f"of slices are right, by fill{erased}; with as much erased elsewhere {said(own, 'elsewhere')}, whole {whole(own)}"
        f"{intact}{most}."
    ]


def _by_change(kept: digest.Kept) -> list[str]:
    """Say what each part of the proposed network does to where the map peaks, and to the answer without the tumour."""
    table = kept["gradcam_ablation"]
    if table is None:
        return []
    parts = {"proposed", "proposed.output_stride", "recipe.cam_loss", "recipe.erase"}
    table = table[[parts.issuperset(factor.split(", ")) for factor in table["factor"]]]

    def said(score):
        names = (f"{score}_low", f"{score}_high")
        shares = table.rename(columns={score: "value"} | dict(zip(names, ("low", "high"), strict=True)))
        words = shares["change"].where(~shares["proposed"], "as proposed")
        return "; ".join(f"{name} {_interval(row)}" for name, (_, row) in zip(words, shares.iterrows(), strict=True))

    return [
        f"**What makes it look.** With one budget for all changes, the map's peak lies in the tumour on these shares of "
        f"slices: {said('pointing')}. Right with tissue pasted over the tumour: {said('accuracy_erased')}."
    ]


def _beside(kept: digest.Kept) -> list[str]:
    """Say how the compared networks do beside the study's, those that began as it did, pretrained or not, on like slices."""
    table, networks = kept["comparison"], digest.compared(kept)
    if table is None or networks is None:
        return []
    alike = table["weights"].eq("random") == table["reference_weights"].eq("random")
    table = table[alike & (table["image_size"] == table["reference_image_size"])]
    if table.empty:
        return []
    networks, cost, told = networks.set_index(["model", "weights"]), ["parameters", "macs"], []
    own = networks.loc[(kept.model, kept.weights), cost]
    for row in table.itertuples():
        points = f"{100 * row.difference:+.1f} points ({100 * row.low:+.1f} to {100 * row.high:+.1f})"
        times = networks.loc[(row.model, row.weights), cost] / own
        name = _named(kept, row.model, row.weights)
        told.append(
            f"{name} {100 * row.accuracy:.1f} %, {points}, with {times['parameters']:.1f} times the parameters and "
            f"{times['macs']:.1f} times the multiply-adds"
        )
    name = _named(kept, kept.model, kept.weights)
    return [
        f"**Beside other networks.** On the same {table['n'].iloc[0]:,} slices of {table['image_size'].iloc[0]} pixels "
        f"{name} is right on {100 * table['reference_accuracy'].iloc[0]:.1f} %; {'; '.join(told)}."
    ]


def _named(kept: digest.Kept, model: str, weights: str) -> str:
    """A compared network's name and start, and its epochs where the networks' differ."""
    about = kept.about["parameters"]
    epochs = {m["model"]: _epochs(about["recipes"][m["recipe"]]) for m in (*about["baselines"], about["proposed"])}
    trained = f" after {epochs[model]} epochs" if len(set(epochs.values())) > 1 else ""
    return theme.model_name(f"{model} ({weights})") + trained


def _epochs(recipe: dict) -> int:
    return sum(stage["epochs"] for stage in recipe["stages"])


def _most(confusion: pd.DataFrame) -> str:
    n = confusion.groupby("label")["n"].sum()
    return f"; to call all {_class(n.idxmax())} would be right on {100 * n.max() / n.sum():.1f} %"


def _second(kept: digest.Kept, sets: dict[str, pd.DataFrame]) -> str:
    """Say how much of second sets is copies, how right a network is there, and on the class that most of the rest is of."""
    copied = digest.share_of_copies(kept)
    shares = _listed(f"{100 * copied[name]:.0f} % of {name}" for name in sets)
    told = f"**The second set is the first.** Of the classes that the study knows, {shares} are copies of the study's slices"
    whole = _listed(f"{100 * part.set_index('slices').loc['all', 'value']:.1f} %" for part in sets.values())
    told += f". Right are {whole} as downloaded, by the network of {_first_fit(kept)}"
    clean = {name: part.set_index("slices").loc["clean"] for name, part in sets.items()}
    clean = {name: row for name, row in clean.items() if row["n"]}
    if not clean:
        return f"{told}."
    labels = {name: digest.commonest(sets[name]) for name in clean}
    most = _listed(
        f"{int(r[f'n_{labels[name]}'])} of {int(r['n'])} ({_class(labels[name])})" for name, r in clean.items()
    )
    told += f", and {_listed(map(_interval, clean.values()))} of the slices that are no copies. Of these, the commonest class "
    told += f"has {most}"
    recalls = [r.get(f"recall_{labels[name]}") for name, r in clean.items()]
    if pd.notna(recalls).all():
        told += f", of which {_listed(f'{100 * recall:.1f} %' for recall in recalls)} are right"
    return f"{told}."


def _listed(words) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _class(label: str) -> str:
    return theme.class_name(label).lower()


def _interval(row) -> str:
    return f"{100 * row['value']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def _claim(row: dict, own: str) -> dict[str, str]:
    """A claim's row in words; ours is a share, a difference in points where the paper has no number. `own` is the study's data."""
    kind = "share" if not pd.isna(row["paper"]) else "points"
    cells = {key: "" if pd.isna(row[key]) else str(row[key]) for key in ("ours", "low", "high")}
    paper = "" if pd.isna(row["paper"]) else f"{100 * row['paper']:.2f} %"
    if paper and not pd.isna(row.get("paper_low")):
        paper += f" ({100 * row['paper_low']:.1f} to {100 * row['paper_high']:.1f})"
    ours = readable.interval(*cells.values(), kind)
    against = "" if pd.isna(row["data"]) or row["data"] == own else f" [here {row['data']}]"
    against += f"; {row['assumption']}" if not paper and not pd.isna(row["assumption"]) else ""
    return {"claim": row["claim"] + against, "paper": paper, "ours": ours, "verdict": row["verdict"]}


def _holds(name: str) -> str:
    about = tables.WORDS["tables"].get(name)
    return f"{about['title']}. {about['caption']}" if about else name.replace("_", " ").capitalize() + "."
