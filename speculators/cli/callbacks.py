"""Hydra callbacks: validation before a run's folder is created, and the results table of a sweep."""

import atexit
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from speculators.composition.validate import check_data, check_machine, validate
from speculators.utils.messages import WrongInput, stop
from speculators.utils.secrets import displayed

if TYPE_CHECKING:
    from speculators.settings.run_config import RunConfig

OPTUNA = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"


class Check(Callback):
    """Validates a run before Hydra creates its folder, so that invalid input and dry runs leave no files.

    Attributes:
        passed: all trials of a sweep were validated; a later exception is not an input error.
    """

    passed: ClassVar[bool] = False

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Validate the run and check the machine; on a dry run print the plan and exit."""
        try:
            # Hydra turns exceptions of callbacks into warnings and continues; only SystemExit stops it.
            run = validate(config)
            check_data(config, run)
            folder = Path(config.hydra.run.dir)
            if run.dry_run:
                _plan(config, run, folder)
                sys.exit(0)
            check_machine(config, run, folder)
            # Imports torch, for seconds, so it comes after what is refused without.
            from speculators.execution.free import check_free

            check_free(run, folder)
        except WrongInput as error:
            stop(error.messages)
        except Exception:
            print(displayed(traceback.format_exc()), file=sys.stderr)
            sys.exit(1)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Validate every trial before the first starts; on a dry run list them and exit."""
        from speculators.sweep.check import check
        from speculators.sweep.points import drop_overridden

        try:
            drop_overridden(config)
            check(config)
            if config.hydra.sweeper._target_ == OPTUNA:
                from speculators.sweep.study import prepare_study

                prepare_study(config)
        except Exception:
            print(displayed(traceback.format_exc()), file=sys.stderr)
            sys.exit(1)
        Check.passed = True


class Results(Callback):
    """Updates a sweep's results.csv after each trial, and prints the table during the sweep and at exit."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Start the live table; called before the first trial, after all were validated."""
        from speculators.sweep.live import start
        from speculators.sweep.trial import STOPPED

        self.sweep = Path(config.hydra.sweep.dir)
        self.failed_before = self._failed()
        (self.sweep / STOPPED).unlink(missing_ok=True)
        atexit.register(_show, self.sweep)
        if sys.stdout.isatty():
            start(self.sweep)

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        """Update results.csv after each trial."""
        if config.hydra.mode.name == "MULTIRUN":
            from speculators.report.runs import read
            from speculators.sweep.results import write

            sweep = Path(config.hydra.sweep.dir)
            write(sweep, read(sweep))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """After the last trial, exit with 1 if one failed or is unreadable: some sweepers count a failed trial as a result."""
        from speculators.report.runs import read

        if self._failed() - self.failed_before or any(trial.status == "unreadable" for trial in read(self.sweep)):
            sys.exit(1)

    def _failed(self) -> set[tuple[Path, int]]:
        """The trials' FAILED files with their times, which are not ordered: the clock may go back during a sweep."""
        from speculators.runfolder.folder import RunFolder

        files = self.sweep.glob(f"*/{RunFolder(self.sweep).failed.name}")
        return {(file, file.stat().st_mtime_ns) for file in files}


def _show(sweep: Path) -> None:
    """Write the table, the page and the best trial so far."""
    from speculators.sweep.summary import show

    show(sweep)


def _plan(config: DictConfig, run: "RunConfig", folder: Path) -> None:
    """Print a run's plan, and what this machine lacks for it: the run may be meant for another machine."""
    from speculators.execution.plan import print_plan

    print_plan(run)
    try:
        check_machine(config, run, folder)
    except WrongInput as error:
        lines = (f"  {displayed(message)}" for message in error.messages)
        print("this machine could not execute the run:", *lines, sep="\n", file=sys.stderr)
