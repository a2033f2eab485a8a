"""Trials as rows of the page: rank, colour, varying settings, curves and cost of the draft. Torch-free."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from speculators.format.tensors import read_tensors
from speculators.report.runs import Trial, order, own_yaml, pinned, serve_command
from speculators.runfolder.folder import RunFolder
from speculators.utils.dotted import find
from speculators.utils.untrusted import MOST_LINE, parse_value

T = TypeVar("T")
# Tableau's ten, distinct on white and on black. Each of the best trials has one colour in all figures.
COLOURS = (
    "#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#eeca3b", "#ff9da6", "#9d755d", "#7f7fd5",
)  # fmt: skip
OTHERS = "#9aa3ad"
# With more trials than this, those without a colour of their own are drawn faintly.
CROWD = 30
# Most points of a curve; more than there are pixels would only enlarge the page.
POINTS = 300


@dataclass(frozen=True)
class Reading:
    """What is drawn of a line of metrics.jsonl: of one step, of the kind `train` or `heldout`."""

    kind: str
    step: float
    loss: float
    accuracy: list[float]
    acceptance: float
    seconds: float | None = None


READING = TypeAdapter(Reading)


@dataclass(frozen=True)
class Curves:
    """The readings of one training, by kind, thinned to `POINTS`."""

    train: Sequence[Reading] = ()
    heldout: Sequence[Reading] = ()


@dataclass(frozen=True)
class Row:
    """A trial with its place in the page.

    Attributes:
        number: from 1, the best first.
        colour, opacity: of everything that shows it.
        settings: value by key, for each key that some trial overrides and not all alike.
        run: the contents of its run.yaml; empty if that is unreadable.
        training: the folder that it trains in, resolved; other trials may share it.
        curves: readings of the training.
        parameters: floating-point numbers of the published draft; None before it is published.
        command: the command that serves its draft; None if there is none.
    """

    trial: Trial
    number: int
    colour: str
    opacity: float
    settings: dict[str, str]
    run: dict[str, Any]
    training: Path
    curves: Curves
    parameters: int | None
    command: str | None

    @property
    def verifier(self) -> str:
        """The verifier that the draft is for; empty if run.yaml is unreadable."""
        return self.run["verifier"]["name_or_path"] if self.run else ""

    @property
    def label(self) -> str:
        """Its settings, shortened: the options of groups by their names alone."""
        names = {key: f"{key.rpartition('.')[2]}=" if "." in key else "" for key in self.settings}
        return " ".join(names[key] + short(value, 16) for key, value in self.settings.items())

    @property
    def pass_cost(self) -> float | None:
        """Time of one draft-and-verify round relative to decoding one token without a draft; None if not measured."""
        result = self.trial.result
        if not result:
            return None
        return result["acceptance_length"] * result["plain_tokens_per_second"] / result["tokens_per_second"]


@dataclass(frozen=True)
class Training:
    """The curves of one training, and the trials that use it; `rows` is never empty, the best first."""

    rows: list[Row]
    curves: Curves

    @property
    def seconds(self) -> float | None:
        """Time spent in training steps; None before anything was logged."""
        return self.curves.train[-1].seconds if self.curves.train else None


def ranked(trials: Sequence[Trial]) -> list[Row]:
    """Rows of trials, the best first; those of one verifier together, the verifier of the best first.

    What cannot be read of a trial is added to its `unreadable`.
    """
    keys = list(dict.fromkeys(key for trial in trials for key in trial.chosen))
    curves: dict[Path, tuple[Curves, str]] = {}
    rows = order([_row(trial, keys, curves) for trial in trials], lambda row: row.trial)
    verifiers = list(dict.fromkeys(row.verifier for row in rows))
    rows.sort(key=lambda row: verifiers.index(row.verifier))
    return [_placed(row, i, len(rows)) for i, row in enumerate(rows)]


def trainings(rows: Sequence[Row]) -> list[Training]:
    """The trainings of all rows, each once, in the order of their best trials."""
    shared: dict[Path, list[Row]] = {}
    for row in rows:
        shared.setdefault(row.training, []).append(row)
    return [Training(own, own[0].curves) for own in shared.values()]


def short(text: str, length: int) -> str:
    """A text shortened to its end, where paths differ."""
    return text if len(text) <= length else "…" + text[-length + 1 :]


def _row(trial: Trial, keys: Sequence[str], known: dict[Path, tuple[Curves, str]]) -> Row:
    """A trial with what its files say; `known` has the curves of trainings that were read already."""
    problems = list(trial.unreadable)

    def read(what: Callable[[], T], otherwise: T) -> T:
        try:
            return what()
        except (OSError, ValueError) as error:
            problems.append(str(error))
            return otherwise

    pin = read(lambda: pinned(trial.folder), {})
    run: dict[str, Any] = pin.get("run", {})
    training = (trial.folder / pin.get("training", ".")).resolve()
    if training not in known:
        known[training] = read(lambda: _curves(training), (Curves(), ""))
    curves, problem = known[training]
    problems += [problem] if problem else []
    unset = [key for key in keys if key not in trial.chosen]
    choices = read(lambda: _choices(trial.folder), {}) if unset else {}
    settings = {key: trial.chosen[key] if key in trial.chosen else _untouched(choices, run, key) for key in keys}
    checkpoint = trial.checkpoint
    parameters = read(lambda: _parameters(checkpoint), None) if checkpoint else None
    command = read(lambda: _command(trial, run), None) if run else None
    trial = replace(trial, unreadable=list(dict.fromkeys(problems)))
    if not run:
        trial = replace(trial, status="unreadable", result={})
    return Row(trial, 0, OTHERS, 1.0, settings, run, training, curves, parameters, command)


def _command(trial: Trial, run: dict[str, Any]) -> str | None:
    try:
        return serve_command(run, trial.checkpoint.resolve()) if trial.checkpoint else None
    except ValidationError as error:
        raise ValueError(f"{RunFolder(trial.folder).run_yaml}: run.proposal: {error.errors()[0]['msg']}") from error


def _placed(row: Row, place: int, count: int) -> Row:
    coloured = place < len(COLOURS) and row.trial.objective is not None
    colour, opacity = (COLOURS[place], 1.0) if coloured else (OTHERS, 0.3 if count > CROWD else 1.0)
    return replace(row, number=place + 1, colour=colour, opacity=opacity)


def _choices(folder: Path) -> dict[str, Any]:
    """Options of groups that Hydra recorded for a run; ValueError if its file is broken."""
    file = RunFolder(folder).hydra / "hydra.yaml"
    choices = find(own_yaml(folder, file), "hydra.runtime.choices") if file.exists() else {}
    if not isinstance(choices, dict):
        raise ValueError(f"{file}: it has no hydra.runtime.choices")
    return choices


def _untouched(choices: dict[str, Any], run: dict[str, Any], key: str) -> str:
    """A trial's own value, or option of a group, at a key that only other trials override."""
    if key in choices:
        return str(choices[key])
    value = find(run, key)
    return "" if value is None or isinstance(value, dict) else str(value)


