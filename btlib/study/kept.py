"""What the repository keeps of fits: predictions, from which tables that need no pixel come again, and where they were made."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from btlib import DataError, files, params
from btlib.data import datasets
from btlib.fitting import runs
from btlib.study import results, tables

TEXT = ("image_id", "role", "label", "patient_id", "patient_group", "plane")


@dataclass(frozen=True)
class KeptRun(runs.Run):
    """A fit of which the repository keeps what it predicted and how it was made, and neither model nor history."""

    facts: dict = field(default_factory=dict)
    """Its entry in provenance.json."""

    def predictions(self, role: str | None = None) -> pd.DataFrame:
        """Return the kept predictions, columns and `role` as in `runs.Run.predictions`."""
        path = self.folder / f"{self.id}.csv"
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False)
        return table if role is None else table[table["role"] == role].reset_index(drop=True)

    def provenance(self) -> dict:
        """Return where, when and with what it was fitted."""
        return {key: value for key, value in self.facts.items() if key != "id"}


def keep(study: params.Study) -> list[str]:
    """Keep the predictions and provenance of every planned fit that is finished here.

    What was kept of other planned fits stays; what is planned no longer goes.

    Args:
        study: the parameters; its data must be there, as the ids of its fits depend on them.

    Returns:
        Ids of all kept fits, in the plan's order. In reports/<profile>/predictions lie <id>.csv, logits to seven
        significant digits, and provenance.json: parameters, data, and where each was fitted. Tables of a report, which may
        be of earlier fits, have a provenance of their own.

    Raises:
        DataError: a fit comes from code that was not committed; nothing is written then.
    """
    fingerprint, path = datasets.fingerprint(study.data), _provenance(study)
    fits = runs.plan(study, fingerprint).drop_duplicates("id").set_index("id")["fit"]
    finished = {id: run for id, fit in fits.items() if (run := runs.load(fit)) is not None}
    about = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    facts = {f["id"]: f for f in about.get("fits", []) if f["id"] in fits and _predictions(study, f["id"]).exists()}
    facts |= {id: {"id": id, **run.provenance()} for id, run in finished.items()}
    facts = {id: facts[id] for id in fits.index if id in facts}
    _check_commits(path, facts)
    for id, run in finished.items():
        with files.replacing(_predictions(study, id)) as temporary:
            run.predictions().to_csv(temporary, index=False, float_format="%.7g", lineterminator="\n")
    data = {"source": study.data.source, "path": study.data.path, "fingerprint": fingerprint}
    about = {"profile": study.profile, "parameters": study.model_dump(mode="json"), "data": data}
    files.write_text(path, json.dumps(about | {"fits": [*facts.values()]}, indent=2) + "\n")
    for file in _predictions(study, "x").parent.glob("[!.]*.csv"):
        if file.stem not in facts:
            file.unlink()
    return [*facts]


def read(study: params.Study) -> pd.DataFrame:
    """Return the study's plan with a column `run`, a `KeptRun` each: `results` computes its tables from it.

    Args:
        study: the parameters, for example `params.load("figshare")`; its data need not be there.

    Returns:
        The columns of `runs.plan` and run; None for a fit that is planned and not kept yet.

    Raises:
        DataError: nothing is kept; a kept fit is not planned, or comes from code that was not committed; its predictions
            or its provenance is missing.
    """
    path = _provenance(study)
    if not path.exists():
        raise DataError(f"{path}: nothing is kept of profile {study.profile} yet")
    about = json.loads(path.read_text(encoding="utf-8"))
    facts = {f["id"]: f for f in about["fits"]}
    plan = runs.plan(study, about["data"]["fingerprint"])
    if strangers := [id for id in facts if id not in set(plan["id"])]:
        raise DataError(
            f"{path}: kept fits that {study.profile} does not plan: {', '.join(strangers)}; allowed: the ids of "
            "`python -m btlib plan`, which depend on the parameters and on Keras's version"
        )
    _check_commits(path, facts)
    folder = _predictions(study, "x").parent
    lying = {file.stem for file in folder.glob("[!.]*.csv")}
    if lost := sorted(lying ^ set(facts)):
        missing = "provenance" if lost[0] in lying else "predictions"
        raise DataError(f"{folder / lost[0]}.csv: no {missing} of this fit; allowed: both or neither")
    kept = [KeptRun(fit, folder, facts[fit.id]) if fit.id in facts else None for fit in plan["fit"]]
    return plan.assign(run=pd.Series(kept, plan.index, dtype=object))


def reproduced(study: params.Study, fingerprint: str) -> pd.DataFrame:
    """Compare fits made here with what the study keeps of the very same fits, made at another time or place.

    Args:
        study: the parameters.
        fingerprint: of the data set, `datasets.fingerprint`.

    Returns:
        A row a fit: accuracy found here, kept with its interval, inside (whether the first lies in it), and alike, the share
        of test slices that both call the same. Also written to reports/<profile>/reproduced.csv, whose rows of other
        machines and backends stay.

    Raises:
        DataError: the study keeps no fits, or no fit made here stands beside a kept one.
    """
    plan, compared = runs.plan(study, fingerprint), []
    kept = {run.id: run for run in read(study)["run"].dropna()}
    for fit in plan.drop_duplicates("id")["fit"]:
        run, other = runs.load(fit), kept.get(fit.id)
        if run is None or other is None or other.facts | run.provenance() == other.facts:  # the one that is kept
            continue
        ours, theirs = (each.predictions("test").sort_values("image_id", ignore_index=True) for each in (run, other))
        y, logits, _ = results.truth(ours)
        predicted = logits.argmax(1)
        accuracy, (before, low, high) = float(np.mean(predicted == y)), results.mean_right(study, theirs)
        alike = float(np.mean(predicted == results.truth(theirs)[1].argmax(1)))
        numbers = len(y), accuracy, before, low, high, low <= accuracy <= high, alike
        made = [facts[key] for facts in (run.provenance(), other.facts) for key in ("hardware", "backend", "commit")]
        compared.append((fit.id, fit.model, fit.protocol, fit.fold, fit.seed, *numbers, *made))
    if not compared:
        raise DataError(
            f"{_provenance(study)}: lists no fit that was made here again; `python -m btlib fit` makes them, or one of them"
        )
    names = ["id", "model", "protocol", "fold", "seed", "n_test", "accuracy", "kept", "kept_low", "kept_high", "inside"]
    names += ["alike", "hardware", "backend", "commit", "kept_hardware", "kept_backend", "kept_commit"]
    result, path = pd.DataFrame(compared, columns=names), tables.folder(study.profile) / "reproduced.csv"
    if path.exists():
        result = pd.concat([pd.read_csv(path, dtype={"id": str}), result])
        result = result.drop_duplicates(["id", "hardware", "backend"], keep="last")
    with files.replacing(path) as temporary:
        result.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    return result.reset_index(drop=True)


def _provenance(study: params.Study) -> Path:
    return tables.folder(study.profile) / "predictions" / "provenance.json"


def _predictions(study: params.Study, id: str) -> Path:
    return tables.folder(study.profile) / "predictions" / f"{id}.csv"


def _check_commits(path: Path, facts: dict[str, dict]) -> None:
    for id, entry in facts.items():
        if entry["commit"].endswith("+changes"):
            raise DataError(
                f"{path}: fit {id} ({entry['title']}) comes from uncommitted code ({entry['commit']}); allowed: a fit of "
                "a commit. Remove its run and fit it again"
            )
