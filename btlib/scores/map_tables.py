"""What the tables of `explanations` say: means with intervals over patients, and maps beside their controls."""

from collections.abc import Sequence

import pandas as pd

from btlib import params
from btlib.scores import localisation
from btlib.scores.resampling import mean_intervals

GROUPS = ("all", "label", "outcome", "plane")


def summary(table: pd.DataFrame, scores: Sequence[str], statistics: params.Statistics, seed: int) -> pd.DataFrame:
    """Average scores of maps over slices, with intervals over patients.

    Args:
        table: what `explanations.pooled` returns for "gradcam" or "insertion".
        scores: its columns to average, for example `localisation.SCORES`.

    Returns:
        model, method, kind, grid, by (of `GROUPS`), group, score, slices, patients, mean, low, high.
    """
    groups = ["model", "method", "kind", "grid", "by", "group"]
    slices = table.assign(all="all slices")
    parts = [_means(slices.assign(by=by, group=slices[by]), groups, scores, statistics, seed) for by in GROUPS]
    return pd.concat(parts, ignore_index=True)


def cascade_summary(table: pd.DataFrame, statistics: params.Statistics, seed: int) -> pd.DataFrame:
    """Average the table "cascade" as `summary` does: model, number, step, score, slices, mean, low, high."""
    scores = ["rank_correlation", "ssim"]
    return _means(table, ["model", "number", "step"], scores, statistics, seed).drop(columns="patients")


def _means(table, groups, scores, statistics, seed) -> pd.DataFrame:
    rows = []
    for about, some in table.groupby(groups, sort=False):
        counts = len(some), some["patient_id"].nunique()
        intervals = mean_intervals(some[list(scores)], some["patient_id"], statistics, seed)
        rows += [(*about, score, *counts, *interval) for score, interval in zip(scores, intervals, strict=True)]
    return pd.DataFrame(rows, columns=[*groups, "score", "slices", "patients", "mean", "low", "high"])


def against_controls(table: pd.DataFrame) -> pd.DataFrame:
    """Say of every method of a `summary` whether it exceeds each control with intervals that do not overlap.

    Columns are model, method, grid, by ("all" or "label"), group, score, mean, low, high, control, control_grid,
    control_mean, control_low, control_high, exceeds (bool).
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
    """Say of every method of `against_controls` whether energy, pointing and IoU exceed every control.

    Returns:
        model, method, exceeds (bool: over all slices), not_exceeded ("energy: uniform (5 x 5), edges (160 x 160);
        pointing: uniform (5 x 5)", or "none"), classes (those in which every control is exceeded, "none" where in none).
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


def pick(slices: pd.DataFrame) -> pd.DataFrame:
    """Choose slices to show by rule: of each class, right and wrong, the most, the median and the least confident.

    Rows of `slices` (`explanations.test_slices`) come back with their index and `rule` ("highest", "median" or "lowest"); a
    group of fewer than three slices gives what it has.
    """
    parts = []
    for label in slices["label"].unique():
        for outcome in ("right", "wrong"):
            group = slices[(slices["label"] == label) & (slices["outcome"] == outcome)]
            group = group.sort_values("confidence", ascending=False, kind="stable")
            places = {len(group) - 1: "lowest", (len(group) - 1) // 2: "median", 0: "highest"} if len(group) else {}
            parts += [group.iloc[[place]].assign(rule=rule) for place, rule in sorted(places.items())]
    return pd.concat(parts)
