"""The command line: `python -m btlib COMMAND`, each a few lines over the modules."""

import argparse
import subprocess
import sys
from pathlib import Path

from btlib import CLASSES, DataError, ParamsError, WeightsError, home


def study(args) -> None:
    """Run a whole study through Snakemake; a second one of the same profile waits for the first."""
    import fcntl

    import psutil

    from btlib import params

    profile = params.load(args.params).profile
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(Path(__file__).resolve().parent.parent / "Snakefile"),
    ]
    command += ["--cores", str(args.cores or "all"), "--configfile", str(Path(args.params).resolve())]
    command += ["--resources", f"mem_mb={max(4000, psutil.virtual_memory().total * 3 // 4 // 2**20)}"]
    command += ["--rerun-incomplete", "--rerun-triggers", "input", "params", "mtime", "--quiet", "host", "rules"]
    if args.dry_run:
        fit_plan(args)
        sys.exit(subprocess.call([*command, "--dry-run", "--nolock"], cwd=home()))
    lock = home() / "runs" / ".locks" / f"study-{profile}"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a") as held:  # stays: removing it would let two hold it
        fcntl.flock(held, fcntl.LOCK_EX)
        # Snakemake holds the lock too, for where this process alone is killed, Snakemake goes on.
        status = subprocess.call([*command, "--nolock"], cwd=home(), pass_fds=[held.fileno()])
    if status:
        sys.exit(status)
    print(f"report: {home() / 'reports' / profile / 'html' / 'index.html'}")


def fit_plan(args) -> None:
    """Print every fit that the study means, whether it is done, and the time that is left."""
    import pandas as pd

    from btlib import params
    from btlib.data import datasets
    from btlib.fitting import runs

    chosen = params.load(args.params)
    plan = runs.plan(chosen, datasets.fingerprint(chosen.data)).drop_duplicates("id")
    costs = home() / "reports" / "cost.csv"
    slices = len(datasets.manifest(chosen.data))
    table = runs.outlook(plan, slices, pd.read_csv(costs) if costs.exists() else None)
    print(table.to_string(index=False))
    print(runs.outlook_in_words(table))


def fit(args) -> None:
    """Fit what is missing of a study, or one fit of it."""
    from btlib import params
    from btlib.data import datasets
    from btlib.fitting import runs, training

    chosen = params.load(args.params)
    plan = runs.plan(chosen, datasets.fingerprint(chosen.data)).drop_duplicates("id")
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


def trials(args) -> None:
    """Log every configuration fitted so far by its validation score, in reports/<profile>/trials.csv."""
    from btlib import params
    from btlib.data import datasets
    from btlib.study import results

    chosen = params.load(args.params)
    table = results.trials(chosen, datasets.fingerprint(chosen.data))
    print(table[["id", "protocol", "fold", "seed", "accuracy", "loss", "chosen", "differs"]].to_string(index=False))


def compare(args) -> None:
    """Compare fits made here with the rows that the study keeps of them, in reports/<profile>/reproduced.csv."""
    from btlib import params
    from btlib.data import datasets
    from btlib.study import results

    chosen = params.load(args.params)
    print(results.reproduced(chosen, datasets.fingerprint(chosen.data)).to_string(index=False))


def fetch(args) -> None:
    """Download a data set from its publisher."""
    from btlib.data import figshare

    figshare.fetch(Path(args.folder))


def report(args) -> None:
    """Build the HTML report from executed notebooks."""
    from btlib import params
    from btlib.site import build as site

    chosen = params.load(args.params)
    print(site.build(chosen.profile, chosen))


def results(args) -> None:
    """Make a profile's results page and figures anew from its kept tables: no data, no fit, seconds."""
    from btlib.site import findings

    print(findings.write(args.profile))


def share(args) -> None:
    """Write who trains and who is tested, without a pixel: manifest.csv, parts.csv and croissant.json."""
    from btlib import params
    from btlib.deploy import share as shared

    print(shared.write(params.load(args.params)))


