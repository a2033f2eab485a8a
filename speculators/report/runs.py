"""Status and results of runs, read from their folders. Free of torch and Hydra."""

import os
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from speculators.export.engines import engine_version
from speculators.runfolder.folder import RUN_YAML, RunFolder, read_object
from speculators.runfolder.result import EvaluationResult
from speculators.settings.algorithm import AlgorithmSettings
from speculators.utils.untrusted import read_json

# result.json has all but the texts, and that of an earlier version not what has a default.
NEEDED = {field.name for field in fields(EvaluationResult) if field.default is MISSING} - {
    "prompts",
    "tokens",
    "rounds",
}


@dataclass(frozen=True)
class Trial:
    """One run, of a sweep or alone, as read from its folder.

    Attributes:
        folder: of the run.
        name: the folder's path below what all trials that were read together share.
        overrides: those of its overrides that are not every trial's.
        status: `done`, `failed`, `running`, or `cut off`.
        result: contents of result.json; empty if there is none.
        seconds, memory_gb: of the process that finished it, without a training done by another trial.
        traceback: of the failure.
    """

    folder: Path
    name: str
    overrides: list[str]
    status: str
    result: dict[str, Any]
    seconds: float | None
    memory_gb: float | None
    traceback: str

    @property
    def chosen(self) -> dict[str, str]:
        """The overrides as a mapping from key to value."""
        return dict(o.lstrip("+~").split("=", 1) for o in self.overrides if "=" in o)

    @property
    def objective(self) -> float | None:
        """The value of the metric named by evaluation.objective; None if it was not measured."""
        return self.result.get("objective")

    @property
    def error(self) -> str:
        """Last line of the traceback."""
        return self.traceback.rpartition("\n")[2]

    @property
    def checkpoint(self) -> Path | None:
        """Folder of the published checkpoint."""
        folder = RunFolder(self.folder).checkpoint
        return folder if self.status == "done" and folder.is_dir() else None


def read(*folders: Path) -> list[Trial]:
    """All trials, the best first, those without a result last.

    Args:
        folders: each a run's, or a sweep's with its trials inside; one without a run is left out.

    Raises:
        ValueError: a file of a run's folder is broken; the message names it.
    """
    found = list(dict.fromkeys(run for folder in folders for run in runs(folder)))
    if not found:
        return []
    shared = Path(os.path.commonpath([folder.absolute().parent for folder in found]))
    names = [folder.absolute().relative_to(shared).as_posix() for folder in found]
    own = varying([_overrides(folder) for folder in found])
    trials = [_trial(folder, name, overrides) for folder, name, overrides in zip(found, names, own, strict=True)]
    return sorted(trials, key=lambda trial: (trial.objective is None, -(trial.objective or 0), trial.overrides))


def runs(folder: Path) -> list[Path]:
    """The folder itself if it is a run's, else the runs' in it."""
    if RunFolder(folder).run_yaml.is_file():
        return [folder]
    return sorted(file.parent for file in folder.glob(f"*/{RUN_YAML}") if not file.parent.is_symlink())


def varying(trials: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each trial's overrides those that are not the same in all trials."""
    shared = set(trials[0]).intersection(*trials) if len(trials) > 1 else set()
    return [[o for o in trial if o not in shared] for trial in trials]


def pinned(folder: Path) -> dict[str, Any]:
    """Contents of a run.yaml of any schema version, not migrated.

    Raises:
        ValueError: it is broken; the message names it.
    """
    file = RunFolder(folder).run_yaml
    try:
        pin = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: invalid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(pin, dict) or "run" not in pin:
        raise ValueError(f"{file}: it has no key `run` with the settings of a run")
    return pin


def serve_command(trial: Trial, checkpoint: Path) -> str | None:
    """The command that serves a trial's draft; None if it was not exported for an engine.

    Args:
        trial: with a checkpoint.
        checkpoint: where that is, as the command names it.
    """
    run = pinned(trial.folder)["run"]
    algorithm, export = run["algorithm"]["name"], run["export"]
    engines = AlgorithmSettings.named(algorithm).engines
    if not engines or export["target"] == "none":
        return None
    engine = engine_version(engines[0], export["engine_version"])
    config = read_json(checkpoint / "config.json")
    verifier = config["speculators_config"]["verifier"]["name_or_path"]
    return engine.serve_command(algorithm, str(checkpoint), verifier, run["proposal"])


def _overrides(folder: Path) -> list[str]:
    file = RunFolder(folder).hydra / "overrides.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else []


def _trial(folder: Path, name: str, overrides: list[str]) -> Trial:
    own = RunFolder(folder)
    if (traceback := own.read_failed()) is not None:
        return Trial(folder, name, overrides, "failed", {}, None, None, traceback)
    if (done := own.read_done()) is None:
        return Trial(folder, name, overrides, "running" if own.is_running() else "cut off", {}, None, None, "")
    measured = read_object(own.result, NEEDED) if own.result.exists() else {}
    return Trial(folder, name, overrides, "done", measured, done.seconds, done.memory_gb, "")
