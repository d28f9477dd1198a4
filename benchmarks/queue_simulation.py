"""A simulation of many workers on one queue: a scheduler, a shared disk, and workers that die.

Each task passes three stations: the scheduler, which hands out one task at a time; the shared disk,
which serves one request at a time at its full bandwidth; and the worker, which computes. A worker
dies at random; its task goes back to the queue, and the worker returns after a while.
"""

import heapq
from collections import deque
from dataclasses import dataclass

import numpy as np

from madeleine_bench.seeds import rng_for

HOUR_S = 3600.0


@dataclass(frozen=True)
class Phase:
    """Equal kinds of work.

    Attributes:
        name: what is done.
        tasks: how many.
        compute_s: mean seconds of a worker for one task.
        spread: standard deviation of the logarithm of the seconds of a task.
        bytes_read: that a task moves over the shared disk.
    """

    name: str
    tasks: int
    compute_s: float
    spread: float
    bytes_read: float


@dataclass(frozen=True)
class Site:
    """Where the work is done.

    Attributes:
        task_s: seconds of the scheduler for one task.
        disk_bytes_per_s: bandwidth of the shared disk, all workers together.
        deaths_per_hour: of one worker.
        return_s: seconds until a worker that died is back.
    """

    task_s: float
    disk_bytes_per_s: float
    deaths_per_hour: float
    return_s: float


@dataclass(frozen=True)
class Simulated:
    """How a phase went.

    Attributes:
        hours: until the last task is done.
        ideal_hours: of the same work, were there workers alone: no queue, no disk, no deaths.
        busy: share of the time that scheduler, disk and workers are in use, 0 to 1.
        bottleneck: which of them is in use most.
        deaths: of workers.
        redone: tasks that were begun again.
    """

    hours: float
    ideal_hours: float
    busy: dict[str, float]
    bottleneck: str
    deaths: int
    redone: int


def simulate(phase: Phase, workers: int, site: Site) -> Simulated:
    """Return how a phase goes with some workers; the same whenever it is simulated."""
    rng = rng_for("queue simulation", phase.name, workers)
    mean_log = np.log(phase.compute_s) - phase.spread**2 / 2
    compute = deque(rng.lognormal(mean_log, phase.spread, phase.tasks).tolist())
    ideal_s = sum(compute) / min(workers, phase.tasks)
    disk_s = phase.bytes_read / site.disk_bytes_per_s
    rate = site.deaths_per_hour / HOUR_S
    free = [(0.0, worker) for worker in range(min(workers, phase.tasks))]
    dies = {
        worker: rng.exponential(1 / rate) if rate else np.inf
        for worker in range(min(workers, phase.tasks))
    }
    scheduler_free = disk_free = end = used = 0.0
    served = redone = deaths = 0
    while compute:
        now, worker = heapq.heappop(free)
        if dies[worker] < now:  # while it waited for work
            deaths += 1
            back = dies[worker] + site.return_s
            dies[worker] = back + rng.exponential(1 / rate)
            heapq.heappush(free, (max(now, back), worker))
            continue
        seconds = compute.popleft()
        scheduler_free = max(scheduler_free, now) + site.task_s
        disk_free = max(disk_free, scheduler_free) + disk_s
        served += 1
        done = disk_free + seconds
        if dies[worker] < done:
            deaths += 1
            redone += 1
            compute.append(seconds)
            back = max(dies[worker], now) + site.return_s
            dies[worker] = back + rng.exponential(1 / rate)
            heapq.heappush(free, (back, worker))
            continue
        used += seconds
        end = max(end, done)
        heapq.heappush(free, (done, worker))
    busy = {
        "workers": used / (end * min(workers, phase.tasks)),
        "scheduler": served * site.task_s / end,
        "disk": served * disk_s / end,
    }
    return Simulated(
        hours=end / HOUR_S,
        ideal_hours=ideal_s / HOUR_S,
        busy=busy,
        bottleneck=max(busy, key=lambda station: busy[station]),
        deaths=deaths,
        redone=redone,
    )
