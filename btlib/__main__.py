"""The command line: `python -m btlib COMMAND`, each a few lines over the modules."""

import argparse
import functools
import http.server
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from btlib import DataError, ParamsError, PlaceError, WeightsError, __version__, files, home, params, repository

# What takes long to load is imported by the command that needs it.


def study(args) -> None:
    """Run a whole study through Snakemake; a second one of the same profile waits for the first."""
    import fcntl

    import psutil

    from btlib.data import datasets

    if (backend := os.environ["KERAS_BACKEND"]) != "tensorflow":
        raise ParamsError(
            f"KERAS_BACKEND: got {backend!r}; allowed for a study: tensorflow, as notebook 05 writes Grad-CAM in its words. "
            "`btlib fit` makes fits on either, and a study takes them"
        )
    chosen, root = params.load(args.params), _repository("study")
    name = args.params
    file = Path(name).resolve() if name.endswith((".yaml", ".yml")) else params.PARAMS_DIR / f"{name}.yaml"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
    command += ["--cores", str(args.cores or "all"), "--configfile", str(file)]
    command += ["--config", f"profile={chosen.profile}"]  # a file need not say it: its name does
    command += ["--resources", f"mem_mb={max(4000, psutil.virtual_memory().total * 3 // 4 // 2**20)}"]
    command += ["--rerun-incomplete", "--rerun-triggers", "input", "params", "mtime", "--quiet", "host", "rules"]
    print(_places(), file=sys.stderr)
    if args.dry_run:
        fit_plan(args)
        if datasets.absent(chosen.data):
            return
        _check_ready(chosen)
        sys.exit(subprocess.call([*command, "--dry-run", "--nolock"], cwd=home()))
    lock = home() / "runs" / ".locks" / f"study-{chosen.profile}"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a") as held:  # stays: removing it would let two hold it
        fcntl.flock(held, fcntl.LOCK_EX)
        _check_ready(chosen)
        # Snakemake holds the lock too, for where this process alone is killed, Snakemake goes on.
        status = subprocess.call([*command, "--nolock"], cwd=home(), pass_fds=[held.fileno()])
    if status:
        sys.exit(status)
    print(f"report: {home() / 'reports' / chosen.profile / 'html' / 'index.html'}")


def _check_ready(study) -> None:
    """Stop where slices or weights are missing, in one message: Snakemake would wrap it in a trace."""
    from btlib.data import datasets
    from btlib.fitting import runs

    runs.ensure_weights(study)
    runs.check(study, datasets.manifest(study.data))
    for name, data in study.external.items():
        lack = datasets.absent(data)
        if lack and data.required:
            raise DataError(f"external.{name}: {lack}")
        if not lack and not data.phantom:
            datasets.fingerprint(data)


def _repository(command: str) -> Path:
    root = repository()
    if root is None:
        raise PlaceError(
            f"{command}: needs the notebooks, which lie in the repository alone; clone it and run make there. Here work: "
            "predict, export, fetch, plan, fit, trials"
        )
    return root


def _places() -> str:
    return f"code: {Path(__file__).resolve().parent}; data, runs and reports: {home()}"


def fit_plan(args) -> None:
    """Print every fit that the study means, whether it is done, and the time that is left; no data are needed."""
    import pandas as pd

    from btlib.data import datasets
    from btlib.fitting import runs

    chosen = params.load(args.params)
    if getattr(args, "full", False):
        print(params.in_full(chosen), end="")
        return
    costs = home() / "reports" / "cost.csv"
    costs = pd.read_csv(costs) if costs.exists() else None
    if absent := datasets.absent(chosen.data):
        plan, number = runs.plan(chosen, "unknown"), 3064 if chosen.data.source == "figshare" else float("nan")
    else:
        slices = datasets.manifest(chosen.data)
        runs.check(chosen, slices)
        plan, number = _plan(chosen), len(slices)
    table = runs.outlook(plan.drop_duplicates("id"), number, costs)
    print(table.drop(columns=["id", "state"] if absent else []).to_string(index=False))
    print(runs.outlook_in_words(table))
    if absent:
        print(f"{datasets.folder(chosen.data)}: no data yet, so which of these are done is not known")


