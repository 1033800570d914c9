"""One name for the scores of the study: `classification`, `resampling` and `calibration`."""

from btlib.calibration import (
    Scaling,
    accuracy_coverage,
    auroc,
    brier,
    cross_fit,
    ece,
    fit_temperature,
    known_scores,
    reliability,
    temperature_by_folds,
)
from btlib.classification import confusion, intervals, roc, scores, softmax, support
from btlib.resampling import (
    Difference,
    Interval,
    McNemar,
    Resamples,
    apart,
    compare,
    mcnemar,
    mean_interval,
    share,
    verdict,
    wilson,
)

__all__ = [
    *("Difference", "Interval", "McNemar", "Resamples", "Scaling"),
    *("accuracy_coverage", "apart", "auroc", "brier", "compare", "confusion", "cross_fit", "ece", "fit_temperature"),
    *("intervals", "known_scores", "mcnemar", "mean_interval", "reliability", "roc", "scores", "share", "softmax"),
    *("support", "temperature_by_folds", "verdict", "wilson"),
]
