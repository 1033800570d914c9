"""Faults, hostile input and the same numbers twice: `python tests/torture.py [LINE ...] --seed N`.

Each line of reports/reliability.md is one function here; it returns figures, each with what is allowed. Rows of the lines
that ran replace those lines in reports/reliability.csv, and the Markdown is written from that. `make test` runs short
versions of the same functions (tests/test_reliability.py).
"""

import argparse
import contextlib
import hashlib
import http.server
import io
import json
import multiprocessing
import os
import pickle
import random
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # this file is run by its path

from btlib import DataError, ParamsError, files, params, preprocessing, runs  # noqa: E402

COLUMNS = ["line", "measured", "value", "allowed", "holds", "seed", "commit", "hardware"]
MEMORY_MB = 2000
SECONDS = 5
HOW = params.Preprocessing(image_size=64, crop_to_head=True, low_percentile=0.5, high_percentile=99.5)


def figure(measured: str, value, at_most=None, at_least=None, equals=None) -> dict:
    """One figure of a line; without a bound it is told and not judged."""
    allowed, holds = "", ""
    if at_most is not None:
        allowed, holds = f"at most {at_most:g}", value <= at_most
    if at_least is not None:
        allowed, holds = f"at least {at_least:g}", value >= at_least
    if equals is not None:
        allowed, holds = f"{equals}", value == equals
    return {
        "measured": measured,
        "value": value,
        "allowed": allowed,
        "holds": {True: "yes", False: "no"}.get(holds, ""),
    }


# --- fuzz ---


class Worker:
    """A process that reads one mutated file after another, so that a crash, a hang or a leak is seen from outside."""

    def __init__(self, kind: str, seed: int, folder: Path, patience: float = 60):
        self.given, self.patience = (kind, seed, folder), patience
        self.process = None

    def ask(self, number: int) -> dict:
        """Have file `number` read; a worker that dies or is silent for `patience` seconds is replaced."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, other = context.Pipe()
            self.process = context.Process(target=_work, args=(other, *self.given), daemon=True)
            self.process.start()
            other.close()
            self.pipe.recv()
        self.pipe.send(number)
        try:
            if self.pipe.poll(self.patience):
                return self.pipe.recv()
            outcome = "hung"
        except (EOFError, ConnectionError):
            outcome = "crashed"
        self.close()
        return {"outcome": outcome, "told": f"file {number}", "seconds": self.patience, "mb": 0.0, "what": ""}

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def _work(pipe, kind, seed, folder):
    # Twice what is allowed: who asks for more dies of it, who merely uses more is measured.
    resource.setrlimit(resource.RLIMIT_AS, (4 * MEMORY_MB * 2**20, resource.RLIM_INFINITY))
    warnings.simplefilter("ignore")
    make, read, allowed = FUZZ[kind]
    folder.mkdir(parents=True, exist_ok=True)
    make(np.random.default_rng(0), folder)  # what is imported and cached once is no file's doing
    pipe.send("ready")
    while True:
        number = pipe.recv()
        rng = np.random.default_rng([seed, number])
        for old in folder.iterdir():
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        what, name = make(rng, folder)
        begun, outcome, told = time.process_time(), "read", ""
        try:
            read(folder)
        except allowed as error:
            told = str(error)
            outcome = "refused" if _names(told, name) else "refused without a name"
        except BaseException as error:
            outcome, told = "another exception", f"{type(error).__name__}: {error}"
        pipe.send(
            {
                "outcome": outcome,
                "told": told[:300],
                "seconds": time.process_time() - begun,
                "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "what": what,
            }
        )


def _names(told: str, name: str) -> bool:
    """Whether a message names the file, and for a parameter file also the key or that it is no mapping."""
    if not name.endswith(".yaml"):
        return name in told
    rest = told.partition(name)[2]
    first = [line.strip().split(":")[0] for line in rest.lstrip(":").strip().splitlines()[:1]]
    keyed = bool(first) and bool(first[0]) and " " not in first[0].split("[")[0].split(".")[0]
    return bool(rest) and (keyed or "YAML" in rest or "allowed: a mapping" in rest)


def fuzz(kind: str, n: int, seed: int, verbose: bool = True) -> list[dict]:
    """Have n mutated files of a kind read in another process; return the figures."""
    rows, worst = [], {}
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(kind, seed, Path(folder, "f"))
        for number in range(n):
            row = worker.ask(number)
            rows.append(row)
            if verbose and (row["outcome"] not in ("read", "refused") or row["seconds"] > SECONDS):
                print(kind, number, row, flush=True)
            if row["mb"] > worst.get("mb", 0) + 50:
                worst = row
                if verbose and row["mb"] > 800:
                    print(kind, number, "memory", row, flush=True)
        worker.close()
    table = pd.DataFrame(rows)
    count = table["outcome"].value_counts()
    error = "ParamsError that names file and key" if kind == "parameters" else "DataError that names the file"
    wrong = n - int(count.get("read", 0)) - int(count.get("refused", 0))
    return [
        figure(f"mutated {NAMES[kind]}", n),
        figure("read" if kind != "parameters" else "valid", int(count.get("read", 0))),
        figure(f"refused with a {error}", int(count.get("refused", 0))),
        figure("other exceptions, crashes or hangs", wrong, at_most=0),
        figure("longest, s of CPU", round(table["seconds"].max(), 2), at_most=SECONDS),
        figure("most memory of the reading process, MB", round(table["mb"].max()), at_most=MEMORY_MB),
    ]


def spoil(data: bytes, rng) -> bytes:
    """Flip, overwrite, cut, repeat or drop bytes; half of the places lie near the front, where the structure is."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if not data:
            break
        at = int(rng.integers(len(data) if rng.random() < 0.5 else min(len(data), 4096)))
        kind = int(rng.integers(7))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at] = int(rng.integers(256))
        elif kind == 2:
            data[at : at + 8] = rng.bytes(8)
        elif kind == 3:
            some = (b"\xff\xff\xff\x7f", b"\xff" * 8, b"\x00" * 4, b"\x00\x00\x00\x80", b"\x01\x00\x00\x00")
            piece = some[int(rng.integers(len(some)))]
            data[at : at + len(piece)] = piece
        elif kind == 4:
            length = int(rng.integers(1, 200))
            data[at:at] = data[at : at + length]
        elif kind == 5:
            del data[at : at + int(rng.integers(1, 200))]
        elif rng.random() < 0.5:
            del data[at:]
    return bytes(data)


def _slice_picture(rng, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:height, :width]
    head = ((rows / height - 0.5) ** 2 + (columns / width - 0.5) ** 2) < 0.18
    mask = ((rows / height - 0.4) ** 2 + (columns / width - 0.6) ** 2) < 0.01
    image = (head * 300 + mask * 200 + rng.integers(0, 60, (height, width))).astype(np.int16)
    return image, mask


def make_mat(rng, folder: Path) -> tuple[str, str]:
    """Write one mutated slice as 1.mat (or inside a.zip, or as cvind.mat beside a good one); say what was done to it."""
    image, mask = _slice_picture(rng, *(int(n) for n in rng.integers(40, 160, 2)))
    form = str(rng.choice(["7.3", "7.3", "7.3 plain", "5", "5 packed", "zip", "folds", "folds 5"]))
    path = folder / ("cvind.mat" if form.startswith("folds") else "1.mat")
    what = "as it is"
    if form.endswith(("5", "5 packed")):
        import scipy.io

        struct_ = {"PID": "MR040240B", "image": image, "label": 2, "tumorMask": mask}
        given = {"cvind": np.ones((1, 90))} if form == "folds 5" else {"cjdata": struct_}
        if rng.random() < 0.4:
            what = _restructure5(given, rng)
        scipy.io.savemat(path, given, do_compression=form == "5 packed")
    else:
        what = _write_hdf5(path, image, mask, rng, form)
    if form == "zip":
        with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED if rng.random() < 0.5 else 0) as archive:
            archive.write(path, "1.mat")
        path.unlink()
        path = folder / "a.zip"
    if what == "as it is" or rng.random() < 0.5:
        path.write_bytes(spoil(path.read_bytes(), rng))
        what += ", bytes spoilt"
    if form.startswith("folds"):
        import scipy.io

        good = {"PID": "100360", "image": image, "label": 1, "tumorMask": mask}
        scipy.io.savemat(folder / "2.mat", {"cjdata": good})
    return f"{form}: {what}", path.name


