"""What came out of a sweep's arms: results.csv, a table sorted by the objective, `best`."""

import atexit
import csv
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.table import Table

from speculators.launch import DONE, FAILED
from speculators.pin import FILE, read_pin
from speculators.sweep.arm import STOPPED
from speculators.sweep.console import console
from speculators.sweep.points import varying

RESULTS, BEST = "results.csv", "best"


@dataclass(frozen=True)
class Arm:
    """One arm's folder, read.

    Attributes:
        folder: of the arm.
        overrides: those of its overrides that are not every arm's.
        status: `done`, `failed`, or `cut off`.
        result: contents of result.json; empty if there is none.
        seconds, memory_gb: of the process that ended it; a training that another arm did is not in them.
        error: last line of the traceback.
    """

    folder: Path
    overrides: list[str]
    status: str
    result: dict[str, Any]
    seconds: float | None
    memory_gb: float | None
    error: str

    @property
    def objective(self) -> float | None:
        """What evaluation.objective named; None where nothing was measured."""
        return self.result.get("objective") if self.status == "done" else None

    @property
    def checkpoint(self) -> Path | None:
        """The published folder."""
        folder = self.folder / "checkpoint"
        return folder if self.status == "done" and folder.is_dir() else None


def read(sweep: Path) -> list[Arm]:
    """All arms of a sweep's folder, the best first, those without a result last."""
    folders = sorted(file.parent for file in sweep.glob(f"*/{FILE}") if not file.parent.is_symlink())
    overrides = [_overrides(folder) for folder in folders]
    arms = [_arm(folder, own) for folder, own in zip(folders, varying(overrides) if folders else [], strict=True)]
    return sorted(arms, key=lambda arm: (arm.objective is None, -(arm.objective or 0), arm.overrides))


def _overrides(folder: Path) -> list[str]:
    file = folder / ".hydra" / "overrides.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else []


def _arm(folder: Path, overrides: list[str]) -> Arm:
    status = "failed" if (folder / FAILED).exists() else "done" if (folder / DONE).exists() else "cut off"
    done = json.loads((folder / DONE).read_text(encoding="utf-8")) if status == "done" else {}
    result = folder / "result.json"
    return Arm(
        folder,
        overrides,
        status,
        json.loads(result.read_text(encoding="utf-8")) if status == "done" and result.exists() else {},
        done.get("seconds"),
        done.get("memory_gb"),
        (folder / FAILED).read_text(encoding="utf-8").strip().splitlines()[-1] if status == "failed" else "",
    )


def write(sweep: Path, arms: Sequence[Arm]) -> None:
    """`results.csv`, a row an arm; replaced whole, for arms of several processes end when they like."""
    rows = [_row(arm) for arm in arms]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    part = sweep / f"{RESULTS}.{os.getpid()}"
    with part.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)
    part.replace(sweep / RESULTS)


def _row(arm: Arm) -> dict[str, Any]:
    """An override a column, then what came out."""
    chosen = dict(override.lstrip("+~").split("=", 1) for override in arm.overrides if "=" in override)
    return {
        "arm": arm.folder.name,
        **chosen,
        "status": arm.status,
        "objective": arm.objective,
        "acceptance_length": arm.result.get("acceptance_length"),
        "tokens_per_second": arm.result.get("tokens_per_second"),
        "seconds": arm.seconds,
        "memory_gb": arm.memory_gb,
        "checkpoint": str(arm.checkpoint or ""),
        "error": arm.error,
    }


def table(arms: Sequence[Arm]) -> Table:
    """The arms for a terminal."""
    shown = Table(title="Arms, best first", title_justify="left")
    for name in ("arm", "folder", "status"):
        shown.add_column(name, overflow="fold")
    for name in ("objective", "acceptance", "tokens/s", "s", "GB"):
        shown.add_column(name, justify="right", no_wrap=True)
    for arm in arms:
        measured = [arm.objective, arm.result.get("acceptance_length"), arm.result.get("tokens_per_second")]
        cells = [f"{v:.4g}" if v is not None else "-" for v in (*measured, arm.seconds, arm.memory_gb)]
        outcome = f"{arm.status}: {arm.error}" if arm.error else arm.status
        shown.add_row("\n".join(arm.overrides) or "-", arm.folder.name, outcome, *cells)
    return shown


def link_best(sweep: Path, arms: Sequence[Arm]) -> str | None:
    """Point `best` at the best arm's checkpoint; a sentence with the command that serves it, None without one."""
    from speculators.algorithm import AlgorithmSettings
    from speculators.export.engine_table import EngineTable

    best = next((arm for arm in arms if arm.objective is not None and arm.checkpoint), None)
    if best is None or best.checkpoint is None:
        return None
    link = sweep / BEST
    link.unlink(missing_ok=True)
    link.symlink_to(best.checkpoint.relative_to(sweep), target_is_directory=True)
    run = read_pin(best.folder)
    engines = AlgorithmSettings.named(run.algorithm.name).engines
    if not engines or run.export.target == "none":
        return f"best: {link}"
    engine = EngineTable.read(engines[0], run.export.engine_version)
    verifier = json.loads((best.checkpoint / "config.json").read_text(encoding="utf-8"))["speculators_config"][
        "verifier"
    ]
    tokens = run.proposal.model_dump()["speculative_tokens"]
    return f"best: {link}\n{engine.serve_command(run.algorithm.name, str(link), verifier['name_or_path'], tokens)}"


class Results(Callback):
    """Keeps a sweep's results.csv up to date, and shows the table at its end, however it ends."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the first arm, after all were checked."""
        self.sweep, self.started = Path(config.hydra.sweep.dir), time.time()
        (self.sweep / STOPPED).unlink(missing_ok=True)
        atexit.register(show, self.sweep)

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        """After each arm."""
        if config.hydra.mode.name == "MULTIRUN":
            sweep = Path(config.hydra.sweep.dir)
            write(sweep, read(sweep))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """After the last; exits with 1 if an arm failed, for some sweepers take a failure for a result."""
        failed = [arm.folder / FAILED for arm in read(self.sweep) if arm.status == "failed"]
        if any(file.stat().st_mtime >= self.started for file in failed):
            sys.exit(1)


def show(sweep: Path) -> None:
    """What came out so far."""
    arms = read(sweep)
    if not arms:
        return
    write(sweep, arms)
    shown = console()
    shown.print(table(arms))
    shown.print(f"{sweep / RESULTS}", soft_wrap=True)
    if (best := link_best(sweep, arms)) is not None:
        shown.print(best, soft_wrap=True)
