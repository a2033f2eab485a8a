"""Live table of a running sweep."""

import atexit
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.table import Table

from speculators.report.runs import Trial, read
from speculators.runfolder.folder import RunFolder
from speculators.sweep.table import table
from speculators.utils.terminal import console
from speculators.utils.untrusted import printable

# Limit of finished trials shown, so that the running ones fit on the screen.
SHOWN = 10


def start(folder: Path) -> None:
    """Show a sweep's table below the log output, until the process ends.

    Args:
        folder: of the sweep; its trials' folders are polled, whichever process the trials run in.
    """
    live = Live(console=console(), get_renderable=lambda: picture(folder), refresh_per_second=1, transient=True)
    live.start()
    atexit.register(live.stop)


def picture(folder: Path) -> Group:
    """Running trials, each with the last line of its log, above the best finished trials."""
    found = read(folder)
    running = [trial for trial in found if trial.status == "running"]
    ended = [trial for trial in found if trial.status in ("done", "failed", "unreadable")]
    now = Table(title=f"running; {len(ended)} trials ended", title_justify="left")
    now.add_column("trial", overflow="fold")
    now.add_column("now", overflow="ellipsis", no_wrap=True)
    for trial in running:
        now.add_row(printable(" ".join(trial.overrides)), printable(_last_line(trial)))
    return Group(table(ended[:SHOWN]), now) if ended else Group(now)


def _last_line(trial: Trial) -> str:
    """The last line of a trial's log."""
    file = RunFolder(trial.folder).log
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    return lines[-1] if lines else "starting"
