"""How sure a score is: resampling of cases."""
