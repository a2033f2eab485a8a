"""Results of a sweep on disk: results.csv, and the link `best`."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speculators.report.rows import Row
from speculators.report.runs import Trial, serve_command
from speculators.utils import files

RESULTS, BEST = "results.csv", "best"


def write(sweep: Path, trials: Sequence[Trial]) -> None:
    """Write `results.csv`, one row per trial; the file is replaced atomically, since several processes may write it."""
    rows = [_row(trial) for trial in trials]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    written = csv.DictWriter(text, columns)
    written.writeheader()
    written.writerows(rows)
    files.write(sweep / RESULTS, text.getvalue())


def _row(trial: Trial) -> dict[str, Any]:
    """A row of results.csv: one column per override, then the results."""
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


def link_best(sweep: Path, rows: Sequence[Row]) -> str | None:
    """Link `best` to the best trial's checkpoint; return a line with its serve command, None without one."""
    best = next((row for row in rows if row.trial.objective is not None and row.trial.checkpoint), None)
    if best is None or best.trial.checkpoint is None:
        return None
    link = sweep / BEST
    link.unlink(missing_ok=True)
    link.symlink_to(best.trial.checkpoint.relative_to(sweep), target_is_directory=True)
    command = serve_command(best.run, link) if best.command else None
    return f"best: {link}" if command is None else f"best: {link}\n{command}"
