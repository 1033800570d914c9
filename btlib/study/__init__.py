"""What the notebooks tabulate, from runs to tables."""
