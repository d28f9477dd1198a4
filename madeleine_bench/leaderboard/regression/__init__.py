"""The regression gate: what is compared, with what, and what the verdicts mean."""
