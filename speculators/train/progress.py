"""Progress display of training: a bar in a terminal, a line per log_every elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from speculators.train.metrics import Readings
from speculators.utils.process import printed


class TrainProgress:
    """Shows a progress bar or lines; nothing on processes other than the main one.

    Args:
        steps: of the whole run.
        first: steps that are done.
        shown: False on processes that show nothing.
    """

    def __init__(self, steps: int, first: int, shown: bool) -> None:
        self.console = Console(quiet=not shown)
        self._shown = shown
        self._steps = steps
        self._first = first
        self._start = time.monotonic()
        self._bar = Progress(
            BarColumn(bar_width=12, table_column=Column(no_wrap=True)),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            # Last, and the only column that wraps: a narrow terminal shows it in two lines.
            TextColumn("{task.fields[line]}"),
            console=self.console,
            disable=not (shown and sys.stdout.isatty()),
        )
        self._task = self._bar.add_task("training", total=steps, completed=first, line="")

    def __enter__(self) -> "TrainProgress":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """Advance by one step."""
        self._bar.advance(self._task)

    def show(self, step: int, readings: Readings) -> None:
        """Show new training readings, and log them."""
        line = describe(readings)
        self._bar.update(self._task, line=line)
        left = (time.monotonic() - self._start) / (step - self._first) * (self._steps - step)
        line = f"step {step}/{self._steps} {line} left {left:.0f} s"
        if self._bar.disable:
            self.say(line)
        else:
            printed.info(line)

    def say(self, line: str) -> None:
        """Print a permanent line above the bar, and log it."""
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)
        if self._shown:
            printed.info(line)


def describe(readings: Readings) -> str:
    """Readings in one line."""
    words = [f"loss {readings['loss']:.3f}", f"accuracy {per_slot(readings['accuracy'])}"]
    if "acceptance_decoded" in readings:
        words.append(f"acceptance length {readings['acceptance_decoded']:.2f}")
    if "tokens_per_second" in readings:
        words.append(f"{readings['tokens_per_second']:.0f} tokens/s {readings['memory_gb']:.1f} GB")
    return " ".join(words)


def per_slot(values: float | list[float]) -> str:
    """Values with two digits per slot."""
    return " ".join(f"{v:.2f}" for v in values) if isinstance(values, list) else f"{values:.2f}"