def fit(args) -> None:
    """Fit what is missing of a study, or one fit of it."""
    from btlib.data import datasets
    from btlib.fitting import runs, training

    chosen = params.load(args.params)
    runs.check(chosen, datasets.manifest(chosen.data))
    plan = _plan(chosen).drop_duplicates("id")
    if args.id:
        plan = plan[plan["id"] == args.id]
        if plan.empty:
            raise ParamsError(
                f"--id: got {args.id!r}; not among the fits of {args.params} (`python -m btlib plan` lists them)"
            )
    training.prepare(chosen)
    for wanted in plan["fit"]:
        run = training.fit(chosen, wanted)
        print(f"{run.folder}: {wanted.title}")


def _plan(study: params.Study):
    from btlib.data import datasets
    from btlib.fitting import runs

    return runs.plan(study, datasets.fingerprint(study.data))


def keep(args) -> None:
    """Keep what finished fits predicted, and where they were made, in reports/<profile>/predictions: a megabyte, no pixels."""
    from btlib.study import kept, tables

    chosen = params.load(args.params)
    print(f"{tables.folder(chosen.profile) / 'predictions'}: {len(kept.keep(chosen))} fits are kept")


def trials(args) -> None:
    """Judge every configuration fitted so far on its validation slices, in reports/<profile>/trials.csv."""
    from btlib.study import search, tables

    chosen = params.load(args.params)
    log = search.trials(chosen, _plan(chosen))
    with files.replacing(tables.folder(chosen.profile) / "trials.csv") as path:
        log.to_csv(path, index=False, float_format="%.4f", lineterminator="\n")
    shown = log.drop(columns=["fits", "commit"])
    none = "no configuration has all its folds fitted; `python -m btlib fit` makes them"
    print(shown.to_markdown(index=False, tablefmt="simple", floatfmt=".3f") if len(log) else none)


def compare(args) -> None:
    """Compare fits made here with the rows that the study keeps of them, in reports/<profile>/reproduced.csv."""
    from btlib.data import datasets
    from btlib.study import kept

    chosen = params.load(args.params)
    print(kept.reproduced(chosen, datasets.fingerprint(chosen.data)).to_string(index=False))


def fetch(args) -> None:
    """Download a data set from its publisher."""
    from btlib.data import figshare

    figshare.fetch(Path(args.folder))


def report(args) -> None:
    """Build the HTML report from executed notebooks."""
    from btlib.site import build as site

    chosen = params.load(args.params)
    print(site.build(chosen.profile, chosen))


def serve(args) -> None:
    """Show a report in a browser, at http://localhost:PORT."""
    site = home() / "reports" / args.profile / "html"
    if not (site / "index.html").is_file():
        raise DataError(f"{site}: no report yet; `make report PROFILE={args.profile}` makes it")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", args.port), handler)
    except OSError as error:
        other = f"make serve PORT={args.port + 1}"
        raise DataError(f"port {args.port}: {error.strerror}; stop what uses it, or take another: {other}") from error
    print(f"http://localhost:{args.port} (stop with Control-C)", flush=True)
    server.serve_forever()


def results(args) -> None:
    """Make a profile's results page and figures anew from its kept tables: no data, no fit, seconds."""
    from btlib.site import findings

    print(findings.write(args.profile))


def share(args) -> None:
    """Write who trains and who is tested, without a pixel: manifest.csv, parts.csv and croissant.json."""
    from btlib.deploy import share as shared

    chosen = params.load(args.params)
    if chosen.data.source != "figshare":
        raise ParamsError(
            f"{chosen.profile}: source {chosen.data.source}; allowed: figshare, as authors and licence are told of its slices"
        )
    print(shared.write(chosen))


