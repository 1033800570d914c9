"""Scores: classification, intervals and tests; copies between data sets; Grad-CAM maps."""