def _restructure5(given: dict, rng) -> str:
    inner = given.get("cjdata", given)
    key = str(rng.choice(list(inner)))
    values = {
        "removed": None,
        "text": "x" * 99,
        "struct": {"a": 1},
        "cell": np.array([1, "b", np.ones(3)], object),
        "empty": np.zeros((0, 0)),
        "3-D": np.ones((20, 20, 3)),
        "complex": np.ones((40, 40)) * 1j,
        "not finite": np.full((40, 40), np.nan),
        "extreme": np.array([[1e308, -1e308] * 20] * 40),
        "long": np.ones((1, 100_000), np.uint8),
        "other size": np.ones((33, 44), np.int8),
    }
    what = str(rng.choice(list(values)))
    if what == "removed":
        del inner[key]
    else:
        inner[key] = values[what]
    if not inner:
        inner["nothing"] = 1
    return f"{key} {what}"


def _write_hdf5(path: Path, image, mask, rng, form: str) -> str:
    import h5py

    fields = {
        "PID": np.array([[ord(c)] for c in "MR040240B"], np.uint16),
        "image": image.T,
        "label": np.array([[float(rng.integers(1, 4))]]),
        "tumorMask": mask.T.astype(np.uint8),
    }
    prefix = "cjdata/"
    if form == "folds":
        fields, prefix = {"cvind": np.array([rng.integers(1, 6, 90)], float)}, ""
    packed = {} if form == "7.3 plain" else {"chunks": (16, 16), "compression": "gzip"}
    what = "as it is"
    with h5py.File(path, "w", userblock_size=512) as file:
        for key, value in fields.items():
            file.create_dataset(prefix + key, data=value, **(packed if value.size > 100 else {}))
        if rng.random() < 0.5:
            key = str(rng.choice(list(fields)))
            what = f"{key} {_restructure(file, prefix + key, fields[key], rng)}"
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return what


def _restructure(file, key: str, value: np.ndarray, rng) -> str:
    """Replace one dataset of an HDF5 file by something that is no such dataset."""
    import h5py

    parent = file[key].parent
    del file[key]
    rows, columns = value.shape

    def huge(**more):
        side = int(rng.choice([4096, 20_000, 30_000, 1_000_000, 2**40]))
        file.create_dataset(key, (side, side), rng.choice(["f8", "u1", "i2"]), **more)

    def bomb():
        data = file.create_dataset(key, (64, 64), "i2", chunks=(64, 64), compression="gzip")
        data.id.write_direct_chunk((0, 0), zlib.compress(bytes(30 << 20), 9))

    def group_in_itself():
        file.create_group(key)
        file[f"{key}/again"] = file[key]

    made = {
        "removed": lambda: None,
        "group": lambda: file.create_group(key),
        "group in itself": group_in_itself,
        "number": lambda: file.create_dataset(key, data=3.0),
        "empty": lambda: file.create_dataset(key, (0, 5), "f8"),
        "null": lambda: file.create_dataset(key, data=h5py.Empty("f8")),
        "3-D": lambda: file.create_dataset(key, (20, 20, 3), "f8"),
        "32-D": lambda: file.create_dataset(key, (1,) * 32, "f8"),
        "text": lambda: file.create_dataset(key, data="x" * 1000),
        "texts": lambda: file.create_dataset(key, (40, 40), h5py.string_dtype()),
        "ragged": lambda: file.create_dataset(key, (40, 40), h5py.vlen_dtype("i4")),
        "references": lambda: file.create_dataset(key, (40, 40), h5py.ref_dtype),
        "compound": lambda: file.create_dataset(key, (40, 40), [("a", "f8"), ("b", "i4")]),
        "arrays": lambda: file.create_dataset(key, (40, 40), np.dtype("(3,)f4")),
        "enum": lambda: file.create_dataset(key, value.shape, h5py.enum_dtype({"A": 0, "B": 1}, basetype="i1")),
        "complex": lambda: file.create_dataset(key, data=value * 1j),
        "other type": lambda: file.create_dataset(key, data=value.astype(rng.choice([">f8", "f2", "u8", "g", "?"]))),
        "turned": lambda: file.create_dataset(key, data=value.T),
        "flat": lambda: file.create_dataset(key, data=value.ravel()),
        "other size": lambda: file.create_dataset(key, (rows + 7, columns), "i2"),
        "not finite": lambda: file.create_dataset(key, data=np.full(value.shape, np.inf)),
        "extreme": lambda: file.create_dataset(key, data=np.where(value % 2, 1e308, -1e308)),
        "huge, never written": huge,
        "huge, in chunks": lambda: huge(chunks=(64, 64), compression="gzip"),
        "huge chunks": lambda: huge(chunks=(4096, 4096)),
        "growing": lambda: file.create_dataset(key, data=value, maxshape=(None, None), chunks=(1, 1)),
        "lzf": lambda: file.create_dataset(key, data=value, chunks=(min(8, rows), 1), compression="lzf"),
        "bomb": bomb,
        "link elsewhere": lambda: parent.__setitem__(key.split("/")[-1], h5py.ExternalLink("/etc/passwd", "/x")),
        "link to itself": lambda: parent.__setitem__(key.split("/")[-1], h5py.SoftLink(f"/{key}")),
        "pixels elsewhere": lambda: file.create_dataset(key, (40, 40), "u1", external=[("/etc/passwd", 0, 1600)]),
    }
    what = str(rng.choice(list(made)))
    with contextlib.suppress(ValueError, TypeError, OSError):  # some do not exist for every field
        made[what]()
    return what


def read_mat(folder: Path) -> None:
    """What a study does with a folder of slices: list, read, prepare, ask for the author's folds."""
    from btlib import figshare

    figshare.folds(folder)
    for name in figshare.manifest(folder)["path"]:
        preprocessing.prepare(*figshare.read(folder, name), HOW)


def make_picture(rng, folder: Path) -> tuple[str, str]:
    """Write one mutated picture into a class folder; say what was done to it."""
    from PIL import Image

    grey, _ = _slice_picture(rng, *(int(n) for n in rng.integers(20, 120, 2)))
    grey = (grey // 3).clip(0, 255).astype(np.uint8)
    mode = str(rng.choice(["L", "RGB", "RGBA", "P", "1", "I;16", "CMYK", "LA"]))
    kind = str(
        rng.choice({"I;16": ["PNG"], "CMYK": ["JPEG"], "P": ["PNG"], "1": ["PNG"]}.get(mode, ["JPEG", "PNG", "WEBP"]))
    )
    if kind == "JPEG" and mode in ("RGBA", "LA"):
        mode = "RGB"
    picture = Image.fromarray(grey.astype(np.uint16) * 200) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(0, 12))
    more = {"PNG": {"optimize": bool(rng.integers(2))}, "JPEG": {"progressive": bool(rng.integers(2))}, "WEBP": {}}[
        kind
    ]
    if kind == "WEBP" and rng.random() < 0.3:
        more = {"save_all": True, "append_images": [picture.copy()]}
    stream = io.BytesIO()
    picture.save(stream, kind, exif=exif, **more)
    data, what = stream.getvalue(), "as it is"
    if kind == "PNG" and rng.random() < 0.4:
        data, what = _rechunk(data, rng)
    if rng.random() < 0.05:
        other = str(rng.choice(["GIF", "TIFF", "BMP", "PPM"]))
        stream = io.BytesIO()
        Image.fromarray(grey).save(stream, other)
        data, what = stream.getvalue(), f"really a {other}"
    if what == "as it is" or rng.random() < 0.5:
        data, what = spoil(data, rng), f"{what}, bytes spoilt"
    name = f"m{rng.choice(['.png', '.jpg', '.webp', '.JPEG'])}"
    (folder / "glioma_tumor").mkdir(exist_ok=True)
    (folder / "glioma_tumor" / name).write_bytes(data)
    return f"{kind} {mode}: {what}", name


def _rechunk(data: bytes, rng) -> tuple[bytes, str]:
    """Change a PNG's header or the order of its chunks, with checksums that are right."""
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + length]])
        at += 12 + length
    what = str(rng.choice(["size", "depth", "shuffled", "doubled", "text bomb"]))
    if what == "size":
        side = [int(rng.choice([0, 1, 50, 3000, 7999, 60_000, 2**31 - 1])) for _ in "wh"]
        chunks[0][1] = struct.pack(">II", *side) + chunks[0][1][8:]
    elif what == "depth":
        chunks[0][1] = chunks[0][1][:8] + rng.bytes(5)
    elif what == "shuffled":
        chunks = [chunks[int(i)] for i in rng.permutation(len(chunks))]
    elif what == "doubled":
        chunks.insert(int(rng.integers(len(chunks))), chunks[int(rng.integers(len(chunks)))])
    else:
        chunks.insert(1, [b"zTXt", b"x\x00\x00" + zlib.compress(bytes(80 << 20), 9)])
    packed = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks]
    return data[:8] + b"".join(packed), what


