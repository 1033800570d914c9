"""Step through test slices and their maps: a panel of widgets where somebody sits before it, a picture elsewhere."""

import io
import os

import pandas as pd

from btlib import CLASSES, DataError
from btlib.figures import gradcam as figures
from btlib.scores import map_tables


def attended() -> bool:
    """Return whether a Jupyter server started this kernel for somebody.

    JupyterLab and Notebook name the session in the kernel's environment; papermill, nbconvert and plain Python do not.

    Notebook 05.
    """
    return "JPY_SESSION_NAME" in os.environ


def explore(images, masks, maps: dict, slices: pd.DataFrame, panel: bool | None = None):
    """Show test slices by class, outcome, confidence and method.

    Args:
        images, masks: (n, S, S) uint8.
        maps: method to (n, S, S), 0 to 1.
        slices: n rows: image_id, label, outcome, predicted, confidence.
        panel: True for the panel, False for the static picture; None: the panel where `attended`.

    Returns:
        An ipywidgets panel, or a Figure with the most confident slice of each class and outcome.

    Raises:
        DataError: there are no slices.

    Notebook 05.
    """
    if not len(slices):
        raise DataError("slices: got none; allowed: at least one test slice")
    if panel is None:
        panel = attended()
    return _panel(images, masks, maps, slices) if panel else _still(images, masks, maps, slices)


def _still(images, masks, maps, slices):
    chosen = map_tables.pick(slices)
    rows = chosen.index[chosen["rule"] == "highest"]
    return figures.gradcam_methods(
        images[rows], {m: heat[rows] for m, heat in maps.items()}, masks[rows], slices.loc[rows]
    )


def _panel(images, masks, maps, slices):
    import ipywidgets as widgets

    label = widgets.Dropdown(options=["all", *CLASSES], description="class")
    outcome = widgets.Dropdown(options=["all", "right", "wrong"], description="outcome")
    method = widgets.Dropdown(options=[(figures.METHOD_NAMES.get(m, m), m) for m in maps], description="method")
    confidence = widgets.FloatRangeSlider(value=(0, 1), min=0, max=1, step=0.01, description="confidence")
    place = widgets.IntSlider(value=0, min=0, max=0, description="slice")
    picture, words = widgets.Image(format="png", width=720), widgets.Label()
    found = slices

    def choose(_=None):
        nonlocal found
        low, high = confidence.value
        keep = slices["confidence"].round(2).between(low, high)
        keep &= (label.value == "all") | (slices["label"] == label.value)
        keep &= (outcome.value == "all") | (slices["outcome"] == outcome.value)
        found = slices[keep].sort_values("confidence", ascending=False, kind="stable")
        place.max, place.value = max(len(found) - 1, 0), 0
        draw()

    def draw(_=None):
        if not len(found):
            picture.value, words.value = b"", "no such slice"
            return
        row = found.index[min(place.value, len(found) - 1)]
        chosen = {method.value: maps[method.value][[row]]}
        drawn = figures.gradcam_methods(images[[row]], chosen, masks[[row]], slices.loc[[row]])
        drawn.set_size_inches(5, 2.9)
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png", dpi=144)
        picture.value = buffer.getvalue()
        words.value = f"{place.value + 1} of {len(found)}: image_id {slices.loc[row, 'image_id']}"

    for widget in (label, outcome, confidence):
        widget.observe(choose, "value")
    for widget in (method, place):
        widget.observe(draw, "value")
    choose()
    controls = widgets.VBox([widgets.HBox([label, outcome]), widgets.HBox([method, confidence]), place])
    return widgets.VBox([controls, words, picture])
