"""What came out of a sweep's trials: results.csv, a table sorted by the objective, `best`."""

import atexit
import csv
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from speculators.report.runs import Trial, read, serve_command
from speculators.runfolder.folder import RunFolder
from speculators.sweep.live import start
from speculators.sweep.table import console, table
from speculators.sweep.trial import STOPPED
from speculators.utils import files

RESULTS, BEST = "results.csv", "best"


def write(sweep: Path, trials: Sequence[Trial]) -> None:
    """`results.csv`, a row a trial; replaced whole, for trials of several processes end when they like."""
    rows = [_row(trial) for trial in trials]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    written = csv.DictWriter(text, columns)
    written.writeheader()
    written.writerows(rows)
    files.write(sweep / RESULTS, text.getvalue())


def _row(trial: Trial) -> dict[str, Any]:
    """An override a column, then what came out."""
    return {
        "trial": trial.folder.name,
        **trial.chosen,
        "status": trial.status,
        "objective": trial.objective,
        "acceptance_length": trial.result.get("acceptance_length"),
        "tokens_per_second": trial.result.get("tokens_per_second"),
        "seconds": trial.seconds,
        "memory_gb": trial.memory_gb,
        "checkpoint": str(trial.checkpoint or ""),
        "error": trial.error,
    }


def link_best(sweep: Path, trials: Sequence[Trial]) -> str | None:
    """Point `best` at the best trial's checkpoint; a sentence with the command that serves it, None without one."""
    best = next((trial for trial in trials if trial.objective is not None and trial.checkpoint), None)
    if best is None or best.checkpoint is None:
        return None
    link = sweep / BEST
    link.unlink(missing_ok=True)
    link.symlink_to(best.checkpoint.relative_to(sweep), target_is_directory=True)
    command = serve_command(best, link)
    return f"best: {link}" if command is None else f"best: {link}\n{command}"


class Results(Callback):
    """Keeps a sweep's results.csv up to date, and shows the table as it grows and at the end, however that comes."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the first trial, after all were checked."""
        self.sweep, self.started = Path(config.hydra.sweep.dir), time.time()
        (self.sweep / STOPPED).unlink(missing_ok=True)
        atexit.register(show, self.sweep)
        if sys.stdout.isatty():
            start(self.sweep)

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        """After each trial."""
        if config.hydra.mode.name == "MULTIRUN":
            sweep = Path(config.hydra.sweep.dir)
            write(sweep, read(sweep))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """After the last; exits with 1 if a trial failed, for some sweepers take a failure for a result."""
        failed = [RunFolder(trial.folder).failed for trial in read(self.sweep) if trial.status == "failed"]
        if any(file.stat().st_mtime >= self.started for file in failed):
            sys.exit(1)


def show(sweep: Path) -> None:
    """What came out so far."""
    # What draws is not paid for by a run that ends without a page.
    from speculators.report.page import PAGE, write_page

    trials = read(sweep)
    if not trials:
        return
    write(sweep, trials)
    shown = console()
    shown.print(table(trials))
    shown.print(f"{sweep / RESULTS}\n{write_page(trials, sweep / PAGE)}", soft_wrap=True)
    if (best := link_best(sweep, trials)) is not None:
        shown.print(best, soft_wrap=True)
