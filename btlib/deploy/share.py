"""Who trains and who is tested, for others to use: manifest.csv, parts.csv and croissant.json, without a pixel."""

import hashlib
import json
from pathlib import Path

import pandas as pd
import yaml

from btlib import files, params
from btlib.data import datasets, splits
from btlib.data import manifest as manifests
from btlib.fitting import runs
from btlib.study import tables

WORDS = Path(__file__).resolve().parent / "croissant.yaml"
COLUMNS = tuple(name for name in manifests.COLUMNS if name != "path")


def write(study: params.Study) -> Path:
    """Write reports/<profile>/manifest.csv, parts.csv and croissant.json, which describes both; return the last.

    Raises:
        DataError: the data are not there, or cannot carry a protocol.

    Source: Croissant 1.0, mlcommons.org.
    """
    table, folder = datasets.manifest(study.data), tables.folder(study.profile)
    written = {"manifest": table[list(COLUMNS)], "parts": parts(study, table)}
    for name, frame in written.items():
        with files.replacing(folder / f"{name}.csv") as temporary:
            frame.to_csv(temporary, index=False, lineterminator="\n")
    hashes = {name: hashlib.sha256((folder / f"{name}.csv").read_bytes()).hexdigest() for name in written}
    files.write_text(folder / "croissant.json", json.dumps(described(study.profile, written, hashes), indent=1) + "\n")
    return folder / "croissant.json"


def parts(study: params.Study, table: pd.DataFrame) -> pd.DataFrame:
    """Return the part of every slice of a manifest in every fit of the proposed network.

    Returns:
        image_id, and a column <protocol>_seed<s>_fold<f> each: "train", "validation" or "test".
    """
    some, author = table[table["label"].isin(study.classes)], datasets.author_folds(study.data)
    made = {"image_id": some["image_id"].to_numpy()}
    for one in study.protocols:
        for seed, fold in runs.pairs_of(study, one):
            split = splits.make(some, one.protocol, fold, seed, study.split, author)
            made[f"{one.protocol}_seed{seed}_fold{fold}"] = split["role"].to_numpy()
    return pd.DataFrame(made)


def described(profile: str, written: dict[str, pd.DataFrame], hashes: dict[str, str]) -> dict:
    """Return a Croissant description of tables.

    Args:
        profile: the study's.
        written: table by its name, as it lies in <name>.csv.
        hashes: SHA-256 of each of these files, in hex.
    """
    words = yaml.safe_load(WORDS.read_text(encoding="utf-8"))
    objects = [
        {"@type": "cr:FileObject", "@id": f"{name}.csv", "name": f"{name}.csv", "contentUrl": f"{name}.csv"}
        | {"encodingFormat": "text/csv", "sha256": digest}
        for name, digest in hashes.items()
    ]
    about = {key: text.format(profile=profile) if key == "name" else text for key, text in words["about"].items()}
    records = [_records(name, frame, words["columns"]) for name, frame in written.items()]
    return about | {"distribution": objects, "recordSet": records}


def _records(name: str, frame: pd.DataFrame, columns: dict[str, str]) -> dict:
    fields = []
    for column in frame:
        kind = "sc:Integer" if pd.api.types.is_integer_dtype(frame[column]) else "sc:Text"
        source = {"fileObject": {"@id": f"{name}.csv"}, "extract": {"column": column}}
        about = columns.get(column, "The slice's part: train, validation or test.")
        one = {"@type": "cr:Field", "@id": f"{name}/{column}", "name": column, "description": about, "dataType": kind}
        fields.append(one | {"source": source})
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "key": {"@id": f"{name}/image_id"}, "field": fields}
