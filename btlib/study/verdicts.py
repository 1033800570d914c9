"""The paper's claims beside what came out here, and a verdict on two uncertain numbers: the tables of notebook 07."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml

from btlib import DataError, params
from btlib.scores.resampling import ALIKE, Interval, share, verdict
from btlib.study import tables
from btlib.study.sentences import said_of

SLICES = 3064
"""Slices of the Figshare set, which the paper names; of how many its test set was, its abstract does not say."""

HELD_OUT = (0.1, 0.15, 0.2)
"""Shares of them that a random hold-out usually takes."""

COPIES = 0.05
"""Share of copies of the study's slices above which a score on an external set is no test of carrying over."""

RIVALS = ("vgg16", "resnet152v2", "vit_b16")
"""The networks that the paper's EfficientNet is said to be ahead of."""


class Finding(NamedTuple):
    """What the study found for a claim; a value that is counted, not estimated, has bounds that are NaN."""

    value: float
    low: float
    high: float
    n: int | None = None
    """Slices that it was measured on, where the paper's own number of slices has to be guessed from it."""
    untested: str = ""
    """Why the number tests no claim: the whole verdict."""
    data: str = ""
    """What it was measured on, where that is not the study's own data."""
    against: str = ""
    """What it is a difference from, where that is no number of the paper."""


def may_stand_beside(source: str, weights: str | None) -> bool:
    """Whether a network's accuracy may stand beside the paper's: on the paper's slices, and pretrained as the paper's was."""
    return source in ("figshare", "phantom") and weights not in (None, "random")


def listed_claims() -> dict[str, dict]:
    """Read params/claims.yaml: each claim's text, value (None where the paper gives none) and data, by its key."""
    return yaml.safe_load((params.PARAMS_DIR / "claims.yaml").read_text(encoding="utf-8"))


def claims(study: params.Study, found: dict[str, Finding]) -> pd.DataFrame:
    """Return claims.csv: what the paper claims, what came out here, and a verdict on two uncertain numbers.

    paper_low and paper_high are Wilson's interval, the widest of those that the paper's unknown test size (assumption, which
    also names the control that maps are judged against) allows. The verdict is ours against the paper's number, or against 0
    where the claim has none: "higher", "lower", "cannot be told apart" (also where the possible sizes do not agree), "not
    tested: why" or "not testable: why". A study of another data set than a claim's tests none of it, one of random weights
    none but that of parameters, and their numbers do not stand here.
    """
    rows = []
    for key, claim in listed_claims().items():
        ours = Finding(*found.get(key, (np.nan,) * 3))
        if study.data.source not in (claim["data"], "phantom"):
            ours = Finding(np.nan, np.nan, np.nan, untested="not tested: another data set")
        elif study.proposed.weights is None and key != "parameters":
            ours = Finding(
                np.nan, np.nan, np.nan, untested="not tested: random weights here, the paper's were pretrained"
            )
        sizes, assumption = _paper_sizes(key, claim["value"], ours.n)
        theirs = [share(round(claim["value"] * n), n, study.statistics.level) for n in sizes]
        paper = np.nan if claim["value"] is None else claim["value"]
        bounds = (min(i.low for i in theirs), max(i.high for i in theirs)) if theirs else (np.nan, np.nan)
        data = "" if np.isnan(ours.value) else ours.data or said_of(study.data)
        assumption = assumption or ours.against
        rows.append((claim["text"], paper, *bounds, *ours[:3], _verdict(study, ours, theirs), data, assumption))
    names = ["claim", "paper", "paper_low", "paper_high", "ours", "low", "high", "verdict", "data", "assumption"]
    return pd.DataFrame(rows, columns=names)


def _paper_sizes(key: str, value: float | None, n: int | None) -> tuple[list[int], str]:
    """The possible sizes of the test set that a number of the paper stands on, and what they assume."""
    if value is None:
        return [], ""
    if key.startswith("external"):
        return ([n], f"paper's test size unknown: taken as ours, {n} slices") if n else ([], "")
    sizes = [int(np.ceil(part * SLICES)) for part in HELD_OUT]
    parts = ", ".join(f"{100 * part:g}" for part in HELD_OUT)
    return sizes, f"paper's test size unknown: {', '.join(map(str, sizes))} slices ({parts} %)"


