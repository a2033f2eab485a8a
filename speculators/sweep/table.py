"""The trials of a sweep as a table, and the console that prints it."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from speculators.report.runs import Trial


def console() -> Console:
    """A console with the terminal's width; 140 columns for a file or pipe, so that tables are not wrapped."""
    found = Console()
    return found if found.is_terminal else Console(width=140)


def table(trials: Sequence[Trial]) -> Table:
    """The trials as a table for the terminal."""
    shown = Table(title="Trials, best first", title_justify="left")
    for name in ("trial", "folder", "status"):
        shown.add_column(name, overflow="fold")
    for name in ("objective", "acceptance", "tokens/s", "s", "GB"):
        shown.add_column(name, justify="right", no_wrap=True)
    for trial in trials:
        measured = [trial.objective, trial.result.get("acceptance_length"), trial.result.get("tokens_per_second")]
        cells = [f"{v:.4g}" if v is not None else "-" for v in (*measured, trial.seconds, trial.memory_gb)]
        outcome = f"{trial.status}: {trial.error}" if trial.error else trial.status
        shown.add_row("\n".join(trial.overrides) or "-", trial.folder.name, outcome, *cells)
    return shown
