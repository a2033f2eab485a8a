"""A run's folder: the names of its files, its locks, and the marker of how the run ended. Torch-free."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from speculators.utils import files
from speculators.utils.messages import WrongInput

# A published draft holds a copy under the same name.
RUN_YAML = "run.yaml"
# Beside the trials of a sweep: what they train, each set of weights once.
TRAININGS = "trainings"


@dataclass(frozen=True)
class Done:
    """What DONE holds.

    Attributes:
        seconds: wall time of the process that completed the run.
        memory_gb: its peak memory on the host, in 10^9 bytes.
        objective: what evaluation.objective names; NaN if nothing was evaluated.
    """

    seconds: float
    memory_gb: float
    objective: float = math.nan


class RunFolder:
    """A run's folder, or the folder of a training that several runs share.

    Args:
        path: the folder; it need not exist.

    Attributes:
        path: the folder.
        run_yaml: the frozen settings, with their sources.
        log: what the run printed.
        checkpoints: resumable states of training; in the folder that the run trains in.
        metrics: readings of training, a JSON object a line; in the folder that the run trains in.
        checkpoint: the published draft.
        result: the evaluation, as JSON.
        acceptance_plot: the evaluation's acceptance by position, as PNG.
        generations: the evaluation's prompts and texts as token ids, a JSON object a line.
        done: marker of a run that ended well.
        failed: marker of a run that failed: the traceback.
        hydra: Hydra's own records of the composition; only where Hydra made the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_yaml = path / RUN_YAML
        self.log = path / "train.log"
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.checkpoint = path / "checkpoint"
        self.result = path / "result.json"
        self.acceptance_plot = path / "acceptance.png"
        self.generations = path / "generations.jsonl"
        self.done = path / "DONE"
        self.failed = path / "FAILED"
        self.hydra = path / ".hydra"
        self._run_lock = path / "run.lock"

    def lock(self) -> FileLock:
        """The lock of the process that runs the folder.

        The same process may acquire it again. The system releases it when the process ends, however it ends.
        """
        return FileLock(self._run_lock, is_singleton=True)

    def training_lock(self) -> FileLock:
        """The lock of the process that trains in the folder; runs that share a training wait for each other."""
        return FileLock(self.path / "training.lock")

    def is_running(self) -> bool:
        """Whether a process, this one included, holds the folder's lock."""
        if not self._run_lock.exists():
            return False
        try:
            with FileLock(self._run_lock, timeout=0):
                return False
        except Timeout:
            return True

    def check_links(self) -> None:
        """Check that a run in the folder writes nowhere else.

        Raises:
            WrongInput: there is a link in it; a message each.
        """
        messages = [f"{p}: it is a link, and a run writes in its own folder alone; remove it" for p in self._links()]
        if messages:
            raise WrongInput(messages)

    def _links(self) -> Iterator[Path]:
        yield from (path for path in self.path.glob("*") if path.is_symlink())
        # Folders of trackers are not looked through: the trackers write them.
        for written in (self.checkpoints, self.checkpoint, self.hydra):
            for root, folders, names in os.walk(written):
                yield from (path for name in (*folders, *names) if (path := Path(root, name)).is_symlink())

    def clear_markers(self) -> None:
        """Remove DONE and FAILED of an earlier attempt."""
        self.done.unlink(missing_ok=True)
        self.failed.unlink(missing_ok=True)

    def mark_done(self, done: Done) -> None:
        """Write DONE."""
        values = {key: value for key, value in asdict(done).items() if not math.isnan(value)}
        files.write(self.done, json.dumps(values) + "\n")

    def mark_failed(self, reason: str) -> None:
        """Write FAILED, unless it is there: of several processes the first to fail has the cause."""
        if not self.failed.exists():
            files.write(self.failed, reason.rstrip("\n") + "\n")

    def read_done(self) -> Done | None:
        """What DONE holds; None without it.

        Raises:
            ValueError: it is broken.
        """
        return Done(**read_object(self.done, {"seconds", "memory_gb"})) if self.done.exists() else None

    def read_failed(self) -> str | None:
        """The traceback, or the reason; None without FAILED."""
        return self.failed.read_text(encoding="utf-8").strip() if self.failed.exists() else None


def read_object(file: Path, keys: set[str]) -> dict[str, Any]:
    """The JSON object in a file that a run wrote.

    Args:
        file: in a run's folder.
        keys: that it must have.

    Raises:
        ValueError: it is broken, or lacks a key; the message names the command that writes it again.
    """
    remedy = f"`speculators run {file.parent}` writes it anew"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: broken JSON: {error}; {remedy}") from error
    if missing := sorted(keys - set(found) if isinstance(found, dict) else keys):
        raise ValueError(f"{file}: it has no {missing[0]}; {remedy}")
    return found


def run_yaml_of(path: Path) -> Path:
    """The `run.yaml` of a folder, or the file itself that a path names."""
    return path / RUN_YAML if path.is_dir() else path