def read_picture(folder: Path) -> None:
    """What a study does with class folders of pictures: list, read, prepare."""
    from btlib import folders

    for name in folders.manifest(folder, {"glioma_tumor": "glioma"})["path"]:
        preprocessing.prepare(*folders.read(folder, name), HOW)


WEIRD = [
    None,
    True,
    -1,
    0,
    1,
    10**30,
    1e308,
    float("nan"),
    float("-inf"),
    "",
    "x",
    "\x00",
    "a: b",
    [],
    [[]],
    {},
    {"a": 1},
]
WEIRD += [[None], "../x", "$(touch pwned)", ["x"] * 50, {1: 2}, {"": {}}, "é" * 300, "2024-13-45", 0.5, "1e3", [0, 0]]
TEXTS = [
    "seed: 2024-13-45",
    "seed: " + "9" * 5000,
    "seed: 0x" + "f" * 5000,
    "profile: " + "[" * 3000,
    "profile: " + "{a: " * 3000,
    "profile: !!python/object/apply:os.system [touch pwned]",
    "profile: !!binary x",
    "profile: !!set {a}",
    "profile: !!float x",
    "profile: !!int x",
    "profile: !!timestamp 2001-01-01T99:99:99",
    "profile: *nowhere",
    "profile: &a [*a]",
    "? [a, b]\n: c",
    "1: 2",
    "~: 2",
    "seed: 1\nseed: 2",
    "<<: 3",
    "<<: {profile: quick}",
    "\tseed: 1",
    "--- \n--- \nseed: 1",
    "%YAML 9.9\n---\nseed: 1",
    "a: &a ["
    + "x, " * 9
    + "]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [" + f"*{chr(97 + i)}, " * 9 + "]\n" for i in range(9))
    + "profile: *j",
]


def make_parameters(rng, folder: Path) -> tuple[str, str]:
    """Write one mutated parameter file, spoilt as text or with a key or value changed."""
    name = str(rng.choice(["quick", "figshare", "paper"]))
    text = (params.PARAMS_DIR / f"{name}.yaml").read_text(encoding="utf-8")
    path = folder / "mutated.yaml"
    kind = str(rng.choice(["bytes", "lines", "text", "value", "value", "value", "key"]))
    if kind == "bytes":
        path.write_bytes(spoil(text.encode(), rng))
        return f"{name}: bytes spoilt", path.name
    if kind == "lines":
        lines = text.splitlines()
        for _ in range(int(rng.integers(1, 4))):
            at, other = (int(n) for n in rng.integers(len(lines), size=2))
            how = int(rng.integers(4))
            lines[at] = [lines[other], "", "  " + lines[at], lines[at].strip()][how]
        path.write_text("\n".join(lines), encoding="utf-8")
        return f"{name}: lines moved", path.name
    if kind == "text":
        what = TEXTS[int(rng.integers(len(TEXTS)))]
        path.write_text(text + what + "\n" if rng.random() < 0.5 else what + "\n", encoding="utf-8")
        return f"{name}: {what[:40]}", path.name
    given = yaml.safe_load(text)
    places = list(_places(given))
    parent, key = places[int(rng.integers(len(places)))]
    if kind == "value":
        parent[key] = WEIRD[int(rng.integers(len(WEIRD)))]
    elif isinstance(parent, dict):
        value = parent.pop(key)
        if rng.random() < 0.6:
            parent[str(key)[::-1] if rng.random() < 0.5 else str(key) + "s"] = value
    else:
        parent.append(parent[key])
    path.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    return f"{name}: {key} {kind}", path.name


def _places(node):
    """Every key of every mapping and every place of every list, with what holds it."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield node, key
        yield from _places(value)


def read_parameters(folder: Path) -> None:
    """Read a parameter file by each of the ways that lead to a study."""
    study = params.load(folder / "mutated.yaml")
    assert params.from_mapping(study.model_dump()) == study


FUZZ = {
    "slices": (make_mat, read_mat, DataError),
    "pictures": (make_picture, read_picture, DataError),
    "parameters": (make_parameters, read_parameters, ParamsError),
}
NAMES = {"slices": ".mat files", "pictures": "pictures", "parameters": "parameter files"}


# --- killed, and started again ---


def tiny() -> params.Study:
    """The quick profile as small as every notebook allows: 48 slices of 64 px, one fit of one epoch at 32 px."""
    given = params.load("quick").model_dump()
    given["profile"] = "torture"
    given["data"]["phantom"].update(patients=24, slices_per_patient=2, size=64)
    given["external"]["phantom"].update(patients=14, slices_per_patient=1, size=64, copies=7)
    given["preprocessing"]["image_size"] = 32
    stage = given["recipes"]["scratch"]["stages"][0]
    given["recipes"]["scratch"].update(batch_size=8, stages=[stage | {"epochs": 1}])
    given["proposed"] = {"model": "efficientnet_lite0", "weights": None, "recipe": "scratch"}
    given["protocols"], given["baselines"] = given["protocols"][:1], []
    given["ablation"]["unfreeze"] = []
    given["gradcam"].update(methods=["gradcam"], deletion_steps=2)
    given["statistics"]["bootstrap"] = 100
    return params.check(given, "torture")


def toy_fit(seed: int = 0):
    """The study and one fit of a toy backbone: a head stage, then four epochs with averaged weights and patience."""
    import conftest

    from btlib import datasets, models

    models.REGISTRY["toy"] = conftest.TOY
    study = conftest.shrunk()
    recipe = study.recipes["scratch"]
    head = recipe.stages[0].model_copy(update={"unfreeze": "head", "epochs": 2})
    recipe = recipe.model_copy(
        update={"ema": 0.5, "patience": 4, "stages": [head, recipe.stages[0].model_copy(update={"epochs": 4})]}
    )
    fit = runs.fit_of(study, datasets.fingerprint(study.data), study.proposed, "image_holdout", 0, seed)
    return study, fit.model_copy(update={"recipe": recipe})


def _fit_toy(home: str, seed: int, begun=None) -> None:
    os.environ["BTLIB_HOME"] = home
    from btlib import training

    study, fit = toy_fit(seed)
    if begun is not None:
        begun.set()
    training.fit(study, fit)


def _ready() -> multiprocessing.context.BaseContext:
    """Processes that have TensorFlow imported already, and share nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torture", "btlib.training", "conftest"])
    return context


def whole(home: Path) -> list[str]:
    """Read every file that a killed process may have been writing; return those that are not whole."""
    import h5py

    wrong = []
    for path in sorted(p for p in home.rglob("*") if p.is_file() and ".snakemake" not in p.parts):
        if path.name.startswith(".") or path.suffix not in READERS:
            continue
        try:
            READERS[path.suffix](path)
            if path.suffix == ".h5":
                with h5py.File(path, "r") as file:
                    assert file["images"].shape == file["masks"].shape
        except Exception as error:
            wrong.append(f"{path.relative_to(home)}: {type(error).__name__}: {error}")
    return wrong


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def _picture(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()


READERS = {
    ".json": lambda p: json.loads(p.read_text(encoding="utf-8")),
    ".ipynb": lambda p: json.loads(p.read_text(encoding="utf-8")),
    ".yaml": lambda p: yaml.safe_load(p.read_text(encoding="utf-8")),
    ".csv": lambda p: pd.read_csv(p),
    ".npz": _zip,
    ".keras": _zip,
    ".png": _picture,
    ".svg": lambda p: p.read_text(encoding="utf-8").rstrip().index("</svg>"),
    ".h5": lambda p: p.stat(),
}


def blocked(home: Path) -> list[str]:
    """Return the lock files that cannot be had at once, with no process running."""
    import fcntl

    wrong = []
    locks = [*home.glob("runs/.locks/*"), *home.glob("data/.*.lock"), *home.glob("data/.cache/*.lock")]
    for path in locks:
        with open(path, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                wrong.append(str(path.relative_to(home)))
    return wrong


def left_over(home: Path) -> list[str]:
    """Return temporary files and folders that nobody will finish."""
    names = ("runs/.[!l]*", "runs/*/.*", "reports/*/.html-*", "reports/*/tables/.*", "reports/*/figures/.*")
    names += ("reports/*/notebooks/.*.ipynb", "data/.*.partial", "data/.*.old", "data/.cache/.*")
    return sorted(str(p.relative_to(home)) for name in names for p in home.glob(name))


def result(home: Path) -> dict[str, str]:
    """All that a study found, by name, as text or checksum, without timings, times and paths."""
    found = {}
    for folder in sorted(p for p in (home / "runs").glob("[!.]*") if p.is_dir()):
        name = f"runs/{folder.name}"
        found[f"{name} files"] = " ".join(sorted(p.name for p in folder.iterdir()))
        found[f"{name} predictions"] = (folder / "predictions.csv").read_text()
        found[f"{name} history"] = pd.read_csv(folder / "history.csv").drop(columns="seconds", errors="ignore").to_csv()
        found[f"{name} weights"] = _weights(folder / "model.keras")
    for path in sorted(home.glob("reports/*/tables/*.csv")):
        found[f"tables/{path.name}"] = _timeless(pd.read_csv(path)).to_csv()
    for path in sorted(home.glob("reports/*/notebooks/[!.]*.ipynb")):
        for i, shown in enumerate(_outputs(path)):
            found[f"notebooks/{path.stem} output {i}"] = shown.replace(str(home), "HOME")
    for path in sorted(home.glob("reports/*/html/index.html")):
        found["html"] = str(len(list(path.parent.glob("*.html"))))
    return found


def _weights(path: Path) -> str:
    import h5py

    digest = hashlib.sha256()
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:
        file.visititems(
            lambda name, node: digest.update(name.encode() + node[()].tobytes() if hasattr(node, "dtype") else b"")
        )
    return digest.hexdigest()


TIMINGS = r"seconds|minutes|_ms|ms_|throughput|per_s|peak_mb|latency|started|finished|commit"


def _timeless(table: pd.DataFrame) -> pd.DataFrame:
    return table[[c for c in table.columns if not re.search(TIMINGS, str(c).replace(" ", "_"))]]


def _outputs(path: Path) -> list[str]:
    """Text, tables without timings, and checksums of pictures of an executed notebook."""
    shown = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            markup = "".join(data.get("text/html", ""))
            if "<table" in markup:
                shown.append(_timeless(pd.read_html(io.StringIO(markup))[0]).to_csv())
            elif "image/png" in data:
                shown.append(hashlib.sha256("".join(data["image/png"]).encode()).hexdigest())
            else:
                text = "".join(output.get("text", "")) or "".join(data.get("text/plain", ""))
                shown.append(re.sub(r"0x[0-9a-f]+", "0x", text))
    return shown


def differences(one: dict, other: dict) -> list[str]:
    """Return the names of results that two homes do not share or that differ."""
    return sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))


