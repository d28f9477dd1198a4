"""The losses of cross-stain pretraining as pure functions: contrast and graph transport."""
