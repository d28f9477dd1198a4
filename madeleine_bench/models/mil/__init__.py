"""Multiple-instance networks: a bag of patches in, the outputs of a task out."""

from madeleine_bench.models.mil.abmil import Abmil
from madeleine_bench.models.mil.clam import ClamSb
from madeleine_bench.models.mil.dsmil import DsMil
from madeleine_bench.models.mil.ilra import Ilra
from madeleine_bench.models.mil.mean_mlp import MeanMlp
from madeleine_bench.models.mil.transmil import TransMil

__all__ = ["Abmil", "ClamSb", "DsMil", "Ilra", "MeanMlp", "TransMil"]
