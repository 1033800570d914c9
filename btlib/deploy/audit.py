"""Copies between and inside any sets of pictures: counted for people, listed for programs."""

import base64
import html
import io
import itertools
import json
import re
import sys
from pathlib import Path

import pandas as pd

from btlib import DataError, files
from btlib.data import manifest as manifests
from btlib.deploy import owners, pictures
from btlib.deploy.pictures import Pictures
from btlib.scores import overlap

HOW = ("score", "change", "exact", "conflict", "transform", "angle", "shown", "covered", "tone")
PAIRS = (*(f"{name}_a" for name in owners.ENDS), *(f"{name}_b" for name in owners.ENDS), *HOW)
"""A row a pair of copies; b is the source in the order in which the sets were given."""
CHANGES = ("mirrored", "turned", "cropped", "re-windowed")
COUNTS = ("set", "part", "label", "images", "of_set", "of_part", "copies", "exact", *CHANGES, "conflict")
MIRRORED = ("flip left-right", "flip up-down", "transpose", "transpose and rotate 180")
QUARTERS = {"rotate 90": 90, "rotate 180": 180, "rotate 270": 270, "flip up-down": 180}
QUARTERS |= {"transpose": 270, "transpose and rotate 180": 90}
"""Degrees by which each orientation turns; mirrored ones are mirrored left to right first."""
TURNED, SHOWN, TONE = 2.0, 0.88, 10.0
"""A copy is called turned from so many degrees, cropped where less of the other head shows, re-windowed where grey
levels (of 255) differ more on average: what re-encoding and resizing do stays below."""
ALL = "all"


def pairs(sets: list[Pictures], threshold: float = overlap.COPY, inside: bool = False) -> pd.DataFrame:
    """Find the copies between each two of several sets, or inside one.

    Args:
        sets: as `pictures.read` returns them.
        threshold: least score of a pair, 0 to 1.
        inside: whether to look inside each of several sets too.

    Returns:
        Columns `PAIRS`. `change` says in words what was done: mirrored, turned (degrees, from 2), cropped, re-windowed
        (beyond a linear window), re-encoded or resized where none of these, nothing where all pixels are equal.
    """
    tables = [pd.DataFrame(columns=PAIRS)]
    for a, b in compared(sets, inside):
        if a is b and len(a.table) < 2:  # one picture is no copy of itself
            continue
        result = overlap.search(a.heads, None if a is b else b.heads, threshold)
        ends = [
            s.table.loc[result[end], list(owners.ENDS[1:])].reset_index(drop=True).add_suffix(f"_{end}")
            for s, end in ((a, "a"), (b, "b"))
        ]
        same = a.table["digest"].to_numpy()[result["a"]] == b.table["digest"].to_numpy()[result["b"]]
        table = pd.concat([*ends, result.drop(columns=["a", "b"])], axis=1).assign(set_a=a.name, set_b=b.name)
        table["exact"] = same & (table["transform"] == "identity")
        table["conflict"] = [_disagree(x, y) for x, y in zip(table["label_a"], table["label_b"], strict=True)]
        table["change"] = [_change(row) for row in table.to_dict("records")]
        tables.append(table[list(PAIRS)])
    # Where two sets share nothing their table has no types, which would spoil those of the others.
    return pd.concat(tables[1:] or tables, ignore_index=True).astype({"exact": bool, "conflict": bool})


def compared(sets: list[Pictures], inside: bool = False) -> list[tuple[Pictures, Pictures]]:
    """Return which sets `pairs` compares: one with itself, or each two, and each with itself too if `inside`."""
    alone = [(s, s) for s in sets] if inside or len(sets) == 1 else []
    return alone + list(itertools.combinations(sets, 2))


def plain(label: str) -> str:
    """Return a label without what data sets write around it: 512Glioma and glioma_tumor become glioma.

    Numbers in front, signs, and a last "tumor" fall away; normal, healthy and no tumour are one.
    """
    letters = re.sub(r"[\W_]", "", label.lower())
    letters = re.sub(r"^\d+(?=\D)", "", letters)
    if letters in ("no", "normal", "healthy", "notumor", "notumour"):
        return "no_tumor"
    return re.sub(r"tumou?rs?$", "", letters) or letters