def predict(args) -> int:
    """Classify slices in picture, DICOM, NIfTI or Figshare files; exit code 1 if a file could not be read."""
    import pandas as pd

    for path in (args.csv, args.gradcam and args.gradcam / "0001.png"):
        if path:  # before TensorFlow is loaded, which takes longest of all
            files.check_writable(path)
    from btlib.deploy import predict as answers
    from btlib.deploy import publish

    names, passed_over = answers.expand(args.image)
    model, facts, said = publish.open_model(args.model)
    said.insert(0, f"{facts.name}, fitted on {facts.data}; not a medical device, for research only")
    print(*said, sep="\n", file=sys.stderr)
    common = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in names])
    rows = []
    for name, row in zip(names, answers.classify(model, facts, names, args.gradcam), strict=True):
        if row["error"]:
            print(row["error"], file=sys.stderr)
        else:
            if all(r["error"] for r in rows):
                print(answers.heading(facts.classes))
            print(answers.line(row, facts.classes, answers.plain(os.path.relpath(name, common))))
        rows.append(row)
    table = pd.DataFrame(rows, columns=answers.columns(facts.classes))
    if args.csv is not None:
        with files.replacing(args.csv) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    failed, warned = (int((table[column] != "").sum()) for column in ("error", "warning"))
    counts = f"{len(table) - failed} of {len(table)} files classified, {warned} with a warning"
    print(f"{counts}; {passed_over} passed over (hidden, system's own, texts, indexes)", file=sys.stderr)
    return int(failed > 0)


