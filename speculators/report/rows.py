"""Trials as rows of the page: rank, colour, varying settings and cost of the draft. Torch-free."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from speculators.report.runs import Trial, pinned
from speculators.runfolder.folder import RunFolder

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
class Row:
    """A trial with its place in the page.

    Attributes:
        number: from 1, the best first.
        colour, opacity: of everything that shows it.
        settings: value by key, for each key that some trial overrides and not all alike.
        run: the contents of its run.yaml.
        training: the folder that it trains in, resolved; other trials may share it.
        parameters: floating-point numbers of the published draft; None before it is published.
    """

    trial: Trial
    number: int
    colour: str
    opacity: float
    settings: dict[str, str]
    run: dict[str, Any]
    training: Path
    parameters: int | None

    @property
    def label(self) -> str:
        """Its settings, shortened."""
        return " ".join(short(value, 16) for value in self.settings.values())

    @property
    def pass_cost(self) -> float | None:
        """Time of one draft-and-verify round relative to decoding one token without a draft; None if not measured."""
        result = self.trial.result
        if not result:
            return None
        return result["acceptance_length"] * result["plain_tokens_per_second"] / result["tokens_per_second"]


@dataclass(frozen=True)
class Training:
    """The readings of one training, and the trials that use it.

    Attributes:
        rows: never empty, the best first.
        train, heldout: readings by kind, thinned to `POINTS`.
    """

    rows: list[Row]
    train: list[dict[str, Any]]
    heldout: list[dict[str, Any]]

    @property
    def seconds(self) -> float | None:
        """Time spent in training steps; None before anything was logged."""
        return self.train[-1].get("seconds") if self.train else None


def ranked(trials: Sequence[Trial]) -> list[Row]:
    """Rows of trials that are sorted, the best first.

    Raises:
        ValueError: a trial's run.yaml is broken; the message names it.
    """
    keys = list(dict.fromkeys(key for trial in trials for key in trial.chosen))
    found = []
    for i, trial in enumerate(trials):
        pin = pinned(trial.folder)
        settings = {
            key: trial.chosen[key] if key in trial.chosen else _untouched(trial, pin["run"], key) for key in keys
        }
        coloured = i < len(COLOURS) and trial.objective is not None
        look = (COLOURS[i], 1.0) if coloured else (OTHERS, 0.3 if len(trials) > CROWD else 1.0)
        training = (trial.folder / pin.get("training", ".")).resolve()
        found.append(Row(trial, i + 1, *look, settings, pin["run"], training, _parameters(trial.checkpoint)))
    return found


def trainings(rows: Sequence[Row]) -> list[Training]:
    """The trainings of all rows, each once, in the order of their best trials."""
    shared: dict[Path, list[Row]] = {}
    for row in rows:
        shared.setdefault(row.training, []).append(row)
    return [Training(own, *_readings(RunFolder(folder).metrics)) for folder, own in shared.items()]


def short(text: str, length: int) -> str:
    """A text shortened to its end, where paths differ."""
    return text if len(text) <= length else "…" + text[-length + 1 :]


def _untouched(trial: Trial, run: dict[str, Any], key: str) -> str:
    """A trial's own value, or option of a group, at a key that only other trials override."""
    file = RunFolder(trial.folder).hydra / "hydra.yaml"
    choices = yaml.safe_load(file.read_text(encoding="utf-8"))["hydra"]["runtime"]["choices"] if file.exists() else {}
    if key in choices:
        return str(choices[key])
    node: Any = run
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return "" if node is None or isinstance(node, dict) else str(node)


def _parameters(checkpoint: Path | None) -> int | None:
    if checkpoint is None:
        return None
    with safe_open(checkpoint / "model.safetensors", framework="np") as file:
        slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 - not a dict
        return sum(_product(s.get_shape()) for s in slices if "F" in s.get_dtype())


def _product(shape: Sequence[int]) -> int:
    return shape[0] * _product(shape[1:]) if shape else 1


def _readings(file: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Readings of `train` and of `heldout`; a line that is still being written is left out."""
    lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.exists() else []
    found = [json.loads(line) for line in lines]
    return _thin([r for r in found if r["kind"] == "train"]), _thin([r for r in found if r["kind"] == "heldout"])


def _thin(readings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `POINTS` readings, evenly spaced, including the last."""
    stride = -(-len(readings) // POINTS) or 1
    return readings[::-1][::stride][::-1]
