"""What the tables of maps say, from tables made by hand."""

import pandas as pd

from btlib.scores import map_tables


def rows_of(method, kind, low, mean, high, group="all slices", grid="5 x 5"):
    by = "all" if group == "all slices" else "label"
    about = {"model": "m", "method": method, "kind": kind, "grid": grid, "by": by, "group": group}
    return [about | {"score": s, "mean": mean, "low": low, "high": high} for s in ("energy", "pointing")]


def test_intervals_that_touch_do_not_exceed():
    table = pd.DataFrame(
        rows_of("gradcam", "map", 0.4, 0.5, 0.6)
        + rows_of("layercam", "map", 0.3, 0.4, 0.5)
        + rows_of("uniform", "control", 0.1, 0.2, 0.3)
        + rows_of("edges", "control", 0.1, 0.2, 0.3, grid="80 x 80")
        + rows_of("random weights", "control", 0.1, 0.2, 0.25)
        + rows_of("ceiling", "ceiling", 0.7, 0.8, 0.9)
    )
    found = map_tables.against_controls(table)
    assert len(found) == 2 * 3 * 2  # methods, controls, scores; the ceiling is none of these
    said = map_tables.verdicts(found).set_index("method")
    assert said.loc["gradcam", "exceeds"] and said.loc["gradcam", "not_exceeded"] == "none"
    assert not said.loc["layercam", "exceeds"]
    lost = "uniform (5 x 5), edges (80 x 80)"
    assert said.loc["layercam", "not_exceeded"] == f"energy: {lost}; pointing: {lost}"
    assert said["classes"].tolist() == ["none", "none"]


def test_verdicts_name_the_classes_in_which_all_controls_are_exceeded():
    table = pd.DataFrame(
        [
            row
            for group, low in (("all slices", 0.4), ("glioma", 0.4), ("pituitary", 0.2))
            for row in rows_of("gradcam", "map", low, 0.5, 0.6, group)
            + rows_of("uniform", "control", 0, 0.1, 0.2, group)
        ]
    )
    said = map_tables.verdicts(map_tables.against_controls(table))
    assert said["exceeds"].tolist() == [True] and said["classes"].tolist() == ["glioma"]


def test_slices_are_picked_by_rule():
    slices = pd.DataFrame(
        {"label": ["glioma"] * 6, "outcome": ["right"] * 5 + ["wrong"], "confidence": [0.5, 0.9, 0.6, 0.8, 0.7, 0.4]}
    )
    found = map_tables.pick(slices)
    assert dict(zip(found["rule"][:3], found["confidence"], strict=False)) == {
        "highest": 0.9,
        "median": 0.7,
        "lowest": 0.5,
    }
    assert found.index.tolist() == [1, 4, 0, 5] and found["rule"].iloc[3] == "highest"
