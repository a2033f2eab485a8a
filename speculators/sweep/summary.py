"""Output at the end of a sweep: the table of trials, the path of the page, and the best draft's serve command."""

from pathlib import Path

from speculators.report.page import PAGE, write_page
from speculators.report.rows import ranked
from speculators.report.runs import read
from speculators.sweep.results import RESULTS, link_best, write
from speculators.sweep.table import errors, table
from speculators.utils.terminal import console


def show(sweep: Path) -> None:
    """Write results.csv and the page, link `best` to the best trial, and print the table; does nothing without a trial.

    Args:
        sweep: the sweep's folder; the sweep may still be running.
    """
    rows = ranked(read(sweep))
    if not rows:
        return
    trials = [row.trial for row in rows]
    write(sweep, trials)
    shown = console()
    shown.print(table(trials))
    for line in errors(trials):
        shown.print(line, soft_wrap=True, markup=False, highlight=False)
    shown.print(f"{sweep / RESULTS}\n{write_page(rows, sweep / PAGE)}", soft_wrap=True)
    if (best := link_best(sweep, rows)) is not None:
        shown.print(best, soft_wrap=True)
