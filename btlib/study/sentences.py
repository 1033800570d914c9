"""What the notebooks say in words, in Markdown: the line on top of each, and what it found; every number is of a table.

Notebook 06's are in `external`: every notebook imports this module, and is run again when what it imports changes.
"""

import numpy as np
import pandas as pd

from btlib import params
from btlib.data import splits
from btlib.fitting import runs
from btlib.study import tables

NO_SCORES = "No slice of this data set has a mask: its maps are shown, and not scored."


def versions() -> str:
    """Return what a notebook ran with, in one line: Python, packages and the code's commit."""
    from importlib.metadata import version
    from platform import python_version

    packages = ("keras", "tensorflow", "numpy", "pandas", "scikit-learn")
    numbers = ", ".join(f"{p} {version(p)}" for p in packages)
    return f"Python {python_version()}, {numbers}; code at {runs.commit()[:12]}"


def said_of(data: params.Data) -> str:
    """Name a data set in a few words, a made-up one as such."""
    named = {"phantom": "made-up slices (phantom)", "figshare": "Figshare 1512427"}
    return named.get(data.source, data.origin or data.path)


def _split(protocol: str) -> str:
    words = splits.rule(protocol).words
    return words[:1].upper() + words[1:]


def banner(study: params.Study) -> str:
    """Return the sentence that stands on top of every notebook."""
    if study.data.source == "phantom":
        return "> **Made-up slices.** Every number on this page comes from phantoms; it says nothing about patients."
    return f"> Data: {said_of(study.data)}. Profile `{study.profile}`, seed {study.seed}."


def percent(value: float, low: float = np.nan, high: float = np.nan) -> str:
    """Write a share as per cent, with its interval where there is one: 99.35 % (98.33 to 99.75 %)."""
    text = f"{100 * value:.2f} %"
    return text if np.isnan(low) else f"{text} ({100 * low:.2f} to {100 * high:.2f} %)"


def _points(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})"


def data_in_words(table: pd.DataFrame, counts: pd.DataFrame) -> str:
    """Say what the data set holds: notebook 01, from dataset.csv and patient_groups.csv."""
    every = table.set_index("label").loc["all"]
    each = ", ".join(f"{row.slices} {row.label}" for row in table.itertuples() if row.label != "all")
    number = counts.set_index("what")["count"]
    lines = [
        f"- {every['slices']} slices ({each}); {every['named']} of them are of {every['patients']} patients that are named."
    ]
    if every["patients"]:
        share = every["named"] / every["patients"]
        lines.append(f"- {share:.1f} slices a patient: slices of one patient are no independent cases.")
    lines.append(
        f"- The {number['patient ids']} ids fall into {number['groups of ids']} groups when a last letter is dropped; "
        f"{number['groups of more than one id']} groups hold several ids."
    )
    divided = "groups in more than one of the author's folds"
    if divided in number:
        lines.append(f"- {number[divided]} of these groups lie in more than one of the author's folds.")
    return "\n".join(lines)


def splits_in_words(table: pd.DataFrame) -> str:
    """Say what crosses from training to test under each protocol: notebook 02, from splits.csv."""
    lines = []
    for protocol, part in table.groupby("protocol", sort=False):
        same = 100 * part["slices_of_crossing_patients"].sum(skipna=False) / part["n_test"].sum()
        seen = f"{same:.1f} % of test slices are of a patient that the network has seen"
        seen = "the data name no patients" if np.isnan(same) else seen
        near = 100 * part["test_near_identical"].sum() / part["n_test"].sum()
        lines.append(f"- {_split(protocol)}: {seen}, {near:.1f} % have a near-identical slice in training.")
    return "\n".join(lines)


def baselines_in_words(study: params.Study, table: pd.DataFrame) -> str:
    """Say how the baselines compare, initialisations named: notebook 03, from comparison.csv."""
    if table.empty:
        return f"The profile `{study.profile}` names no baseline; nothing was compared."
    lines = [banner(study), ""]
    for row in table.itertuples():
        lines.append(
            f"- {tables.model_name(row.model)} ({row.weights} initialisation, {row.image_size} px) {percent(row.accuracy)} against "
            f"{tables.model_name(row.reference)} ({row.reference_weights} initialisation, {row.reference_image_size} px) "
            f"{percent(row.reference_accuracy)}: difference {_points(row.difference, row.low, row.high)}; McNemar "
            f"p = {row.mcnemar_p_holm:.2g}, bootstrap p = {row.bootstrap_p_holm:.2g} (Holm)."
        )
    if table["weights"].ne(table["reference_weights"]).any():
        lines.append("\nWhere initialisations differ, the difference is one of pretraining as much as of architecture.")
    if table["image_size"].ne(table["reference_image_size"]).any():
        lines.append("\nWhere image sizes differ, so do the budgets: a smaller slice costs less and shows less.")
    models = {model.model: study.recipes[model.recipe].stages for model in (study.proposed, *study.baselines)}
    epochs = {tables.model_name(name): sum(stage.epochs for stage in stages) for name, stages in models.items()}
    if len(set(epochs.values())) > 1:
        lines.append(f"\nEpochs differ: {', '.join(f'{name} {n}' for name, n in epochs.items())}.")
    return "\n".join(lines)


