"""A run: plan the grid of encoders, tasks and protocols, embed, evaluate, keep records."""
