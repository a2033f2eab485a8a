"""Status and results of runs, read from their folders, in which any file may be broken. Free of torch and Hydra."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from speculators.export.engines import engine_version
from speculators.format.strict import read_config
from speculators.runfolder.folder import RUN_YAML, RunFolder, read_object
from speculators.runfolder.result import EvaluationResult
from speculators.runfolder.run_yaml import check_training
from speculators.settings.algorithm import AlgorithmSettings
from speculators.utils.dotted import find
from speculators.utils.untrusted import inside
from speculators.utils.yaml_lines import read_yaml

T = TypeVar("T")
# Files of which a run's folder has at least one.
OF_A_RUN = {RUN_YAML, "DONE", "FAILED"}
# Texts of a run.yaml that are shown.
SHOWN = (
    "algorithm.name",
    "verifier.name_or_path",
    "data.source",
    "evaluation.objective",
    "export.target",
    "export.engine_version",
)


@dataclass(frozen=True)
class Trial:
    """One run, of a sweep or alone, as read from its folder.

    Attributes:
        folder: of the run.
        name: the folder's path below what all trials that were read together share.
        overrides: those of its overrides that are not every trial's.
        status: `done`, `failed`, `running`, `interrupted`, or `unreadable`, where a file that decides it is broken.
        result: contents of result.json; empty if there is none.
        seconds, memory_gb: of the process that finished it, without a training done by another trial.
        traceback: of the failure.
        unreadable: a message for each file that cannot be read, with its path.
    """

    folder: Path
    name: str
    overrides: list[str]
    status: str
    result: dict[str, Any]
    seconds: float | None
    memory_gb: float | None
    traceback: str
    unreadable: list[str] = field(default_factory=list)

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
        """Last line of the traceback, or the first file that cannot be read; empty if neither."""
        return self.traceback.rpartition("\n")[2] or next(iter(self.unreadable), "")

    @property
    def checkpoint(self) -> Path | None:
        """Folder of the published checkpoint."""
        folder = RunFolder(self.folder).checkpoint
        return folder if self.status == "done" and folder.is_dir() else None


def read(*folders: Path) -> list[Trial]:
    """All trials, the best first, those without a result last.

    Args:
        folders: each a run's, or a sweep's with its trials inside; one without a run is left out.
    """
    found = list(dict.fromkeys(run for folder in folders for run in runs(folder)))
    if not found:
        return []
    shared = Path(os.path.commonpath([folder.absolute().parent for folder in found]))
    problems: dict[Path, list[str]] = {folder: [] for folder in found}
    typed = {folder: overrides for folder in found if (overrides := _overrides(folder, problems[folder])) is not None}
    own = dict(zip(typed, varying(list(typed.values())), strict=True))
    return order(
        [_trial(f, f.absolute().relative_to(shared).as_posix(), own.get(f, []), problems[f]) for f in found],
        lambda trial: trial,
    )


def order(found: Iterable[T], trial_of: Callable[[T], Trial]) -> list[T]:
    """Sorted by objective, the best first, those without one last."""

    def key(one: T) -> tuple[bool, float, list[str]]:
        trial = trial_of(one)
        return trial.objective is None, -(trial.objective or 0), trial.overrides

    return sorted(found, key=key)


def runs(folder: Path) -> list[Path]:
    """The folder itself if it is a run's, else those of all runs below it; links are not followed."""
    if any(os.path.lexists(folder / name) for name in OF_A_RUN):
        return [folder]
    found = []
    for place, folders, names in os.walk(folder):
        if not OF_A_RUN.isdisjoint([*folders, *names]):
            found.append(Path(place))
            folders.clear()  # a run's published draft holds a copy of run.yaml
    return sorted(found)


