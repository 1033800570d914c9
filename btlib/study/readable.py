"""A CSV as people read it, in notebooks and on pages: headings and cells in words, an interval beside its value, at most seven columns."""

from dataclasses import dataclass

import pandas as pd

from btlib.study import tables

ROWS = 25
"""Rows of a table that a page shows; the CSV has all."""
COLUMNS = 7
"""Columns of a table that a page shows."""
SPACE = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Table:
    """A table for a page: headings, which of them are of numbers, a line on each, rows of text, length of the CSV."""

    name: str
    title: str
    caption: str
    headings: list[str]
    numeric: list[bool]
    says: dict[str, str]
    rows: list[list[str]]
    length: int


def show(profile: str, name: str) -> pd.DataFrame:
    """Return reports/<profile>/tables/<name>.csv as its page shows it, for a notebook to end a cell with."""
    table = read(profile, name)
    return pd.DataFrame(table.rows, columns=table.headings).set_index(table.headings[0])


def read(profile: str, name: str) -> Table:
    """Return reports/<profile>/tables/<name>.csv in words; DataError where it has not been written."""
    return readable(name, tables.read(profile, name, dtype=str, na_values=[]))


def readable(name: str, raw: pd.DataFrame) -> Table:
    """Return a table as a page shows it, by what captions.yaml says of it and of its columns.

    `raw` is the CSV, every cell as text.
    """
    about = tables.WORDS["tables"].get(name, {})
    said = tables.WORDS["columns"] | about.get("own", {})
    kinds = {c: said[c][1] if c in said else _kind(raw[c]) for c in raw}
    chosen = raw.query(about["rows"]) if "rows" in about else raw
    cells = _with_intervals(chosen, kinds, about.get("interval"))
    if "pivot" in about:
        pivot = about["pivot"] | {"index": [c for c in about["pivot"]["index"] if c in cells]}
        cells = _matrix(cells, **pivot)
        columns, explained = list(cells), [*pivot["index"], pivot["values"]]
    else:
        columns = explained = [c for c in about.get("columns", cells) if c in cells][:COLUMNS]
    words = name.replace("_", " ").capitalize()
    return Table(
        name=name,
        title=about.get("title", words),
        caption=about.get("caption", f"{words}."),
        headings=[said[c][0] if c in said and c in raw else c for c in columns],
        numeric=[kinds.get(c, "number") not in ("text", "name", "network") for c in columns],
        says={said[c][0]: said[c][2] for c in explained if c in said},
        rows=cells[columns].head(ROWS).to_numpy().tolist(),
        length=len(raw),
    )


def cell(value: str, kind: str, bare: bool = False) -> str:
    """Write one value in words: "0.951" as a share is "95.1 %".

    Args:
        value: as in a CSV; what is no number is looked up among the words of btlib/study/captions.yaml.
        kind: share (percent, one decimal), points (difference of shares), count, millions, number, p, name (underscores
            are spaces), network (`tables.model_name`) or text.
        bare: leave the unit away, for the bounds of an interval.
    """
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if kind == "network":
        return tables.model_name(value)
    if pd.isna(number) or kind in ("text", "name"):
        return tables.WORDS["words"].get(value, value.replace("_", " ") if kind == "name" else value)
    if kind == "share":
        return f"{100 * number:.1f}" + ("" if bare else f"{SPACE}%")
    if kind == "points":
        signed = f"{100 * number:+.1f}".replace("-", "\N{MINUS SIGN}")
        return signed + ("" if bare else f"{SPACE}points")
    if kind == "count":
        return f"{number:,.0f}"
    if kind == "p":
        return "< 0.001" if number < 0.001 else f"{number:.3f}"
    if kind == "millions":
        return f"{number / 1e6:,.1f}{SPACE}million"
    if (number.is_integer() and "." not in value) or abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:.4g}" if abs(number) >= 1 else f"{number:.2g}" if abs(number) < 0.01 else f"{number:.3f}"


def interval(value: str, low: str, high: str, kind: str) -> str:
    """Write a value with its bounds, as `cell` does: "95.1 % (93.2 to 96.7)"; where a bound is "", the value alone."""
    if not (value and low and high):
        return cell(value, kind)
    low, high = (cell(bound, kind, bare=True) for bound in (low, high))
    # A narrow column may put the interval below its value, and breaks neither.
    return f"{cell(value, kind)} ({low}{SPACE}to{SPACE}{high})"


def _kind(values: pd.Series) -> str:
    """Tell how to write a column that nothing is said of: ids and whole numbers stay as they are."""
    decimals = values.str.fullmatch(r"-?\d+\.\d+(e[+-]?\d+)?")
    return "number" if decimals.any() else "text"


def _with_intervals(raw: pd.DataFrame, kinds: dict[str, str], owner: str | None) -> pd.DataFrame:
    """Write every cell in words; columns low and high go into the column before them, or into `owner`."""
    columns, written = list(raw), {}
    for place, column in enumerate(columns):
        if column.endswith("high") or (column.endswith("low") and column.replace("low", "high") in columns):
            continue
        after = columns[place + 1] if place + 1 < len(columns) else ""
        low = "low" if column == owner else after if after.endswith("low") and owner is None else ""
        bounds = [raw[low], raw[low.replace("low", "high")]] if low else [[""] * len(raw)] * 2
        rows = zip(raw[column], *bounds, strict=True)
        written[column] = [interval(value, *ends, kinds[column]) for value, *ends in rows]
    return pd.DataFrame(written, index=raw.index)


def _matrix(cells: pd.DataFrame, index: list[str], columns: str, values: str) -> pd.DataFrame:
    """Turn a long list into a matrix; rows and columns keep the order in which they come."""
    order = list(dict.fromkeys(cells[columns]))[: COLUMNS - len(index)]
    wide = cells.pivot(index=index, columns=columns, values=values)
    rows = list(dict.fromkeys(cells[index].itertuples(index=False, name=None)))
    return wide.loc[rows if len(index) > 1 else [row[0] for row in rows], order].fillna("").reset_index()