def _verdict(study, ours: Finding, theirs: list[Interval]) -> str:
    if study.data.source == "phantom":
        return "not tested: made-up slices"
    if np.isnan(ours.value):
        return ours.untested or "not tested: not run here"
    if ours.untested:
        return ours.untested
    bounds = (ours.value if np.isnan(bound) else bound for bound in ours[1:3])
    own = Interval(ours.value, *bounds)
    words = {verdict(own, other) for other in theirs or [Interval(0, 0, 0)]}
    return words.pop() if len(words) == 1 else ALIKE


def found(study: params.Study, scores: pd.DataFrame, split: pd.DataFrame) -> dict[str, Finding]:
    """Collect what this study found for each claim of params/claims.yaml; keys of what was not run are absent.

    From models.csv, leakage.csv, and tables of other notebooks in the study's report.
    """
    findings = {}
    for key, protocols in (("accuracy", ["image_holdout"]), ("accuracy_patients", ["group_folds", "group_holdout"])):
        rows = next((r for p in protocols if len(r := split[split["protocol"] == p])), None)
        if rows is not None:  # the last row of a protocol pools its seeds
            findings[key] = Finding(*rows.iloc[-1][["accuracy", "accuracy_low", "accuracy_high"]])
    compared = _read(study, "comparison")
    compared = compared[compared["model"].isin(RIVALS)] if len(compared) else compared
    if len(compared):
        best = compared.sort_values("accuracy").iloc[-1]
        theirs, own = (f"{best[f'{who}weights']} weights, {best[f'{who}image_size']} px" for who in ("", "reference_"))
        untested = "" if theirs == own else f"not tested: no fair test, {theirs} against {own}"
        findings["baselines"] = Finding(-best["difference"], -best["high"], -best["low"], untested=untested)
        rivals = scores[scores["model"].isin(RIVALS)]["parameters"].min()
        own = scores[scores["model"] == study.proposed.model]["parameters"].iloc[0]
        findings["parameters"] = Finding(1 - own / rivals, np.nan, np.nan)  # counted, not estimated
    maps = _read(study, "gradcam_controls")
    if len(maps):
        whole = maps[maps["by"] == "all"]
        whole = whole[(whole["method"] == study.gradcam.methods[0]) & (whole["score"] == "energy")]
        # Bounds of a difference from two intervals: cautious.
        ends = (("mean", "control_mean"), ("low", "control_high"), ("high", "control_low"))
        names = whole["model"].str.replace(r"/plain/\d+$", "/plain", regex=True)
        for key, model in (("gradcam", study.proposed.model), ("gradcam_plain", f"{study.proposed.model}/plain")):
            if len(rows := whole[names == model]):
                best = rows.sort_values("control_mean").iloc[-1]
                control = f"best control: {best['control']}, {best['control_grid']}"
                findings[key] = Finding(*(best[ours] - best[theirs] for ours, theirs in ends), against=control)
    return findings | _outside(study, _read(study, "cross_dataset"))


def _outside(study: params.Study, table: pd.DataFrame) -> dict[str, Finding]:
    """What the first external set that has a score says: which one the paper took, its abstract does not tell."""
    name = next((name for name in study.external if len(table) and (table["set"] == name).any()), None)
    if name is None:
        return {}
    table, findings = table[table["set"] == name], {}
    n = table.drop_duplicates("slices").set_index("slices")["n"]
    for key, kind in (("external", "all"), ("external_clean", "clean")):
        if n[kind]:
            copies = 0 if kind == "clean" else 1 - n["clean"] / n["all"]
            untested = f"not testable: {100 * copies:.0f} % are copies" if copies > COPIES else ""
            numbers = table[table["slices"] == kind].iloc[0][["accuracy", "accuracy_low", "accuracy_high"]]
            findings[key] = Finding(*numbers, int(n[kind]), untested, said_of(study.external[name]))
    return findings


def _read(study, name) -> pd.DataFrame:
    """A table of another notebook, or an empty one where that notebook had nothing to write."""
    try:
        return tables.read(study.profile, name)
    except (DataError, pd.errors.EmptyDataError):
        return pd.DataFrame()


def holdout_errors(accuracy: float, slices: int, level: float) -> pd.DataFrame:
    """Return holdout_errors.csv: how many errors an accuracy leaves in a random hold-out of so many slices."""
    rows = []
    for fraction in HELD_OUT:
        n = int(np.ceil(fraction * slices))
        right = round(accuracy * n)
        rows.append((fraction, n, right, n - right, *share(right, n, level)))
    return pd.DataFrame(rows, columns=["fraction", "n_test", "right", "wrong", "accuracy", "low", "high"])
