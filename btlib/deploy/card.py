"""A published model's card: what it was fitted on, how well it does and where it fails, from the run's own numbers."""

import json
import re
from pathlib import Path

import pandas as pd
import yaml
from scipy import special

from btlib import home, params
from btlib.fitting import runs
from btlib.scores import calibration, classification, resampling
from btlib.study import results, sentences, tables

PERCENTILE = 1
"""A slice is called unlike the training slices if its energy is below this percentile of the held-out slices'."""

LICENCES = {"figshare": "CC BY 4.0 (doi 10.6084/m9.figshare.1512427)", "phantom": "none needed; made up on the spot"}
MEASURES = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "auc")

INTENDED = """## Intended use

- To check and to compare published claims about such classifiers; to try explanation, calibration and audits.
- Not for patients, not for screening, and not for slices without a tumour: it always names one of its classes."""


def fitted_temperature(run: runs.Run) -> float | None:
    """Return the temperature that fits a run's validation slices; None where there are none, or all are right.

    Used by `write`, `publish.facts_of`.
    """
    y, logits, _ = results.truth(run.predictions("validation"))
    return round(calibration.fit_temperature(logits, y), 6) if (logits.argmax(1) != y).any() else None


def said_of(run: runs.Run) -> str:
    """Name the slices that a run was fitted on, where a report here names them. Used by `publish.facts_of`."""
    study = _study_of(run)
    return sentences.said_of(study.data) if study else "slices that no report here names"


def write(run: runs.Run, facts) -> str:
    """Write a model card: Markdown with the front matter that Hugging Face reads.

    Args:
        run: finished.
        facts: `publish.Facts` of it.

    Used by `publish.write`.
    """
    fit, about, study = run.fit, run.provenance(), _study_of(run)
    source = study.data.source if study else "unknown"
    scores, level = _scores(run, study)
    front = yaml.safe_dump(_front(fit, facts, scores, source), sort_keys=False, allow_unicode=True).strip()
    phantom = ["**Fitted on made-up slices: it says nothing about patients.**"] if source == "phantom" else []
    macs = f"{about['macs']:,}" if about["macs"] is not None else "an unknown number of"
    y, logits, _ = results.truth(run.predictions("test"))
    measured = [
        (s.replace("_", " "), sentences.percent(*r)) for s, r in zip(scores.index, scores.to_numpy(), strict=True)
    ]
    columns = ["score on the test slices", f"value ({100 * level:g} % interval over patients)"]
    parts = [
        f"---\n{front}\n---",
        f"# {facts.name}",
        "**Not a medical device; for research only.** Nothing that it gives is fit for diagnosis or treatment.",
        *phantom,
        f"Tells {len(facts.classes)} classes of MR slices apart: {', '.join(facts.classes)}. {about['title']}; "
        f"{about['parameters']:,} parameters, {macs} multiply-adds a slice of {fit.preprocessing.image_size} pixels.",
        INTENDED,
        _data(fit, facts, about, source),
        f"## Scores\n\n{int((logits.argmax(1) == y).sum())} of {len(y)} test slices right.",
        pd.DataFrame(measured, columns=columns).to_markdown(index=False),
        *_elsewhere(run, study),
        _probabilities(run, facts),
        f"## Limits\n\n{_limits(source)}",
        _fitted(fit, about),
        f"## How to use it\n\n    python -m btlib predict {facts.name if ',' not in facts.name else run.id} SLICE.png",
        "## Cite\n\n`CITATION.cff` of this repository names the study, the paper that it reproduces and the data.",
    ]
    return "\n\n".join(parts) + "\n"


def _scores(run: runs.Run, study: params.Study | None) -> tuple[pd.DataFrame, float]:
    """Score, value, low, high of the test slices; and the level of the intervals."""
    y, logits, patients = results.truth(run.predictions("test"))
    s = (study or params.load("figshare")).statistics
    probabilities = classification.softmax(logits)
    resamples = resampling.Resamples(patients, s.bootstrap, s.level, run.fit.seed)
    scores = classification.intervals(y, probabilities, run.fit.classes, resamples).set_index("score")
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


def _data(fit: runs.Fit, facts, about: dict, source: str) -> str:
    lines = [
        "## Data",
        "",
        f"- {facts.data}, fingerprint {fit.data}. Licence: {LICENCES.get(source, 'that of the data, which is not known')}.",
        f"- {about['n_train']} slices to fit, {about['n_validation']} to validate, {about['n_test']} to test; split: "
        f"{fit.protocol}, fold {fit.fold}, seed {fit.seed}.",
    ]
    if fit.protocol.startswith("image_"):
        lines.append(
            "- Slices were split at random: patients of the test slices were seen in training. Expect less on others."
        )
    return "\n".join(lines)


def _probabilities(run: runs.Run, facts) -> str:
    """Say where the temperature and the limit of the energy come from."""
    y, logits, _ = results.truth(run.predictions("test"))
    validated = len(run.predictions("validation"))
    if facts.temperature is None:
        reason = "every validation slice was right" if validated else "it was fitted without validation slices"
        calibrated = f"- Not calibrated: {reason}, so no temperature could be fitted."
    else:
        own = facts.temperature == fitted_temperature(run)
        origin = "fitted on the validation slices" if own else "given by whoever published it"
        before, after = (calibration.ece(y, special.softmax(logits / t, axis=1)) for t in (1, facts.temperature))
        calibrated = (
            f"- Logits are divided by {facts.temperature:.4f} before softmax, {origin}. Calibration error (ECE) on the "
            f"test slices: {100 * before:.1f} points before, {100 * after:.1f} after."
        )
    slices = f"held-out slices ({f'{validated} of validation, ' if validated else ''}{len(y)} of test)"
    return "\n".join(
        [
            "## Probabilities and warnings",
            "",
            calibrated,
            f"- `predict` warns where the energy, log of the sum of exp(logits), is below {facts.energy:.3f}, as it is for "
            f"{PERCENTILE} of 100 {slices}, and where a picture is coloured. No warning is no proof: most slices "
            "without a tumour, and of other sequences, look familiar to such a test.",
        ]
    )


def _fitted(fit: runs.Fit, about: dict) -> str:
    made_with = (
        f"{about['hardware']} ({about['cores']} cores), Keras {about['versions']['keras']} on {about['backend']}"
    )
    return "\n".join(
        [
            "## How it was fitted",
            "",
            f"{about['fit_seconds']:.0f} s on {made_with}, commit {about['commit']}. Keras {about['versions']['keras']} or "
            "later loads it. All parameters:",
            "",
            "```json",
            fit.model_dump_json(indent=1),
            "```",
        ]
    )


def _study_of(run: runs.Run) -> params.Study | None:
    """The study that a run belongs to, by the reports that are kept; None where none names its data."""
    for path in sorted((home() / "reports").glob("*/provenance.json")):
        about = json.loads(path.read_text(encoding="utf-8"))
        if run.fit.data in [d["fingerprint"] for d in about["data"] if d["name"] == "data"]:
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
