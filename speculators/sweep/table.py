"""The trials of a sweep as a table."""

from collections.abc import Sequence

from rich.table import Table

from speculators.report.runs import Trial
from speculators.utils.untrusted import printable


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
        shown.add_row(
            "\n".join(map(printable, trial.overrides)) or "-", *map(printable, (trial.folder.name, outcome)), *cells
        )
    return shown
