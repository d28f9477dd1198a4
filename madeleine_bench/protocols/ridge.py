"""Linear models with a ridge penalty: many fits at once by Newton's method, and the penalty chosen.

A fit minimises  sum of weight x loss(margin) + penalty / 2 |w|^2  with margins  rows @ w. All fits
of a call share their rows, which makes each step one matrix product; they differ in the weights of
the units (0 leaves a unit out) and in the penalty. In the principal axes of the rows the penalised
curvature is close to diagonal, so conjugate gradients solve a Newton step in few products.

References:
    Nocedal and Wright, Numerical Optimization (2006), algorithms 5.3 and 7.1.
    Verweij and van Houwelingen, Cross-validation in survival analysis, Statistics in Medicine 12
    (1993) 2305-2314: the loss of what is left out is that of all units less that of the rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Newton's last steps square the error, so that a goal below the tolerance costs little.
_BEYOND_TOL = 0.03
_MOST_STEPS = 100
_MOST_PRODUCTS = 500
_MOST_HALVINGS = 30
_ROUNDING = 64.0 * np.finfo(np.float64).eps
# Squared singular values below this share of the largest are rounding.
_NO_AXIS = 1e-13
_NO_CURVATURE = 1e-10
# Weaker penalties are not tried once the mean left-out loss is so much above the least.
_PAST_BEST = 0.05
_EQUAL_LOSS = 1e-7
_INNER_TOL = 1e-6
_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class Expansion:
    """A loss at some margins, to second order.

    Attributes:
        slope: fit x vector x unit, the derivative by the margins.
        curvature: fit x vector x vector, the second derivative by the margins of a unit, summed
            over units.
        bend: the second derivative times a change of the margins, fit x vector x unit.
    """

    slope: Array
    curvature: Array
    bend: Callable[[Array], Array]


class Loss(Protocol):
    """The loss of several fits as a function of their margins, fit x vector x unit."""

    @property
    def total(self) -> Array:
        """The sum of the weights of the units, (fit,)."""
        ...

    def take(self, chosen: NDArray[np.intp]) -> Self:
        """Return some of the fits."""
        ...

    def value(self, margin: Array) -> Array:
        """Return the summed loss of each fit, (fit,)."""
        ...

    def expand(self, margin: Array) -> Expansion:
        """Return the loss to second order."""
        ...


@dataclass(frozen=True)
class Axes:
    """Rows in their principal axes.

    Attributes:
        rows: unit x axis, or fit x unit x axis.
        square: (axis,) or fit x axis, the sum of squares along each axis.
        back: dim x axis, or fit x dim x axis: what coefficients are multiplied by.
        free: axes at the end that carry no penalty: 1 with an intercept, else 0.
    """

    rows: Array
    square: Array
    back: Array
    free: int


def principal_axes(rows: Array, *, intercept: bool) -> Axes:
    """Return rows (unit x dim, or fit x unit x dim; centred) in their principal axes.

    Axes that are rounding alone are zero. An intercept is one more axis, of ones.
    """
    units, dim = rows.shape[-2:]
    wide = units <= dim
    products = rows @ rows.mT if wide else rows.mT @ rows
    finite = np.isfinite(products).all(axis=(-2, -1), keepdims=True)
    square, vectors = np.linalg.eigh(np.where(finite, products, 0.0))
    least = np.maximum(_NO_AXIS * square[..., -1:], np.finfo(np.float64).tiny)
    square = np.where(square > least, square, 0.0)
    vectors = vectors * (square > 0.0)[..., None, :]
    turned = np.ones((*rows.shape[:-1], square.shape[-1] + intercept))
    own = turned[..., : square.shape[-1]]
    if wide:
        root = np.sqrt(square)[..., None, :]
        back = rows.mT @ np.divide(vectors, root, out=np.zeros_like(vectors), where=root > 0.0)
        np.multiply(vectors, root, out=own)
    else:
        back = vectors
        for start in range(0, units, _ROWS_AT_ONCE):  # no third copy of many rows
            part = slice(start, start + _ROWS_AT_ONCE)
            own[..., part, :] = rows[..., part, :] @ back
    np.copyto(turned, np.nan, where=~np.asarray(finite))  # so that the fit says it
    if intercept:
        square = np.concatenate([square, np.full((*square.shape[:-1], 1), float(units))], axis=-1)
    return Axes(turned, square, back, int(intercept))


@dataclass(frozen=True)
class Minima:
    """Where the search of each fit ended.

    Attributes:
        coefficients: fit x vector x axis.
        margin: fit x vector x unit.
        residual: (fit,) length of the gradient over the sum of weights, which no component of the
            gradient exceeds in any axes; NaN where numbers overflowed.
        n_iter: (fit,) Newton steps.
    """

    coefficients: Array
    margin: Array
    residual: Array
    n_iter: NDArray[np.intp]


def minimise(
    axes: Axes, loss: Loss, penalty: Array, start: Array, *, tol: float, max_iter: int
) -> Minima:
    """Return the minimum of each fit, as far as rounding or `max_iter` steps let it come.

    Args:
        axes: the rows.
        loss: of each fit.
        penalty: (fit,) positive.
        start: fit x vector x axis, where to begin.
        tol: of `Minima.residual`; the search aims below it.
        max_iter: Newton steps, at most.
    """
    w = start.copy()
    ridge = np.repeat(penalty[:, None, None], w.shape[2], axis=2)
    ridge[:, :, w.shape[2] - axes.free :] = 0.0
    margin = _margins(axes, w)
    n_iter = np.zeros(len(w), dtype=np.intp)
    residual = np.full(len(w), np.nan)
    going, first = np.arange(len(w)), np.full(len(w), np.nan)
    for step in range(min(max_iter, _MOST_STEPS) + 1):
        part, own, penal = loss.take(going), _of_fits(axes, going), ridge[going]
        here = part.expand(margin[going])
        gradient = _backward(own, here.slope) + penal * w[going]
        residual[going] = np.sqrt((gradient**2).sum(axis=(1, 2))) / part.total
        if step == 0:
            first = residual.copy()
        left = residual[going] > _BEYOND_TOL * tol
        if not left.any() or step == min(max_iter, _MOST_STEPS):
            break
        if not left.all():
            going, gradient, penal = going[left], gradient[left], penal[left]
            part, own = loss.take(going), _of_fits(axes, going)
            here = part.expand(margin[going])
        share = np.clip(residual[going] / first[going], 1e-3, 0.1)
        change, change_margin = _newton_step(own, here, penal, gradient, share)
        moved, length = _line_search(part, penal, w[going], change, margin[going], change_margin)
        w[going] += length[:, None, None] * change
        margin[going] += length[:, None, None] * change_margin
        n_iter[going] += moved
        going = going[moved]
        if not len(going):
            break
    return Minima(w, margin, residual, n_iter)


def _of_fits(axes: Axes, chosen: NDArray[np.intp]) -> Axes:
    """Return the axes of some of the fits."""
    if axes.rows.ndim == 2:
        return axes
    return Axes(axes.rows[chosen], axes.square[chosen], axes.back, axes.free)


def _margins(axes: Axes, w: Array) -> Array:
    """Return the margins of coefficients of fit x vector x axis, fit x vector x unit."""
    if axes.rows.ndim == 3:
        return w @ axes.rows.mT
    # One product for all fits.
    return (w.reshape(-1, w.shape[2]) @ axes.rows.T).reshape(*w.shape[:2], -1)


def _backward(axes: Axes, slope: Array) -> Array:
    """Return fit x vector x axis: what a slope by the margins means for the coefficients."""
    if axes.rows.ndim == 3:
        return slope @ axes.rows
    return (slope.reshape(-1, slope.shape[2]) @ axes.rows).reshape(*slope.shape[:2], -1)


def _newton_step(
    axes: Axes, here: Expansion, ridge: Array, gradient: Array, share: Array
) -> tuple[Array, Array]:
    """Return the change of coefficients and of margins; `share` of the gradient may be left."""
    units = axes.rows.shape[-2]
    square = axes.square if axes.square.ndim == 1 else axes.square[:, None]
    # The mean curvature of a unit stands in for that of each one.
    bent, basis = np.linalg.eigh(here.curvature / units)
    bent[bent < _NO_CURVATURE * bent[:, -1:]] = 0.0
    scale = bent[:, :, None] * square + ridge
    scale[scale <= 0.0] = 1.0  # the same change of all intercepts changes nothing

    def scaled_by(gradient: Array) -> Array:
        turned: Array = basis @ ((basis.mT @ gradient) / scale)
        return turned

    left = -gradient
    scaled = scaled_by(left)
    along, dot = scaled, _dot(left, scaled)
    goal = dot * share**2
    change, change_margin = np.zeros_like(left), np.zeros_like(here.slope)
    for _ in range(_MOST_PRODUCTS):
        going = dot > goal
        if not going.any():
            break
        margin = _margins(axes, along)
        bent = _backward(axes, here.bend(margin)) + ridge * along
        length = np.where(going, dot / _dot(along, bent), 0.0)[:, None, None]
        change += length * along
        change_margin += length * margin
        left = left - length * bent
        scaled = scaled_by(left)
        before, dot = dot, np.where(going, _dot(left, scaled), dot)
        along = scaled + np.where(going, dot / before, 0.0)[:, None, None] * along
    return change, change_margin


def _dot(one: Array, other: Array) -> Array:
    product: Array = np.einsum("fva,fva->f", one, other)
    return product


def _line_search(
    loss: Loss, ridge: Array, w: Array, change: Array, margin: Array, change_margin: Array
) -> tuple[NDArray[np.bool_], Array]:
    """Return which fits move, and by which share of their step: down the objective or not."""

    def objective(length: Array) -> Array:
        by = length[:, None, None]
        norm = 0.5 * (ridge * (w + by * change) ** 2).sum(axis=(1, 2))
        value: Array = loss.value(margin + by * change_margin) + norm
        return value

    length = np.ones(len(w))
    before = objective(np.zeros(len(w)))
    for _ in range(_MOST_HALVINGS):
        falls = objective(length) <= before + _ROUNDING * np.abs(before)
        if falls.all():
            break
        length = np.where(falls, length, 0.5 * length)
    return falls, np.where(falls, length, 0.0)


@dataclass(frozen=True)
class Choice:
    """Which inverse penalty was chosen, and on what grounds.

    Attributes:
        value: the chosen one; 0 is the model without effect.
        notes: whether it is an end of the grid, in words.
        diagnostics: "C", "at_edge" (1 or 0), and "loss@C=<C>", the mean left-out loss, of each C
            that was tried.
        start: vector x axis, a fit on the final units at this penalty, to about 1e-6.
    """

    value: float
    notes: tuple[str, ...]
    diagnostics: dict[str, float]
    start: Array


def choose_penalty(
    axes: Axes,
    trained: Loss,
    left_out: Callable[[Array], Array],
    n_judged: float,
    grid: Sequence[float],
    vectors: int,
    *,
    no_effect: bool = False,
) -> Choice:
    """Return the inverse penalty C with the least mean left-out loss; of equal ones the smallest.

    They are tried from the smallest on, each begun where the last one ended. Larger ones are not
    tried once the loss is .05 above the least, or no number.

    Args:
        axes: the rows, unit x axis.
        trained: the loss of each inner fold on what it is trained on; then that of the final fit.
        left_out: of the margins of the inner folds (fold x vector x unit), the loss of each on
            what it is judged on.
        n_judged: the weight of the units that are judged.
        grid: inverse penalties, ascending.
        vectors: of coefficients in a fit.
        no_effect: whether coefficients of zero are a choice too, as C = 0.
    """
    fits = len(trained.total)
    w = np.zeros((fits, vectors, axes.rows.shape[-1]))
    losses: dict[float, float] = {}
    starts: dict[float, Array] = {}
    for value in (0.0, *grid) if no_effect else grid:
        margin = np.zeros((fits, vectors, len(axes.rows)))
        if value:
            penalty = np.full(fits, 1.0 / value)
            minima = minimise(axes, trained, penalty, w, tol=_INNER_TOL, max_iter=_MOST_STEPS)
            w, margin = minima.coefficients, minima.margin
        loss = float(left_out(margin[:-1]).sum()) / n_judged
        if not np.isfinite(loss):
            break
        losses[value], starts[value] = loss, w[-1]
        if loss > min(losses.values()) + _PAST_BEST:
            break
    least = min(losses.values(), default=np.nan)
    value = min((v for v, loss in losses.items() if loss <= least + _EQUAL_LOSS),
                default=grid[0])  # fmt: skip
    ends = {grid[-1]: "weakest", grid[0]: "strongest"}
    notes = (f"chose the {ends[value]} penalty of its grid",) if value in ends else ()
    diagnostics = {"C": value, "at_edge": float(value in ends)}
    diagnostics |= {f"loss@C={tried:.6g}": loss for tried, loss in losses.items()}
    return Choice(value, notes, diagnostics, starts.get(value, w[-1]))


def inner_folds(
    cases: NDArray[np.str_], strata: NDArray[np.intp], folds: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return the inner fold of each unit: cases whole, each stratum spread evenly over the folds.

    Fewer cases than folds make as many folds as there are cases.

    Args:
        cases: the case of each unit.
        strata: (unit,) class, or whether there is an event; a case belongs to its rarest one.
        folds: how many.
        rng: shuffles the cases within their stratum.
    """
    names, case = np.unique(cases, return_inverse=True)
    rarity = np.argsort(np.argsort(np.bincount(strata), kind="stable"))
    stratum = np.full(len(names), len(rarity))
    np.minimum.at(stratum, case, rarity[strata])
    order = rng.permutation(len(names))
    order = order[np.argsort(stratum[order], kind="stable")]
    dealt = np.empty(len(names), dtype=np.intp)
    dealt[order] = np.arange(len(names)) % folds
    return dealt[case]
