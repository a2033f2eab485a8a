"""Handles the signals that ask a run to stop: finish the step, save, and print how to resume."""

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from speculators.utils.process import STOPPED_BY_SIGNAL, under_torchrun

# SIGUSR1 is what Slurm sends before the end of a job's time (`--signal=USR1@SECONDS`).
ASKING = (signal.SIGINT, signal.SIGTERM) if sys.platform == "win32" else (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(SystemExit):
    """The run was stopped by a signal and has saved its state; ends the process with exit code 130."""

    def __init__(self, step: int, command: str) -> None:
        super().__init__(STOPPED_BY_SIGNAL)
        self.message = f"stopped after step {step}; the state is saved. To resume: {command}"

    def __str__(self) -> str:
        return self.message


class Interrupt:
    """While entered, the first signal of ASKING only sets `asked`; a second one ends the process, except under torchrun.

    Args:
        first: called at each signal that does not end the process.
    """

    def __init__(self, first: Callable[[], None] = lambda: None) -> None:
        self.asked, self._first = False, first
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupt":
        # Python allows signal handlers in the main thread alone; elsewhere (a sweep's worker) the default stays.
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._ask) for s in ASKING}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._first()
        # torchrun resends the terminal's signal to its processes, and kills those still running after 30 seconds.
        if not under_torchrun():
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
