"""Pretraining of slide encoders from multi-stain bags: recipe, cases, batches, objective, loop."""
