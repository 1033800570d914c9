"""Panels of widgets where somebody sits before them: step through test slices and their maps, try a slice of one's own."""

import html
import io
import os
import tempfile
from pathlib import Path

import pandas as pd

from btlib import DataError
from btlib.deploy import predict, publish
from btlib.figures import gradcam as figures
from btlib.figures import theme
from btlib.scores import map_tables


def attended() -> bool:
    """Return whether a Jupyter server started this kernel for somebody: it names the session, papermill does not."""
    return "JPY_SESSION_NAME" in os.environ


def explore(images, masks, maps: dict, slices: pd.DataFrame, panel: bool | None = None):
    """Show test slices by class, outcome, confidence and method.

    Args:
        images, masks: (n, S, S) uint8.
        maps: method to (n, S, S), 0 to 1.
        slices: n rows: image_id, label, outcome, predicted, confidence.
        panel: whether to return an ipywidgets panel, or else a Figure with the most confident slice of each class and
            outcome; None: where `attended`.

    Raises:
        DataError: there are no slices.
    """
    if not len(slices):
        raise DataError("slices: got none; allowed: at least one test slice")
    if attended() if panel is None else panel:
        return _panel(images, masks, maps, slices)
    chosen = map_tables.pick(slices)
    rows = chosen.index[chosen["rule"] == "highest"]
    heats = {method: heat[rows] for method, heat in maps.items()}
    return figures.gradcam_methods(images[rows], heats, masks[rows], slices.loc[rows])


def _panel(images, masks, maps, slices):
    import ipywidgets as widgets

    label = widgets.Dropdown(options=["all", *dict.fromkeys(slices["label"])], description="class")
    outcome = widgets.Dropdown(options=["all", "right", "wrong"], description="outcome")
    method = widgets.Dropdown(options=[(theme.WORDS.get(m, m), m) for m in maps], description="method")
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


def own(name: str = "efficientnet_lite_figshare", panel: bool | None = None):
    """Classify a slice of one's own, uploaded or by its path: class, probabilities, warnings and map, as `predict` does.

    Args:
        name: of the model, as for `publish.open_model`.
        panel: whether to return an ipywidgets panel, or else Markdown that says where it is; None: where `attended`.

    Raises:
        DataError: there is no such model.
    """
    from IPython.display import Markdown

    if not (attended() if panel is None else panel):
        return Markdown(
            f"In JupyterLab, a panel for a slice of your own stands here; elsewhere, `btlib predict {name} FILE`."
        )
    import ipywidgets as widgets

    model, facts, said = publish.open_model(name)
    upload = widgets.FileUpload(description="upload a slice")
    path = widgets.Text(placeholder="or its path, and Enter", continuous_update=False)
    words = widgets.HTML(html.escape("; ".join([f"{facts.name}; not a medical device, for research only", *said])))
    picture = widgets.Image(format="png", width=690)

    def show(file: str):
        with tempfile.TemporaryDirectory() as folder:
            (row,) = predict.classify(model, facts, [file], Path(folder))
            picture.value = (Path(folder) / row["gradcam"]).read_bytes() if row["gradcam"] else b""
        text = row["error"] or f"{predict.heading(facts.classes)}\n{predict.line(row, facts.classes, Path(file).name)}"
        words.value = f"<pre>{html.escape(text)}</pre>"

    def uploaded(change):
        for file in change["new"]:
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / Path(file["name"]).name
                copy.write_bytes(file["content"])
                show(str(copy))

    upload.observe(uploaded, "value")
    path.observe(lambda change: show(change["new"].strip()), "value")
    return widgets.VBox([widgets.HBox([upload, path]), words, picture])
