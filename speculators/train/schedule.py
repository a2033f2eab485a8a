"""The learning rate over the steps, as a pure function of the step: a resumed run needs no other state."""

import math
from collections.abc import Iterable

from torch.optim import Optimizer

from speculators.settings.training import ScheduleSettings


def scale(step: int, steps: int, schedule: ScheduleSettings) -> float:
    """Learning rate of a step divided by the peak, in (0, 1].

    Args:
        step: optimizer steps done before this one, 0 ... steps - 1.
        steps: optimizer steps of the whole run.
        schedule: linear warm-up, then linear, cosine or constant; a step after the last would have `min_lr_ratio` of the
            peak, which constant does not read.
    """
    warmup = math.ceil(schedule.warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule.name == "constant":
        return 1.0
    done = (step - warmup + 1) / (steps - warmup + 1)
    fall = done if schedule.name == "linear" else (1 - math.cos(math.pi * done)) / 2
    return 1 - (1 - schedule.min_lr_ratio) * fall


def set_learning_rate(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Set every group's `lr` to `factor` times its `peak_lr`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