def varying(trials: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each trial's overrides those that are not the same in all trials."""
    shared = set(trials[0]).intersection(*trials) if len(trials) > 1 else set()
    return [[o for o in trial if o not in shared] for trial in trials]


def own_yaml(folder: Path, file: Path) -> Any:
    """Contents of a YAML file of a run's folder; ValueError if it is broken, or a link out of the folder."""
    return read_yaml(inside(folder, str(file.relative_to(folder)))).value


def pinned(folder: Path) -> dict[str, Any]:
    """Contents of a run.yaml of any schema version, not migrated.

    Raises:
        ValueError: it is broken, or lacks what is shown of it; the message names it.
    """
    file = RunFolder(folder).run_yaml
    pin = own_yaml(folder, file)
    if not isinstance(pin, dict) or not isinstance(pin.get("run"), dict):
        raise ValueError(f"{file}: it has no key `run` with the settings of a run")
    for key in SHOWN:
        group, _, name = key.partition(".")
        inner = pin["run"].get(group)
        if not isinstance(inner, dict) or not isinstance(inner.get(name), str):
            raise ValueError(f"{file}: run.{key} must be a text")
    try:
        check_training(str(pin.get("training", ".")))
    except ValueError as error:
        raise ValueError(f"{file}: training {error}") from error
    return pin


def serve_command(run: dict[str, Any], checkpoint: Path) -> str | None:
    """The command that serves a run's draft; None if it was not exported for an engine, or nothing is known of that.

    Args:
        run: of a run.yaml, as `pinned` has it.
        checkpoint: the published draft, as the command names it.

    Raises:
        ValueError: the checkpoint's config.json is broken; the message names it.
        pydantic.ValidationError: the run's proposal is broken.
    """
    algorithm, export = run["algorithm"]["name"], run["export"]
    engines = AlgorithmSettings.named(algorithm).engines if algorithm in AlgorithmSettings.names() else ()
    if not engines or export["target"] == "none":
        return None
    try:
        engine = engine_version(engines[0], export["engine_version"])
    except ValueError:
        return None
    config = read_config(checkpoint)
    verifier = find(config, "speculators_config.verifier.name_or_path")
    if not isinstance(verifier, str):
        raise ValueError(f"{checkpoint / 'config.json'}: it names no verifier")
    # A run.yaml of an earlier schema does not have these two.
    keys = "num_speculative_tokens_per_batch_size", "enable_adaptive_verification"
    options = {key: export[key] for key in keys if export.get(key)}
    proposal = run.get("proposal", {})
    return engine.serve_command(config, str(checkpoint), verifier, proposal, serving_options=options)


def _overrides(folder: Path, problems: list[str]) -> list[str] | None:
    """The overrides that Hydra recorded; None, and a message in `problems`, if its file is broken."""
    file = RunFolder(folder).hydra / "overrides.yaml"
    try:
        found = own_yaml(folder, file) if file.exists() else []
        if not isinstance(found, list) or not all(isinstance(override, str) for override in found):
            raise ValueError(f"{file}: it must be a list of texts")
        return found
    except (OSError, ValueError) as error:
        problems.append(str(error))
        return None


def _trial(folder: Path, name: str, overrides: list[str], problems: list[str]) -> Trial:
    own = RunFolder(folder)
    traceback = _attempt(own.read_failed, problems)
    done = _attempt(own.read_done, problems)
    measured = _attempt(lambda: _result(own.result), problems) if done is not None and own.result.exists() else {}
    if traceback is not None:
        return Trial(folder, name, overrides, "failed", {}, None, None, traceback, problems)
    if problems:
        return Trial(folder, name, overrides, "unreadable", {}, None, None, "", problems)
    if done is None:
        return Trial(folder, name, overrides, "running" if own.is_running() else "interrupted", {}, None, None, "")
    return Trial(folder, name, overrides, "done", measured or {}, done.seconds, done.memory_gb, "")


def _attempt(read: Callable[[], T], problems: list[str]) -> T | None:
    try:
        return read()
    except (OSError, ValueError) as error:
        problems.append(str(error))
        return None


def _result(file: Path) -> dict[str, Any]:
    """The measurements of a run; ValueError if the file is broken."""
    found = asdict(read_object(file, EvaluationResult))
    rates = ("acceptance_length", "tokens_per_second", "plain_tokens_per_second")
    for key in ("objective", *rates):
        if not math.isfinite(found[key]) or key in rates and found[key] <= 0:
            raise ValueError(f"{file}: {key}={found[key]} is no measurement")
    return found