def counts(table: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Count, for each set, part and class, the images with a copy in another part or set, and how they were changed.

    Args:
        table: as `pairs` returns it, or a kept CSV of it.
        tables: name of each set -> its images: columns image, label and part.

    Returns:
        Columns `COUNTS`: images (in set, part and class), copies (those with a copy in of_set and of_part); exact and
        `CHANGES` by the best pair of each; conflict (those with a copy of another label). Rows only for sets that
        have pairs with each other; "all" stands for any part or class.
    """
    rows = []
    for (name, other), both in owners.both_ways(table).groupby(["set_a", "set_b"], sort=False):
        images = tables[name]
        both = both.sort_values("score", ascending=False, kind="stable")
        for part, of_part in itertools.product(_with_all(images["part"]), _with_all(tables[other]["part"])):
            near = both[_is(both["part_a"], part) & _is(both["part_b"], of_part)]
            best = near.drop_duplicates("image_a")
            conflicting = set(near.loc[near["conflict"], "image_a"])
            for label in _with_all(images["label"]):
                row = {"set": name, "part": part, "label": label, "of_set": other, "of_part": of_part}
                row["images"] = int((_is(images["part"], part) & _is(images["label"], label)).sum())
                of = best[_is(best["label_a"], label)]
                row |= {"copies": len(of), "exact": int(of["exact"].sum())}
                row |= {change: int(of["change"].str.contains(change).sum()) for change in CHANGES}
                rows.append(row | {"conflict": int(of["image_a"].isin(conflicting).sum())})
    return pd.DataFrame(rows, columns=COUNTS)


def affected(table: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> float:
    """Return the share of all images that have a copy, 0 to 1: what `--allow` is compared with."""
    ends = pd.concat([table[[f"set_{e}", f"image_{e}"]].set_axis(["set", "image"], axis=1) for e in "ab"])
    return len(ends.drop_duplicates()) / sum(map(len, tables.values()))


def sheet(table: pd.DataFrame, sets: list[Pictures], most: int = 200) -> str:
    """Return an HTML page of pairs side by side, disagreeing labels first, then the lowest scores.

    It holds pixels of the data: do not publish what you may not.

    Args:
        table: as `pairs` returns it, of these sets.
        most: pairs to show.
    """
    named = {s.name: s for s in sets}
    order = table.assign(agreeing=~table["conflict"].astype(bool)).sort_values(["agreeing", "score"]).head(most)
    blocks = []
    for row in order.to_dict("records"):
        shown = [_figure(named[row[f"set_{end}"]], row, end) for end in "ab"]
        alert = " <b>labels disagree</b>" if row["conflict"] else ""
        blocks.append(f"<section>{''.join(shown)}<p>{row['score']:.3f} {row['change']}{alert}</p></section>")
    style = "section{display:inline-block;margin:8px;font:13px sans-serif}figure{display:inline-block;margin:2px}"
    head = f"<!doctype html><meta charset=utf-8><title>Copies</title><style>{style}</style>"
    return f"{head}<p>{len(order)} of {len(table)} pairs</p>\n" + "\n".join(blocks)


def run(args) -> int:
    """Do what `python -m btlib audit` is asked; the arguments are those of its parser.

    Returns:
        0 if the share of images with a copy is at most `args.allow`, else 1.

    Raises:
        DataError: a set cannot be used. OSError: a file cannot be written.
    """
    names = _names(args.sets)
    absent = next((path for path in args.sets if not path.exists()), None)
    if absent is not None:
        raise DataError(f"{absent}: there is no such folder or file")
    for target in (args.csv, args.counts, args.conflicts, args.patients, args.split, args.json, args.html):
        if target and not target.endswith("/"):
            files.check_writable(Path(target))
    sets = [pictures.read(path, name, args.strict) for path, name in zip(args.sets, names, strict=True)]
    tables = {s.name: s.table for s in sets}
    # Groups kept apart must know of the copies inside a set too.
    table = pairs(sets, args.score, args.within or bool(args.split or args.patients))
    number, people = counts(table, tables), owners.recovered(table, tables)
    facts = _facts(sets, table, tables, number, people)
    print(_words(facts))
    for line in (line for s in sets for line in s.skipped):
        print(f"skipped: {line}", file=sys.stderr)
    by_sets = table["set_a"] + "-" + table["set_b"]
    _write(args.csv, table, by_sets.where(table["set_a"] != table["set_b"], table["set_a"]))
    _write(args.counts, number)
    _write(args.conflicts, table[table["conflict"]])
    _write(args.patients, people, people["set"])
    if args.json:
        files.write_text(Path(args.json), json.dumps(facts, indent=1) + "\n")
    if args.html:
        files.write_text(Path(args.html), sheet(table, sets))
    if args.split:
        _write(args.split, owners.clean_split(people[people["set"] == sets[0].name]))
    return int(facts["share"] > args.allow)


def _names(paths: list[Path]) -> list[str]:
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [f"{i} {name}" for i, name in enumerate(names, 1)]


def _write(target: str | None, table: pd.DataFrame, by: pd.Series | None = None) -> None:
    if not target:
        return
    if by is not None and target.endswith("/"):
        for name, rows in table.groupby(by, sort=False):
            _write(f"{target}{name}.csv", rows)
        return
    with files.replacing(Path(target)) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4g", lineterminator="\n")


def _facts(sets, table, tables, number, people) -> dict:
    read = [{"name": s.name, "images": len(s.table), "skipped": s.skipped} for s in sets]
    known = table[(table["patient_a"] != "") & (table["patient_b"] != "")]
    crossing = known["patient_a"].map(manifests.patient_group) != known["patient_b"].map(manifests.patient_group)
    return {
        "sets": read,
        "pairs": len(table),
        "share": affected(table, tables),
        "conflicts": int(table["conflict"].sum()),
        "pairs_of_two_patients": int(crossing.sum()),
        "recovered": int((people["through"] != "").sum()),
        "ambiguous": int((people["ambiguous"] != "").sum()),
        "counts": number.to_dict("records"),
        "shared": owners.shared(people).to_dict("records"),
    }


def _words(facts: dict) -> str:
    lines = [f"{s['name']}: {s['images']} images, {len(s['skipped'])} not readable" for s in facts["sets"]]
    lines.append(f"{facts['pairs']} pairs of copies; {facts['share']:.1%} of all images have one")
    for row in facts["counts"]:
        if not row["copies"] or row["label"] != ALL:
            continue
        other = "itself" if row["of_set"] == row["set"] else row["of_set"]
        where = [n if p == ALL else f"{n}, {p}" for n, p in ((row["set"], row["part"]), (other, row["of_part"]))]
        how = ", ".join(f"{row[key]} {key}" for key in ("exact", *CHANGES, "conflict") if row[key])
        same = ("set", "part", "of_set", "of_part")
        classes = [r for r in facts["counts"] if all(r[k] == row[k] for k in same) and r["label"] != ALL]
        by_class = ", ".join(f"{r['label'] or 'no label'} {r['copies']} of {r['images']}" for r in classes)
        lines.append(f"{where[0]}: {row['copies']} of {row['images']} have a copy in {where[1]} ({how or 'unchanged'})")
        lines += [f"    {by_class}"] if by_class else []
    for row in facts["shared"]:
        lines.append(
            f"{row['set']}, {row['part']}: {row['patient_in_training']} of {row['with_patient']} images of known "
            f"patients share them with training; {row['group_in_training']} of {row['images']} share patient or chain"
        )
    lines.append(f"labels disagree in {facts['conflicts']} pairs (conflict)")
    lines.append(f"{facts['pairs_of_two_patients']} pairs join two known patients")
    lines.append(f"patients recovered for {facts['recovered']} images, {facts['ambiguous']} of them ambiguous")
    return "\n".join(lines)


def _figure(pictures: Pictures, row: dict, end: str) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pictures.prepared(row[f"image_{end}"])).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    caption = html.escape(" ".join((row[f"set_{end}"], row[f"image_{end}"], row[f"label_{end}"])))
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _disagree(a: str, b: str) -> bool:
    return bool(a and b) and plain(a) != plain(b)


def _change(row: dict) -> str:
    words = ["mirrored"] if row["transform"] in MIRRORED else []
    degrees = QUARTERS.get(row["transform"], 0)
    degrees += round(row["angle"]) if abs(row["angle"]) >= TURNED else 0
    words += [f"turned {degrees}"] if degrees else []
    words += ["cropped"] if min(row["shown"], row["covered"]) < SHOWN else []
    words += ["re-windowed"] if row["tone"] > TONE else []
    return ", ".join(words) or ("nothing" if row["exact"] else "re-encoded or resized")


def _with_all(values: pd.Series) -> list[str]:
    names = sorted(values.unique())
    return [*names, ALL] if names != [""] else [ALL]


def _is(values: pd.Series, name: str) -> pd.Series:
    return values == name if name != ALL else pd.Series(True, values.index)
