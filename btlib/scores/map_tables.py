"""What the tables of `explanations` say: means with intervals over patients, maps beside their controls, in words."""

from collections.abc import Sequence

import pandas as pd

from btlib import params
from btlib.scores import localisation, metrics

NO_SCORES = "No slice of this data set has a mask: its maps are shown, and not scored."

GROUPS = ("all", "label", "outcome", "plane")
"""What slices are grouped by."""


def summary(table: pd.DataFrame, scores: Sequence[str], statistics: params.Statistics, seed: int) -> pd.DataFrame:
    """Average scores of maps over slices, with intervals over patients.

    Args:
        table: what `explanations.pooled` returns for "gradcam" or "insertion".
        scores: its columns to average, for example `localisation.SCORES`.
        statistics: bootstrap samples and level.
        seed: of the bootstrap.

    Returns:
        model, method, kind, grid, by ("all", "label", "outcome", "plane"), group, score, slices, patients, mean, low, high.
        A group without slices has no row.

    Notebook 05.
    """
    rows, names = [], ["model", "method", "kind", "grid"]
    whole = table.assign(all="all slices")
    for by in GROUPS:
        for (*about, group), some in whole.groupby([*names, by], sort=False):
            patients = some["patient_id"].to_numpy()
            settings = statistics.bootstrap, statistics.level, seed
            counts = len(some), some["patient_id"].nunique()
            intervals = metrics.mean_intervals(some[list(scores)], patients, *settings)
            for score, value in zip(scores, intervals, strict=True):
                rows.append((*about, by, group, score, *counts, *value))
    columns = [*names, "by", "group", "score", "slices", "patients", "mean", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def cascade_summary(table: pd.DataFrame, statistics: params.Statistics, seed: int) -> pd.DataFrame:
    """Average the cascade over slices, with intervals over patients.

    Args:
        table: what `explanations.pooled` returns for "cascade".
        statistics: bootstrap samples and level.
        seed: of the bootstrap.

    Returns:
        model, number, step, score ("rank_correlation" or "ssim"), slices, mean, low, high.

    Notebook 05.
    """
    rows, scores = [], ["rank_correlation", "ssim"]
    for about, some in table.groupby(["model", "number", "step"], sort=False):
        settings = statistics.bootstrap, statistics.level, seed
        intervals = metrics.mean_intervals(some[scores], some["patient_id"], *settings)
        rows += [(*about, score, len(some), *value) for score, value in zip(scores, intervals, strict=True)]
    return pd.DataFrame(rows, columns=["model", "number", "step", "score", "slices", "mean", "low", "high"])


def against_controls(table: pd.DataFrame) -> pd.DataFrame:
    """Say of every method whether it exceeds each control with intervals that do not overlap, in all and in each class.

    Args:
        table: what `summary` returns.

    Returns:
        model, method, grid, by ("all" or "label"), group, score, mean, low, high, control, control_grid, control_mean,
        control_low, control_high, exceeds (bool).

    Notebook 05.
    """
    scores = list(localisation.SCORES)
    some = table[table["by"].isin(["all", "label"]) & table["score"].isin(scores)]
    same, own = ["model", "by", "group", "score"], ["method", "grid", "mean", "low", "high"]
    maps, controls = (some.loc[some["kind"] == kind, [*same, *own]] for kind in ("map", "control"))
    names = {name: f"control_{name}" for name in own} | {"method": "control"}
    both = maps.merge(controls.rename(columns=names), on=same)
    both["exceeds"] = both["low"] > both["control_high"]
    first = ["model", "method", "grid", "by", "group", "score", "mean", "low", "high"]
    return both[[*first, *names.values(), "exceeds"]]


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Say of every method whether energy, pointing and IoU exceed every control.

    Args:
        table: what `against_controls` returns.

    Returns:
        model, method, exceeds (bool: over all slices), not_exceeded ("energy: uniform (5 x 5), edges (160 x 160);
        pointing: uniform (5 x 5)", or "none"), classes (those in which every control is exceeded, "none" where in none).

    Notebook 05; the report's statement.
    """
    rows = []
    strict = table[table["score"].isin(["energy", "pointing", "iou"])]
    strict = strict.assign(words=[f"{c} ({g})" for c, g in zip(strict["control"], strict["control_grid"], strict=True)])
    for (model, method), some in strict.groupby(["model", "method"], sort=False):
        lost = some[(some["by"] == "all") & ~some["exceeds"]]
        missing = [f"{score}: {', '.join(each['words'])}" for score, each in lost.groupby("score", sort=False)]
        by_class = some[some["by"] == "label"].groupby("group")["exceeds"].all()
        classes = [c for c, exceeds in by_class.items() if exceeds]
        rows.append((model, method, lost.empty, "; ".join(missing) or "none", ", ".join(classes) or "none"))
    return pd.DataFrame(rows, columns=["model", "method", "exceeds", "not_exceeded", "classes"])


def findings(study: params.Study, table: pd.DataFrame, beaten: pd.DataFrame, erased: pd.DataFrame) -> str:
    """Write what was found, in Markdown: the first method's numbers, its controls, and what erasing the tumour does.

    Args:
        study: the parameters.
        table: what `summary` returns.
        beaten: what `verdicts` returns; empty where no slice has a mask.
        erased: what `reliance.summary` returns.

    Notebook 05.
    """
    if not len(beaten):
        return NO_SCORES
    method, lines = study.gradcam.methods[0], []
    whole = table[table["by"] == "all"].set_index(["model", "method", "grid", "score"])
    for model, grid in table.loc[table["method"] == method, ["model", "grid"]].drop_duplicates().to_numpy():
        energy, pointing, iou = (_said(whole.loc[(model, method, grid, s)]) for s in ("energy", "pointing", "iou"))
        ceiling, chance = (_said(whole.loc[(model, m, grid, "energy")]) for m in (localisation.CEILING, "uniform"))
        verdict = beaten[(beaten["model"] == model) & (beaten["method"] == method)].iloc[0]
        whether = "exceed" if verdict["exceeds"] else "do **not** exceed"
        but = "" if verdict["exceeds"] else f" (not exceeded: {verdict['not_exceeded']})"
        lines.append(
            f"- **{model}, {method}, {grid} cells:** {energy} of the map's energy lies inside the tumour (chance {chance},"
            f" the true mask on this grid {ceiling}); its largest value lies inside in {pointing} of slices; IoU {iou}."
            f" Energy, pointing and IoU {whether} every control with intervals that do not overlap{but}."
        )
        lines += [_reliance(each) for name, each in erased.groupby("model") if name == model]
    return "\n".join(lines)


def _reliance(erased: pd.DataFrame) -> str:
    whole = erased[erased["by"] == "all"]

    def spread(place, trained):
        values = 100 * whole.loc[(whole["erased"] == place) & (whole["trained"] == trained), "accuracy"]
        return f"{values.min():.1f} to {values.max():.1f} %"

    return (
        f"- **The same, tumour erased:** right in {spread('nothing', False).split(' to ')[0]} % of whole slices;"
        f" in {spread('tumour', True)} without the tumour, by fills of the kind used in training, and"
        f" {spread('tumour', False)} by others; in {spread('elsewhere', True)} and {spread('elsewhere', False)} with as"
        " much of the head erased elsewhere."
    )


def _said(row: pd.Series) -> str:
    return f"{100 * row['mean']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f} %)"


def pick(slices: pd.DataFrame) -> pd.DataFrame:
    """Choose slices to show by rule: of each class, right and wrong, the most, the median and the least confident.

    Args:
        slices: what `explanations.test_slices` returns.

    Returns:
        Rows of `slices`, their index kept, with `rule` ("highest", "median" or "lowest"); a group of fewer than three
        slices gives what it has.

    Notebook 05.
    """
    parts = []
    for label in slices["label"].unique():
        for outcome in ("right", "wrong"):
            group = slices[(slices["label"] == label) & (slices["outcome"] == outcome)]
            group = group.sort_values("confidence", ascending=False, kind="stable")
            count = len(group)
            places = {0: "highest", (count - 1) // 2: "median", count - 1: "lowest"} if count > 2 else None
            places = places or dict(zip(range(count), ("highest", "lowest"), strict=False))
            parts += [group.iloc[[place]].assign(rule=rule) for place, rule in places.items()]
    return pd.concat(parts)
