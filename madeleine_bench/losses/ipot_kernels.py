"""IPOT and its exact adjoint as Triton kernels: three launches, however many pairs and iterations.

One program walks over one pair. Nothing of size n x m is kept but the cost, the plan and the
gradient: the cost is read in blocks of rows, once an iteration, and a cost that fits is read once
in all and stays in registers. The scalings are kept as logarithms to base 2, and no exponential is
formed that exceeds a share of a row:

    f = -log(n sum_j K_t w),   P = u K_t w,   g = h - log(m sum_i P),   h' = 2 g - g_before

with u, v, w = 2^f, 2^g, 2^h and K_t = exp(-t C / beta) as in `ipot`. Rows of P sum to 1/n, columns
of the plan T = u K_t v to 1/m. So all is within the range of float32 for every cost. With z and r
the gradients with respect to log v and log u, the way back is, from the last iteration,

    r = -m T z,   s = -n P^T r,   z' = 2 s - s_after,   dL/dC = (1/beta) sum_t t (m T z + n P r)

to whose last iteration the rows of dL/dT * T are added.
"""

# mypy: disable-error-code="import-untyped, import-not-found, untyped-decorator, no-any-return"

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 4096  # entries of the cost that one program holds in registers at a time
_WIDE = 128  # columns from which on a tile is shared by 8 warps instead of 4
_TINY = tl.constexpr(1e-37)  # of a column's mass, whose logarithm is taken


@dataclass(frozen=True)
class LogScalings:
    """What one run of the kernels leaves behind, enough to differentiate it.

    Attributes:
        cost: pair x n x m.
        least: smallest cost of each row, pair x n.
        row: log2 u_t, iteration x pair x n.
        column: log2 v_t, iteration x pair x m.
        start: log2 w_t, iteration x pair x m.
    """

    cost: Tensor
    least: Tensor
    row: Tensor
    column: Tensor
    start: Tensor


def iterate(cost: Tensor, beta: float, iterations: int) -> tuple[Tensor, LogScalings]:
    """Return the plan, pair x n x m, and how it came about; arguments as of `ipot.iterate`.

    n and m are from 2 to 4096 (`fused.SIZES`), the cost is float32 or float64.
    """
    cost = cost.contiguous()
    pairs, n, m = cost.shape
    trace = LogScalings(
        cost,
        cost.amin(dim=2),
        cost.new_empty(iterations, pairs, n),
        cost.new_empty(iterations, pairs, m),
        cost.new_empty(iterations, pairs, m),
    )
    plan, tile = torch.empty_like(cost), _tile(n, m)
    if pairs:
        _iterate_pair[(pairs,)](
            cost, trace.least, trace.row, trace.column, trace.start, plan,
            pairs, n, m, iterations,
            SLOPE=_slope(beta), RESIDENT=tile["ROWS"] >= n, **tile,
        )  # fmt: skip
    return plan, trace


def pull_back(upstream: Tensor, trace: LogScalings, beta: float) -> Tensor:
    """Return the gradient with respect to the cost; arguments as of `ipot.pull_back`."""
    upstream = upstream.contiguous()
    pairs, n, m = upstream.shape
    iterations = len(trace.row)
    to_row, to_column = torch.empty_like(trace.row), torch.empty_like(trace.column)
    gradient = torch.empty_like(upstream)
    if not pairs:
        return gradient
    given = (trace.cost, trace.least, upstream, trace.row, trace.column, trace.start)
    sizes, slope, tile = (pairs, n, m, iterations), _slope(beta), _tile(n, m)
    _pull_back_pair[(pairs,)](
        *given, to_row, to_column, *sizes, SLOPE=slope, RESIDENT=tile["ROWS"] >= n, **tile
    )
    _add_up[(pairs, triton.cdiv(n, tile["ROWS"]))](
        *given, to_row, to_column, gradient, *sizes, SLOPE=slope, BETA=beta, **tile
    )
    return gradient


def _slope(beta: float) -> float:
    """Return 1 / beta in units of the logarithm to base 2."""
    return math.log2(math.e) / beta


