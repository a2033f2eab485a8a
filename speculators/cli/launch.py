"""Starts runs. Training libraries are imported only in the process that runs, so a parent that waits stays small."""

from contextlib import nullcontext
from pathlib import Path


def launch(folder: Path) -> float:
    """Execute the run of a folder's run.yaml, in this process or in several under torchrun.

    Args:
        folder: of the run.

    Returns:
        The value of evaluation.objective; NaN if nothing was evaluated.

    Raises:
        As `speculators.execution.launch.launch`.
    """
    from speculators.execution.launch import first_machine, guarded
    from speculators.execution.launch import launch as run_marked
    from speculators.export.push import push_finished
    from speculators.runfolder.run_yaml import read_pin
    from speculators.utils.process import under_torchrun

    settings = read_pin(folder)
    torchrun = settings.launch.mode == "torchrun"
    if torchrun and not under_torchrun():
        from speculators.execution.torchrun import run_in_processes as run
    else:
        from speculators.execution.run import run

        if torchrun:
            return guarded(folder, run)
    with first_machine(folder) if settings.launch.num_nodes > 1 else nullcontext(True) as first:
        if not first:
            return guarded(folder, run)
        objective = run_marked(folder, run)
        if settings.export.hub_repo is not None:
            push_finished(folder, settings)  # after DONE: whatever becomes of it, the run is finished
    return objective


def work(folder: Path, own_device: bool) -> None:
    """Entry point of a trial's process; arguments as of `speculators.sweep.worker.work`."""
    from speculators.sweep.worker import work as work_in

    work_in(folder, own_device, launch)
