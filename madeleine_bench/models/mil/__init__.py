"""Multiple-instance networks: a bag of patches in, the outputs of a task out."""

from madeleine_bench.models.mil.attention_pooling import Abmil, ClamSb, DsMil, MeanMlp
from madeleine_bench.models.mil.self_attention import Ilra, TransMil

__all__ = ["Abmil", "ClamSb", "DsMil", "Ilra", "MeanMlp", "TransMil"]
