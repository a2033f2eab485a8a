"""The process of one trial: it logs to train.log, reserves a GPU, and stops when the sweep's process ends."""

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from speculators.runfolder.folder import RunFolder
from speculators.sweep.trial import GRACE_SECONDS, Launch, once
from speculators.utils.messages import RunFailed
from speculators.utils.process import log_to


def work(folder: Path, own_device: bool, launch: Launch) -> None:
    """Main function of a process started by `sweep.trial.start`: runs a folder's run.yaml.

    Args:
        folder: of the trial.
        own_device: whether to take one of several GPUs for itself; with none free it waits.
        launch: runs what a folder's run.yaml pins in this process.

    Raises:
        SystemExit: the run failed; the folder has a file FAILED.
    """
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # A scheduler that preempts a job signals all its processes; the sweep's process handles it, and this one stops with it.
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
        once(folder, launch)
    except RunFailed:
        print(own.read_failed(), file=sys.stderr)
        sys.exit(1)
    finally:
        if lock is not None:
            lock.release()


def _end_with(parent: BaseProcess) -> None:
    """Stop this trial, after saving, when the sweep's process is killed."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


def _devices() -> list[str]:
    """CUDA's names of the GPUs that this process may use."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return shown.split(",") if shown else [str(i) for i in range(torch.cuda.device_count())]


def lock_folder() -> Path:
    """Folder of the GPU lock files on this machine, one per user: other users could not open the files."""
    folder = Path(tempfile.gettempdir()) / f"speculators-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def take_device(devices: Sequence[str], locks: Path) -> FileLock | None:
    """Wait for a GPU that no other trial on this machine uses, and make it the only visible one in this process.

    Args:
        devices: CUDA's names; if empty, no GPU is reserved.
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
