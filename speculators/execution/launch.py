"""One run, in this process or in several under torchrun, with what remains of it: DONE, or FAILED with the traceback."""

import logging
import math
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from speculators.runfolder.folder import Done, RunFolder, read_object
from speculators.runfolder.rights import as_typed, claimed
from speculators.runfolder.run_yaml import read_pin
from speculators.settings.run_config import RunConfig
from speculators.utils.messages import RunFailed, WrongInput
from speculators.utils.process import STOPPED_BY_SIGNAL

log = logging.getLogger(__name__)


def launch(folder: Path) -> float:
    """Run what a folder's run.yaml pins; another process at work in the folder is waited for.

    Args:
        folder: of the run; gets a file DONE with its seconds and peak memory, or FAILED with the traceback.

    Returns:
        What `run` returns.

    Raises:
        WrongInput: run.yaml is broken, or the run would not be the pinned one.
        RunFailed: something went wrong; the reason is printed.
        speculators.train.interrupt.Interrupted: a signal stopped it; all is saved.
    """
    run, own = read_pin(folder), RunFolder(folder)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _guarded(own)
    with own.lock():
        own.clear_markers()
        start = time.monotonic()
        objective = _processes(own, run) if run.launch.mode == "torchrun" else _guarded(own)
        own.mark_done(Done(round(time.monotonic() - start, 1), round(_peak_memory_gb(), 3), objective))
        return objective


def _guarded(folder: RunFolder) -> float:
    """Run in this process; if it raises, its traceback is the folder's."""
    from speculators.execution.run import run

    try:
        return run(folder.path)
    except WrongInput:
        raise
    except Exception as error:
        log.debug("the run failed", exc_info=True)
        folder.mark_failed(traceback.format_exc())
        print(f"the run failed: {error}\n  the traceback is in {folder.failed}", file=sys.stderr)
        raise RunFailed(str(error)) from error


def _processes(folder: RunFolder, run: RunConfig) -> float:
    """Run in several processes that train together, one an accelerator; the first of them evaluates and publishes."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # Whoever started this run has allowed what its run.yaml says.
    allowed = as_typed(claimed(run))
    command = ["--standalone", f"--nproc-per-node={run.launch.num_processes or 'auto'}", "-m", "speculators", "run"]
    try:
        torchrun([*command, str(folder.path), *allowed])
    except SignalException:
        # torchrun has waited for its processes; the first of them has said what is saved and how to go on.
        sys.exit(STOPPED_BY_SIGNAL)
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        # All agree to stop; whoever is slower to end is ended by torchrun.
        if STOPPED_BY_SIGNAL in codes and codes <= {STOPPED_BY_SIGNAL, -signal.SIGTERM}:
            sys.exit(STOPPED_BY_SIGNAL)
        # One that refused what it was given has said so, and leaves no traceback.
        folder.mark_failed(str(error))
        raise RunFailed(f"one of its processes failed; see {folder.failed}") from error
    return read_object(folder.result, {"objective"})["objective"] if folder.result.exists() else math.nan


def _peak_memory_gb() -> float:
    """The most memory on the host, in 10^9 bytes, that this process had, or one of those that it waited for."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e9
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    own, children = (
        resource.getrusage(who).ru_maxrss * unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    status = Path("/proc/self/status")
    if status.exists():
        # Linux lets a process begin with its parent's peak; this line is its own.
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        own = int(line.split()[1]) * 1024
    return max(own, children) / 1e9
