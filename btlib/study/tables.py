"""The only writer of results: tables as CSV and figures as SVG and PNG, under reports/<profile>/."""

from pathlib import Path

import matplotlib.figure
import pandas as pd

from btlib import DataError, files, home


def folder(profile: str) -> Path:
    """Return reports/<profile>."""
    return home() / "reports" / profile


def write(profile: str, name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Write reports/<profile>/tables/<name>.csv and return the table as it will be read back.

    Args:
        profile: the study's profile.
        name: the table's one name, without ending, for example "models".
        table: written without its index; floats to six significant digits.

    Used by every notebook.
    """
    path = folder(profile) / "tables" / f"{name}.csv"
    with files.replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    return read(profile, name)


def read(profile: str, name: str) -> pd.DataFrame:
    """Read reports/<profile>/tables/<name>.csv.

    Raises:
        DataError: it has not been written yet.
    """
    path = folder(profile) / "tables" / f"{name}.csv"
    if not path.exists():
        raise DataError(f"{path}: no such table yet; run the notebook that writes it, or `make report`")
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def save(profile: str, name: str, figure: matplotlib.figure.Figure) -> matplotlib.figure.Figure:
    """Write reports/<profile>/figures/<name>.svg and .png (200 dpi) and return the figure, for a cell to show.

    Args:
        profile: the study's profile.
        name: the figure's one name, without ending.
        figure: what a function of `figures` returned.
    """
    for ending in ("svg", "png"):
        path = folder(profile) / "figures" / f"{name}.{ending}"
        with files.replacing(path) as temporary:
            figure.savefig(
                temporary, dpi=200, bbox_inches="tight", metadata={"Date": None} if ending == "svg" else None
            )
    return figure
