"""Starts runs. What a run imports is imported only where it runs, so the process that only waits for it stays small."""

import os
from pathlib import Path


def launch(folder: Path) -> float:
    """Run what a folder's run.yaml pins, in this process or in several under torchrun.

    Args:
        folder: of the run.

    Returns:
        What evaluation.objective names; NaN if nothing was evaluated.

    Raises:
        As `speculators.execution.launch.launch`.
    """
    from speculators.execution.launch import guarded
    from speculators.execution.launch import launch as run_marked
    from speculators.runfolder.run_yaml import read_pin

    torchrun = read_pin(folder).launch.mode == "torchrun"
    if torchrun and "TORCHELASTIC_RUN_ID" not in os.environ:
        from speculators.execution.torchrun import run_in_processes

        return run_marked(folder, run_in_processes)
    from speculators.execution.run import run

    return guarded(folder, run) if torchrun else run_marked(folder, run)


def work(folder: Path, own_device: bool) -> None:
    """What the process of a trial does; arguments as of `speculators.sweep.worker.work`."""
    from speculators.sweep.worker import work as work_in

    work_in(folder, own_device, launch)
