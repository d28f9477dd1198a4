"""Speed of pretraining at the scale of ACROBAT on one GPU; written as JSON, section by section.

    PYTHONPATH=. python benchmarks/pretrain_speed.py --out benchmarks/results

needs a CUDA build of torch (2.6 or later), a GPU of about 80 GB, the packages that `mbench
pretrain` imports, and no connection. Made-up patches (4,211 slides of about 6,000) are drawn on
the GPU; model, losses, batches and steps are the package's own, by the recipe
encoders/recipes/madeleine.yaml. Sections, the most telling first, each written when it ends:

    steps      time of a step and of its parts, launches, waits, peak memory, held-out validation
    aligned    the same of the preset "aligned", with made-up transport plans
    plain      the same step by the plain, padded implementation of plain_madeleine.py
    full       a whole run: its wall time, log and curves
    precision  the first epochs in bf16 and in fp32 from the same seed

`--toy` goes through it in seconds at a size whose numbers mean nothing, on a CPU too.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.acrobat_scale import ACROBAT, TOY, made_up_store
from benchmarks.speed_sections import (
    DRAWN_WITH,
    Amounts,
    Speed,
    free_memory,
    measure_aligned,
    measure_full,
    measure_plain,
    measure_precision,
    measure_steps,
)
from madeleine_bench.data.packed import FeatureStore
from madeleine_bench.errors import InputError
from madeleine_bench.files import write_text
from madeleine_bench.pretrain.log import loss_curves_svg, read_log
from madeleine_bench.pretrain.parallel import Group, process_group
from madeleine_bench.pretrain.recipe import Recipe, load_recipe, with_changes
from madeleine_bench.pretrain.run import CURVES, LOG
from madeleine_bench.provenance import machine_provenance

REPORT, FOLDER, PRECISION = "pretrain_speed.json", "pretrain_speed", "precision.svg"
SECTIONS: dict[str, Callable[[Speed], dict[str, Any]]] = {
    "steps": measure_steps,
    "aligned": measure_aligned,
    "plain": measure_plain,
    "full": measure_full,
    "precision": measure_precision,
}
AT_SCALE = Amounts(
    warm_up=8, steps=40, profiled_steps=3, plain_steps=10, epochs=120,
    compare_epochs=5,
)  # fmt: skip
AT_TOY_SIZE = Amounts(
    warm_up=1, steps=4, profiled_steps=1, plain_steps=2, epochs=2,
    compare_epochs=1,
)  # fmt: skip
TOY_CHANGES = (
    "model.width=16", "model.heads=2", "patches=16", "objective.tokens=8", "batch_cases=8",
    "objective.temperature=0.1",
)  # fmt: skip
_RESIDENT_SHARE = 0.6  # of the free memory; the rest is for the step
_FP32_SLOWER = 10.0  # a guess for the time budget, no result


def run_sections(speed: Speed, report: dict[str, Any], wanted: Sequence[str], out: Path) -> bool:
    """Return whether every section wanted has ended well; the report is written after each.

    A section that fails, or for which the time is too short, says so in the report, and the next
    one gets its turn: time on such a machine is dear.
    """
    sections = report["sections"]
    for name in wanted:
        began = time.perf_counter()
        sections[name] = _outcome(name, replace(speed, found=sections))
        sections[name]["seconds"] = round(time.perf_counter() - began, 2)
        write_text(out / REPORT, json.dumps(report, indent=1) + "\n")
        print(f"{name}: {_in_short(sections[name])}", flush=True)
        free_memory()
    return not any({"failed", "skipped"} & sections[name].keys() for name in wanted)


def needs_s(section: str, amounts: Amounts, found: Mapping[str, Any]) -> float:
    """Return about how long a section takes by what has been measured so far; 0 where unknown."""
    epoch_s = float(found.get("steps", {}).get("epoch_s", 0.0))
    if section == "full":
        return epoch_s * amounts.epochs
    if section == "precision":
        return epoch_s * amounts.compare_epochs * (1.0 + _FP32_SLOWER)
    return 0.0


def draw(out: Path) -> None:
    """Draw the curves of the results in a folder, as far as there are any.

    Raises:
        InputError: there are no results, or what they are drawn with is not installed.
    """
    missing = [name for name in DRAWN_WITH if find_spec(name) is None]
    if missing:
        raise InputError(
            f"no curves drawn, as {' and '.join(missing)} cannot be imported; on a machine where "
            "mbench is installed, the same command with --draw draws them from the results"
        )
    try:
        report = json.loads((out / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{out / REPORT}: no results to draw ({error})") from error
    where = f"{report['device']['name']}, {'toy size' if report['toy'] else 'scale of ACROBAT'}"
    log = out / FOLDER / LOG
    if log.is_file():
        title = f"Made-up patches: {where}"
        write_text(out / FOLDER / CURVES, loss_curves_svg(read_log(log), title))
    curves = report["sections"].get("precision", {}).get("loss")
    if curves:
        write_text(out / FOLDER / PRECISION, _precision_svg(curves, where))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the report, draw; exit 1 where a section failed, 2 where none can start."""
    chosen = _options().parse_args(arguments)
    try:
        if chosen.draw:
            draw(chosen.out)
            return
        complete = _measure(chosen)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    try:
        draw(chosen.out)
    except InputError as error:
        print(error, file=sys.stderr)
    if not complete:
        sys.exit(1)