def proposed_in_words(study: params.Study, table: pd.DataFrame) -> str:
    """Say the proposed model's accuracy under each split: notebook 04, from models.csv."""
    own = table[table["model"] == study.proposed.model]
    lines = [
        f"- {_split(r.protocol)}, fold {r.fold}, seed {r.seed}: {round(r.accuracy * r.n_test)} of {r.n_test} slices right, "
        f"{percent(r.accuracy, r.accuracy_low, r.accuracy_high)}."
        for r in own.itertuples()
    ]
    return "\n".join([banner(study), "", *lines])


def maps_in_words(study: params.Study, table: pd.DataFrame, beaten: pd.DataFrame, erased: pd.DataFrame) -> str:
    """Say what maps show: notebook 05; the first method's numbers, its controls, and what erasing the tumour does.

    From `map_tables.summary`, `map_tables.verdicts` (empty without masks) and `reliance.summary`.
    """
    if not len(beaten):
        return NO_SCORES
    method, lines = study.gradcam.methods[0], []
    whole = table[table["by"] == "all"].set_index(["model", "method", "grid", "score"])
    for model, grid in table.loc[table["method"] == method, ["model", "grid"]].drop_duplicates().to_numpy():
        energy, pointing, iou = (_mean(whole.loc[(model, method, grid, s)]) for s in ("energy", "pointing", "iou"))
        ceiling, chance = (_mean(whole.loc[(model, m, grid, "energy")]) for m in ("ceiling", "uniform"))
        verdict = beaten[(beaten["model"] == model) & (beaten["method"] == method)].iloc[0]
        whether = "exceed" if verdict["exceeds"] else "do **not** exceed"
        but = "" if verdict["exceeds"] else f" (not exceeded: {verdict['not_exceeded']})"
        lines.append(
            f"- **{tables.model_name(model)}, {tables.WORDS['words'][method]}, {grid} cells:** {energy} of the map's energy lies inside the tumour (chance {chance},"
            f" the true mask on this grid {ceiling}); its largest value lies inside in {pointing} of slices; IoU {iou}."
            f" Energy, pointing and IoU {whether} every control with intervals that do not overlap{but}."
        )
        lines += [_erased(each) for name, each in erased.groupby("model") if name == model]
    return "\n".join(lines)


def _mean(row: pd.Series) -> str:
    return f"{100 * row['mean']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f} %)"


def _erased(table: pd.DataFrame) -> str:
    whole = table[table["by"] == "all"]
    right = 100 * whole.loc[whole["erased"] == "nothing", "accuracy"].iloc[0]
    said = f"- **The same, tumour erased:** right in {right:.1f} % of whole slices"
    for place, words in (("tumour", "without the tumour"), ("elsewhere", "with as much of the head erased elsewhere")):
        rows, spreads = whole[whole["erased"] == place], []
        for trained, fills in ((True, "fills that its training used"), (False, "fills that it did not")):
            accuracy = 100 * rows.loc[rows["trained"] == trained, "accuracy"]
            spreads += [f"{accuracy.min():.1f} to {accuracy.max():.1f} % by {fills}"] if len(accuracy) else []
        said += f"; {words} {', '.join(spreads)}" if spreads else ""
    return f"{said}."


def claims_in_words(study: params.Study, table: pd.DataFrame, split: pd.DataFrame) -> str:
    """Say claim by claim what came out, and what the split alone makes: notebook 07, from claims.csv and leakage.csv."""
    lines = [banner(study), ""]
    for row in table.itertuples():
        paper = "" if np.isnan(row.paper) else f" Paper: {percent(row.paper, row.paper_low, row.paper_high)}."
        ours = "" if np.isnan(row.ours) else f" Here: {percent(row.ours, row.low, row.high)}."
        lines.append(f"- {row.claim}.{paper}{ours} **{row.verdict}**")
    for row in split.dropna(subset=["difference"]).itertuples():
        gap = _points(row.difference, row.difference_low, row.difference_high)
        lines.append(
            f"- {_split(row.protocol)} (seed {row.seed}) lies {gap} from the first split that keeps nothing together."
        )
    return "\n".join(lines)
