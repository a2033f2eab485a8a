"""One run in this process, with what remains of it: DONE, or FAILED with the traceback."""

import json
import logging
import math
import sys
import time
import traceback
from pathlib import Path

from speculators.complaints import WrongInput

log = logging.getLogger(__name__)
DONE, FAILED, LOG = "DONE", "FAILED", "train.log"


class RunFailed(Exception):
    """A run that was started did not end well; the reason is printed, and stands in its folder's FAILED."""


def launch(folder: Path) -> float:
    """Run what a folder's run.yaml pins.

    Args:
        folder: of the run; gets a file DONE with its seconds and peak memory, or FAILED with the traceback.

    Returns:
        What `run` returns.

    Raises:
        WrongInput: run.yaml is broken, or the run would not be the pinned one.
        RunFailed: after the message was printed.
        speculators.train.interrupt.Interrupted: a signal stopped training; all is saved.
    """
    from speculators.run import run

    for marker in (DONE, FAILED):
        (folder / marker).unlink(missing_ok=True)
    start = time.monotonic()
    try:
        objective = run(folder)
    except WrongInput:
        raise
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


def start_log(folder: Path) -> None:
    """Show what happens, and keep it with the time in the folder's train.log, as Hydra does for a run that it starts."""
    file = logging.FileHandler(folder / LOG, encoding="utf-8")
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    screen = logging.StreamHandler(sys.stdout)
    screen.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[file, screen], force=True)
    for noisy in ("accelerate", "matplotlib", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


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