def _after_kills(kills: int, wrong: list, blocking: list, different: list, left: list, ended: int) -> list[dict]:
    for name, found in (("not whole", wrong), ("blocking", blocking), ("different", different), ("left over", left)):
        if found:
            print(f"{name}: {found[:10]}", file=sys.stderr)
    return [
        figure("kill -9 at random moments", kills),
        figure("times it was let finish", ended, at_least=1),
        figure("files half-written under their own name, after any kill", len(wrong), equals=0),
        figure("locks that block, after any kill", len(blocking), equals=0),
        figure("results that differ from the uninterrupted one's, after the end", len(different), equals=0),
        figure("temporary files left, after the end", len(left), equals=0),
    ]


def kill_fit(seed: int, n: int = 20) -> list[dict]:
    """A fit is killed with -9 at random moments, each time started again, and so on until it is done; then anew.

    A toy backbone of two convolutions, fitted by the code that fits all: a head stage, then four epochs with averaged
    weights and early stopping, from making up the slices on.
    """
    rng, context = random.Random(seed), _ready()
    wrong, blocking, different, left, kills, ended = [], [], [], [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        once = Path(folder, "once")
        once.mkdir()
        process = context.Process(target=_fit_toy, args=(str(once), 0))
        process.start()
        process.join()
        assert process.exitcode == 0
        begun_at = min(p.stat().st_mtime for p in (once / "data").rglob("*"))
        span = max(p.stat().st_mtime for p in (once / "runs").rglob("*")) - begun_at
        expected = result(once)
        while kills < n or not ended:
            home = Path(folder, f"home{ended}")
            home.mkdir(exist_ok=True)
            begun = context.Event()
            process = context.Process(target=_fit_toy, args=(str(home), 0, begun))
            process.start()
            begun.wait(300)
            process.join(rng.uniform(0, span) if kills < n else None)
            if process.is_alive():
                process.kill()
                process.join()
                kills += 1
                wrong += whole(home)
                blocking += blocked(home)
            else:
                assert process.exitcode == 0, process.exitcode
                different += differences(expected, result(home))
                left += left_over(home)
                ended += 1
    return _after_kills(kills, wrong, blocking, different, left, ended)


def start(home: Path, *words: str, log: Path | None = None, python: str = sys.executable, **env) -> subprocess.Popen:
    """Start a Python program of the study in a home of its own and in a process group of its own."""
    home.mkdir(parents=True, exist_ok=True)
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if log else subprocess.DEVNULL
    env = {**os.environ, "BTLIB_HOME": str(home), "PYTHONPATH": str(ROOT), **env}
    return subprocess.Popen(
        [python, *words], cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
    )


def study_in(home: Path, study: params.Study, **more) -> subprocess.Popen:
    """Start `make report`'s command on a study in a home."""
    path = home.with_suffix(".yaml")
    params.write(study, path)
    return start(home, "-m", "btlib", "study", str(path), log=home.with_suffix(".log"), **more)


def _done(process: subprocess.Popen, home: Path) -> None:
    if process.wait() != 0:
        raise RuntimeError(home.with_suffix(".log").read_text(errors="replace")[-3000:])


def _tree(process) -> list:
    import psutil

    try:
        top = psutil.Process(process.pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(processes) -> None:
    import psutil

    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def kill_report(seed: int, n: int = 20) -> list[dict]:
    """A whole `make report` is killed with -9 at random moments and started again at once, until it is done; then anew.

    In turns all of its processes are killed, or one of them drawn at random, so that the others are orphans and go on
    beside the new start. On the tiny study: 48 made-up slices, one fit, all seven notebooks and the site.
    """
    import psutil

    rng, study = random.Random(seed), tiny()
    wrong, blocking, different, left, kills, ended = [], [], [], [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        once = Path(folder, "once")
        begun = time.monotonic()
        _done(study_in(once, study), once)
        span = time.monotonic() - begun
        expected = result(once)
        while kills < n or not ended:
            home = Path(folder, f"home{ended}")
            process = study_in(home, study)
            family = set()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0, 0.5 * span) if kills < n else None)
            if process.poll() is None:
                family |= set(_tree(process))
                _kill(family if kills % 2 else [rng.choice(sorted(family, key=lambda p: p.pid))])
                kills += 1
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.3 * span)
                if kills % 2 == 0:
                    psutil.wait_procs(family, 10)
                    blocking += blocked(home)
                _kill([psutil.Process(process.pid)] if process.poll() is None else [])
                wrong += whole(home)
            elif process.returncode == 0:
                deadline = time.monotonic() + 600
                while _strangers(home) and time.monotonic() < deadline:
                    time.sleep(1)
                different += differences(expected, result(home))
                left += left_over(home)
                blocking += blocked(home)
                ended += 1
    return _after_kills(kills, wrong, blocking, different, left, ended)


def _strangers(home: Path) -> list:
    """Processes that still work in a home."""
    import psutil

    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if one.environ().get("BTLIB_HOME") == str(home):
                found.append(one)
    return found


# --- the same numbers ---


def same_numbers(seed: int, n: int = 2, study: params.Study | None = None) -> list[dict]:
    """Clean runs of the quick profile, each in a home of its own, are compared: predictions, weights, tables, outputs.

    Timings, times and paths are left out. Then the same fit on one thread is compared with the one on all of them: sums in
    another order round otherwise, so this is told and not judged; across machines and library versions nothing is promised.
    """
    study = study or params.load("quick")
    with tempfile.TemporaryDirectory() as folder:
        homes = [Path(folder, f"home{i}") for i in range(n)]
        for home in homes:
            _done(study_in(home, study), home)
        results = [result(home) for home in homes]
        different = sorted({name for other in results[1:] for name in differences(results[0], other)})
        if different:
            print("different:", different[:40], file=sys.stderr)
        single = Path(folder, "single")
        fit = min(p.name for p in (homes[0] / "runs").glob("[!.]*"))
        path = homes[0].with_suffix(".yaml")
        words = ("-m", "btlib", "fit", str(path), "--id", fit)
        threads = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), "1")
        _done(start(single, *words, log=single.with_suffix(".log"), **threads), single)
        many, one = (
            pd.read_csv(h / "runs" / fit / "predictions.csv")[list(runs.LOGITS)].to_numpy() for h in (homes[0], single)
        )
    kinds = [name.split("/")[0] for name in results[0]]
    return [
        figure(f"clean runs of the {study.profile} profile", n),
        figure("fits: files, predictions, histories and weights compared", kinds.count("runs")),
        figure("tables compared", kinds.count("tables")),
        figure("outputs of executed notebooks compared", kinds.count("notebooks")),
        figure("of all these, different", len(different), equals=0),
        figure("threads of those runs", os.cpu_count()),
        figure(
            f"fit {fit}, one thread against all: largest difference of a logit",
            float(f"{np.abs(many - one).max():.2g}"),
        ),
        figure(
            "the same: share of validation and test slices with the same class",
            (many.argmax(1) == one.argmax(1)).mean(),
        ),
    ]


