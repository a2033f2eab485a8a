"""The trials of a sweep as a table."""

from collections import Counter
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table

from speculators.report.runs import Trial
from speculators.utils.untrusted import printable

MEASURED = {"acceptance": "acceptance_length", "tokens/s": "tokens_per_second"}


def table(trials: Sequence[Trial]) -> Table:
    """The trials as a table that fits 80 columns, without their errors, which `errors` has.

    A key is shortened to its last part where no other key ends with it, and the objective is left out where it is the
    acceptance length.
    """
    keys = {override.partition("=")[0] for trial in trials for override in trial.overrides}
    ends = Counter(key.rpartition(".")[2] for key in keys)
    names = {key: end if ends[end := key.rpartition(".")[2]] == 1 else key for key in keys}
    objective = any(trial.objective != trial.result.get("acceptance_length") for trial in trials)
    shown = Table(title="Trials, best first", title_justify="left", box=SIMPLE, padding=0, pad_edge=False)
    shown.add_column("trial", overflow="fold")
    shown.add_column("folder", overflow="fold", min_width=12)
    shown.add_column("status", no_wrap=True)
    for name in (*(["objective"] if objective else []), *MEASURED, "s", "GB"):
        shown.add_column(name, justify="right", no_wrap=True)
    for trial in trials:
        pairs = (override.partition("=") for override in trial.overrides)
        overrides = [printable(names[key] + equals + value) for key, equals, value in pairs]
        numbers = [*([trial.objective] if objective else []), *(trial.result.get(key) for key in MEASURED.values())]
        cells = [f"{v:.4g}" if v is not None else "-" for v in (*numbers, trial.seconds, trial.memory_gb)]
        shown.add_row("\n".join(overrides) or "-", printable(trial.folder.name), trial.status, *cells)
    return shown


def errors(trials: Sequence[Trial]) -> list[str]:
    """A line for each trial with an error; in a column of a narrow terminal an error could not be read."""
    return [printable(f"{trial.folder.name} {trial.status}: {trial.error}") for trial in trials if trial.error]
