"""For slices and models of one's own: predict, publish, explore."""
