"""Slices: read, made up, prepared, kept in a cache and split."""
