"""What Optuna's sweeper is told of our sweeps, and a study in a file that the same command goes on with."""

from pathlib import Path

import optuna
from omegaconf import DictConfig, read_write
from optuna.trial import TrialState

ONE_BY_ONE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def settle(config: DictConfig) -> None:
    """Set up the Optuna sweeper of a multirun.

    An objective is maximised, a failed trial is no reason to stop, the study is in the sweep's folder, and trials that an
    earlier call ended count. Those that it was cut off in come first.

    Args:
        config: composed for a multirun; what its `hydra.sweeper` leaves open is filled in.
    """
    sweeper, folder = config.hydra.sweeper, Path(config.hydra.sweep.dir)
    # Optuna makes the file, but not its folder.
    folder.mkdir(parents=True, exist_ok=True)
    with read_write(config):
        sweeper.direction = "maximize"
        if config.hydra.launcher._target_ == ONE_BY_ONE:
            sweeper.n_jobs = 1  # asking for several trials at once would only hide what the first taught
        sweeper.max_failure_rate = sweeper.max_failure_rate or 1.0
        sweeper.study_name = sweeper.study_name or "speculators"
        sweeper.storage = sweeper.storage or f"sqlite:///{(folder / 'study.db').absolute()}"
        sweeper.n_trials = max(0, sweeper.n_trials - _ended(sweeper.study_name, sweeper.storage))


def _ended(name: str, storage: str) -> int:
    """How many trials of a study ended well; those that never ended are asked for again."""
    if name not in [study.study_name for study in optuna.get_all_study_summaries(storage)]:
        return 0
    study = optuna.load_study(study_name=name, storage=storage)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.enqueue_trial(trial.params)
        study.tell(trial.number, state=TrialState.FAIL)
    return len(study.get_trials(states=(TrialState.COMPLETE,)))
