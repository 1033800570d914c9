"""Figures show the numbers of their tables: what is drawn is read back from the artists. All numbers are made up."""

import ast
import inspect
import os
import re
import warnings
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml

from btlib.figures import claims, data, external, gradcam, learning, performance, theme

ROOMS = (data, learning, performance, gradcam, external, claims)
CLASSES = ("meningioma", "glioma", "pituitary", "no_tumor")


def rows(columns, *values):
    return pd.DataFrame(list(values), columns=columns.split())


def spread(table, of="value"):
    """Give a column an interval of 2 points to each side."""
    return table.assign(low=(table[of] - 0.02).clip(0, 1), high=(table[of] + 0.02).clip(0, 1))


MODELS = rows(
    "model weights protocol seed fold image_size accuracy accuracy_low accuracy_high parameters macs",
    ("efficientnet_lite0", "imagenet", "image_holdout", "0", 0, 160, 0.98, 0.96, 0.99, 3.4e6, 0.2e9),
    ("efficientnet_lite2", "imagenet", "image_holdout", "1", 0, 160, 0.90, 0.87, 0.93, 4.8e6, 0.4e9),
    ("vgg16", "random", "group_holdout", "0", 0, 160, 0.88, 0.85, 0.91, 14.7e6, 7.8e9),
    ("my_model", "random", "author_folds", "0", 0, 160, 0.91, 0.88, 0.94, 3.5e6, 0.3e9),
)
HISTORY = rows(
    "stage epoch loss accuracy val_loss val_accuracy learning_rate",
    ("head", 1, 1.0, 0.5, 1.1, 0.4, 1e-3),
    ("head", 2, 0.5, 0.8, 0.7, 0.7, 1e-3),
    ("all layers, 160 px", 3, 0.4, 0.9, 0.6, 0.8, 1e-4),
)
ABLATION = rows(
    "change backend fits epochs accuracy difference difference_low difference_high proposed",
    ("none", "jax", 3, 4, 0.97, np.nan, np.nan, np.nan, True),
    ("no guide, global max pooling", "jax", 3, 4, 0.95, -0.02, -0.04, 0.0, False),
    ("head alone", "tensorflow", 3, 4, 0.88, -0.09, -0.12, -0.06, False),
)
CHANGES = rows(
    "change grid proposed pointing pointing_low pointing_high energy energy_low energy_high accuracy_erased accuracy_erased_low accuracy_erased_high",
    ("none: the proposed network", "10 x 10", True, 0.6, 0.5, 0.7, 0.3, 0.2, 0.4, 0.7, 0.6, 0.8),
    ("output stride 32", "5 x 5", False, 0.4, 0.3, 0.5, 0.1, 0.05, 0.2, 0.75, 0.7, 0.8),
)
CLAIMS = rows(
    "claim paper ours low high verdict data",
    ("Accuracy on test slices, slices at random", 0.9935, 0.98, 0.96, 0.99, "not reached", "figshare"),
    ("Fewer parameters than VGG16", np.nan, np.nan, np.nan, np.nan, "holds", ""),
)
LADDER = rows(
    "group row value low high n wrong unit",
    ("The paper", "As printed", 0.9935, 0.9833, 0.9975, 613, 4, "slices"),
    ("Slices at random", "Seed 0", 0.9918, 0.981, 0.998, 613, 5, "slices"),
    ("Slices at random", "Seed 1", 0.9739, 0.957, 0.987, 613, 16, "slices"),
    ("Patients apart", "The author's folds", 0.951, 0.932, 0.967, 3064, 150, "slices"),
    ("Patients apart", "Patient groups, folds", 0.945, 0.922, 0.963, 3064, 169, "slices"),
    ("Patients apart", "Patient groups, each patient voted", 0.962, 0.93, 0.98, 233, 9, "patients"),
    ("A second set", "As downloaded", 0.9867, 0.981, 0.991, 2475, 33, "slices"),
    ("A second set", "Without its copies", 0.69, 0.64, 0.74, 853, 264, "slices"),
)
FLOW = rows(
    "part patients slices",
    ("In the study", 233, 3064),
    ("Training (306 to validate)", 232, 2757),
    ("Tested", 1, 307),
)
SPLITS = rows(
    "protocol seed n_test slices_of_crossing_patients test_near_identical",
    ("group_folds", 0, 200, 0, 4),
    ("image_holdout", 0, 100, 99, 20),
    ("image_holdout", 1, 100, 97, 22),
)
CONFUSION = rows(
    "protocol label predicted n share",
    *[
        (p, a, b, n if a == b else m, (n if a == b else m) / (n + 2 * m))
        for p, n, m in (("image_holdout", 96, 2), ("group_folds", 80, 10))
        for a in CLASSES[:3]
        for b in CLASSES[:3]
    ],
)
PER_CLASS = spread(
    rows(
        "protocol model weights score value support",
        *[
            (p, "vgg16", "imagenet", f"{s}_{c}", v - 0.01 * i - 0.02 * j, 100 + i)
            for p, v in (("image_holdout", 0.99),)
            for j, s in enumerate(("precision", "recall", "specificity", "f1", "auc"))
            for i, c in enumerate(CLASSES)
        ],
        ("image_holdout", "vgg16", "imagenet", "accuracy", 0.9, 400),
    )
)
ROC = rows(
    "protocol label fpr tpr auc",
    *[
        ("image_holdout", c, x, x ** (0.02 + 0.03 * i), 0.99 - 0.01 * i)
        for i, c in enumerate(CLASSES[:3])
        for x in np.linspace(0, 1, 50)
    ],
)
RELIABILITY = rows(
    "bin_low bin_high n confidence accuracy low high",
    (0.5, 0.75, 10, 0.6, 0.5, 0.3, 0.7),
    (0.75, 1.0, 30, 0.9, 0.9, 0.8, 0.95),
)
COVERAGE = rows(
    "set coverage accuracy low high",
    *[
        (s, c, a - 0.05 * c, a - 0.05 * c - 0.03, min(1, a - 0.05 * c + 0.02))
        for s, a in (("test", 1), ("bhuvaji, clean", 0.9))
        for c in np.linspace(0.05, 1, 20)
    ],
)
ROBUSTNESS = spread(
    rows(
        "change strength network accuracy",
        *[
            (c, s, n, a - d * s * k)
            for c, k in (("noise", 2), ("bias field", 1), ("contrast", 0.5), ("JPEG", 0.7))
            for n, a, d in (("Plain", 0.97, 0.05), ("Guided", 0.96, 0.03))
            for s in range(4)
        ],
    ),
    "accuracy",
).assign(n=120)
LOOKS = spread(
    rows(
        "label row kind value",
        *[
            (c, r, k, v + 0.05 * i)
            for i, c in enumerate(("all", *CLASSES[:3]))
            for r, k, v in (
                ("Plain network, 5 x 5", "map", 0.1),
                ("Guided network, 10 x 10", "map", 0.55),
                ("Centred blob, 10 x 10", "control", 0.2),
                ("Class-average mask, 10 x 10", "control", 0.36),
                ("True mask, 10 x 10", "ceiling", 0.8),
            )
        ],
    )
)
ERASED = spread(
    rows(
        "network fill trained region score value",
        *[
            (n, f, t, r, s, v - (drop if r == "tumour" else 0.01) - 0.02 * (s == "probability"))
            for n, v, drop in (("Plain", 0.95, 0.1), ("Guided", 0.96, 0.15), ("Guided and erased", 0.97, 0.4))
            for f, t in (("grey", False), ("noise of the head", True), ("other half, mirrored", False))
            for r in ("tumour", "elsewhere")
            for s in ("accuracy", "probability")
        ],
    )
)
COPIES = rows(
    "set label n copies",
    *[(s, c, 800 + i, m - 10 * i) for s, m in (("Bhuvaji", 750), ("Nickparvar", 790)) for i, c in enumerate(CLASSES)],
)
SECOND = spread(
    rows(
        "set slices n value",
        *[
            (s, k, 900, v)
            for s in ("Bhuvaji", "Nickparvar")
            for k, v in (("all", 0.97), ("copies", 0.99), ("clean", 0.7))
        ],
    )
)
CASCADE = rows(
    "model number step score mean low high",
    *[
        (m, i, "x", s, 0.9 - 0.2 * i, 0.8 - 0.2 * i, 1 - 0.2 * i)
        for m in ("vgg16", "vgg16/shorter", "mine")
        for s in ("rank_correlation", "ssim")
        for i in range(4)
    ],
)
SUMMARY = rows(
    "model method kind grid by group score mean low high",
    *[
        (m, n, k, "5 x 5", "all", "all slices", s, v, v - 0.02, v + 0.02)
        for m in ("vgg16", "efficientnet_lite0/guided")
        for n, k, v in (("gradcam", "map", 0.3), ("uniform", "control", 0.1), ("grey", "control", 0.2))
        for s in ("energy", "pointing")
    ],
)
DATASET = rows(
    "label slices patients patient_groups",
    ("meningioma", 708, 82, 82),
    ("glioma", 1426, 89, 65),
    ("no_tumor", 20, 2, 2),
    ("all", 2154, 173, 149),
)
RNG = np.random.default_rng(0)
SLICES = pd.DataFrame(
    {
        "image_id": [f"s{i}" for i in range(240)],
        "label": np.repeat(CLASSES, 60),
        "patient_id": RNG.integers(0, 40, 240),
        "width": 512,
        "mask_area_percent": np.r_[RNG.gamma(2, 1, 180), np.full(60, np.nan)],
    }
)
# Discs on a disc: no pixel of a patient.
DISTANCE = np.hypot(*(np.indices((40, 40)) - 20))
IMAGES = np.repeat(np.uint8(120 * (DISTANCE < 17))[None], 6, axis=0)
MASKS = np.repeat(np.uint8(np.hypot(*(np.indices((40, 40)) - 25)) < 5)[None], 6, axis=0)
MAPS = np.repeat(np.exp(-np.hypot(*(np.indices((40, 40)) - 24)) / 6)[None], 6, axis=0)
CHOSEN = rows(
    "label outcome predicted confidence rule plane image_id",
    *[(c, "right", c, 0.9, r, "axial", "1") for c in CLASSES[:2] for r in ("highest", "median")],
    ("pituitary", "right", "pituitary", 0.8, "median", "axial", "1"),
    ("pituitary", "wrong", "no_tumor", 0.7, "highest", "coronal", "2"),
)
PAIRS = rows("score transform", (0.99, "identity"), (0.95, "flip left-right"))

