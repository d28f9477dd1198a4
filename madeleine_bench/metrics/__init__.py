"""What a score means: thin typed functions over scikit-learn and scikit-survival.

A metric that is undefined on its data returns None, never NaN. Nothing else in the package
imports scikit-survival.
"""
