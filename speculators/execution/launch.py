"""Executes one run and writes its marker: DONE, or FAILED with the traceback."""

import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import Timeout

from speculators.runfolder.folder import Done, RunFolder
from speculators.utils.messages import RunFailed, WrongInput
from speculators.utils.resources import remedy
from speculators.utils.secrets import displayed

if sys.platform == "win32":
    import psutil
else:
    import resource

log = logging.getLogger(__name__)


def launch(folder: Path, run: Callable[[Path], float]) -> float:
    """Execute the run of a folder's run.yaml, after waiting for any other process that holds the folder's lock.

    Args:
        folder: of the run; DONE with its seconds and peak memory, or FAILED with the traceback, is written there.
        run: executes the run of a folder and returns its objective.

    Returns:
        What `run` returns.

    Raises:
        WrongInput: run.yaml is invalid, or the inputs of the run have changed since it was written.
        RunFailed: the run raised an exception; the reason is printed.
        speculators.train.interrupt.Interrupted: a signal stopped it; its state is saved.
    """
    own = RunFolder(folder)
    with own.lock():
        own.clear()
        start = time.monotonic()
        objective = guarded(folder, run)
        own.mark_done(Done(round(time.monotonic() - start, 1), round(_peak_memory_gb(), 3), objective))
        return objective


@contextmanager
def first_machine(folder: Path) -> Iterator[bool]:
    """Whether this is the first of several machines to start a run's folder; while entered, it then holds the folder's lock."""
    with ExitStack() as held:
        try:
            held.enter_context(RunFolder(folder).lock().acquire(timeout=0))
            first = True
        except Timeout:
            log.info("%s: another machine has started this run; this one takes part in it", folder)
            first = False
        yield first


def guarded(folder: Path, run: Callable[[Path], float]) -> float:
    """Execute a run in this process, without lock and DONE; an exception's traceback is written to FAILED.

    Args, Returns, Raises: as `launch`.
    """
    own = RunFolder(folder)
    try:
        return run(folder)
    except (WrongInput, RunFailed):
        raise
    except Exception as error:
        log.debug("the run failed", exc_info=True)
        own.mark_failed(traceback.format_exc())
        lines = [f"the run failed: {displayed(str(error))}", remedy(error)]
        lines += [f"the traceback is in {own.failed}"] if own.failed.exists() else []
        print("\n  ".join(line for line in lines if line), file=sys.stderr)
        raise RunFailed(str(error)) from error


def _peak_memory_gb() -> float:
    """Peak resident host memory of this process, or of the largest child it waited for, in 10^9 bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    own, children = (
        resource.getrusage(who).ru_maxrss * unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux ru_maxrss of a new process starts at its parent's peak; VmHWM is the process's own.
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        own = int(line.split()[1]) * 1024
    return max(own, children) / 1e9
