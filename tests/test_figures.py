"""Figures show the numbers of their tables: what is drawn is read back from the artists."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from btlib import CLASSES
from btlib.figures import draw as figures
from btlib.scores import metrics

Y = np.array([0, 0, 0, 1, 1, 1, 2, 2])
LOGITS = np.array([[4, 0, 0], [2, 1, 0], [0, 1, 0], [0, 3, 0], [0, 5, 1], [1, 2, 0], [0, 0, 2], [0, 1, 3.0]])
PROBABILITIES = metrics.softmax(LOGITS)
INTERVALS = metrics.intervals(Y, PROBABILITIES, CLASSES, metrics.Resamples(np.arange(8) // 2, 50, 0.95, 0))

MODELS = pd.DataFrame(
    {
        "model": ["efficientnet_lite0", "efficientnet_lite0", "vgg16", "my_model"],
        "weights": ["imagenet", None, None, None],
        "protocol": ["image_holdout", "image_holdout", "group_holdout", "author_folds"],
        "seed": ["0", "1", "0", "0"],
        "image_size": [160, 160, 160, 160],
        "accuracy": [0.98, 0.90, 0.88, 0.91],
        "accuracy_low": [0.96, 0.87, 0.85, 0.88],
        "accuracy_high": [0.99, 0.93, 0.91, 0.94],
        "parameters": [3.4e6, 3.4e6, 14.7e6, 3.5e6],
        "macs": [0.2e9, 0.2e9, 7.8e9, 0.3e9],
    }
)
HISTORY = pd.DataFrame(
    {
        "stage": ["head", "head", "all"],
        "epoch": [1, 2, 3],
        "loss": [1.0, 0.5, 0.4],
        "accuracy": [0.5, 0.8, 0.9],
        "val_loss": [1.1, 0.7, 0.6],
        "val_accuracy": [0.4, 0.7, 0.8],
        "learning_rate": [1e-3, 1e-3, 1e-4],
    }
)
ABLATION = pd.DataFrame(
    {
        "factor": ["pooling", "pooling", "dropout", "dropout"],
        "setting": ["gap", "gmp", "0.0", "0.3"],
        "seeds": [3, 3, 3, 3],
        "accuracy": [0.97, 0.95, 0.96, 0.97],
        "accuracy_low": [0.96, 0.93, 0.95, 0.96],
        "accuracy_high": [0.98, 0.96, 0.97, 0.98],
        "proposed": [True, False, False, True],
    }
)
CLAIMS = pd.DataFrame(
    {
        "claim": ["accuracy, slices at random", "fewer parameters"],
        "paper": [0.9935, np.nan],
        "ours": [0.98, np.nan],
        "low": [0.96, np.nan],
        "high": [0.99, np.nan],
        "verdict": ["lower", "holds"],
        "data": ["figshare", ""],
    }
)
COVERAGE = metrics.accuracy_coverage(Y, PROBABILITIES)
RELIABILITY = metrics.reliability(Y, PROBABILITIES)

DRAWN = {
    "learning_curves": lambda: figures.learning_curves(HISTORY),
    "confusion_matrix": lambda: figures.confusion_matrix(metrics.confusion(Y, PROBABILITIES.argmax(axis=1), CLASSES)),
    "roc_curves": lambda: figures.roc_curves(metrics.roc(Y, PROBABILITIES, CLASSES), INTERVALS),
    "accuracy_against": lambda: figures.accuracy_against(MODELS, "macs"),
    "per_class_bars": lambda: figures.per_class_bars(INTERVALS.assign(model="vgg16", weights=None)),
    "ablation": lambda: figures.ablation(ABLATION),
    "leakage": lambda: figures.leakage(MODELS),
    "claims": lambda: figures.claims(CLAIMS),
    "reliability_diagram": lambda: figures.reliability_diagram(RELIABILITY, RELIABILITY, 1.5),
    "accuracy_coverage": lambda: figures.accuracy_coverage(COVERAGE),
}


def texts(axis):
    return [t.get_text() for t in axis.texts]


def points(axis):
    """Return each marker line's face colour and its x and y."""
    return {
        line.get_label(): (
            line.get_markerfacecolor(),
            np.asarray(line.get_xdata(), float),
            np.asarray(line.get_ydata(), float),
        )
        for line in axis.lines
        if line.get_marker() not in ("None", "", "|", "_")
    }


