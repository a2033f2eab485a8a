"""Settings of the Optuna sweeper, and a study stored in a file, which the same command resumes."""

from pathlib import Path

import optuna
from omegaconf import DictConfig, read_write
from optuna.trial import TrialState

ONE_BY_ONE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def prepare_study(config: DictConfig) -> None:
    """Set up the Optuna sweeper of a multirun.

    The objective is maximised, the study continues after failed trials and is stored in the sweep's folder. Trials that
    an earlier call finished count; those that were interrupted are run first.

    Args:
        config: composed for a multirun; missing values of its `hydra.sweeper` are filled in.
    """
    sweeper, folder = config.hydra.sweeper, Path(config.hydra.sweep.dir)
    # Optuna creates the file, but not its folder.
    folder.mkdir(parents=True, exist_ok=True)
    with read_write(config):
        sweeper.direction = "maximize"
        if config.hydra.launcher._target_ == ONE_BY_ONE:
            sweeper.n_jobs = 1  # trials of one batch are proposed without each other's results
        sweeper.max_failure_rate = sweeper.max_failure_rate or 1.0
        sweeper.study_name = sweeper.study_name or "speculators"
        sweeper.storage = sweeper.storage or f"sqlite:///{(folder / 'study.db').absolute()}"
        sweeper.n_trials = max(0, sweeper.n_trials - _ended(sweeper.study_name, sweeper.storage))


def _ended(name: str, storage: str) -> int:
    """Number of completed trials of a study; unfinished trials are enqueued again."""
    if name not in [study.study_name for study in optuna.get_all_study_summaries(storage)]:
        return 0
    study = optuna.load_study(study_name=name, storage=storage)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.enqueue_trial(trial.params)
        study.tell(trial.number, state=TrialState.FAIL)
    return len(study.get_trials(states=(TrialState.COMPLETE,)))
