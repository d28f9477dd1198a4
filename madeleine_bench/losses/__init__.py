"""Loss functions: of pretraining across stains, and of networks trained on the labels of a task."""