def together(seed: int, n: int = 2) -> list[dict]:
    """Two `make report` and four papermill of notebook 04 of the tiny study are started together in one clean home.

    Whether a fit was done once is told by its folder: a second fit would put another in its place.
    """
    study = tiny()
    with tempfile.TemporaryDirectory() as folder:
        alone, home = Path(folder, "alone"), Path(folder, "home")
        _done(study_in(alone, study), alone)
        home.mkdir()
        reports = [study_in(home, study, python=sys.executable) for _ in range(n)]
        notebook, file = "notebooks/04_efficientnet_finetuning.ipynb", str(home.with_suffix(".yaml"))
        notebooks = [
            start(home, "-m", "papermill", notebook, str(Path(folder, f"{i}.ipynb")), "-f", file, "--no-progress-bar")
            for i in range(2 * n)
        ]
        folders = {}
        while any(p.poll() is None for p in reports + notebooks):
            for path in (home / "runs").glob("[!.]*/provenance.json"):
                with contextlib.suppress(FileNotFoundError):
                    found = path.stat()
                    folders.setdefault(path.parent.name, set()).add((path.parent.stat().st_ino, found.st_mtime_ns))
            time.sleep(0.02)
        failed = sum(p.returncode != 0 for p in reports + notebooks)
        if failed:
            print(home.with_suffix(".log").read_text(errors="replace")[-3000:], file=sys.stderr)
        different = differences(result(alone), result(home))
        outputs = [_outputs(Path(folder, f"{i}.ipynb")) for i in range(2 * n)]
        apart = sum(o != outputs[0] for o in outputs)
        rows = [
            figure("`make report` started together", n),
            figure("papermill started beside them", 2 * n),
            figure("of all these, failed", failed, equals=0),
            figure("fits of the study", len(folders)),
            figure("fits done more than once", sum(len(f) > 1 for f in folders.values()), equals=0),
            figure("results that differ from a lone run's", len(different), equals=0),
            figure("papermill notebooks whose outputs differ from the others'", apart, equals=0),
            figure("files half-written", len(whole(home)), equals=0),
            figure("locks that block afterwards", len(blocked(home)), equals=0),
            figure("temporary files left", len(left_over(home)), equals=0),
        ]
        if different:
            print("different:", different[:20], file=sys.stderr)
    return rows


# --- hostile ---


