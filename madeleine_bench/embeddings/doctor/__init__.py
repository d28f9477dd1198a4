"""Is an encoder sound, and the environment it runs in: checks that read no label of a task."""

from madeleine_bench.embeddings.doctor.checks import CHECKS, Check, Finding, Verdict
from madeleine_bench.embeddings.doctor.environment import examine_environment
from madeleine_bench.embeddings.doctor.examine import Examination, examine_encoder

__all__ = [
    "CHECKS",
    "Check",
    "Examination",
    "Finding",
    "Verdict",
    "examine_encoder",
    "examine_environment",
]