def _measure(chosen: argparse.Namespace) -> bool:
    """Return whether all sections ended well."""
    began = time.perf_counter()
    if not (chosen.toy or torch.cuda.is_available()):
        raise InputError(
            "no GPU: torch.cuda.is_available() is false. This script is for a CUDA GPU of about "
            "80 GB; --toy goes through it on a CPU at a size whose numbers mean nothing"
        )
    scale, recipe = (
        (TOY if chosen.toy else ACROBAT),
        with_changes(load_recipe("madeleine"), ["objective.preset=corrected"]),
    )
    if chosen.patches_mean is not None:
        scale = replace(scale, mean_patches=chosen.patches_mean)
    if chosen.toy:
        recipe = with_changes(recipe, TOY_CHANGES)
    store = made_up_store(scale, recipe.seed)
    with process_group("auto") as group:
        _check_room(store, group)
        amounts = _amounts(chosen)
        report = _heading(chosen, store, recipe, group)
        speed = Speed(
            store, recipe, group, amounts, chosen.out / FOLDER, began + chosen.budget_s,
            chosen.toy, {},
        )  # fmt: skip
        return run_sections(speed, report, chosen.sections or list(SECTIONS), chosen.out)


def _outcome(name: str, speed: Speed) -> dict[str, Any]:
    needed, left = needs_s(name, speed.amounts, speed.found), speed.left_s
    if left <= needed:
        why = f"{max(left, 0.0):.0f} s of the budget left, about {needed:.0f} s needed"
        return {"skipped": why}
    try:
        return SECTIONS[name](speed)
    except Exception as error:  # noqa: BLE001 - told in the report, and by the exit status
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def _heading(
    chosen: argparse.Namespace, store: FeatureStore, recipe: Recipe, group: Group
) -> dict[str, Any]:
    """Return what the report begins with: what was measured, where, and with which code."""
    machine = machine_provenance()
    return {
        **machine,
        "commit": chosen.commit or machine["commit"],
        "device": _describe(group.device),
        "cuda": torch.version.cuda,
        "toy": chosen.toy,
        "made_up_cohort": {
            "cases": len(set(store.case_ids)),
            "slides": {stain: store.stains.count(stain) for stain in sorted(set(store.stains))},
            "patches": int(store.offsets[-1]),
            "mean_patches": round(float(store.lengths.mean()), 1),
            "fewest_patches": int(store.lengths.min()),
            "most_patches": int(store.lengths.max()),
            "dim": store.dim,
        },
        "recipe": recipe.model_dump(mode="json"),
        "sections": {},
    }


def _describe(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"name": "CPU", "memory_gb": None, "capability": None}
    about = torch.cuda.get_device_properties(device)
    return {
        "name": about.name,
        "memory_gb": round(about.total_memory / 1e9, 1),
        "capability": f"{about.major}.{about.minor}",
    }


def _check_room(store: FeatureStore, group: Group) -> None:
    if group.device.type != "cuda":
        return
    free = torch.cuda.mem_get_info(group.device)[0]
    if store.nbytes > _RESIDENT_SHARE * free:
        raise InputError(
            f"the patches take {store.nbytes / 1e9:.0f} GB and {free / 1e9:.0f} GB of the "
            f"GPU's memory are free, of which they may have {_RESIDENT_SHARE:.0%}; choose a "
            "smaller --patches-mean"
        )


def _amounts(chosen: argparse.Namespace) -> Amounts:
    given = {name: getattr(chosen, name) for name in Amounts.__dataclass_fields__}
    usual = AT_TOY_SIZE if chosen.toy else AT_SCALE
    return replace(usual, **{name: count for name, count in given.items() if count is not None})


def _in_short(section: Mapping[str, Any]) -> str:
    for name in ("failed", "skipped"):
        if name in section:
            return f"{name}: {section[name]}"
    shown = (
        "ms_per_step", "parts_ms", "local_share", "times_faster",
        "times_ours_by_the_case", "wall_s", "largest_difference",
    )  # fmt: skip
    told = {name: section[name] for name in (*shown, "seconds") if name in section}
    return json.dumps(told)


def _precision_svg(curves: Mapping[str, Sequence[float]], where: str) -> str:
    """Return the loss of each step in each precision as SVG."""
    import altair as alt
    import pandas as pd
    import vl_convert

    rows = [
        {"step": step, "loss": loss, "precision": name}
        for name, losses in curves.items()
        for step, loss in enumerate(losses, start=1)
    ]
    chart = (
        alt.Chart(pd.DataFrame(rows), title=f"Loss of each step, made-up patches: {where}")
        .mark_line(strokeWidth=1.5)
        .encode(
            alt.X("step:Q"),
            alt.Y("loss:Q", scale=alt.Scale(zero=False)),
            alt.Color("precision:N", scale=alt.Scale(range=["#0072B2", "#D55E00"])),
            alt.StrokeDash("precision:N", scale=alt.Scale(range=[[1, 0], [5, 3]])),
        )
        .properties(width=640, height=260)
        .configure(background="white")
    )
    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    svg: str = vl_convert.vegalite_to_svg(chart.to_dict(), vl_version=version)
    return svg


def _options() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = Path(__file__).resolve().parent / "results"
    parser.add_argument("--out", type=Path, default=folder, help="folder of the results")
    parser.add_argument("--toy", action="store_true", help="a trial of the script itself")
    parser.add_argument(
        "--sections", nargs="+", choices=SECTIONS, metavar="SECTION",
        help=f"some of {', '.join(SECTIONS)}",
    )  # fmt: skip
    for name, usual in vars(AT_SCALE).items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=_count, help=f"by default {usual}")
    parser.add_argument("--patches-mean", type=float, help="patches of a slide, by default 6000")
    parser.add_argument(
        "--budget-s", type=float, default=float("inf"),
        help="seconds in all; a section that does not fit is left out, and the report says so",
    )  # fmt: skip
    parser.add_argument("--commit", help="of the code, where the folder is no git checkout")
    parser.add_argument("--draw", action="store_true", help="only draw the curves of --out")
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, found {text}")
    return int(text)


if __name__ == "__main__":
    main()
