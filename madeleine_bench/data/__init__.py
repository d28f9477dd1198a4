"""Reading a user's own cohort: bags, label tables, units of a task, splits, and their checks."""
