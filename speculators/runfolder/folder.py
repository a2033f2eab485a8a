"""The names of what lies in a run's folder, and whether a process works in it. Torch-free."""

import json
import math
from pathlib import Path

from filelock import FileLock, Timeout

FILE = "run.yaml"
DONE, FAILED, LOG = "DONE", "FAILED", "train.log"
LOCK = "run.lock"


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
