"""The trials of a sweep as a table."""

from collections.abc import Sequence

from rich.table import Table

from speculators.report.runs import Trial
from speculators.utils.untrusted import printable


def table(trials: Sequence[Trial]) -> Table:
    """The trials as a table for the terminal, without their errors, which `errors` has."""
    shown = Table(title="Trials, best first", title_justify="left")
    for name in ("trial", "folder", "status"):
        shown.add_column(name, overflow="fold")
    for name in ("objective", "acceptance", "tokens/s", "s", "GB"):
        shown.add_column(name, justify="right", no_wrap=True)
    for trial in trials:
        measured = [trial.objective, trial.result.get("acceptance_length"), trial.result.get("tokens_per_second")]
        cells = [f"{v:.4g}" if v is not None else "-" for v in (*measured, trial.seconds, trial.memory_gb)]
        shown.add_row(
            "\n".join(map(printable, trial.overrides)) or "-", printable(trial.folder.name), trial.status, *cells
        )
    return shown


def errors(trials: Sequence[Trial]) -> list[str]:
    """A line for each trial with an error; in a column of a narrow terminal an error could not be read."""
    return [printable(f"{trial.folder.name} {trial.status}: {trial.error}") for trial in trials if trial.error]
