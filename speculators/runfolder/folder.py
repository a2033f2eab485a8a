"""A run's folder: the names of its files, its locks, and the DONE and FAILED markers. Torch-free."""

import json
import math
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from speculators.utils import files
from speculators.utils.messages import WrongInput
from speculators.utils.secrets import displayed
from speculators.utils.strict import read_as
from speculators.utils.untrusted import inside, read_bytes, regular

T = TypeVar("T")
# A published draft holds a copy under the same name.
RUN_YAML = "run.yaml"
# Folder beside the trials of a sweep, with one training per distinct set of weights.
TRAININGS = "trainings"
MOST_FAILED = 2**16  # bytes of FAILED that are read, from its end
MOST_METRICS = 2**28  # bytes of metrics.jsonl: a million lines


@dataclass(frozen=True)
class Done:
    """Contents of DONE.

    Attributes:
        seconds: wall time of the process that completed the run.
        memory_gb: its peak memory on the host, in 10^9 bytes.
        objective: the value of evaluation.objective; NaN if nothing was evaluated.
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
        run_yaml: the resolved settings, with their provenance.
        log: what the run printed.
        checkpoints: resumable states of training; in the folder that the run trains in.
        metrics: metrics of training, one JSON object per line; in the folder that the run trains in.
        checkpoint: the published draft.
        stitched_verifier: a copy of the verifier with the trained tensors; only with `export.stitched_verifier`.
        result: the evaluation, as JSON.
        acceptance_plot: the evaluation's acceptance by position, as PNG.
        generations: the evaluation's prompts and texts as token ids, one JSON object per line.
        data_generations: the same for the prompts of evaluation.data.
        done: marker of a run that succeeded.
        failed: marker of a run that failed: the traceback.
        hydra: Hydra's own records of the composition; only if Hydra created the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_yaml = path / RUN_YAML
        self.log = path / "train.log"
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.checkpoint = path / "checkpoint"
        self.stitched_verifier = path / "stitched_verifier"
        self.result = path / "result.json"
        self.acceptance_plot = path / "acceptance.png"
        self.generations = path / "generations.jsonl"
        self.data_generations = path / "generations_evaluation_data.jsonl"
        self.done = path / "DONE"
        self.failed = path / "FAILED"
        self.hydra = path / ".hydra"
        self._run_lock = path / "run.lock"

    def lock(self) -> FileLock:
        """The lock of the process that runs the folder.

        It is re-entrant within a process. The system releases it when the process ends, also after a crash.
        """
        return FileLock(self._run_lock, is_singleton=True)

    def training_lock(self) -> FileLock:
        """The lock of the process that trains in the folder, shared by all runs that share a training."""
        return FileLock(self.path / "training.lock")

    def is_running(self) -> bool:
        """Whether a process, this one included, holds the folder's lock; False where the lock cannot be opened."""
        if not self._run_lock.exists():
            return False
        try:
            with FileLock(self._run_lock, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False  # a folder that is only readable, such as a copy on another machine

    def check_links(self) -> None:
        """Check that the folder contains no symbolic links, through which a run would write elsewhere, nor pipes and devices.

        Raises:
            WrongInput: there are some; one message each.
        """
        messages = [
            f"{p}: it is a symbolic link, and a run writes only to its own folder; remove the link"
            if p.is_symlink()
            else f"{p}: it is neither a file nor a folder; remove it"
            for p in self._links()
        ]
        if messages:
            raise WrongInput(messages)

    def _links(self) -> Iterator[Path]:
        yield from (path for path in self.path.glob("*") if _leads_elsewhere(path))
        # Folders of trackers are not searched: the trackers write them.
        for written in (self.checkpoints, self.checkpoint, self.hydra):
            for root, folders, names in os.walk(written):
                yield from (path for name in (*folders, *names) if _leads_elsewhere(path := Path(root, name)))

    def clear(self) -> None:
        """Remove DONE and FAILED of an earlier attempt, and files that it was killed while writing."""
        for folder in (self.path, self.checkpoint):
            for partial in folder.glob(f"*{files.PARTIAL}"):
                partial.unlink(missing_ok=True)
        self.done.unlink(missing_ok=True)
        self.failed.unlink(missing_ok=True)

    def mark_done(self, done: Done) -> None:
        """Write DONE."""
        values = {key: value for key, value in asdict(done).items() if not math.isnan(value)}
        files.write(self.done, json.dumps(values) + "\n")

    def mark_failed(self, reason: str) -> None:
        """Write FAILED, secrets masked, unless it exists: of several processes, the first to fail has the cause.

        Where nothing can be written, such as on a full disk, there is none.
        """
        if self.failed.exists():
            return
        with suppress(OSError):
            files.write(self.failed, displayed(reason).rstrip("\n") + "\n")

    def read_done(self) -> Done | None:
        """Read DONE; None if there is none.

        Raises:
            ValueError: it is broken; the message names the command that writes it again.
        """
        return read_object(self.done, Done) if self.done.exists() else None

    def metrics_lines(self) -> list[bytes]:
        """Complete lines of metrics.jsonl; a crash may have cut off the last one.

        Raises:
            ValueError: it is too large, is not a regular file or leads out of the folder; the message names it.
        """
        if not self.metrics.exists():
            return []
        try:
            return read_bytes(inside(self.path, self.metrics.name), MOST_METRICS).split(b"\n")[:-1]
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.metrics}: cannot be read: {error}") from error

    def read_failed(self) -> str | None:
        """The end of the traceback or reason in FAILED; None if there is none.

        Raises:
            ValueError: it cannot be read.
        """
        if not self.failed.exists():
            return None
        try:
            with regular(self.path, self.failed.name).open("rb") as file:
                file.seek(max(0, self.failed.stat().st_size - MOST_FAILED))
                return file.read().decode(errors="replace").strip() or "FAILED is empty"
        except OSError as error:
            raise ValueError(f"{self.failed}: cannot be read: {error}") from error


def _leads_elsewhere(path: Path) -> bool:
    """Whether a path is a link, a pipe or a device."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False  # another process has just renamed it
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def read_object(file: Path, kind: type[T]) -> T:
    """Read the JSON object in a file that a run wrote, as a dataclass.

    Args:
        file: in a run's folder.
        kind: the dataclass.

    Raises:
        ValueError: it is broken; the message names the command that writes it again.
    """
    try:
        return read_as(file, kind)
    except ValueError as error:
        raise ValueError(f"{error}; `speculators run {shlex.quote(str(file.parent))}` writes it again") from error


def run_yaml_of(path: Path) -> Path:
    """The `run.yaml` of a folder; a path that is not a folder is returned as it is."""
    return path / RUN_YAML if path.is_dir() else path
