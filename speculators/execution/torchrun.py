"""A run in several processes that train together, one an accelerator."""

import math
import signal
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from speculators.runfolder.folder import RunFolder, read_object
from speculators.runfolder.rights import as_typed, claimed
from speculators.runfolder.run_yaml import read_pin
from speculators.utils.messages import RunFailed
from speculators.utils.process import STOPPED_BY_SIGNAL


def run_in_processes(folder: Path) -> float:
    """Run what a folder's run.yaml pins under torchrun; the first process evaluates and publishes.

    Args:
        folder: of the run.

    Returns:
        What evaluation.objective names; NaN if nothing was evaluated.

    Raises:
        RunFailed: a process failed.
        SystemExit: a signal stopped all of them; the state is saved.
    """
    run, own = read_pin(folder), RunFolder(folder)
    # The command that started this run has allowed what its run.yaml asks for.
    allowed = as_typed(claimed(run))
    command = ["--standalone", f"--nproc-per-node={run.launch.num_processes or 'auto'}", "-m", "speculators", "run"]
    try:
        torchrun([*command, str(folder), *allowed])
    except SignalException:
        # torchrun has waited for its processes; the first of them has printed what is saved and how to go on.
        sys.exit(STOPPED_BY_SIGNAL)
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        # All processes stop after the same step; torchrun sends SIGTERM to those that end later than the first.
        if STOPPED_BY_SIGNAL in codes and codes <= {STOPPED_BY_SIGNAL, -signal.SIGTERM}:
            sys.exit(STOPPED_BY_SIGNAL)
        # A process that refused its input has printed the reason, and leaves no traceback.
        own.mark_failed(str(error))
        raise RunFailed(f"one of its processes failed; see {own.failed}") from error
    return read_object(own.result, {"objective"})["objective"] if own.result.exists() else math.nan
