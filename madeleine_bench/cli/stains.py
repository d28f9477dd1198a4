"""`mbench stains` and `mbench cross-stain`: what each stain of a case adds, and share."""

from typing import Annotated

import typer

from madeleine_bench.cli.console import LiveProgress, deliver
from madeleine_bench.cli.options import Encoders, Form, Tasks, with_workspace
from madeleine_bench.specs.workspace import Workspace


@with_workspace()
def stains(
    encoder: Encoders,
    task: Tasks,
    protocol: Annotated[
        str, typer.Option(help="Protocol of the late fusion; other fusions are compared with it.")
    ] = "linear-probe",
    alone: Annotated[
        str, typer.Option(help="Stain that is compared with all stains together.")
    ] = "H&E",
    format: Form = "table",
    *,
    workspace: Workspace,
) -> None:
    """Measure what each stain adds to H&E.

    Compares all stains of a case with H&E alone, with three ways of fusion, and without each stain.
    Writes numbers and a figure to RESULTS/stains.

    Example: mbench stains --encoder madeleine --encoder mean-pool --task bwh-kidney-amr
    """
    from madeleine_bench.runner.stain_ablation import stain_ablation

    with LiveProgress() as progress:
        reports = stain_ablation(encoder, task, workspace, progress, protocol=protocol, alone=alone)
    for place, report in reports.items():
        deliver(report, format, place.parent, place.name)


@with_workspace()
def cross_stain(
    encoder: Encoders,
    cohort: Annotated[str, typer.Option(help="Cohort with several stains, such as bwh-kidney.")],
    query: Annotated[str, typer.Option(help="Query stain; all other stains are searched.")] = "H&E",
    format: Form = "table",
    *,
    workspace: Workspace,
) -> None:
    """Retrieve the same patient's slides across stains.

    An H&E slide is the query; slides of each other stain are ranked by similarity. Labels are not
    used. Writes the numbers to RESULTS/cross_stain.

    Example: mbench cross-stain --encoder madeleine --encoder mean-pool --cohort bwh-kidney
    """
    from madeleine_bench.runner import cross_stain as library

    with LiveProgress() as progress:
        report = library.cross_stain(encoder, cohort, workspace, progress, query=query)
    folder = workspace.results / "cross_stain" / report.document["board"]
    deliver(report, format, folder, cohort)
