"""The trials of a sweep as a table, and the console that prints it."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from speculators.report.runs import Arm


def console() -> Console:
    """A terminal as it is; a file or a pipe has no width, and a table folded to 80 columns is hard to read."""
    found = Console()
    return found if found.is_terminal else Console(width=140)


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