def predict(args) -> int:
    """Classify slices in picture, DICOM, NIfTI or Figshare files; exit code 1 if a file could not be read."""
    import pandas as pd

    from btlib import files
    from btlib.deploy import predict as answers
    from btlib.deploy import publish

    model, facts, said = publish.open_model(args.model)
    said.insert(0, f"{facts.name}, fitted on {facts.data}; not a medical device, for research only")
    print(*said, sep="\n", file=sys.stderr)
    rows = []
    for row in answers.classify(model, facts, answers.expand(args.image), args.gradcam):
        rows.append(row)
        if row["error"]:
            print(f"DataError: {row['error']}", file=sys.stderr)
        else:
            shares = "  ".join(f"{c} {row['p_' + c]:.3f}" for c in CLASSES)
            warning = f"  WARNING: {row['warning']}" if row["warning"] else ""
            print(f"{row['class']:<10}  {shares}  {row['file']}{warning}")
    table = pd.DataFrame(rows, columns=answers.COLUMNS)
    if args.csv is not None:
        with files.replacing(args.csv) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    failed, warned = (int((table[column] != "").sum()) for column in ("error", "warning"))
    print(f"{len(table) - failed} of {len(table)} files classified, {warned} with a warning", file=sys.stderr)
    return int(failed > 0)


def export(args) -> None:
    """Write a run as a published model (published/NAME with card), and any model as ONNX."""
    from btlib.deploy import publish
    from btlib.fitting import runs

    if args.publish is None and args.onnx is None:
        raise ParamsError("export: got neither --publish NAME nor --onnx FILE; allowed: one of them or both")
    if args.publish is not None:
        print(publish.write(runs.read(publish.find(args.model).parent), args.publish))
    if args.onnx is not None:
        publish.onnx(*publish.open_model(args.model)[:2], args.onnx)
        print(args.onnx)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each comes with an example, which its own help and the common one show."""
    top = argparse.ArgumentParser("btlib", None, __doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    examples = ["examples:"]

    def add(function, example, name=None):
        name = name or function.__name__
        examples.append(f"  python -m btlib {name} {example}".rstrip())
        shown = f"example:\n{examples[-1]}"
        made = commands.add_parser(name, help=function.__doc__, description=function.__doc__, epilog=shown)
        made.formatter_class = argparse.RawDescriptionHelpFormatter
        made.set_defaults(run=function)
        return made

    one = add(study, "params/quick.yaml --dry-run")
    one.add_argument("params", help="a parameter file")
    one.add_argument("--dry-run", action="store_true", help="print what would run")
    one.add_argument("--cores", type=int, help="how many processes at a time (default: one a core)")
    add(fit_plan, "params/figshare.yaml", "plan").add_argument("params", help="a parameter file")
    one = add(fit, "params/figshare.yaml")
    one.add_argument("params", help="a parameter file")
    one.add_argument("--id", help="fit this one alone")
    add(trials, "params/figshare.yaml").add_argument("params", help="a parameter file")
    add(compare, "params/figshare.yaml").add_argument("params", help="a parameter file")
    one = add(fetch, "figshare data/figshare")
    one.add_argument("dataset", choices=["figshare"])
    one.add_argument("folder", help="where to put it")
    add(report, "params/quick.yaml").add_argument("params", help="a parameter file")
    add(results, "figshare").add_argument("profile", help="a profile whose tables lie under reports/")
    add(share, "params/figshare.yaml").add_argument("params", help="a parameter file")
    one = add(predict, "efficientnet_lite_figshare slice.png volume.nii.gz:42 folder --gradcam maps --csv classes.csv")
    one.add_argument("model", help="a run's id or folder, a published model's name, or a .keras file")
    one.add_argument("image", nargs="+", help="JPEG, PNG, WebP, .dcm, .nii[.gz][:k] (axial slice k), .mat, or a folder")
    one.add_argument("--gradcam", type=Path, metavar="DIR", help="write a picture of each slice under its heat map")
    one.add_argument("--csv", type=Path, metavar="FILE", help="write the answers as a table")
    one = add(export, "08c173aa6a87 --publish lite0 --onnx lite0.onnx")
    one.add_argument("model", help="a run's id or folder; for --onnx alone also any other model, as for predict")
    one.add_argument("--publish", metavar="NAME", help="write published/NAME: model.keras, model.json, README.md")
    one.add_argument("--onnx", type=Path, metavar="FILE", help="write an ONNX file; needs the extra `onnx`")
    top.epilog = "\n".join(examples)
    return top


def main() -> None:
    """Run one command; an error that a user can mend is one message and exit code 1, not a traceback."""
    args = parser().parse_args()
    try:
        sys.exit(args.run(args))
    except (DataError, ParamsError, WeightsError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; what was finished is kept, and the same command goes on from there")


if __name__ == "__main__":
    main()
