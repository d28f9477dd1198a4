"""The drop from internal to external validation, of each encoder of a board."""

from dataclasses import dataclass

from madeleine_bench.leaderboard.aggregate import Board, Cell


@dataclass(frozen=True)
class Drop:
    """How much lower an encoder scores on another cohort than in cross-validation on its own.

    Attributes:
        encoder: its label on the board.
        task: id of the external task.
        trained_on: id of the task it is trained on, which `internal` is the score of.
        metric: of the scores.
        internal: score in cross-validation on the training cohort.
        internal_ci95: its 95% confidence interval; None with too few cases.
        external: score on all units of the tested cohort.
        external_ci95: its 95% confidence interval; None with too few cases.
        drop: internal less external score.
    """

    encoder: str
    task: str
    trained_on: str
    metric: str
    internal: float
    internal_ci95: tuple[float, float] | None
    external: float
    external_ci95: tuple[float, float] | None
    drop: float


def drops(board: Board) -> list[Drop]:
    """Return the drop of each encoder that has both scores, by external task.

    Both are under the same protocol, and of the same features of the training cohort.
    """
    rows = []
    for task in board.tasks:
        for column in board.columns:
            cell = column.cells.get(task.id)
            if cell is None or cell.record.training is None:
                continue
            training = cell.record.training
            internal = column.cells.get(training.task)
            if internal is None or internal.record.features != training.features:
                continue
            if _conditions(internal) == _conditions(cell):
                one, other = internal.record.scores.main, cell.record.scores.main
                rows.append(
                    Drop(
                        column.label, task.id, training.task, one.metric, one.value, one.ci95,
                        other.value, other.ci95, one.value - other.value,
                    )
                )  # fmt: skip
    return rows


def _conditions(cell: Cell) -> tuple[str, str]:
    return cell.record.protocol, cell.record.scores.main.metric
