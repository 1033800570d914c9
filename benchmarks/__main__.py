"""Measure: `python -m benchmarks bench [LINE ...]` and `python -m benchmarks probe PARAMS`."""

import argparse
import sys

from benchmarks import bench as measured
from btlib import DataError, ParamsError, WeightsError, params


def bench(args) -> None:
    """Measure speed and write reports/bench.csv and reports/bench.md, and cost.csv and growth.csv beside them."""
    print(measured.run(args.lines).drop(columns=["hardware", "commit"]).to_string(index=False))


def probe(args) -> None:
    """Find the fastest precision of each of a study's models on this machine; about a minute a model, then remembered."""
    chosen = params.load(args.params)
    for model in [chosen.proposed, *chosen.baselines]:
        recipe = chosen.recipes[model.recipe]
        table = measured.probe([model.model], chosen.image_size_of(model), recipe.batch_size)
        print(
            table.drop(columns="reference")
            .assign(asked_for=table["precision"] == recipe.precision)
            .to_string(index=False)
        )


def main() -> None:
    """Run one command; an error that a user can mend is one message and exit code 1, not a traceback."""
    top = argparse.ArgumentParser("benchmarks", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for function in (bench, probe):
        command = commands.add_parser(function.__name__, help=function.__doc__, description=function.__doc__)
        command.set_defaults(run=function)
        if function is bench:
            command.add_argument("lines", nargs="*", help="lines of the table (default: all)")
        else:
            command.add_argument("params", help="a parameter file")
    args = top.parse_args()
    try:
        args.run(args)
    except (DataError, ParamsError, WeightsError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
