"""One run in this process, with what remains of it: DONE, or FAILED with the traceback."""

import json
import logging
import math
import sys
import time
import traceback
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)
DONE, FAILED = "DONE", "FAILED"
LOCK = "run.lock"


class RunFailed(Exception):
    """A run that was started did not end well; the reason is printed, and stands in its folder's FAILED."""


def launch(folder: Path) -> float:
    """Run what a folder's run.yaml pins; another process at work in the folder is waited for.

    Args:
        folder: of the run; gets a file DONE with its seconds and peak memory, or FAILED with the traceback.

    Returns:
        What `run` returns.

    Raises:
        RunFailed: after the message was printed.
        speculators.train.interrupt.Interrupted: a signal stopped training; all is saved.
    """
    # The system lets go of a lock whose process is gone: it tells a run that goes on from one that was cut off.
    with FileLock(folder / LOCK):
        return _launch(folder)


def _launch(folder: Path) -> float:
    from speculators.run import run

    for marker in (DONE, FAILED):
        (folder / marker).unlink(missing_ok=True)
    start = time.monotonic()
    try:
        objective = run(folder)
    except Exception as error:
        log.debug("the run failed", exc_info=True)
        (folder / FAILED).write_text(traceback.format_exc(), encoding="utf-8")
        print(f"the run failed: {error}\n  the traceback is in {folder / FAILED}", file=sys.stderr)
        raise RunFailed(str(error)) from error
    done = {"seconds": round(time.monotonic() - start, 1), "memory_gb": round(_peak_memory_gb(), 3)}
    if not math.isnan(objective):
        done["objective"] = objective
    (folder / DONE).write_text(json.dumps(done) + "\n", encoding="utf-8")
    return objective


def running(folder: Path) -> bool:
    """Whether a process is at work in a run's folder."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def done(folder: Path) -> float | None:
    """The objective of a run that ended well, NaN if it measured none; None if it has not ended so."""
    marker = folder / DONE
    return json.loads(marker.read_text(encoding="utf-8")).get("objective", math.nan) if marker.exists() else None


def _peak_memory_gb() -> float:
    """The most memory that this process had, on the host."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**30
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