def _parameters(checkpoint: Path) -> int:
    tensors = read_tensors(checkpoint).values()
    return sum(math.prod(tensor.shape) for tensor in tensors if "F" in tensor.dtype)


def _curves(training: Path) -> tuple[Curves, str]:
    """The readings of a training's metrics.jsonl, and a message if lines of it are broken; the last may be unfinished."""
    own, found, bad = RunFolder(training), list[Reading](), list[int]()
    for number, line in enumerate(own.metrics_lines(), start=1):
        try:
            reading = READING.validate_python(parse_value(line[:MOST_LINE].decode()))
        except ValueError:
            reading = None
        # Every line has an accuracy for each slot.
        if reading and reading.accuracy and len(reading.accuracy) == len((found or [reading])[0].accuracy):
            found.append(reading)
        else:
            bad.append(number)
    curves = Curves(*(_thin([r for r in found if r.kind == kind]) for kind in ("train", "heldout")))
    return curves, f"{own.metrics}: {len(bad)} lines cannot be read (first: {bad[0]})" if bad else ""


def _thin(readings: list[Reading]) -> list[Reading]:
    """At most `POINTS` readings, evenly spaced, including the last."""
    stride = -(-len(readings) // POINTS) or 1
    return readings[::-1][::stride][::-1]
