"""A published model's card: what it was fitted on, how well it does and where it fails, from the run's own numbers."""

import contextlib
import json
import re
from pathlib import Path

import jinja2
import pandas as pd
import yaml

from btlib import ParamsError, home, params
from btlib.fitting import runs
from btlib.scores import calibration, classification, resampling
from btlib.study import results, sentences, tables

PERCENTILE = 1
"""A slice is called unlike the training slices if its energy is below this percentile of the held-out slices'."""

LICENCES = {"figshare": "CC BY 4.0 (doi 10.6084/m9.figshare.1512427)", "phantom": "none needed; made up on the spot"}
MEASURES = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "auc")


def fitted_temperature(run: runs.Run) -> float | None:
    """Return the temperature that fits `calibrated_on`; None where there are no such slices, or all are right."""
    y, logits, _ = results.truth(calibrated_on(run))
    return round(calibration.fit_temperature(logits, y), 6) if (logits.argmax(1) != y).any() else None


def calibrated_on(run: runs.Run) -> pd.DataFrame:
    """Return predictions of slices that the predicting fit did not learn from, nor this run's test part holds.

    A run's validation slices; where it has none, as it trained on everything outside its test part, the test slices of the
    fits of its split's other folds, as far as they were made here.
    """
    slices = run.predictions("validation")
    others = () if len(slices) else range(run.fit.split.folds)
    folds = [runs.load(run.fit.model_copy(update={"fold": k})) for k in others if k != run.fit.fold]
    return pd.concat([slices, *(fold.predictions("test") for fold in folds if fold)])


def said_of(run: runs.Run) -> str:
    """Name the slices that a run was fitted on, where a report here names them."""
    study = _study_of(run)
    return sentences.said_of(study.data) if study else "slices that no report here names"


def write(run: runs.Run, facts) -> str:
    """Write a model card: Markdown with the front matter that Hugging Face reads.

    Args:
        run: finished.
        facts: `publish.Facts` of it.
    """
    study = _study_of(run)
    source = study.data.source if study else "unknown"
    scores, level = _scores(run, study)
    names = ["score on the test slices", f"value ({100 * level:g} % interval over patients)"]
    measured = [
        (row.Index.replace("_", " "), sentences.percent(row.value, row.low, row.high)) for row in scores.itertuples()
    ]
    y, logits, _ = results.truth(run.predictions("test"))
    errors = [calibration.ece(y, classification.softmax(logits / t)) for t in (1, facts.temperature or 1)]
    text = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    template = jinja2.Template(
        text, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return template.render(
        run=run,
        fit=run.fit,
        facts=facts,
        about=run.provenance(),
        source=source,
        front=yaml.safe_dump(_front(run.fit, facts, scores, source), sort_keys=False, allow_unicode=True).strip(),
        licences=LICENCES,
        right=int((logits.argmax(1) == y).sum()),
        scores=pd.DataFrame(measured, columns=names).to_markdown(index=False),
        elsewhere=_elsewhere(run, study),
        fitted=fitted_temperature(run),
        validated=len(run.predictions("validation")),
        calibrated=len(calibrated_on(run)),
        before=100 * errors[0],
        after=100 * errors[1],
        percentile=PERCENTILE,
        limits=_limits(source),
    )


def _scores(run: runs.Run, study: params.Study | None) -> tuple[pd.DataFrame, float]:
    """Score, value, low, high of the test slices; and the level of the intervals."""
    y, logits, patients = results.truth(run.predictions("test"))
    s = (study or params.load("figshare")).statistics
    resamples = resampling.Resamples(patients, s.bootstrap, s.level, run.fit.seed)
    scores = classification.intervals(y, classification.softmax(logits), run.fit.classes, resamples).set_index("score")
    names = [*MEASURES, *(f"recall_{c}" for c in run.fit.classes)]
    return scores.loc[[name for name in names if name in scores.index], ["value", "low", "high"]], s.level


def _front(fit: runs.Fit, facts, scores: pd.DataFrame, source: str) -> dict:
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": f"{facts.data}, {fit.protocol} fold {fit.fold}, test", "type": source},
        "metrics": [{"type": m, "value": round(float(scores.loc[m, "value"]), 6)} for m in ("accuracy", "f1")],
    }
    return {
        "license": "apache-2.0",
        "language": ["en"],
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["medical", "mri", "brain-tumor", *(["made-up-data"] if source == "phantom" else [])],
        "metrics": ["accuracy", "f1"],
        "model-index": [{"name": facts.name, "results": [result]}],
    }


def _study_of(run: runs.Run) -> params.Study | None:
    """The study that a run belongs to, by the reports that are kept; None where none names its data."""
    for pattern in ("*/provenance.json", "*/predictions/provenance.json"):
        for path in sorted((home() / "reports").glob(pattern)):
            about = json.loads(path.read_text(encoding="utf-8"))
            sets = about["data"] if isinstance(about["data"], list) else [about["data"] | {"name": "data"}]
            if run.fit.data in [d["fingerprint"] for d in sets if d["name"] == "data"]:
                with contextlib.suppress(ParamsError):  # a report of earlier code may say what is no study any more
                    return params.check(about["parameters"], str(path))
    return None


def _elsewhere(run: runs.Run, study: params.Study | None) -> list[str]:
    """Say how the study's proposed model does on its external set; nothing for any other run."""
    if study is None or not study.external:
        return []
    seed = study.comparison.seeds[0]
    if runs.fit_of(study, run.fit.data, study.proposed, study.comparison.protocol, 0, seed) != run.fit:
        return []
    clean = tables.read(study.profile, "cross_dataset").query("slices == 'clean' and augmentation == 'none' and n > 0")
    return [
        f"On {row.n} slices of {sentences.said_of(study.external[row.set])} that are no copies of its own: accuracy "
        f"{sentences.percent(row.accuracy, row.accuracy_low, row.accuracy_high)}."
        for row in clean.itertuples()
    ]


def _limits(source: str) -> str:
    """The report's limitations that touch a model: of its data where these are Figshare's, and of the task."""
    text = (Path(__file__).resolve().parents[1] / "site" / "limitations.md").read_text(encoding="utf-8")
    titles = ["The data", "The task"] if source == "figshare" else ["The task"]
    sections = (re.search(rf"^## {title}\n\n(.*?)(?=^## )", text, re.M | re.S) for title in titles)
    bullets = [bullet for section in sections for bullet in section[1].strip().splitlines()]
    return "\n".join(bullet for bullet in bullets if not bullet.startswith("- **Made-up slices"))
