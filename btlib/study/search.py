"""The search for the proposed network's recipe: configurations judged on validation slices, and the rule that picks one."""

import pandas as pd

from btlib import params
from btlib.study import judging, results

POINTING, ERASED, ELSEWHERE = 0.5, 0.7, 0.02
"""The rule of params/search.yaml: pointing at least so much, accuracy without the tumour below, and lost at most elsewhere."""


def trials(study: params.Study, plan: pd.DataFrame) -> pd.DataFrame:
    """Log every fitted configuration of the plan's ablation, and choose by the rule of params/search.yaml.

    Returns:
        A row a configuration, the best accuracy first, folds pooled: eligible says whether all folds are there and the
        rule is kept; chosen is the eligible one of best accuracy.
    """
    rows = []
    for setting, group in results.settings(plan):
        found = {fit.id: judging.judged(fit, study, "validation") for fit in group["fit"]}
        finished = {id: both for id, both in found.items() if both}
        if not finished:
            continue
        table, facts = pd.concat(t for t, _ in finished.values()), [f for _, f in finished.values()]
        scores = table[["right", "pointing", "right_erased", "right_elsewhere"]].mean()
        whole = table.loc[table["right_elsewhere"].notna(), "right"].mean()
        rests = scores["right_erased"] < ERASED and whole - scores["right_elsewhere"] <= ELSEWHERE
        eligible = bool(len(finished) == len(group) and scores["pointing"] >= POINTING and rests)
        minutes = round(sum(f["fit_seconds"] for f in facts) / 60, 1)
        words = ": ".join(setting) if setting[1] else "proposed"
        folds, commits = f"{len(finished)} of {len(group)}", " ".join(dict.fromkeys(f["commit"] for f in facts))
        rows.append((words, folds, len(table), *scores, eligible, False, minutes, " ".join(finished), commits))
    scores = ("accuracy", "pointing", "accuracy_erased", "accuracy_elsewhere")
    names = ["setting", "folds", "n_validation", *scores, "eligible", "chosen", "minutes", "fits", "commit"]
    log = pd.DataFrame(rows, columns=names).sort_values("accuracy", ascending=False, ignore_index=True)
    if log["eligible"].any():
        log.loc[log["eligible"].idxmax(), "chosen"] = True
    return log