def spans(axis, direction):
    """Return the interval bars that run along x (0) or y (1), as low and high."""
    found = []
    for group in axis.containers:
        for lines in getattr(group, "lines", [None, None, ()])[2]:
            found += [tuple(segment[:, direction]) for segment in lines.get_segments()]
    return found


@pytest.mark.parametrize("name", DRAWN)
def test_figure_renders_quietly_and_pyplot_forgets_it(name):
    figures.use_theme()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = DRAWN[name]()
        figure.canvas.draw()
    assert isinstance(figure, Figure)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", DRAWN)
def test_every_axis_that_is_measured_says_of_what(name):
    figures.use_theme()
    figure = DRAWN[name]()
    for axis in figure.axes:
        shared = axis.get_subplotspec() and not axis.get_subplotspec().is_last_row()
        assert axis.get_xlabel() or shared or axis.get_label() == "<colorbar>"
    assert any(axis.get_ylabel() or len(axis.get_yticklabels()) for axis in figure.axes)


def test_learning_curves_mark_where_a_stage_begins():
    loss, accuracy, rate = figures.learning_curves(HISTORY).axes
    assert loss.lines[0].get_ydata().tolist() == [1.0, 0.5, 0.4]
    assert accuracy.lines[1].get_ydata().tolist() == pytest.approx([40, 70, 80])
    assert [line.get_xdata()[0] for line in loss.lines if line.get_linestyle() == ":"] == [2.5]
    assert rate.get_yscale() == "log"


def test_confusion_matrix_shows_counts_and_row_percentages():
    table = metrics.confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2]), CLASSES)
    axis = figures.confusion_matrix(table).axes[0]
    assert texts(axis)[:3] == ["1\n50.0 %", "1\n50.0 %", "0\n0.0 %"]
    both = figures.confusion_matrix(pd.concat([table.assign(model="vgg16"), table.assign(model="mine")]))
    assert [a.get_title() for a in both.axes[:2]] == ["VGG16", "mine"]


def test_roc_curves_give_the_area_and_its_interval():
    figure = figures.roc_curves(metrics.roc(Y, PROBABILITIES, CLASSES), INTERVALS)
    shown = [t.get_text() for t in figure.legends[0].get_texts()]
    row = INTERVALS.set_index("score").loc["auc_glioma"]
    assert f"glioma: {row.value:.4f} ({row.low:.4f} to {row.high:.4f})" in shown
    assert len(shown) == 3


def test_growth_draws_the_points_and_states_the_slope():
    n = np.array([500, 1000, 2000, 4000])
    table = pd.DataFrame({"slices": n, "prepare_seconds": n / 500, "cache_mb": n / 125, "epoch_seconds": 5 + n / 100})
    figure = figures.growth(table.assign(peak_mb=1700 + n / 100))
    line, points = figure.axes[2].lines
    assert points.get_xydata().tolist() == [[0.5, 10], [1, 15], [2, 25], [4, 45]]
    np.testing.assert_allclose(line.get_ydata(), points.get_ydata())
    assert [a.get_title().split()[0] for a in figure.axes] == ["+2", "+8", "+10", "+10"]


def test_accuracy_against_fills_pretrained_models_only():
    axis = figures.accuracy_against(MODELS, "parameters").axes[0]
    found = points(axis)
    face, x, y = found["ImageNet weights"]
    assert (face, x.tolist(), y.tolist()) == ("#0072B2", [3.4], [98])
    face, x, _ = found["random initialisation"]
    assert face == "white" and x.tolist() == pytest.approx([3.4, 14.7, 3.5])
    assert (96, 99) in [pytest.approx(span) for span in spans(axis, 1)]
    assert sorted(texts(axis)) == ["EfficientNet-Lite0", "EfficientNet-Lite0", "VGG16", "my_model"]
    smaller = figures.accuracy_against(MODELS.assign(image_size=[160, 160, 96, 160])).axes[0]
    assert {"VGG16, 96 px", "my_model, 160 px"} <= set(texts(smaller))