def _tile(n: int, m: int) -> dict[str, Any]:
    """Return the rows and columns that a program holds: all rows where they fit."""
    columns = triton.next_power_of_2(m)
    return {
        "ROWS": min(triton.next_power_of_2(n), max(1, _TILE // columns)),
        "COLUMNS": columns,
        "num_warps": 8 if columns >= _WIDE else 4,
        # One operation instead of two, and one rounding; said because Triton's default changes.
        "enable_fp_fusion": True,
    }


@triton.jit
def _exponents(cost, least, rows, columns, n, m, SLOPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return log2 of exp(-C / beta) of some rows, at most 0; 0 outside the cost."""
    inside = (rows < n)[:, None] & (columns < m)[None, :]
    cell = rows[:, None] * m + columns[None, :]
    smallest = tl.load(least + rows, mask=rows < n, other=0.0)
    there = tl.load(cost + cell, mask=inside, other=0.0)
    return tl.where(inside, (smallest[:, None] - there) * SLOPE, 0.0)


@triton.jit
def _row_step(exponent, t, start, rows, columns, n, m):  # type: ignore[no-untyped-def]
    """Return log2 u of some rows, and P, whose rows sum to 1/n."""
    power = tl.where((columns < m)[None, :], exponent * t + start[None, :], float("-inf"))
    highest = tl.max(power, axis=1)
    share = tl.exp2(power - highest[:, None])
    mass = tl.sum(share, axis=1) * n
    share = tl.where((rows < n)[:, None], share * (1.0 / mass)[:, None], 0.0)
    return -highest - tl.log2(mass), share


@triton.jit
def _plan(exponent, t, row, column, rows, columns, n, m):  # type: ignore[no-untyped-def]
    """Return T of some rows; 0 outside the cost."""
    inside = (rows < n)[:, None] & (columns < m)[None, :]
    power = exponent * t + row[:, None] + column[None, :]
    return tl.exp2(tl.where(inside, power, float("-inf")))


@triton.jit
def _iterate_pair(  # type: ignore[no-untyped-def]
    cost, least, row, column, start, plan, pairs, n, m, iterations,
    SLOPE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64)
    kind: tl.constexpr = cost.dtype.element_ty
    cost, plan, least = cost + pair * n * m, plan + pair * n * m, least + pair * n
    block, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    if RESIDENT:
        held = _exponents(cost, least, block, columns, n, m, SLOPE)
    before = tl.zeros((COLUMNS,), kind)
    begin = tl.zeros((COLUMNS,), kind)
    used = tl.zeros((COLUMNS,), kind)
    mass = tl.zeros((COLUMNS,), kind)
    for t in range(1, iterations + 1):
        at = (t - 1) * pairs + pair
        total = tl.zeros((ROWS, COLUMNS), kind)
        for first in range(0, n, ROWS):
            rows = first + block
            exponent = held if RESIDENT else _exponents(cost, least, rows, columns, n, m, SLOPE)
            log_row, share = _row_step(exponent, t, begin, rows, columns, n, m)
            tl.store(row + at * n + rows, log_row, mask=rows < n)
            total += share
        mass = tl.maximum(tl.sum(total, axis=0), _TINY) * m
        now = begin - tl.log2(mass)
        tl.store(column + at * m + columns, now, mask=columns < m)
        tl.store(start + at * m + columns, begin, mask=columns < m)
        used = begin
        begin = 2.0 * now - before
        before = now
    for first in range(0, n, ROWS):
        rows = first + block
        exponent = held if RESIDENT else _exponents(cost, least, rows, columns, n, m, SLOPE)
        _, share = _row_step(exponent, iterations, used, rows, columns, n, m)
        inside = (rows < n)[:, None] & (columns < m)[None, :]
        cell = rows[:, None] * m + columns[None, :]
        tl.store(plan + cell, share / mass[None, :], mask=inside)


@triton.jit
def _pull_back_pair(  # type: ignore[no-untyped-def]
    cost, least, upstream, row, column, start, to_row, to_column, pairs, n, m, iterations,
    SLOPE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64)
    kind: tl.constexpr = cost.dtype.element_ty
    cost, upstream, least = cost + pair * n * m, upstream + pair * n * m, least + pair * n
    block, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    if RESIDENT:
        held = _exponents(cost, least, block, columns, n, m, SLOPE)
    at = (iterations - 1) * pairs + pair
    log_column = tl.load(column + at * m + columns, mask=columns < m, other=0.0)
    total = tl.zeros((ROWS, COLUMNS), kind)
    for first in range(0, n, ROWS):
        rows = first + block
        inside = (rows < n)[:, None] & (columns < m)[None, :]
        cell = rows[:, None] * m + columns[None, :]
        exponent = held if RESIDENT else _exponents(cost, least, rows, columns, n, m, SLOPE)
        log_row = tl.load(row + at * n + rows, mask=rows < n, other=0.0)
        flow = _plan(exponent, iterations, log_row, log_column, rows, columns, n, m)
        total += flow * tl.load(upstream + cell, mask=inside, other=0.0)
    into = tl.sum(total, axis=0)
    later = tl.zeros((COLUMNS,), kind)
    for back in range(iterations):
        t = iterations - back
        at = (t - 1) * pairs + pair
        tl.store(to_column + at * m + columns, into, mask=columns < m)
        log_column = tl.load(column + at * m + columns, mask=columns < m, other=0.0)
        log_start = tl.load(start + at * m + columns, mask=columns < m, other=0.0)
        total = tl.zeros((ROWS, COLUMNS), kind)
        for first in range(0, n, ROWS):
            rows = first + block
            # The rows of the last plan alone are not made anew: they take their part of upstream.
            inside = (rows < n)[:, None] & (columns < m)[None, :] & (back == 0)
            cell = rows[:, None] * m + columns[None, :]
            exponent = held if RESIDENT else _exponents(cost, least, rows, columns, n, m, SLOPE)
            log_row = tl.load(row + at * n + rows, mask=rows < n, other=0.0)
            flow = _plan(exponent, t, log_row, log_column, rows, columns, n, m)
            outside = tl.load(upstream + cell, mask=inside, other=0.0)
            into_row = tl.sum(flow * (outside - into[None, :] * m), axis=1)
            tl.store(to_row + at * n + rows, into_row, mask=rows < n)
            total += flow * into_row[:, None]
        into_start = -tl.sum(total, axis=0) * tl.exp2(log_start - log_column) * n
        into = 2.0 * into_start - later
        later = into_start


@triton.jit
def _add_up(  # type: ignore[no-untyped-def]
    cost, least, upstream, row, column, start, to_row, to_column, gradient,
    pairs, n, m, iterations,
    SLOPE: tl.constexpr, BETA: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sum over the iterations, the rows of a block in registers."""
    pair = tl.program_id(0).to(tl.int64)
    rows, columns = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    inside = (rows < n)[:, None] & (columns < m)[None, :]
    cell = pair * n * m + rows[:, None] * m + columns[None, :]
    exponent = _exponents(cost + pair * n * m, least + pair * n, rows, columns, n, m, SLOPE)
    total = tl.zeros((ROWS, COLUMNS), cost.dtype.element_ty)
    flow = total
    for t in range(1, iterations + 1):
        at = (t - 1) * pairs + pair
        log_row = tl.load(row + at * n + rows, mask=rows < n, other=0.0)
        into_row = tl.load(to_row + at * n + rows, mask=rows < n, other=0.0)
        log_column = tl.load(column + at * m + columns, mask=columns < m, other=0.0)
        log_start = tl.load(start + at * m + columns, mask=columns < m, other=0.0)
        into_column = tl.load(to_column + at * m + columns, mask=columns < m, other=0.0) * m
        ratio = tl.exp2(log_start - log_column) * n
        flow = _plan(exponent, t, log_row, log_column, rows, columns, n, m)
        total += flow * (into_column[None, :] + ratio[None, :] * into_row[:, None]) * t
    outside = tl.load(upstream + cell, mask=inside, other=0.0)
    total -= flow * outside * iterations
    tl.store(gradient + cell, total / BETA, mask=inside)
