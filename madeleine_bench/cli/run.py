"""`mbench run`: encoders times tasks, then the board."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from madeleine_bench.cli.completion import encoder_names, protocol_names, task_names

Results = Annotated[
    Path, typer.Option("--results", envvar="MBENCH_RESULTS", help="Folder for all that is made.")
]
Catalogue = Annotated[
    Path | None, typer.Option("--catalogue", help="Folder laid out as tasks/ is, in its place.")
]
Config = Annotated[
    Path | None, typer.Option("--config", help="Your cohorts; ./mbench.toml where there is one.")
]
Signal = Annotated[
    float | None,
    typer.Option(min=0.0, max=4.0, help="Biology in the phantoms; 0 is the null phantom."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of the phantoms.")]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Worker processes; as many as CPUs by default.")
]
ExecutorName = Annotated[
    Literal["local", "dask"],
    typer.Option("--executor", help="dask: --jobs workers here, or those of --scheduler."),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        help="With --executor dask: tcp://HOST:PORT, or slurm, pbs, lsf, sge, oar, moab, htcondor."
    ),
]
Source = Annotated[
    Literal["auto", "phantom", "local"],
    typer.Option(help="auto: your files where configured, phantoms elsewhere."),
]


def run(
    encoder: Annotated[
        list[str],
        typer.Option(
            "--encoder",
            help="Name, or path of a card; may be repeated.",
            autocompletion=encoder_names,
        ),
    ],
    task: Annotated[
        list[str],
        typer.Option(
            "--task",
            help="Id, glob such as 'bcnb-*', or all; repeatable.",
            autocompletion=task_names,
        ),
    ],
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol",
            help="Id or glob ('patho-bench-*'), instead of those a task declares; repeatable.",
            autocompletion=protocol_names,
        ),
    ] = None,
    source: Source = "auto",
    jobs: Jobs = None,
    resume: Annotated[
        Literal["only-missing", "always", "never"],
        typer.Option(
            help="only-missing: compute what is not there; always: compute nothing; never: all."
        ),
    ] = "only-missing",
    results: Results = Path("results"),
    config: Config = None,
    catalogue: Catalogue = None,
    phantom_signal: Signal = None,
    phantom_seed: Seed = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(help="Where networks are trained; auto: the GPU where there is one."),
    ] = "auto",
    executor: ExecutorName = "local",
    scheduler: Scheduler = None,
    time_limit: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="An encoder fails that takes longer for one slide."),
    ] = None,
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial",
            help="Score a task although under 90% of its labelled slides or cases have features.",
        ),
    ] = False,
    determinism: Annotated[
        bool,
        typer.Option(
            "--check-determinism",
            help="Make all again, with other workers, threads and order; exit 1 if a byte differs.",
        ),
    ] = False,
) -> None:
    """Score encoders on tasks, keep the records, and show the board.

    Example: mbench run --encoder mean-pool --encoder max-pool --task 'bcnb-*'
    """
    import os

    from madeleine_bench.cli.reports import finish_determinism, finish_run
    from madeleine_bench.runner.plan import Request
    from madeleine_bench.specs.workspace import Workspace

    workers = jobs or os.cpu_count() or 1
    workspace = Workspace(results, source, config, catalogue, workers, phantom_signal, phantom_seed)
    request = Request(
        tuple(encoder), tuple(task), tuple(protocol or ()), workspace, resume, device,
        executor, scheduler, time_limit,
        allow_partial,
    )  # fmt: skip
    finish_run(request)
    if determinism:
        finish_determinism(request)