class Command:
    """A pickle of this runs a command where it is loaded."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def _zip_with(path: Path, members: dict[str, bytes], **attributes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = attributes.get("mode", 0o100644) << 16
            archive.writestr(info, data)


def _good_slice(path: Path) -> bytes:
    _write_hdf5(path, *_slice_picture(np.random.default_rng(0), 64, 64), random_never(), "7.3")
    return path.read_bytes()


def random_never():
    """A generator whose `random()` is 1: nothing is mutated."""

    class Never:
        def random(self):
            return 1.0

        def integers(self, *_):
            return 2

    return Never()


def hostile_slices(root: Path) -> dict:
    """Attacks on the reader of slices: name to what is to be read."""
    from btlib import figshare

    good = _good_slice(root / "good.mat")

    def case(name, make):
        folder = root / name.replace(" ", "_")
        folder.mkdir()
        make(folder)
        return lambda: figshare.manifest(folder) and figshare.folds(folder)

    def forged(folder):
        """A member that says it is 100 bytes long and inflates to 200 MB."""
        _zip_with(folder / "a.zip", {"1.mat": bytes(200 << 20)})
        data = bytearray((folder / "a.zip").read_bytes())
        for at in (22, data.rindex(b"PK\x01\x02") + 24):
            data[at : at + 4] = struct.pack("<I", 100)
        (folder / "a.zip").write_bytes(data)

    def endless(folder):
        (folder / "1.mat").symlink_to("/dev/zero")

    def hole(folder):
        with open(folder / "1.mat", "wb") as file:
            file.truncate(20 << 30)

    def wide_folds(folder):
        import h5py

        (folder / "1.mat").write_bytes(good)
        with h5py.File(folder / "cvind.mat", "w", userblock_size=512) as file:
            file.create_dataset("cvind", (15_000, 15_000), "f8")
        with open(folder / "cvind.mat", "r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")

    return {
        "zip member ../1.mat": case("climbs", lambda f: _zip_with(f / "a.zip", {"../1.mat": good})),
        "zip member with an absolute path": case(
            "absolute", lambda f: _zip_with(f / "a.zip", {f"{root}/out.mat": good})
        ),
        "zip member ..\\1.mat": case("backslash", lambda f: _zip_with(f / "a.zip", {"..\\1.mat": good})),
        "zip member that is a symbolic link": case(
            "zipped link", lambda f: _zip_with(f / "a.zip", {"1.mat": b"/etc/passwd"}, mode=0o120777)
        ),
        "zip bomb": case("bomb", lambda f: _zip_with(f / "a.zip", {"1.mat": bytes(200 << 20)})),
        "zip bomb that lies about its size": case("forged", forged),
        "symbolic link to a device": case("link", endless),
        "symbolic link to a folder": case("folder link", lambda f: (f / "in").symlink_to("/etc")),
        "named pipe": case("pipe", lambda f: os.mkfifo(f / "1.mat")),
        "file of 20 GB": case("hole", hole),
        "folds declared as 15000 x 15000": case("wide folds", wide_folds),
    }


def hostile_pictures(root: Path) -> dict:
    """Attacks on the reader of class folders."""
    from PIL import Image

    from btlib import folders

    def case(name, make):
        folder = root / name
        (folder / "c").mkdir(parents=True)
        make(folder / "c")
        return lambda: folders.manifest(folder, {"c": "glioma"})

    def bomb(folder):
        Image.new("RGBA", (7999, 7999)).save(folder / "a.png")

    def hole(folder):
        with open(folder / "a.png", "wb") as file:
            file.truncate(20 << 30)

    return {
        "picture of 64 million pixels in 200 kB": case("p_bomb", bomb),
        "picture that is a file of 20 GB": case("p_hole", hole),
        "picture that is a symbolic link": case("p_link", lambda f: (f / "a.png").symlink_to("/etc/passwd")),
        "picture that is a named pipe": case("p_pipe", lambda f: os.mkfifo(f / "a.png")),
        "PostScript called .png": case(
            "p_ps", lambda f: (f / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n(touch pwned) run")
        ),
    }


def hostile_models(root: Path) -> dict:
    """Attacks by a fitted model that was brought here, a weight pickle, a state and a parameter file."""
    import keras

    from btlib import training, weights

    command = f"touch {root}/pwned"

    def checkpoint(name, tensors):
        path = root / f"{name}.pth"
        path.write_bytes(b"".join(pickle.dumps(x, protocol=2) for x in (1, 1001, {}, tensors)))
        return lambda: weights.read_tensors(path)

    def raw(name, body):
        path = root / f"{name}.pth"
        path.write_bytes(b"".join(pickle.dumps(x, protocol=2) for x in (1, 1001, {})) + body)
        return lambda: weights.read_tensors(path)

    study, fit = toy_fit(99)

    def model(name, write):
        made = fit.model_copy(update={"seed": 1000 + len(name)})
        run = runs.Run(made)
        run.folder.mkdir(parents=True, exist_ok=True)
        write(run.folder / "model.keras")
        return run.model

    def spoilt(change):
        def write(path):
            image = keras.Input((4, 4, 1))
            keras.Model(image, keras.layers.Dense(3, name="logits")(keras.layers.Flatten()(image))).save(path)
            with zipfile.ZipFile(path) as archive:
                parts = {n: archive.read(n) for n in archive.namelist()}
            config = json.loads(parts["config.json"])
            config = change(config) or config
            parts["config.json"] = json.dumps(config).encode()
            _zip_with(path, parts)

        return write

    def lambda_layer(path):
        image = keras.Input((4,))
        keras.Model(image, keras.layers.Lambda(lambda x: (os.system(command), x)[1], output_shape=(4,))(image)).save(
            path
        )
        (root / "pwned").unlink(missing_ok=True)

    def call(module, name, **given):
        def change(config):
            config["config"]["layers"].append(
                {
                    "module": module,
                    "class_name": name,
                    "registered_name": name,
                    "config": given,
                    "name": "x",
                    "inbound_nodes": [],
                }
            )

        return change

    def whole_config(module, name, *arguments):
        return lambda _: {"module": module, "class_name": name, "registered_name": None, "config": {"args": arguments}}

    def state():
        made = fit.model_copy(update={"seed": 77})
        partial = root / "runs" / f".{made.id}"
        partial.mkdir(parents=True)
        np.savez(partial / "state.npz", facts=np.array([Command(command)], object))
        return lambda: training.fit(study, made)

    def parameters():
        path = root / "evil.yaml"
        path.write_text(f"profile: !!python/object/apply:os.system ['{command}']\n")
        return lambda: params.load(path)

    def profile():
        return lambda: params.check(params.load("quick").model_dump() | {"profile": f"$({command})"}, "evil")

    return {
        "weight pickle that calls os.system": checkpoint("system", Command(command)),
        "weight pickle that asks for builtins.eval": raw("eval", b"cbuiltins\neval\n(S'1'\ntR."),
        "weight pickle that asks for getattr of what is allowed": raw(
            "getattr", b"cbuiltins\ngetattr\n(ctorch\nFloatStorage\nS'x'\ntR."
        ),
        "weight pickle without tensors": checkpoint("list", [1, 2]),
        ".keras file with a Lambda layer": model("a", lambda_layer),
        ".keras file that names os.system": model("ab", spoilt(call("os", "system", command=command))),
        ".keras file that names builtins.eval": model("abc", spoilt(whole_config("builtins", "eval", command))),
        ".keras file that turns safe mode off": model(
            "abcd", spoilt(whole_config("keras.config", "enable_unsafe_deserialization"))
        ),
        ".keras file that downloads": model(
            "abcde", spoilt(whole_config("keras.utils", "get_file", "x", "file:///etc/passwd"))
        ),
        ".keras file that is no zip file": model("abcdef", lambda p: p.write_bytes(b"PK\x03\x04" + bytes(90))),
        "state of a fit with a pickle in it": state(),
        "parameter file that calls os.system": parameters(),
        "profile named $(command)": profile(),
    }


def hostile_downloads(root: Path) -> tuple[dict, object]:
    """A publisher's server that lies: a wrong checksum, and a name that climbs out."""
    from btlib import figshare

    os.environ["NO_PROXY"] = "127.0.0.1"

    class Api(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = "../outside.mat" if "climbs" in self.path else "a.zip"
            md5 = hashlib.md5(b"right").hexdigest()
            listing = {"files": [{"name": name, "download_url": f"{address}/file", "computed_md5": md5}]}
            body = b"wrong" if self.path.endswith("/file") else json.dumps(listing).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return {
        "downloaded archive with a wrong checksum": lambda: figshare.fetch(root / "fetched", f"{address}/v2"),
        "download named ../outside.mat": lambda: figshare.fetch(root / "fetched2", f"{address}/climbs"),
    }, server


def shell_names(root: Path) -> dict:
    """A study whose home, interpreter, data folder and slices bear shell characters, as far as notebook 02."""
    names = "we ird;$(touch pwned)&'`touch pwned`\"|>x"
    home = root / names
    (home / "data").mkdir(parents=True)
    venv = root / f"py {names}"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    study = tiny()
    os.environ["BTLIB_HOME"] = str(home)
    from btlib import phantom

    phantom.generate(root / "made", study.data.phantom, None)
    folder = home / "data" / "$(touch pwned); `touch pwned`"
    for path in sorted((root / "made").rglob("*.mat")):
        if path.name != "cvind.mat":
            target = folder / "a;touch pwned #" / f"$(touch pwned)-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    data = {"source": "figshare", "path": f"data/{folder.name}", "phantom": None, "labels": None, "unreadable": "error"}
    given = study.model_dump() | {"data": data, "external": None}
    path = home / "p $(touch pwned).yaml"
    params.write(params.check(given, "shell"), path)
    before = set(ROOT.iterdir()) | set(root.iterdir())
    code = (
        "import sys, runpy; sys.executable = sys.argv.pop(1); sys.argv[0] = 'snakemake'; "
        "runpy.run_module('snakemake', run_name='__main__')"
    )
    target = "reports/torture/notebooks/02_preprocessing.ipynb"
    words = ("-c", code, str(python), "--snakefile", str(ROOT / "Snakefile"), "--cores", "1", "--configfile", str(path))
    log = root / "log"
    process = start(home, *words, "--", target, log=log)
    process.wait()
    new = (set(ROOT.iterdir()) | set(root.iterdir())) - before - {log, ROOT / ".snakemake"}
    told = log.read_text(errors="replace")
    ran = process.returncode == 0 and (home / target).exists()
    return {"ran": ran, "made": sorted(map(str, [*new, *home.glob("**/pwned")])), "told": told}


def hostile(seed: int, n: int = 0) -> list[dict]:
    """Files made to harm are read, and must be refused by an error of btlib's own, within seconds and megabytes.

    Nothing may be executed, nothing written outside: the attacks' marker file and new files around are looked for. Last, a
    study whose home, interpreter, data folder, slices and parameter file have names full of shell characters must run.
    """
    from btlib import WeightsError

    rows, refused, wrong, seconds = [], [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "home")
        root.mkdir()
        os.environ["BTLIB_HOME"] = str(root)
        os.chdir(root)
        downloads, server = hostile_downloads(root)
        attacks = hostile_slices(root) | hostile_pictures(root) | downloads | hostile_models(root)
        for name, attack in attacks.items():
            begun = time.process_time()
            try:
                attack()
                wrong.append(f"{name}: accepted")
            except (DataError, ParamsError, WeightsError) as error:
                refused.append(name)
                print(f"{name}: {error}"[:200])
            except Exception as error:
                wrong.append(f"{name}: {type(error).__name__}: {error}")
            seconds = max(seconds, time.process_time() - begun)
        server.shutdown()
        marks = [*Path(folder).rglob("pwned"), *Path(folder).rglob("outside.mat"), *Path(folder).glob("*.mat")]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        shell = shell_names(Path(folder))
        os.chdir(ROOT)
    for told in wrong:
        print(told, file=sys.stderr)
    if not shell["ran"]:
        print(shell["told"][-3000:], file=sys.stderr)
    rows += [figure(name, "refused" if name in refused else "not refused", equals="refused") for name in attacks]
    return [
        *rows,
        figure("commands executed or files written outside", len(marks) + len(shell["made"]), equals=0),
        figure("longest, s of CPU", round(seconds, 2), at_most=SECONDS),
        figure("most memory, TensorFlow's own included, MB", round(peak), at_most=MEMORY_MB),
        figure(
            "study with shell characters in all its names, through Snakemake to notebook 02",
            "ran" if shell["ran"] else "failed",
            equals="ran",
        ),
    ]


# --- full and read-only disks ---


def _small_disk(folder: Path, megabytes: int, name: str) -> list[dict] | None:
    """Run `INSIDE[name]` on a small tmpfs, mounted in a namespace of its own; None where that is not allowed."""
    mount = f"mount -t tmpfs -o size={megabytes}m none '{folder}'"
    command = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        allowed = subprocess.run([*command, "sh", "-c", mount], capture_output=True).returncode == 0
    except FileNotFoundError:
        return None
    if not allowed:
        return None
    program = f"{mount} && exec '{sys.executable}' '{Path(__file__).resolve()}' --inside {name} --folder '{folder}'"
    done = subprocess.run([*command, "sh", "-c", program], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    print(done.stderr[-3000:], file=sys.stderr, end="")
    return json.loads(done.stdout.splitlines()[-1])


def _earlier(home: Path) -> dict[str, str]:
    """Finish a data set, a fit, a table, a figure and a parameter file; return the checksum of every file."""
    import matplotlib

    matplotlib.use("Agg")
    from btlib import tables

    os.environ["BTLIB_HOME"] = str(home)
    _fit_toy(str(home), 0)
    tables.write("tiny", "models", pd.DataFrame({"a": [1, 2]}))
    tables.save("tiny", "roc", _drawn())
    params.write(params.load("quick"), home / "reports" / "tiny" / "parameters.yaml")
    return checksums(home)


def _drawn():
    from matplotlib.figure import Figure

    shown = Figure()
    shown.subplots().imshow(np.random.default_rng(0).random((200, 200)))
    return shown


def checksums(home: Path) -> dict[str, str]:
    """SHA-256 of every file of a home but locks."""
    return {
        str(p.relative_to(home)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(home.rglob("*"))
        if p.is_file() and ".locks" not in p.parts and p.suffix != ".lock" and p.name != "filler"
    }


def _writes(home: Path) -> dict:
    """Everything that writes a result, each anew or over an earlier one."""
    from btlib import datasets, phantom, tables, training

    study, other = toy_fit(1)
    how = study.preprocessing.model_copy(update={"image_size": 96})
    made = study.data.phantom.model_copy(update={"seed": 5, "size": 128})
    more = study.seed + 1
    return {
        "a phantom": lambda: phantom.generate(home / "data" / "new", made, None),
        "a phantom of the other hospital": lambda: phantom.generate(
            home / "data" / "b", study.external.phantom.model_copy(update={"copies": 0}), None
        ),
        "prepared slices": lambda: datasets.load(study.data, how),
        "a table": lambda: tables.write("tiny", "models", pd.DataFrame({"a": range(9999)})),
        "a figure": lambda: tables.save("tiny", "roc", _drawn()),
        "a parameter file": lambda: params.write(
            study.model_copy(update={"seed": more}), home / "reports" / "tiny" / "parameters.yaml"
        ),
        "a fit": lambda: training.fit(study, other),
    }


def _attempt(home: Path, before: dict, names, clear: tuple, found: dict) -> None:
    for name, write in _writes(home).items():
        if name not in names:
            continue
        found["attempts"] += 1
        try:
            write()
            found["done"] += 1
        except (DataError, OSError) as error:
            told = str(error)
            if str(home) in told and any(words in told for words in clear):
                found["refused"] += 1
            else:
                found["unclear"].append(f"{name}: {type(error).__name__}: {told}")
        except Exception as error:
            found["unclear"].append(f"{name}: {type(error).__name__}: {error}")
        now = checksums(home)
        found["spoilt"] += [
            k for k in before if now.get(k) != before[k] and not (name in REPLACES and k.startswith(REPLACES[name]))
        ]
        found["torn"] += whole(home)


REPLACES = {
    "a table": "reports/tiny/tables/models",
    "a figure": "reports/tiny/figures/roc",
    "a parameter file": "reports/tiny/parameters",
}


def _counters() -> dict:
    return {"attempts": 0, "done": 0, "refused": 0, "unclear": [], "spoilt": [], "torn": []}


def _inside_full(home: Path) -> list[dict]:
    before, found = _earlier(home), _counters()
    rooms = [0, 4, 16, 40, 100, 200, 400, 800, 1600]
    for room in rooms:
        _fill(home, room)
        names = set(_writes(home)) - (set() if room in (0, 100, 400) else {"a fit"})
        _attempt(home, before, names, ("No space left", "disk"), found)
        (home / "filler").unlink()
        for path in (home / "data" / "new", home / "data" / "b"):
            shutil.rmtree(path, ignore_errors=True)
        for path in home.glob("data/.cache/*.h5"):
            if str(path.relative_to(home)) not in before:
                path.unlink()
    after = _counters()
    _attempt(home, before, set(_writes(home)), (), after)
    rows = [figure("amounts of room left, 0 to 1600 kB", len(rooms))]
    return (
        rows
        + _disk_rows(found)
        + [figure("writes that fail once there is room again", after["attempts"] - after["done"], equals=0)]
    )


def _fill(home: Path, room: int) -> None:
    free = os.statvfs(home)
    free = free.f_bavail * free.f_frsize // 1024
    with open(home / "filler", "wb") as file:
        for _ in range(max(0, free - room)):
            try:
                file.write(bytes(1024))
                file.flush()
            except OSError:
                break


def _disk_rows(found: dict) -> list[dict]:
    for key in ("unclear", "spoilt", "torn"):
        for told in found[key][:20]:
            print(f"{key}: {told}", file=sys.stderr)
    return [
        figure("writes tried (phantoms, prepared slices, tables, figures, parameter files, fits)", found["attempts"]),
        figure("done", found["done"]),
        figure("stopped by an error that names the file and the cause", found["refused"]),
        figure("stopped by anything else", len(found["unclear"]), equals=0),
        figure("earlier results lost or changed", len(found["spoilt"]), equals=0),
        figure("files half-written", len(found["torn"]), equals=0),
    ]


def _inside_read_only(home: Path) -> list[dict]:
    from btlib import datasets, training

    before, found = _earlier(home), _counters()
    subprocess.run(["mount", "-o", "remount,ro", str(home)], check=True)
    _attempt(home, before, set(_writes(home)), ("Read-only",), found)
    study, fit = toy_fit(0)
    reads = {
        "prepared slices": lambda: datasets.load(study.data, study.preprocessing).images[0],
        "a run": lambda: training.fit(study, fit).predictions(),
        "a model": lambda: runs.Run(fit).model(),
    }
    failed = []
    for name, read in reads.items():
        try:
            read()
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {error}")
            print(failed[-1], file=sys.stderr)
    return [*_disk_rows(found), figure("earlier results that can no longer be read", len(failed), equals=0)]


INSIDE = {"full": _inside_full, "read_only": _inside_read_only}


def disk(seed: int, n: int = 24) -> list[dict]:
    """On a tmpfs of 24 MB that is filled but for some kilobytes, or made read-only, everything that writes is tried.

    First a data set, a fit, a table, a figure and a parameter file are finished; these must stay as they are. Root passes
    permission bits, so the read-only folder is a read-only mount. Where mounting is not allowed nothing is measured.
    """
    rows = []
    for name, title in (("full", "full disk"), ("read_only", "read-only")):
        with tempfile.TemporaryDirectory() as folder:
            found = _small_disk(Path(folder), n, name)
        if found is None:
            return [figure("not run: mounting is not allowed here", "")]
        rows += [row | {"measured": f"{title}: {row['measured']}"} for row in found]
    return rows


# --- memory ---


def _memory(home: str, count: int, pipe) -> None:
    os.environ["BTLIB_HOME"] = home
    from btlib import datasets, training

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    study = params.load("figshare")
    import keras  # noqa: F401 - in the peak from the start

    data = study.data.model_copy(update={"path": f"data/{count}"})
    recipe = study.recipes["finetune"]
    stages = [recipe.stages[0].model_copy(update={"epochs": 1})]
    study = study.model_copy(
        update={"data": data, "recipes": {"finetune": recipe.model_copy(update={"stages": stages})}}
    )
    model = study.proposed.model_copy(update={"weights": None})
    datasets.load(study.data, study.preprocessing)
    prepared = peak()
    training.fit(study, runs.fit_of(study, datasets.fingerprint(study.data), model, "image_holdout", 0, 0))
    pipe.send((prepared, peak()))


def memory(seed: int, n: int = 300) -> list[dict]:
    """Peak memory of preparing n and 4 n made-up slices of 512 px and fitting one epoch as the figshare profile does.

    Each in a process of its own, TensorFlow included, from random weights; slices repeat after 60, which memory does not see.
    """
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        rng = np.random.default_rng(seed)
        originals = []
        for i in range(60):
            path = home / "made" / f"{i}.mat"
            path.parent.mkdir(exist_ok=True)
            image, mask = _slice_picture(rng, 512, 512)
            _plain_slice(path, image, mask, i % 3 + 1, f"MR{i:06d}")
            originals.append(path)
        for count in (n, 4 * n):
            target = home / "data" / str(count)
            target.mkdir(parents=True)
            for i in range(count):
                os.link(originals[i % 60], target / f"{i + 1}.mat")
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(target=_memory, args=(str(home), count, theirs))
            process.start()
            theirs.close()
            peaks[count] = ours.recv()
            process.join()
    rows = [figure("slices", f"{n} and {4 * n}")]
    for i, what in enumerate(("preparing the slices", "preparing and one epoch of the figshare profile's fit")):
        small, large = peaks[n][i], peaks[4 * n][i]
        rows += [
            figure(f"{what}: peak for {n}, MB", round(small)),
            figure(f"{what}: peak for {4 * n}, MB", round(large)),
            figure(f"{what}: ratio", round(large / small, 3), at_most=1.1),
        ]
    return rows


def _plain_slice(path: Path, image, mask, label: int, patient: str) -> None:
    import h5py

    fields = {
        "PID": np.array([[ord(c)] for c in patient], np.uint16),
        "image": image.T,
        "label": np.array([[float(label)]]),
        "tumorMask": mask.T.astype(np.uint8),
    }
    with h5py.File(path, "w", userblock_size=512) as file:
        for key, value in fields.items():
            packed = {"compression": "gzip", "compression_opts": 1} if value.size > 100 else {}
            file.create_dataset(f"cjdata/{key}", data=value, **packed)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


# --- upgrade ---


def upgrade(seed: int, n: int = 0) -> list[dict]:
    """What other versions of the code left is laid where this one looks for it; each case has one allowed outcome.

    "anew": made again beside or in place of the old; "refused": an error of btlib's own that names the file; "loaded".
    """
    from btlib import datasets, phantom, training

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as undo:
        home = Path(folder)
        os.environ["BTLIB_HOME"] = folder
        _fit_toy(folder, 0)
        study, fit = toy_fit(0)
        run = runs.Run(fit)
        kept = {p.name: p.read_bytes() for p in run.folder.iterdir()}
        fits = []

        def again(name="_fit", module=training):
            real = getattr(module, name)
            undo.callback(setattr, module, name, real)

            def counted(*given):
                fits.append(name)
                return real(*given) if module is not training else run

            setattr(module, name, counted)

        again()
        again("_build", datasets)
        again("_write_a", phantom)

        def outcome(change, call=lambda: training.fit(study, toy_fit(0)[1])):
            fits.clear()
            change()
            try:
                call()
                found = "anew" if fits else "loaded"
            except DataError as error:
                found = "refused" if str(home) in str(error) else f"refused without a name: {error}"
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
            for name, data in kept.items():
                (run.folder / name).write_bytes(data)
            return found

        def put(module, name, value):
            undo.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)

        def facts(**changes):
            given = json.loads(kept["fit.json"])
            given.update(changes)
            (run.folder / "fit.json").write_text(json.dumps({k: v for k, v in given.items() if v is not ...}))

        def state(**arrays):
            partial = home / "runs" / f".{toy_fit(5)[1].id}"
            partial.mkdir(exist_ok=True)
            np.savez(partial / "state.npz", **arrays)

        def resume():
            from btlib import models

            other = toy_fit(5)[1]
            with runs.claim(other) as partial:
                model = models.build("toy", None, 32, other.head, 5)
                training._State(partial, model)

        rows = [
            ("run as this code left it", outcome(lambda: None), "loaded"),
            ("fit.json without a field that came later", outcome(lambda: facts(fold=...)), "refused"),
            ("fit.json with a field that is gone", outcome(lambda: facts(optimizer="adam")), "refused"),
            ("fit.json of another fit under this id", outcome(lambda: facts(seed=3)), "refused"),
            ("fit.json cut short", outcome(lambda: (run.folder / "fit.json").write_text('{"data": ')), "refused"),
            ("no fit.json", outcome(lambda: (run.folder / "fit.json").unlink()), "refused"),
            (
                "run whose end was lost (no provenance.json)",
                outcome(lambda: (run.folder / "provenance.json").unlink()),
                "anew",
            ),
            ("state of a fit without what is kept now", outcome(lambda: state(w0=np.ones(3)), resume), "refused"),
            (
                "state of a fit of another graph",
                outcome(
                    lambda: state(facts='{"stage": 0, "epoch": 1, "seconds": 1, "history": []}', w0=np.ones(3)), resume
                ),
                "refused",
            ),
        ]
        load = lambda: datasets.load(study.data, study.preprocessing)  # noqa: E731
        rows += [
            ("prepared slices as this code left them", outcome(lambda: None, load), "loaded"),
            (
                "prepared slices of another preprocessing.VERSION",
                outcome(lambda: put(preprocessing, "VERSION", 99), load),
                "anew",
            ),
            ("phantom of another phantom.VERSION", outcome(lambda: put(phantom, "VERSION", 99), load), "anew"),
        ]
        undo.pop_all().close()
        again()
        rows.append(("run of another runs.VERSION", outcome(lambda: put(runs, "VERSION", runs.VERSION + 1)), "anew"))
        real = runs.version
        other = lambda p: "9.9.9" if p == "keras" else real(p)  # noqa: E731
        rows.append(("run of another minor version of Keras", outcome(lambda: put(runs, "version", other)), "anew"))
        rows.append(
            (
                "the old run's files after all that",
                str(checksums(run.folder) == {k: hashlib.sha256(v).hexdigest() for k, v in kept.items()}),
                "True",
            )
        )
    return [figure(name, found, equals=allowed) for name, found, allowed in rows]


# --- the report ---


def fuzz_slices(seed: int, n: int = 2000) -> list[dict]:
    """Mutated .mat files (versions 7.3 and 5, plain, packed, zipped, and cvind.mat) are listed, read and prepared.

    Bytes flipped, overwritten, cut, repeated; datasets removed, retyped, reshaped, linked elsewhere, declared huge. Each
    is read by a process of its own kind, watched from outside: a crash, a silence of 60 s or memory counts as a fault.
    """
    return fuzz("slices", n, seed)


def fuzz_pictures(seed: int, n: int = 2000) -> list[dict]:
    """Mutated JPEG, PNG and WebP pictures of eight modes are listed, read and prepared, watched in the same way.

    Bytes as above; PNG headers and chunks changed with right checksums, other formats under these names.
    """
    return fuzz("pictures", n, seed)


def fuzz_parameters(seed: int, n: int = 500) -> list[dict]:
    """Mutated parameter files are checked: spoilt bytes, lines moved, keys renamed or removed, values of other kinds.

    With YAML's own traps: aliases, tags, deep nesting, numbers and dates that are none.
    """
    return fuzz("parameters", n, seed)


LINES = {
    "same_numbers": ("Same numbers", same_numbers),
    "kill_fit": ("Kill test: a fit", kill_fit),
    "kill_report": ("Kill test: a whole report", kill_report),
    "together": ("Started together", together),
    "fuzz_slices": ("Fuzz: slices", fuzz_slices),
    "fuzz_pictures": ("Fuzz: pictures", fuzz_pictures),
    "fuzz_parameters": ("Fuzz: parameter files", fuzz_parameters),
    "hostile": ("Hostile", hostile),
    "disk": ("Disk full and read-only", disk),
    "memory": ("Memory", memory),
    "upgrade": ("Upgrade", upgrade),
}


def note(line: str, rows: list[dict], seed: int, folder: Path) -> None:
    """Put a line's figures in place of its earlier ones in reliability.csv, and write the Markdown from that."""
    path = folder / "reliability.csv"
    old = pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else pd.DataFrame(columns=COLUMNS)
    facts = {
        "line": line,
        "seed": seed,
        "commit": runs.commit(),
        "hardware": f"{runs.processor()}, {os.cpu_count()} cores",
    }
    new = pd.DataFrame([row | facts for row in rows])[COLUMNS].astype(str)
    table = pd.concat([old[old["line"] != line], new])
    table = table.sort_values("line", key=lambda s: s.map(list(LINES).index), kind="stable")
    with files.replacing(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    files.write_text(folder / "reliability.md", markdown(table))


def markdown(table: pd.DataFrame) -> str:
    """Tell every line: what is done, its figures, its seed, commit and machine, and how to repeat it."""
    text = [
        "# Reliability\n\nWritten by `make torture`, from reliability.csv; made-up slices throughout. `make test` runs short "
        "versions.\nThe tiny study is the quick profile shrunk to 48 slices and one fit of one epoch (`tiny` in "
        "tests/torture.py).\nA line is repeated alone by the command under it; a figure without a bound is told and not judged.\n"
    ]
    for line, (title, function) in LINES.items():
        rows = table[table["line"] == line]
        about = "\n".join(part.strip() for part in function.__doc__.strip().splitlines())
        text.append(f"## {title}\n\n{about}\n")
        if rows.empty:
            text.append(f"**Not run yet.** `make torture LINES={line}`\n")
            continue
        first = rows.iloc[0]
        text.append(
            rows[["measured", "value", "allowed", "holds"]].to_markdown(index=False, disable_numparse=True) + "\n"
        )
        text.append(
            f"`make torture LINES={line} SEED={first['seed']}`; commit {first['commit'][:12]}"
            f"{'+changes' if '+' in first['commit'] else ''}, {first['hardware']}.\n"
        )
    return "\n".join(text)


def main() -> None:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("lines", nargs="*", metavar="LINE", help=f"default: all of {', '.join(LINES)}")
    top.add_argument("--seed", type=int, default=0)
    top.add_argument("--n", type=int, help="how many of what the line counts, in place of the line's own number")
    top.add_argument("--inside", choices=INSIDE, help=argparse.SUPPRESS)
    top.add_argument("--folder", type=Path, default=ROOT / "reports", help="where to write (default: reports/)")
    args = top.parse_args()
    if args.inside:
        print(json.dumps(INSIDE[args.inside](args.folder), default=lambda v: v.item()))
        return
    if unknown := set(args.lines) - set(LINES):
        top.error(f"no such line: {', '.join(sorted(unknown))}; there are {', '.join(LINES)}")
    failed = []
    for line in args.lines or LINES:
        rows = LINES[line][1](args.seed, **({"n": args.n} if args.n else {}))
        note(line, rows, args.seed, args.folder)
        print(pd.DataFrame(rows).to_string(index=False), flush=True)
        failed += [f"{line}: {row['measured']}: {row['value']}" for row in rows if row["holds"] == "no"]
    if failed:
        sys.exit("does not hold:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
