"""The learning rate of each step: a straight warm-up, then half a cosine down."""

from math import cos, pi

from madeleine_bench.pretrain.recipe import OptimiserRecipe, Preset

# The published warm-up begins at this share of the highest rate.
_PUBLISHED_START = 1e-5


def learning_rate_at(
    step: int,
    steps_per_epoch: int,
    epochs: int,
    optimiser: OptimiserRecipe,
    preset: Preset = "corrected",
) -> float:
    """Return the learning rate of a step.

    Corrected: the highest rate is reached at the last step of the warm-up, the final rate exactly
    at the last step of the run. Published: the warm-up begins at 1e-5 of the highest rate, one
    more epoch than declared passes before the fall begins, and so the run ends above the final
    rate.

    Args:
        step: from 0, over the whole run.
        steps_per_epoch: steps of one epoch.
        epochs: of the whole run; fewer than the warm-up's are refused by the recipe.
        optimiser: the rates, and the epochs of warm-up.
        preset: "corrected" or "published".

    Raises:
        ValueError: the step is not of the run.

    Examples:
        >>> optimiser = OptimiserRecipe(learning_rate=1e-4, warmup_epochs=2)
        >>> [f"{learning_rate_at(step, 3, 6, optimiser):.1e}" for step in (0, 5, 17)]
        ['1.7e-05', '1.0e-04', '1.0e-08']
    """
    steps = steps_per_epoch * epochs
    if not 0 <= step < steps:
        raise ValueError(f"step {step} is not one of the {steps} steps of the run")
    highest, final = optimiser.learning_rate, optimiser.final_learning_rate
    warmup = steps_per_epoch * optimiser.warmup_epochs
    if preset == "published":
        if step < warmup:
            return highest * (_PUBLISHED_START + (1.0 - _PUBLISHED_START) * step / warmup)
        fallen = max(step - warmup - steps_per_epoch, 0) / (steps - warmup)
        return _fall(highest, final, fallen)
    if step < warmup:
        return highest * (step + 1) / warmup
    peak = max(warmup - 1, 0)
    return _fall(highest, final, (step - peak) / max(steps - 1 - peak, 1))


def _fall(highest: float, final: float, fallen: float) -> float:
    """Return the rate when a share `fallen` (0-1) of the half cosine lies behind."""
    return final + (highest - final) * (1.0 + cos(pi * fallen)) / 2.0