DRAWN = {
    "class_counts": lambda: data.class_counts(DATASET),
    "slices_per_patient": lambda: data.slices_per_patient(SLICES),
    "sizes": lambda: data.sizes(SLICES),
    "examples": lambda: data.examples(IMAGES, MASKS, CHOSEN),
    "preprocessing": lambda: data.preprocessing(
        IMAGES[:2] * 9.0, IMAGES, [(3, 3, 37, 37)] * 2, IMAGES, MASKS, CLASSES[:2]
    ),
    "augmentation": lambda: data.augmentation(IMAGES[:2], np.stack([IMAGES] * 2), ["glioma", "no_tumor"]),
    "crossing": lambda: data.crossing(SPLITS),
    "patient_flow": lambda: data.patient_flow(FLOW),
    "learning_curves": lambda: learning.learning_curves(HISTORY, "vgg16 (imagenet)"),
    "fits": lambda: learning.fits(MODELS),
    "ablation": lambda: learning.ablation(ABLATION),
    "confusion": lambda: performance.confusion(CONFUSION),
    "per_class": lambda: performance.per_class(PER_CLASS),
    "roc": lambda: performance.roc(ROC),
    "reliability": lambda: performance.reliability(RELIABILITY, RELIABILITY, 1.5, "test slices"),
    "coverage": lambda: performance.coverage(COVERAGE, "group_folds"),
    "robustness": lambda: performance.robustness(ROBUSTNESS),
    "gradcam_three": lambda: gradcam.gradcam_three(IMAGES[:3], MAPS[:3], MASKS[:3], CHOSEN.iloc[[0, 2, 5]], "4 x 5"),
    "gradcam_examples": lambda: gradcam.gradcam_examples(IMAGES, MAPS, MASKS, CHOSEN),
    "gradcam_failures": lambda: gradcam.gradcam_failures(IMAGES[5:], MAPS[5:], MASKS[5:], CHOSEN[5:]),
    "gradcam_class_means": lambda: gradcam.gradcam_class_means(MAPS, MASKS, CHOSEN),
    "gradcam_against_controls": lambda: gradcam.gradcam_against_controls(SUMMARY),
    "gradcam_cascade": lambda: gradcam.gradcam_cascade(CASCADE),
    "gradcam_methods": lambda: gradcam.gradcam_methods(IMAGES[:2], {"gradcam": MAPS, "layercam": MAPS}, MASKS, CHOSEN),
    "gradcam_overlay": lambda: gradcam.gradcam_overlay(
        IMAGES[0], MAPS[0], "a.png", ["Glioma 90 %", "not a medical device"]
    ),
    "where_it_looks": lambda: gradcam.where_it_looks(LOOKS),
    "erased": lambda: gradcam.erased(ERASED),
    "changes": lambda: gradcam.changes(CHANGES),
    "overlap_pairs": lambda: external.overlap_pairs(IMAGES[:2], IMAGES[:2], PAIRS),
    "domain_shift": lambda: external.domain_shift(
        pd.DataFrame({"set": ["own", "other"] * 5, "width": range(10), "mean": range(10)}),
        {"width": "width, pixels", "mean": "mean"},
    ),
    "copies": lambda: external.copies(COPIES, SECOND),
    "ladder": lambda: claims.ladder(LADDER),
    "leakage": lambda: claims.leakage(MODELS.assign(n_test=50)),
    "claims": lambda: claims.claims(CLAIMS),
    "size": lambda: claims.size(MODELS),
}


