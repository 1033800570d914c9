"""Measure: `python -m benchmarks bench [LINE ...]`."""

import argparse
import sys

from benchmarks import bench as measured
from btlib import DataError, ParamsError, WeightsError


def bench(args) -> None:
    """Measure speed and write reports/bench.csv and reports/bench.md, and cost.csv and growth.csv beside them."""
    print(measured.run(args.lines).drop(columns=["hardware", "commit"]).to_string(index=False))


def main() -> None:
    """Run one command; an error that a user can mend is one message and exit code 1, not a traceback."""
    top = argparse.ArgumentParser("benchmarks", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("bench", help=bench.__doc__, description=bench.__doc__)
    command.set_defaults(run=bench)
    command.add_argument("lines", nargs="*", help="lines of the table (default: all)")
    args = top.parse_args()
    try:
        args.run(args)
    except (DataError, ParamsError, WeightsError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
