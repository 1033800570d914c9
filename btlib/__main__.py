"""The command line: `python -m btlib COMMAND`, each a few lines over the modules."""

import argparse
import subprocess
import sys
from pathlib import Path

from btlib import DataError, ParamsError, WeightsError, home

EXAMPLES = """\
examples:
  python -m btlib study params/quick.yaml --dry-run
  python -m btlib fetch figshare data/figshare
  python -m btlib fit params/figshare.yaml
  python -m btlib trials params/figshare.yaml
  python -m btlib report params/quick.yaml
"""


def study(args) -> None:
    """Run a whole study through Snakemake; a second one of the same profile waits for the first."""
    import psutil
    from filelock import FileLock

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
    lock = home() / "reports" / profile / ".lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        status = subprocess.call([*command, "--nolock"], cwd=home())
    lock.unlink(missing_ok=True)
    if status:
        sys.exit(status)
    print(f"report: {home() / 'reports' / profile / 'html' / 'index.html'}")


def fit_plan(args) -> None:
    """Print every fit that the study means, whether it is done, and the time that is left."""
    import pandas as pd

    from btlib import datasets, params, runs

    chosen = params.load(args.params)
    plan = runs.plan(chosen, datasets.fingerprint(chosen.data)).drop_duplicates("id")
    costs = home() / "reports" / "cost.csv"
    slices = len(datasets.manifest(chosen.data))
    table = runs.outlook(plan, slices, pd.read_csv(costs) if costs.exists() else None)
    print(table.to_string(index=False))
    print(runs.outlook_in_words(table))


def fit(args) -> None:
    """Fit what is missing of a study, or one fit of it."""
    from btlib import datasets, params, runs, training

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
    from btlib import datasets, params, results

    chosen = params.load(args.params)
    table = results.trials(chosen, datasets.fingerprint(chosen.data))
    print(table[["id", "protocol", "fold", "seed", "accuracy", "loss", "chosen", "differs"]].to_string(index=False))


def fetch(args) -> None:
    """Download a data set from its publisher."""
    from btlib import figshare

    figshare.fetch(Path(args.folder))


def report(args) -> None:
    """Build the HTML report from executed notebooks."""
    from btlib import params
    from btlib import report as site

    chosen = params.load(args.params)
    print(site.build(chosen.profile, chosen))


def bench(args) -> None:
    """Measure speed and write reports/bench.csv and reports/bench.md, and cost.csv and growth.csv beside them."""
    from btlib import bench as measured

    print(measured.run(args.lines).drop(columns=["hardware", "commit"]).to_string(index=False))


def probe(args) -> None:
    """Find the fastest precision of each of a study's models on this machine; about a minute a model, then remembered."""
    from btlib import bench as measured
    from btlib import params

    chosen = params.load(args.params)
    for model in [chosen.proposed, *chosen.baselines]:
        recipe = chosen.recipes[model.recipe]
        table = measured.probe([model.model], chosen.image_size_of(model), recipe.batch_size)
        print(
            table.drop(columns="reference")
            .assign(asked_for=table["precision"] == recipe.precision)
            .to_string(index=False)
        )


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(
        "btlib", None, __doc__, EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(function, name=None):
        made = commands.add_parser(name or function.__name__, help=function.__doc__, description=function.__doc__)
        made.set_defaults(run=function)
        return made

    one = add(study)
    one.add_argument("params", help="a parameter file")
    one.add_argument("--dry-run", action="store_true", help="print what would run")
    one.add_argument("--cores", type=int, help="how many processes at a time (default: one a core)")
    add(fit_plan, "plan").add_argument("params", help="a parameter file")
    one = add(fit)
    one.add_argument("params", help="a parameter file")
    one.add_argument("--id", help="fit this one alone")
    add(trials).add_argument("params", help="a parameter file")
    one = add(fetch)
    one.add_argument("dataset", choices=["figshare"])
    one.add_argument("folder", help="where to put it")
    add(report).add_argument("params", help="a parameter file")
    add(bench).add_argument("lines", nargs="*", help="lines of the table (default: all)")
    add(probe).add_argument("params", help="a parameter file")
    return top


def main() -> None:
    """Run one command; an error that a user can mend is one message and exit code 1, not a traceback."""
    args = parser().parse_args()
    try:
        args.run(args)
    except (DataError, ParamsError, WeightsError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; what was finished is kept, and the same command goes on from there")


if __name__ == "__main__":
    main()
