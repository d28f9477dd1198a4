"""What the gate counts as noise: a change of one encoder that the paired test on its task allows.

The test is that of two encoders (`stats.paired.paired_difference`): it counts the training cases,
which the resampled test cases alone do not. Two nearly equal sets of predictions have a nearly
empty interval, so that a difference of no consequence can be significant: below SMALLEST a change
counts as noise whatever its p-value (docs/regression.md).
"""

SMALLEST = 0.005
ALPHA = 0.05
RESAMPLES = 1000