def test_names_beside_points_do_not_cover_each_other():
    figures.use_theme()
    crowd = pd.concat(
        [
            MODELS.assign(accuracy=MODELS["accuracy"] - d, parameters=MODELS["parameters"] * (1 + 5 * d))
            for d in (0, 0.01)
        ]
    )
    figure = figures.accuracy_against(crowd)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not [(i, j) for i, a in enumerate(boxes) for j, b in enumerate(boxes) if i < j and a.overlaps(b)]


def test_per_class_bars_are_as_long_as_their_scores():
    table = pd.concat([INTERVALS.assign(model="vgg16"), INTERVALS.assign(model="mine", value=0.5)])
    axes = figures.per_class_bars(table).axes
    expected = metrics.scores(Y, PROBABILITIES, CLASSES)
    for axis, score in zip(axes, ("precision", "recall", "f1"), strict=True):
        bars = [group for group in axis.containers if hasattr(group, "patches")]
        for label, group in zip(CLASSES, bars, strict=True):
            assert [bar.get_width() for bar in group.patches] == pytest.approx([100 * expected[f"{score}_{label}"], 50])
        assert axis.get_xlim()[0] == 0


def test_ablation_draws_intervals_and_the_proposed_model():
    axis = figures.ablation(ABLATION).axes[0]
    assert [pytest.approx(s) for s in [(96, 98), (93, 96)]] == spans(axis, 0)[:2]
    face, x, _ = points(axis)["proposed model"]
    assert face == "white" and x.tolist() == [97, 97]
    assert "3 seeds" in axis.get_xlabel()
    assert figures.ablation(ABLATION.assign(seeds=1)).axes[0].get_xlabel().endswith("1 seed")


def test_leakage_draws_the_papers_line_and_orders_protocols():
    pooled = MODELS.iloc[:1].assign(seed="all", accuracy=0.5)
    axis = figures.leakage(pd.concat([MODELS, pooled])).axes[0]
    assert "paper: 99.35 %" in texts(axis)
    assert [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == "--"] == pytest.approx([99.35])
    assert "94.0 %\nmean of 2" in texts(axis)
    assert axis.get_yticklabels()[0].get_text().startswith("slices at random")
    assert len(axis.get_yticklabels()) == 3


def test_claims_without_numbers_are_left_out():
    axis = figures.claims(CLAIMS).axes[0]
    found = points(axis)
    assert found["paper"][1].tolist() == pytest.approx([99.35])
    assert found["this study, with interval"][1].tolist() == [98]
    assert spans(axis, 0) == [pytest.approx((96, 99))]
    assert texts(axis) == ["lower"]


def test_reliability_diagram_states_the_error_of_its_tables():
    figure = figures.reliability_diagram(RELIABILITY, RELIABILITY, 1.5)
    shown = 100 * metrics.ece(Y, PROBABILITIES)
    assert figure.axes[0].get_title() == f"before: ECE {shown:.1f} points"
    assert figure.axes[1].get_title() == f"after, T = 1.50: ECE {shown:.1f} points"


def test_accuracy_coverage_draws_each_set():
    two = pd.concat([COVERAGE.assign(set="ours"), COVERAGE.assign(set="external")])
    axis = figures.accuracy_coverage(two).axes[0]
    assert [t.get_text() for t in axis.get_legend().get_texts()] == ["ours", "external"]
    assert axis.lines[0].get_ydata()[-1] == pytest.approx(100 * 7 / 8)


def test_a_learning_rate_that_ends_at_zero_is_drawn_without_a_warning(recwarn):
    history = pd.DataFrame(
        {"stage": 0, "epoch": [0, 1], "loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5}
    )
    for rates in ([0.1, 0.0], [0.0, 0.0]):
        figures.learning_curves(history.assign(learning_rate=rates)).canvas.draw()
    assert not [w for w in recwarn if "log" in str(w.message)]


def test_a_model_with_another_recipe_is_named_with_it():
    given = {"number": 0, "step": "head", "score": "ssim", "mean": 0.5, "low": 0.4, "high": 0.6}
    drawn = figures.gradcam_cascade(
        pd.DataFrame([{"model": name, **given} for name in ("vgg16", "vgg16/shorter", "mine")])
    )
    assert [text.get_text() for text in drawn.axes[0].get_legend().get_texts()] == ["VGG16", "VGG16, shorter", "mine"]
