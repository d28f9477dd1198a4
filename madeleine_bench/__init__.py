"""madeleine-bench: is my slide encoder better, on which task, and are we sure?"""

__version__ = "0.3.0"
