"""Writes metrics to metrics.jsonl in the run's folder and to the chosen tracker of accelerate."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from speculators.runfolder.folder import RunFolder
from speculators.runfolder.result import EvaluationResult
from speculators.settings.run_config import RunConfig
from speculators.train.metrics import Readings
from speculators.utils import files
from speculators.utils.untrusted import MOST_LINE

MEASURED = ("objective", "acceptance_length", "acceptance_per_position", "tokens_per_second", "plain_tokens_per_second")


class Tracking:
    """Writes every reading to both; `close` flushes the trackers.

    Args:
        accelerator: from `start_accelerator`, with the tracker's name.
        run: logged as the run's hyperparameters.
        folder: metrics.jsonl is here; damaged lines, and lines after step `first`, are dropped.
        first: steps that are done.
    """

    def __init__(self, accelerator: Accelerator, run: RunConfig, folder: Path, first: int) -> None:
        self._accelerator = accelerator
        own = RunFolder(folder)
        self._file = own.metrics
        if accelerator.is_main_process:
            kept = [line for line in own.metrics_lines() if _step(line) <= first]
            files.write(self._file, b"".join(line + b"\n" for line in kept))
        if run.tracker.name != "none":
            config = flatten(run.model_dump(mode="json"))
            accelerator.init_trackers(run.tracker.project, config, {"wandb": {"dir": str(folder)}})

    def log(self, step: int, kind: str, readings: Readings) -> None:
        """Write one reading.

        Args:
            step: optimizer steps done.
            kind: `train` or `heldout`.
            readings: numbers and lists of numbers (per slot) by name.
        """
        if self._accelerator.is_main_process:
            with self._file.open("a") as file:
                file.write(json.dumps({"step": step, "kind": kind} | readings) + "\n")
        self._accelerator.log(flatten({kind: readings}), step=step)

    def report(self, step: int, result: EvaluationResult) -> None:
        """Log the measured acceptance to the tracker alone: runs that share a training share metrics.jsonl.

        Args:
            step: of the published weights.
            result: of the evaluation by decoding.
        """
        for name, measured in zip(("evaluation", "evaluation_data"), result.each, strict=False):
            values = {key: value for key in MEASURED if (value := vars(measured)[key]) is not None}
            self._accelerator.log(flatten({name: values}), step=step)

    def close(self) -> None:
        """Flush and end the trackers."""
        for tracker in self._accelerator.trackers:
            tracker.finish()


def _step(line: bytes) -> float:
    """Step of a reading; infinity if the line is not a reading."""
    try:
        return float(json.loads(line[:MOST_LINE])["step"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return math.inf


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one level, keys joined by `/`, list places from 1; None becomes "null"."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, list):
            value = {str(i): v for i, v in enumerate(value, 1)}
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}/")
        else:
            flat[prefix + key] = "null" if value is None else value
    return flat
