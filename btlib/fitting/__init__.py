"""Fits: identity, folder and provenance; stages of training."""
