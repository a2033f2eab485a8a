"""One trial of a sweep, seen from the process of the sweep: not run twice, and in a process of its own."""

import logging
import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path

from speculators.runfolder.folder import TRAININGS, RunFolder
from speculators.runfolder.keys import weights_key
from speculators.runfolder.run_yaml import Origin, write_pin
from speculators.settings.run_config import RunConfig
from speculators.utils.messages import RunFailed

log = logging.getLogger(__name__)
Launch = Callable[[Path], float]
Work = Callable[[Path, bool], None]
# Beside the trials of a sweep: the mark of one that is to end.
STOPPED = "STOPPED"
# How long a process that was asked to stop may take to save.
GRACE_SECONDS = 60


def run_trial(run: RunConfig, folder: Path, origin: Origin, number: int, launch: Launch, work: Work) -> float:
    """Run one trial, unless it ended well before; what an earlier attempt left is gone on with.

    Args:
        run: what was composed.
        folder: of the trial, in the sweep's.
        origin: how.
        number: of the trial, for people.
        launch: runs what a folder's run.yaml pins in this process; for launch=inline.
        work: the main function of a process that runs a folder; takes the folder and whether it takes a GPU for itself.

    Returns:
        Its objective; NaN if it measured none.

    Raises:
        RunFailed: it failed, or a trial before it did and launch.on_failure=stop.
    """
    own = RunFolder(folder)
    if (done := own.read_done()) is not None:
        log.info("trial %d was done before: %s", number, folder)
        return done.objective
    stopped = folder.parent / STOPPED
    if stopped.exists():
        raise RunFailed(f"trial {number} was not started: a trial failed before it, and launch.on_failure=stop")
    own.check_links()
    write_pin(run, folder, origin, training=f"../{TRAININGS}/{weights_key(run)}")
    log.info("trial %d: %s", number, folder)
    try:
        if run.launch.mode == "inline":
            once(folder, launch)
        else:
            own_device = run.launch.mode == "process" and run.device in ("auto", "cuda")
            start(folder, run.launch.timeout, own_device, work)
    except RunFailed as error:
        log.info("trial %d failed: %s", number, error)
        if run.launch.on_failure == "stop":
            stopped.touch()
        raise
    done = own.read_done()
    assert done is not None
    log.info("trial %d: %.4g", number, done.objective)
    return done.objective


def once(folder: Path, launch: Launch) -> None:
    """Run what a folder pins; another process that does so is waited for, and not repeated if it ended well."""
    own = RunFolder(folder)
    with own.lock():
        if own.read_done() is None:
            launch(folder)


def start(folder: Path, timeout: float | None, own_device: bool, work: Work) -> None:
    """Run what a folder's run.yaml pins in a new process, and wait for it.

    Args:
        folder: of the trial; what its process prints goes to its train.log.
        timeout: seconds after which it is stopped; None waits for ever.
        own_device: whether it takes one of several GPUs for itself.
        work: the main function of the process.

    Raises:
        RunFailed: it raised, was killed, or took too long; the folder has a file FAILED.
    """
    # A server that imported everything once forks each trial: a trial starts in a moment and inherits nothing but imports.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    # By force: joblib leaves a method of its own here, which the new process would not know.
    multiprocessing.set_start_method(method, force=True)
    multiprocessing.set_forkserver_preload(["speculators.execution.run"])
    process = multiprocessing.Process(target=work, args=(folder, own_device), name=folder.name)
    process.start()
    try:
        process.join(timeout)
    except KeyboardInterrupt:
        # The terminal told the trial as well; it saves.
        process.join(GRACE_SECONDS)
        raise
    own = RunFolder(folder)
    reason = _reason(own, process.exitcode)
    if process.exitcode is None:
        process.terminate()
        process.join(GRACE_SECONDS)
        process.kill()
        process.join()
        reason = f"launch.timeout={timeout:g}: it took longer and was stopped"
    if reason is not None:
        own.mark_failed(reason)
        raise RunFailed(reason)


def _reason(folder: RunFolder, code: int | None) -> str | None:
    """Why a process ended with a code; None if it ended well, or has not ended."""
    if not code:
        return None
    if code < 0:
        memory = "; the machine may have run out of memory" if code == -signal.SIGKILL else ""
        return f"its process was killed by signal {-code}{memory}"
    if (failed := folder.read_failed()) is not None:
        return failed.splitlines()[-1]
    return f"its process ended with code {code}; see {folder.log}"
