"""One trial of a sweep: not done twice, in a process of its own, so that its memory and its failures end with it."""

import getpass
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path

from filelock import FileLock, Timeout

from speculators.execution.launch import launch
from speculators.runfolder.folder import TRAININGS, RunFolder
from speculators.runfolder.keys import weights_key
from speculators.runfolder.run_yaml import Origin, write_pin
from speculators.settings.run_config import RunConfig
from speculators.utils.messages import RunFailed
from speculators.utils.process import log_to

log = logging.getLogger(__name__)
# Beside the trials of a sweep: the mark of one that is to end.
STOPPED = "STOPPED"
# How long a process that was asked to stop may take to save.
GRACE_SECONDS = 60


def run_trial(run: RunConfig, folder: Path, origin: Origin, number: int) -> float:
    """Run one trial, unless it ended well before; what an earlier attempt left is gone on with.

    Args:
        run: what was composed.
        folder: of the trial, in the sweep's.
        origin: how.
        number: of the trial, for people.

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
            once(folder)
        else:
            start(
                folder, run.launch.timeout, own_device=run.launch.mode == "process" and run.device in ("auto", "cuda")
            )
    except RunFailed as error:
        log.info("trial %d failed: %s", number, error)
        if run.launch.on_failure == "stop":
            stopped.touch()
        raise
    done = own.read_done()
    assert done is not None
    log.info("trial %d: %.4g", number, done.objective)
    return done.objective


def once(folder: Path) -> None:
    """Run what a folder pins; another process that does so is waited for, and not repeated if it ended well."""
    own = RunFolder(folder)
    with own.lock():
        if own.read_done() is None:
            launch(folder)


def start(folder: Path, timeout: float | None, own_device: bool) -> None:
    """Run what a folder's run.yaml pins in a new process, and wait for it.

    Args:
        folder: of the trial; what its process prints goes to its train.log.
        timeout: seconds after which it is stopped; None waits for ever.
        own_device: whether it takes one of several GPUs for itself.

    Raises:
        RunFailed: it raised, was killed, or took too long; the folder has a file FAILED.
    """
    # A server that imported everything once forks each trial: a trial starts in a moment and inherits nothing but imports.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    # By force: joblib leaves a method of its own here, which the new process would not know.
    multiprocessing.set_start_method(method, force=True)
    multiprocessing.set_forkserver_preload(["speculators.execution.run"])
    process = multiprocessing.Process(target=_work, args=(folder, own_device), name=folder.name)
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


def _work(folder: Path, own_device: bool) -> None:
    """What the new process does."""
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # A scheduler that preempts a job sends this to all its processes; the one that waits answers, and this one ends with it.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    own = RunFolder(folder)
    with own.log.open("ab", buffering=0) as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s"))
    log_to(handler)
    lock = take_device(_devices(), lock_folder()) if own_device else None
    try:
        once(folder)
    except RunFailed:
        print(own.read_failed(), file=sys.stderr)
        sys.exit(1)
    finally:
        if lock is not None:
            lock.release()


def _end_with(parent: BaseProcess) -> None:
    """A sweep that is killed takes its trial along, which first saves what it has."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


def _devices() -> list[str]:
    """CUDA's names of the GPUs that this process may use."""
    import torch

    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return shown.split(",") if shown else [str(i) for i in range(torch.cuda.device_count())]


def lock_folder() -> Path:
    """Where this user's trials on this machine lock GPUs; another user could not open these files."""
    folder = Path(tempfile.gettempdir()) / f"speculators-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def take_device(devices: Sequence[str], locks: Path) -> FileLock | None:
    """Wait for a GPU that no other trial on this machine has, and show this process no other.

    Args:
        devices: CUDA's names; with none there is nothing to take.
        locks: folder of the lock files that trials of any sweep share.
    """
    while devices:
        for device in devices:
            lock = FileLock(locks / f"speculators-gpu-{device}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = device
            return lock
        time.sleep(1)
    return None
