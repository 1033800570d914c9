"""What the data say about the network: whether it reads a slice's source, what it bears, and which labels to look at again."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from btlib import params
from btlib.data import datasets
from btlib.fitting import batches, runs
from btlib.scores import classification
from btlib.scores import robustness as changes
from btlib.study import results

LABEL, SOURCE = "glioma", "MR"
"""Gliomas of the Figshare set come with two kinds of patient ids: MR040240 and others; no other class has one with MR."""


def sources(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Return sources.csv: recall and mean probability of gliomas whose id begins with MR, of others, and the gap.

    Intervals resample patients. No row for a protocol whose gliomas have ids of one kind.
    """
    rows = []
    for (protocol, seed), table in results.pooled(plan).items():
        classes = results.classes_of(table)
        group = table[table["label"] == LABEL]
        mr = group["patient_id"].str.startswith(SOURCE).to_numpy()
        if not mr.any() or mr.all():
            continue
        y, logits, patients = results.truth(group)
        values = (logits.argmax(1) == y).astype(float), classification.softmax(logits)[:, classes.index(LABEL)]
        for ids, of in (("MR", mr), ("other", ~mr)):
            resamples = results.resamples(study, patients[of])
            scores = [number for v in values for number in resamples.mean(v[of])]
            rows.append((protocol, seed, ids, int(of.sum()), len(set(patients[of])), *scores))
        resamples = results.resamples(study, patients)
        gaps = [resamples.difference(np.where(mr, v, np.nan), np.where(mr, np.nan, v))[:3] for v in values]
        rows.append((protocol, seed, "difference", len(y), len(set(patients)), *gaps[0], *gaps[1]))
    scores = [f"{score}{end}" for score in ("recall", "confidence") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["protocol", "seed", "ids", "n", "patients", *scores])


def source_classifier(study: params.Study, data: datasets.Dataset) -> pd.DataFrame:
    """Return source_classifier.csv: can a logistic regression tell the source of a glioma from 16 x 16 pixels of it?

    Slices of `LABEL` alone, patient groups apart, so that neither the class nor the patient can give the answer away.
    No row where the gliomas have ids of one kind.
    """
    from PIL import Image
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = np.flatnonzero(data.manifest["label"] == LABEL)
    about = data.manifest.iloc[rows]
    mr = about["patient_id"].str.startswith(SOURCE).to_numpy()
    names = ["n", "n_mr", "patients", "auroc", "low", "high", "balanced_accuracy"]
    if not mr.any() or mr.all():
        return pd.DataFrame(columns=names)
    shrunk = (
        Image.fromarray(data.images[int(row)]).convert("F").resize((16, 16), Image.Resampling.BOX) for row in rows
    )
    features = np.stack([np.ravel(image) for image in shrunk])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000, class_weight="balanced"))
    apart = StratifiedGroupKFold(5, shuffle=True, random_state=study.seed)
    groups = about["patient_group"]
    belief = cross_val_predict(model, features, mr, groups=groups, cv=apart, method="predict_proba")[:, 1]
    patients = about["patient_id"].to_numpy()
    auroc = results.told_apart(study, mr, belief, patients)
    row = (len(mr), int(mr.sum()), len(set(patients)), *auroc, balanced_accuracy_score(mr, belief > 0.5))
    return pd.DataFrame([row], columns=names)


def robustness(study: params.Study, fitted: Mapping[str, runs.Run], data: datasets.Dataset, most: int) -> pd.DataFrame:
    """Return robustness.csv: accuracy of fitted networks on their test slices as these are spoiled, the same way for all.

    Args:
        study: its seed draws noise and the side that a bias field darkens.
        fitted: name for people -> run, all of one split.
        data: the slices, prepared as these runs were.
        most: how many test slices, taken evenly.

    loss is from the same network's slices as they are, difference from the first network's slices spoiled alike.
    """
    tested = next(iter(fitted.values())).predictions("test").sort_values("image_id", ignore_index=True)
    shown = tested.iloc[np.unique(np.linspace(0, len(tested) - 1, min(most, len(tested))).astype(int))]
    row_of = pd.Series(np.arange(len(data.manifest)), data.manifest["image_id"])
    images = np.stack([data.images[int(row)] for row in row_of.loc[shown["image_id"]]])
    models = {name: run.model() for name, run in fitted.items()}
    resamples = results.resamples(study, shown["patient_id"].to_numpy())

    def right(spoiled):
        """Whether each slice is named rightly, by network."""
        said = {name: batches.predict(model, spoiled).argmax(1) for name, model in models.items()}
        return {name: np.array(fitted[name].fit.classes)[k] == shown["label"].to_numpy() for name, k in said.items()}

    whole, rows = right(images), []
    for change in changes.CHANGES:
        for strength in (0, *changes.STRENGTHS):
            found = right(changes.changed(images, change, strength, study.seed)) if strength else whole
            first = next(iter(found.values()))
            for name, now in found.items():
                loss, gap = resamples.difference(whole[name], now)[:3], resamples.difference(now, first)[:3]
                rows.append((name, change, strength, len(shown), *resamples.mean(now), *loss, *gap))
    scores = [f"{score}{end}" for score in ("accuracy", "loss", "difference") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["network", "change", "strength", "n", *scores])


def second_look(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return second_look.csv: slices whose out-of-fold probabilities contradict their label (confident learning).

    The rule: a class's threshold is the mean probability of that class among the slices that are labelled with it. A slice
    is counted for the classes whose thresholds its probabilities reach, for the most probable of them if there are several.
    A slice counted for another class than its label is listed; ordered by its label's probability less the largest other.

    Args:
        predictions: of slices that did not train the network that predicted them, all folds together (`results.pooled`).

    Source: Northcutt, Jiang and Chuang 2021, J. Artif. Intell. Res. 70, eq. 1 and 2.
    """
    classes = np.array(results.classes_of(predictions))
    y, logits, _ = results.truth(predictions)
    p = classification.softmax(logits)
    thresholds = np.array([p[y == c, c].mean() if (y == c).any() else np.inf for c in range(len(classes))])
    reached = np.where(p >= thresholds, p, -1)
    suggested = np.where(reached.max(1) >= 0, reached.argmax(1), y)
    own = p[np.arange(len(y)), y]
    others = np.where(np.eye(len(classes), dtype=bool)[y], -1, p).max(1)
    table = predictions[["image_id", "patient_id", "label"]].assign(
        suggested=classes[suggested], p_label=own, p_suggested=p[np.arange(len(y)), suggested], margin=own - others
    )
    return table[suggested != y].sort_values("margin", ignore_index=True)
