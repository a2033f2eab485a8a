"""One arm of a sweep in a process of its own: its memory, its globals and its failures end with it."""

import logging
import multiprocessing
import os
import sys
import threading
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path

from speculators.launch import FAILED, RunFailed

log = logging.getLogger(__name__)
LOG = "train.log"
# How long a process that was asked to stop may take to save.
GRACE_SECONDS = 60


def start(folder: Path, timeout: float | None, number: int) -> None:
    """Run what a folder's run.yaml pins in a new process, and wait for it.

    Args:
        folder: of the arm; what its process prints goes to its train.log.
        timeout: seconds after which it is stopped; None waits for ever.
        number: of the arm; on a machine with several accelerators, arms take turns with them.

    Raises:
        RunFailed: it raised, was killed, or took too long; the folder has a file FAILED.
    """
    # A server that imported everything once forks each arm: an arm starts in a moment and inherits nothing but imports.
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["speculators.run"])
    else:
        context = multiprocessing.get_context("spawn")
    process = context.Process(target=_work, args=(folder, number), name=folder.name)
    process.start()
    try:
        process.join(timeout)
    except KeyboardInterrupt:
        # The terminal told the arm as well; it saves.
        process.join(GRACE_SECONDS)
        raise
    reason = None
    if process.exitcode is None:
        process.terminate()
        process.join(GRACE_SECONDS)
        process.kill()
        process.join()
        reason = f"launch.timeout={timeout:g}: it took longer and was stopped"
    elif process.exitcode < 0:
        reason = f"its process was killed by signal {-process.exitcode}" + (
            "; the machine may have run out of memory" if process.exitcode == -9 else ""
        )
    elif process.exitcode:
        failed = folder / FAILED
        reason = failed.read_text(encoding="utf-8").strip().splitlines()[-1] if failed.exists() else None
        reason = reason or f"its process ended with code {process.exitcode}; see {folder / LOG}"
    if reason is not None:
        if not (folder / FAILED).exists():
            (folder / FAILED).write_text(reason + "\n", encoding="utf-8")
        raise RunFailed(reason)


def _work(folder: Path, number: int) -> None:
    """What the new process does."""
    from speculators.launch import launch

    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with (folder / LOG).open("ab", buffering=0) as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s] %(message)s", stream=sys.stderr, force=True)
    for noisy in ("accelerate", "matplotlib", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    _take_turns(number)
    try:
        launch(folder)
    except RunFailed:
        sys.exit(1)


def _end_with(parent: BaseProcess) -> None:
    """A killed sweep takes its arm along: started again, it must not find somebody at work in the arm's folder."""
    parent.join()
    os._exit(1)


def _take_turns(number: int) -> None:
    """Leave this process one of several GPUs."""
    import torch

    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = shown.split(",") if shown else [str(i) for i in range(torch.cuda.device_count())]
    if len(devices) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
