"""The declared things: tasks, cohorts, protocols, encoder cards and records."""