def audit(args) -> int:
    """Find copies inside a set of pictures, or between sets; exit code 0: none, 1: copies, 2: could not run.

    A set is a folder (class folders and Training/Testing are understood), a Figshare folder, a CSV table with the columns
    path[,label,patient_id,mask,part], or one picture. Found are re-encoded, resized, padded, mirrored, quarter-turned,
    re-windowed and cropped copies, and those turned by up to about ten degrees. Not found are negatives, crops that
    leave less than about two thirds of the head along an axis or are turned too, and slices next to each other.
    """
    from btlib.deploy import audit as audits

    try:
        return audits.run(args)
    except (DataError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2


def export(args) -> None:
    """Write a run as a published model (published/NAME with card), and any model as ONNX."""
    if args.publish is None and args.onnx is None:
        raise ParamsError("export: got neither --publish NAME nor --onnx FILE; allowed: one of them or both")
    if args.temperature is not None and args.publish is None:
        raise ParamsError("--temperature: goes into a published model; give --publish NAME too")
    from btlib.deploy import onnx_file, publish
    from btlib.fitting import runs

    if args.onnx is not None:
        onnx_file.check(args.onnx)

    if args.publish is not None:
        print(publish.write(runs.read(publish.find(args.model).parent), args.publish, args.temperature))
    if args.onnx is not None:
        onnx_file.write(*publish.open_model(args.model)[:2], args.onnx)
        print(args.onnx)


def notebooks(args) -> None:
    """Open copies of the notebooks in JupyterLab, so that what is tried there never touches the sources."""
    import shutil

    root = _repository("notebooks")
    folder = home() / "notebooks" / "copies"
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted((root / "notebooks").glob("*.ipynb")):
        copy = folder / source.name
        if not copy.exists():
            shutil.copyfile(source, copy)
        elif copy.stat().st_mtime < source.stat().st_mtime:
            print(f"{copy}: older than its source; remove it to get it anew", file=sys.stderr)
    command = [sys.executable, "-m", "jupyter", "lab", str(folder), *args.options]
    if os.geteuid() == 0:  # Jupyter refuses root, who in a container is the only user
        command.append("--allow-root")
    sys.exit(subprocess.call(command))


def from_0_to_1(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"got {text}; allowed: 0 to 1")
    return number


PARAMS = {"params": "a parameter file, or the name of a profile in params/"}
PROFILE = {"profile": "a profile whose results lie under reports/"}
MODEL = {"model": "a run's id or folder, a published model's name, or a .keras file"}
REPORTS = {
    "csv": "all pairs; a folder/ gets a file for each two sets",
    "json": "everything that is printed, for programs",
    "html": "a page of pairs side by side, to be judged by eye; it holds the pictures",
    "counts": "copies by set, part and class",
    "conflicts": "pairs whose labels disagree",
    "patients": "whose each image is: recovered ids and groups; a folder/ gets a file for each set",
    "split": "for one set, or the first: image, label, group, part; groups kept apart",
}
"""What `audit` writes, by its option."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each comes with an example, which its own help and the common one show."""
    top = argparse.ArgumentParser("btlib", None, __doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    version = f"btlib {__version__}, Keras {metadata.version('keras')}\n{_places()}"
    top.add_argument(
        "--version", action="version", version=version, help="print the version, and where code and data are"
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    examples = ["examples:"]

    def add(function, example, given, name=None):
        name = name or function.__name__
        examples.append(f"  python -m btlib {name} {example}".rstrip())
        texts = {"help": function.__doc__, "description": function.__doc__, "epilog": f"example:\n{examples[-1]}"}
        one = commands.add_parser(name, formatter_class=argparse.RawDescriptionHelpFormatter, **texts)
        one.set_defaults(run=function)
        for argument, help in given.items():
            one.add_argument(argument, help=help)
        return one.add_argument

    option = add(study, "params/quick.yaml --dry-run", PARAMS)
    option("--dry-run", action="store_true", help="print what would run")
    option("--cores", type=int, help="how many processes at a time (default: one a core)")
    option = add(fit_plan, "figshare --full", PARAMS, "plan")
    option("--full", action="store_true", help="print the parameters, with all that base.yaml says, instead")
    option = add(fit, "params/figshare.yaml", PARAMS)
    option("--id", help="fit this one alone")
    add(keep, "params/figshare.yaml", PARAMS)
    add(trials, "params/search.yaml", PARAMS)
    add(compare, "params/figshare.yaml", PARAMS)
    option = add(fetch, "figshare data/figshare", {})
    option("dataset", choices=["figshare"])
    option("folder", help="where to put it")
    add(report, "params/quick.yaml", PARAMS)
    option = add(serve, "quick --port 8000", PROFILE)
    option("--port", type=int, default=8000)
    add(results, "figshare", PROFILE)
    add(share, "params/figshare.yaml", PARAMS)
    option = add(
        predict, "efficientnet_lite_figshare slice.png volume.nii.gz:42 folder --gradcam maps --csv a.csv", MODEL
    )
    option("image", nargs="+", help="a picture, DICOM, .nii[.gz][:k] (axial slice k), .mat, or a folder")
    option("--gradcam", type=Path, metavar="DIR", help="write a picture of each slice under its heat map")
    option("--csv", type=Path, metavar="FILE", help="write the answers as a table")
    option = add(audit, "data/nickparvar data/figshare --within --csv pairs.csv --patients patients.csv", {})
    option("sets", nargs="+", type=Path, metavar="SET", help="a folder, a .csv table or a picture")
    option("--within", action="store_true", help="with several sets: look inside each too")
    option("--score", type=from_0_to_1, default=0.9, help="least score of a copy, 0 to 1 (default 0.9)")
    option("--allow", type=from_0_to_1, default=0.0, metavar="SHARE", help="exit 0 up to this share of images")
    option("--strict", action="store_true", help="stop at a picture that cannot be read (default: skip it)")
    for name, what in REPORTS.items():
        option(f"--{name}", metavar="FILE", help=f"write {what}")
    option = add(export, "08c173aa6a87 --publish lite0 --onnx lite0.onnx", MODEL)
    option("--publish", metavar="NAME", help="write published/NAME (of a run): model.keras, model.json, README.md")
    option("--onnx", type=Path, metavar="FILE", help="write an ONNX file; needs the extra `onnx`")
    option("--temperature", type=float, metavar="T", help="divide logits by T, not by the fitted temperature")
    option = add(notebooks, "", {}, "lab")
    option("options", nargs="*", help="more options for JupyterLab, after --")
    top.epilog = "\n".join(examples)
    return top


def main() -> None:
    """Run one command; an error that a user can mend is one message and exit code 1, not a traceback."""
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show costs a letter, not the batch
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        args = parser().parse_args()
        sys.exit(args.run(args))
    except OSError as error:
        reason = error.strerror or str(error)
        sys.exit(f"{error.filename}: {reason}" if error.filename else reason)
    except (DataError, ParamsError, PlaceError, WeightsError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped; what was finished is kept, and the same command goes on from there")


if __name__ == "__main__":
    main()
