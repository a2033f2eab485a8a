"""Runs a training under torchrun, one process per accelerator, on one machine or several."""

import math
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from speculators.runfolder.folder import RunFolder, read_object
from speculators.runfolder.result import EvaluationResult
from speculators.runfolder.rights import as_typed, claimed
from speculators.runfolder.run_yaml import read_pin, training_folder
from speculators.settings.launch import LaunchSettings
from speculators.utils.messages import RunFailed
from speculators.utils.process import STOPPED_BY_SIGNAL, keep_the_path_safe


def place(launch: LaunchSettings, folder: Path) -> list[str]:
    """Arguments of torchrun by which the processes of a run find each other.

    Args:
        launch: the run's settings.
        folder: of the run; its name tells the run from others with the same endpoint.
    """
    if launch.rdzv_endpoint is None:
        return ["--standalone"]
    nodes = [f"--nnodes={launch.num_nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={launch.rdzv_endpoint}"]
    return [*nodes, f"--rdzv-id={folder.resolve().name}"]


def run_in_processes(folder: Path) -> float:
    """Execute the run of a folder's run.yaml under torchrun; rank 0 evaluates and publishes.

    Args:
        folder: of the run.

    Returns:
        The value of evaluation.objective; NaN if nothing was evaluated.

    Raises:
        RunFailed: a process failed.
        SystemExit: a signal stopped all of them; the state is saved.
    """
    run, own = read_pin(folder), RunFolder(folder)
    keep_the_path_safe()
    if sys.platform != "win32":
        # What a scheduler sends to all processes of a job; torchrun itself waits for its processes at a SIGTERM alone.
        signal.signal(signal.SIGUSR1, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
    # The rights that this run.yaml needs were given to the parent command, and are passed on.
    allowed = as_typed(claimed(run))
    command = [*place(run.launch, folder), f"--nproc-per-node={run.launch.num_processes or 'auto'}"]
    command += ["-m", "speculators", "run"]
    training = training_folder(folder)
    training.mkdir(parents=True, exist_ok=True)
    try:
        # On several machines, for the one that holds the run's folder.
        with RunFolder(training).training_lock() if own.lock().is_locked else nullcontext():
            torchrun([*command, str(folder), *allowed])
    except SignalException:
        # torchrun has waited for its processes; rank 0 has printed what is saved and how to resume.
        sys.exit(STOPPED_BY_SIGNAL)
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        # All processes stop after the same step; torchrun sends SIGTERM to those still running when the first exits.
        if STOPPED_BY_SIGNAL in codes and codes <= {STOPPED_BY_SIGNAL, -signal.SIGTERM}:
            sys.exit(STOPPED_BY_SIGNAL)
        # A process that rejected its input has printed the reason and wrote no traceback.
        own.mark_failed(str(error))
        raise RunFailed(f"one of the processes failed; its traceback is in {own.failed}") from error
    return read_object(own.result, EvaluationResult).objective if own.result.exists() else math.nan