@pytest.fixture(autouse=True)
def themed():
    with mpl.rc_context():
        theme.use_theme()
        yield


def texts(axis):
    return [t.get_text() for t in axis.texts]


def points(axis):
    """Return (x, y) of each marker line, in the order drawn."""
    lines = [line for line in axis.lines if line.get_marker() not in ("None", "", "|", "_")]
    return [tuple(np.asarray(v, float).tolist() for v in line.get_data()) for line in lines]


def spans(axis):
    """Return low and high of each interval that runs along x."""
    bars = [group.lines[2] for group in axis.containers if isinstance(group, mpl.container.ErrorbarContainer)]
    segments = [s for lines in bars for line in lines for s in line.get_segments() if len(s)]
    return [tuple(round(float(v), 6) for v in segment[:, 0]) for segment in segments]


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_drawn_quietly_forgotten_by_pyplot_and_described(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = DRAWN[name]()
        figure.savefig(tmp_path / "a.svg", metadata={"Date": None})
        if os.environ.get("FIGURES"):
            figure.savefig(Path(os.environ["FIGURES"]) / f"{name}.png", dpi=110, bbox_inches="tight")
    assert plt.get_fignums() == []
    assert figure.caption and figure.alt and not re.search(r"[{}\n]|nan|  |\.\.", figure.caption + figure.alt)
    assert "<text" in (tmp_path / "a.svg").read_text() or name == "augmentation"


def test_every_figure_is_drawn_here_and_described_in_one_place():
    functions = {
        n for room in ROOMS for n, f in inspect.getmembers(room, inspect.isfunction) if f.__module__ == room.__name__
    }
    public = {name for name in functions if not name.startswith("_")}
    assert public == set(DRAWN) == set(yaml.safe_load(Path(theme.__file__).with_name("captions.yaml").read_text()))


@pytest.mark.parametrize("name", DRAWN)
def test_every_axis_that_is_measured_says_of_what(name):
    figure = DRAWN[name]()
    for axis in figure.axes:
        place = axis.get_subplotspec()
        bare = not axis.axison or len(axis.get_xticks()) == 0 or (place and not place.is_last_row())
        named = any(not label.get_text()[:1].isdigit() for label in axis.get_xticklabels())
        assert bare or named or axis.get_xlabel() or figure.get_supxlabel() or axis.get_label() == "<colorbar>"
        assert not (axis.get_legend() and axis.get_legend().get_window_extent().overlaps(axis.get_window_extent()))


def test_no_figure_says_how_many_classes_there_are():
    for room in (*ROOMS, theme):
        names = {node.id for node in ast.walk(ast.parse(inspect.getsource(room))) if isinstance(node, ast.Name)}
        assert "CLASSES" not in names


def test_a_class_has_one_name():
    assert [theme.class_name(c) for c in ("glioma", "pituitary", "who_grade_2")] == [
        "Glioma",
        "Pituitary Tumour",
        "Who Grade 2",
    ]
    assert theme.model_name("vgg16/shorter") == "VGG16, shorter"
    assert theme.model_name("vgg16/shorter/32") == "VGG16, shorter, stride 32"
    assert theme.model_name("vgg16 (random)") == "VGG16 (random)"


def test_four_classes_have_four_colours():
    given = theme.colours([*CLASSES, "metastasis"])
    assert len(set(given.values())) == 5
    assert list(theme.colours(["glioma", "no_tumor", "meningioma"])) == ["meningioma", "glioma", "no_tumor"]


def test_the_ladder_writes_errors_beside_points_and_headings_above_rows():
    figure = claims.ladder(LADDER)
    axis = figure.axes[0]
    assert {"4 of 613 wrong", "5 of 613 wrong", "9 of 233 patients wrong", "99.35 %", "69.0 %"} <= set(texts(axis))
    assert [x for xs, _ in points(axis) for x in xs] == pytest.approx([*100 * LADDER["value"]])
    assert spans(axis) == [pytest.approx((100 * low, 100 * high)) for low, high in LADDER[["low", "high"]].values]
    at = list(axis.get_yticks())
    heads = [t.xy[1] for t in axis.texts if t.get_text().strip() in set(LADDER["group"])]
    assert heads[0] < at[0] < heads[1] < at[1] < at[2] < heads[2]
    assert "Slices at random, Seed 0 99.2 % (98.1 to 99.8)" in figure.alt


def test_the_ladder_is_the_same_picture_every_time(tmp_path):
    for name in "ab":
        claims.ladder(LADDER).savefig(tmp_path / f"{name}.svg", metadata={"Date": None})
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert ">5 of 613 wrong</text>" in (tmp_path / "a.svg").read_text()


def test_learning_curves_mark_where_a_stage_begins():
    figure = learning.learning_curves(HISTORY)
    loss, accuracy, rate = figure.axes
    assert loss.lines[0].get_ydata().tolist() == [1.0, 0.5, 0.4]
    assert accuracy.lines[1].get_ydata().tolist() == pytest.approx([40, 70, 80])
    assert [line.get_xdata()[0] for line in loss.lines if line.get_linestyle() == ":"] == [2.5]
    assert rate.get_yscale() == "log"
    assert all(tick == int(tick) for tick in loss.get_xticks())


@pytest.mark.parametrize("columns", [{"val_loss", "val_accuracy"}, set()])
def test_learning_curves_without_validation_slices_say_so(columns):
    history = HISTORY.drop(columns=columns) if columns else HISTORY.assign(val_loss=np.nan, val_accuracy=np.nan)
    figure = learning.learning_curves(history)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["Training"]
    assert "none were kept for validation" in figure.caption
    assert "no slices were kept for validation" in figure.get_suptitle()


def test_a_learning_rate_that_ends_at_zero_is_drawn_without_a_warning(recwarn):
    for rates in ([0.1, 0.1, 0.0], [0.0, 0.0, 0.0]):
        learning.learning_curves(HISTORY.assign(learning_rate=rates)).canvas.draw()
    assert not [w for w in recwarn if "log" in str(w.message)]


def test_fits_draw_every_fit_and_its_range():
    table = rows("protocol accuracy", ("group_folds", 0.90), ("group_folds", 0.974), ("image_holdout", 0.99))
    figure = learning.fits(table)
    axis = figure.axes[0]
    assert texts(axis) == ["99.0 %\n1 fit", "90.0 to 97.4 %\n2 fits"]
    drawn = [xy.tolist() for group in axis.collections for xy in group.get_offsets()]
    assert sorted(x for x, _ in drawn) == pytest.approx([90, 97.4, 99])


def test_without_masks_sizes_are_those_of_slices_alone():
    (axis,) = data.sizes(SLICES.assign(mask_area_percent=np.nan)).axes
    assert axis.get_xlabel() == "Width of the slice (pixels)"


def test_ablation_draws_changes_from_the_proposed_network():
    axis = learning.ablation(ABLATION).axes[0]
    assert spans(axis) == [(-4, 0), (-12, -6)]
    assert [x for xs, _ in points(axis) for x in xs] == pytest.approx([-2, -9])
    assert axis.get_title() == "Proposed network: 97.0 % after 4 epochs" and texts(axis) == ["95.0 %", "88.0 %"]
    assert [name.get_text() for name in axis.get_yticklabels()] == ["no guide, global max pooling", "head alone"]
    assert axis.get_xlabel().endswith("3 fits")
    assert learning.ablation(ABLATION.assign(fits=1)).axes[0].get_xlabel().endswith("1 fit")


def test_confusion_shows_counts_and_row_percentages_of_any_number_of_classes():
    table = rows("label predicted n share", ("a", "a", 3, 0.75), ("a", "d", 1, 0.25), ("b", "b", 2, 1.0)).assign(
        protocol="mine"
    )
    axis = performance.confusion(table).axes[0]
    assert texts(axis)[:3] == ["3\n75.0 %", "0\n0.0 %", "1\n25.0 %"]
    assert len(texts(axis)) == 9
    both = performance.confusion(CONFUSION)
    assert [a.get_title() for a in both.axes] == ["Slices at random,\nhold-out", "Patient groups apart,\nfolds"]
    assert "Slices at random, hold-out 288 of 300 slices right" in both.caption


def test_per_class_draws_the_scores_that_the_table_has_with_their_support():
    axes = performance.per_class(PER_CLASS).axes
    assert [a.get_xlabel() for a in axes] == ["Precision (%)", "Recall\n(sensitivity) (%)", "Specificity (%)", "F1 (%)"]
    assert axes[0].get_yticklabels()[1].get_text() == "Glioma (n = 101)"
    assert [x for xs, _ in points(axes[2]) for x in xs][:2] == pytest.approx([95, 94])
    three = PER_CLASS[~PER_CLASS["score"].str.startswith("specificity")]
    assert len(performance.per_class(three).axes) == 3


def test_roc_gives_the_area_and_its_interval_beside_the_curves():
    bounds = rows("score low high", ("auc_glioma", 0.97, 0.99))
    legend = performance.roc(ROC, bounds).axes[1].get_legend()
    assert [t.get_text() for t in legend.get_texts()][:2] == [
        "Meningioma: 0.990",
        "Glioma: 0.980\n(0.970 to 0.990)",
    ]
    assert performance.roc(ROC).axes[0].get_title() == "Slices at random, hold-out"


def test_reliability_says_whose_and_by_how_much():
    figure = performance.reliability(RELIABILITY, RELIABILITY, 1.5, "clean external slices")
    # 10 slices are off by 0.1 and 30 by nothing: 2.5 points.
    assert [a.get_title() for a in figure.axes[:2]] == ["Before: error 2.5 points", "After, T = 1.50: error 2.5 points"]
    assert figure.caption.startswith("Clean external slices: ") and "2.5 points before" in figure.alt


def test_coverage_draws_each_set():
    figure = performance.coverage(COVERAGE, "group_folds")
    assert [a.get_title() for a in figure.axes] == ["Patient groups apart,\nfolds", "Bhuvaji's set"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["All slices", "Slices that are no copies"]
    assert [a.lines[0].get_ydata()[-1] for a in figure.axes] == pytest.approx([95, 85])
    assert "Bhuvaji's set, Slices that are no copies 85.0 % of all, 87.5 % of the surest half" in figure.alt


def test_crossing_orders_splits_and_sums_over_seeds():
    figure = data.crossing(SPLITS)
    widths = [[bar.get_width() for bar in bars] for bars in figure.axes[0].containers]
    assert widths == [pytest.approx([98, 0]), pytest.approx([21, 2])]
    assert figure.axes[0].get_yticklabels()[0].get_text() == "Slices at random,\nhold-out"
    assert "Slices at random, hold-out 98.0 % and 21.0 %" in figure.alt


def test_crossing_draws_nothing_of_patients_that_are_not_known():
    figure = data.crossing(
        SPLITS.assign(slices_of_crossing_patients=[np.nan, *SPLITS["slices_of_crossing_patients"][1:]])
    )
    assert [t.get_text() for t in figure.axes[0].texts] == ["98.0", "21.0", "2.0"]
    assert "folds unknown and 2.0 %" in figure.alt


def test_counts_tick_at_whole_numbers():
    table = DATASET.assign(patients=[2, 1, 1, 4])
    assert all(tick == int(tick) for tick in data.class_counts(table).axes[1].get_yticks())
    assert [t.get_text() for t in data.class_counts(table).axes[0].texts] == ["708", "1426", "20"]


def test_patient_flow_has_a_box_for_each_row():
    figure = data.patient_flow(FLOW)
    assert [t for t in texts(figure.axes[0]) if t] == [
        "In the study\n233 patients, 3,064 slices",
        "Training (306 to validate)\n232 patients, 2,757 slices",
        "Tested\n1 patient, 307 slices",
    ]


@pytest.mark.parametrize("models", [1, 2, 3])
def test_scores_of_maps_have_the_first_method_on_top_for_every_number_of_models(models):
    table = pd.concat([SUMMARY[:6].assign(model=f"m{i}") for i in range(models)])
    for axis in gradcam.gradcam_against_controls(table).axes:
        bottom, top = axis.get_ylim()
        assert bottom > top and axis.patches[0].get_width() == pytest.approx(0.3)


def test_a_model_with_another_recipe_is_named_with_it():
    shown = [text.get_text() for text in gradcam.gradcam_cascade(CASCADE).legends[0].get_texts()]
    assert shown == ["VGG16", "VGG16, shorter", "mine"]


def test_where_it_looks_draws_maps_controls_and_the_ceiling():
    axes = gradcam.where_it_looks(LOOKS).axes
    assert [a.get_title() for a in axes] == ["All classes", "Meningioma", "Glioma", "Pituitary Tumour"]
    drawn = points(axes[0])
    assert [x for xs, _ in drawn for x in xs] == pytest.approx([10, 55, 20, 36, 80])
    assert [y for _, ys in drawn for y in ys] == [0, 1, 2, 3, 4]


def test_erased_fills_marks_of_trained_fills_alone():
    figure = gradcam.erased(ERASED)
    chosen = figure.axes[2]
    assert chosen.get_title() == "Guided and erased"
    faces = [line.get_markerfacecolor() for line in chosen.lines if line.get_marker() in "os" and len(line.get_xdata())]
    assert faces == [theme.COLOURS[1], "white", theme.COLOURS[0], "white"]
    assert points(chosen)[0][0] == pytest.approx([57])  # trained fill, tumour erased: 0.97 - 0.4
    assert figure.axes[0].get_yticklabels()[0].get_text() == "noise of the head"


def test_copies_stack_up_to_the_set():
    figure = external.copies(COPIES, SECOND)
    copied, clean = (bars for bars in figure.axes[0].containers)
    assert [a.get_width() for a in copied] == [750, 740, 730, 720]
    assert [a.get_x() + a.get_width() for a in clean] == [800, 801, 802, 803]
    assert points(figure.axes[1])[0][0] == pytest.approx([97, 99, 70])


def test_leakage_is_a_ladder_of_splits_in_the_order_of_their_strictness():
    pooled = MODELS.iloc[:1].assign(seed="all", accuracy=0.5)
    figure = claims.leakage(pd.concat([MODELS[::-1], pooled]).assign(n_test=50))
    axis = figure.axes[0]
    assert [x for xs, _ in points(axis) for x in xs] == pytest.approx([99.35, 90, 98, 91, 88])
    assert [t for t in texts(axis) if "wrong" in t] == [f"{n} of 50 wrong" for n in (5, 1, 4, 6)]
    assert [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == "--"] == pytest.approx([99.35])
    assert "The paper, As printed 99.35 %; Slices at random, hold-out, Seed 1 90.0 % (87.0 to 93.0)" in figure.alt


def test_claims_without_numbers_are_left_out():
    axis = claims.claims(CLAIMS).axes[0]
    assert [x for x, _ in points(axis)] == [[98], pytest.approx([99.35])]
    assert spans(axis) == [(96, 99)] and texts(axis) == ["not reached"]


def test_size_keeps_pretrained_and_random_networks_in_axes_of_their_own():
    pretrained, random = claims.size(MODELS).axes
    assert points(pretrained) == [(pytest.approx([3.4, 4.8]), pytest.approx([98, 90]))]
    assert points(random) == [(pytest.approx([14.7, 3.5]), pytest.approx([88, 91]))]
    assert sorted(texts(random)) == ["VGG16", "my_model"]
    smaller = claims.size(MODELS.assign(image_size=[160, 160, 96, 160]), "macs").axes
    assert sorted(texts(smaller[1])) == ["VGG16, 96 px", "my_model, 160 px"]
    assert len(claims.size(MODELS[:2]).axes) == 1
    edges = claims.size(MODELS.replace("random", "edges")).axes
    assert len(edges) == 1 and "VGG16 (ImageNet, then edges)" in texts(edges[0])
    assert "EfficientNet-Lite0 (ImageNet)" in texts(edges[0])


def test_names_beside_points_do_not_cover_each_other():
    crowd = pd.concat([MODELS[:2].assign(accuracy=0.9 + d, parameters=3.4e6 * (1 + 5 * d)) for d in (0, 0.004, 0.008)])
    figure = claims.size(crowd)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not [(i, j) for i, a in enumerate(boxes) for j, b in enumerate(boxes) if i < j and a.overlaps(b)]


def test_changes_are_drawn_beside_the_proposed_network_with_their_grids():
    figure = gradcam.changes(CHANGES)
    assert [points(axis)[0][0] for axis in figure.axes] == [[60, 40], [30, 10], [70, 75]]
    assert spans(figure.axes[0]) == [(50, 70), (30, 50)]
    names = [name.get_text().replace("\n", " ") for name in figure.axes[0].get_yticklabels()]
    assert names == ["the proposed network", "output stride 32 (5 x 5 cells)"]
    dashed = [line for axis in figure.axes for line in axis.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in dashed] == [60, 30, 70]
    assert (
        "output stride 32 (5 x 5 cells) 40.0 % (30.0 to 50.0)" in figure.alt and "75.0 % (70.0 to 80.0)" in figure.alt
    )
