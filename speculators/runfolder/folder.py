"""The names of what lies in a run's folder, and whether a process works in it. Torch-free."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from speculators.utils.messages import WrongInput

FILE = "run.yaml"
DONE, FAILED, LOG = "DONE", "FAILED", "train.log"
LOCK = "run.lock"
# Beside the trials of a sweep: what they train, each set of weights once.
TRAININGS = "trainings"
# Folders in a run's folder that are looked through for links; what a tracker keeps in its own is its business.
WRITTEN = ("checkpoints", "checkpoint", ".hydra")


def check_links(folder: Path) -> None:
    """Look whether a run that writes in a folder would write elsewhere.

    Raises:
        WrongInput: there is a link in it; a message each.
    """
    messages = [f"{path}: it is a link, and a run writes in its own folder alone; remove it" for path in _links(folder)]
    if messages:
        raise WrongInput(messages)


def _links(folder: Path) -> Iterator[Path]:
    yield from (path for path in folder.glob("*") if path.is_symlink())
    for written in WRITTEN:
        for root, folders, files in os.walk(folder / written):
            yield from (path for name in (*folders, *files) if (path := Path(root, name)).is_symlink())


def at_work(folder: Path) -> FileLock:
    """The lock of whoever runs a folder, which can take it again; the system lets go of it when its process is gone."""
    return FileLock(folder / LOCK, is_singleton=True)


def running(folder: Path) -> bool:
    """Whether a process is at work in a folder."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def done(folder: Path) -> float | None:
    """The objective of a run that ended well, NaN if it measured none; None if it has not ended so."""
    marker = folder / DONE
    return json.loads(marker.read_text(encoding="utf-8")).get("objective", math.nan) if marker.exists() else None
