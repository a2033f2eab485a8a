"""Runs one trial of a sweep in its own process, at most once to completion."""

import logging
import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path

from speculators.runfolder.folder import TRAININGS, Done, RunFolder
from speculators.runfolder.keys import weights_key
from speculators.runfolder.run_yaml import Origin, write_pin
from speculators.settings.run_config import RunConfig
from speculators.utils.messages import RunFailed

log = logging.getLogger(__name__)
Launch = Callable[[Path], float]
Work = Callable[[Path, bool], None]
# Marker file beside the trials of a sweep: the sweep is to stop.
STOPPED = "STOPPED"
# Grace period in seconds for a process to save after it was asked to stop.
GRACE_SECONDS = 60


def run_trial(run: RunConfig, folder: Path, origin: Origin, number: int, launch: Launch, work: Work) -> float:
    """Run one trial, unless it already succeeded; an interrupted attempt is resumed.

    Args:
        run: the composed config.
        folder: of the trial, in the sweep's.
        origin: provenance of the config's values.
        number: of the trial, for messages.
        launch: runs what a folder's run.yaml pins in this process; for launch=inline.
        work: the main function of a process that runs a folder; takes the folder and whether it takes a GPU for itself.

    Returns:
        Its objective; NaN if it was not measured.

    Raises:
        RunFailed: it failed, or a trial before it did and launch.on_failure=stop.
    """
    own = RunFolder(folder)
    if (done := _done(own)) is not None:
        log.info("trial %d is already done: %s", number, folder)
        return done.objective
    stopped = folder.parent / STOPPED
    if stopped.exists():
        raise RunFailed(f"trial {number} was not started: an earlier trial failed, and launch.on_failure=stop")
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
    log.info("trial %d: %s %.4g", number, run.evaluation.objective, done.objective)
    return done.objective


def once(folder: Path, launch: Launch) -> None:
    """Run a folder's run.yaml once: wait for another process that runs it, and skip the run if that succeeded."""
    own = RunFolder(folder)
    with own.lock():
        if _done(own) is None:
            launch(folder)


def _done(folder: RunFolder) -> Done | None:
    """DONE of a trial; None if there is none, or if it is broken: the trial is run again then, which writes it anew."""
    try:
        return folder.read_done()
    except ValueError as error:
        log.warning("%s; the trial is run again", str(error).partition(";")[0])
        return None


def start(folder: Path, timeout: float | None, own_device: bool, work: Work) -> None:
    """Run a folder's run.yaml in a new process, and wait for it.

    Args:
        folder: of the trial; what its process prints goes to its train.log.
        timeout: seconds after which it is stopped; None waits for ever.
        own_device: whether it takes one of several GPUs for itself.
        work: the main function of the process.

    Raises:
        RunFailed: it raised, was killed, or took too long; the folder has a file FAILED.
    """
    # A fork server that has imported everything forks each trial: trials start fast and inherit only imported modules.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    # force=True: joblib may have set a start method of its own, which the new process does not know.
    multiprocessing.set_start_method(method, force=True)
    multiprocessing.set_forkserver_preload(["speculators.execution.run"])
    process = multiprocessing.Process(target=work, args=(folder, own_device), name=folder.name)
    process.start()
    try:
        process.join(timeout)
    except KeyboardInterrupt:
        # Ctrl-C in a terminal also reaches the trial's process, which saves.
        process.join(GRACE_SECONDS)
        raise
    except BaseException:
        # In a job that is preempted or out of time, submitit raises one here; the trial's process saves.
        process.terminate()
        process.join(GRACE_SECONDS)
        raise
    own = RunFolder(folder)
    reason = _reason(own, process.exitcode)
    if process.exitcode is None:
        process.terminate()
        process.join(GRACE_SECONDS)
        process.kill()
        process.join()
        reason = f"stopped after launch.timeout={timeout:g} seconds"
    if reason is not None:
        own.mark_failed(reason)
        raise RunFailed(reason)


def _reason(folder: RunFolder, code: int | None) -> str | None:
    """Why a process failed, from its exit code; None if it succeeded or is still running."""
    if not code:
        return None
    if code < 0:
        memory = "; the machine may have run out of memory" if code == -signal.SIGKILL else ""
        return f"its process was killed by signal {-code}{memory}"
    if (failed := folder.read_failed()) is not None:
        return failed.splitlines()[-1]
    return f"its process exited with code {code}; see {folder.log}"
