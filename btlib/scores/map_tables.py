"""What the tables of `explanations` say: means with intervals over patients, and maps beside their controls."""

from collections.abc import Sequence

import pandas as pd

from btlib import params
from btlib.scores import localisation
from btlib.scores.resampling import mean_intervals

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
    """
    rows, names = [], ["model", "method", "kind", "grid"]
    whole = table.assign(all="all slices")
    for by in GROUPS:
        for (*about, group), some in whole.groupby([*names, by], sort=False):
            counts = len(some), some["patient_id"].nunique()
            intervals = mean_intervals(some[list(scores)], some["patient_id"], statistics, seed)
            for score, value in zip(scores, intervals, strict=True):
                rows.append((*about, by, group, score, *counts, *value))
    columns = [*names, "by", "group", "score", "slices", "patients", "mean", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def cascade_summary(table: pd.DataFrame, statistics: params.Statistics, seed: int) -> pd.DataFrame:
    """Average the cascade over slices, with intervals over patients.

    Arguments as for `summary`, of the table "cascade".

    Returns:
        model, number, step, score ("rank_correlation" or "ssim"), slices, mean, low, high.
    """
    rows, scores = [], ["rank_correlation", "ssim"]
    for about, some in table.groupby(["model", "number", "step"], sort=False):
        intervals = mean_intervals(some[scores], some["patient_id"], statistics, seed)
        rows += [(*about, score, len(some), *value) for score, value in zip(scores, intervals, strict=True)]
    return pd.DataFrame(rows, columns=["model", "number", "step", "score", "slices", "mean", "low", "high"])


def against_controls(table: pd.DataFrame) -> pd.DataFrame:
    """Say of every method of a `summary` whether it exceeds each control with intervals that do not overlap.

    Returns:
        model, method, grid, by ("all" or "label"), group, score, mean, low, high, control, control_grid, control_mean,
        control_low, control_high, exceeds (bool).
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

    Returns:
        Rows of `slices`, as `explanations.test_slices` returns them, their index kept, with `rule` ("highest", "median" or
        "lowest"); a group of fewer than three slices gives what it has.
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
