"""One name for the scores of the study: `classification`, `resampling` and `calibration`."""

from btlib.scores.calibration import (  # noqa: F401
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
from btlib.scores.classification import confusion, intervals, roc, scores, softmax, support  # noqa: F401
from btlib.scores.resampling import (  # noqa: F401
    ALIKE,
    Difference,
    Interval,
    McNemar,
    Resamples,
    apart,
    compare,
    mcnemar,
    mean_interval,
    mean_intervals,
    share,
    verdict,
    wilson,
)
