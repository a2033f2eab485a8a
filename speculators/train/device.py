"""Where a run computes: the device that was asked for, and accelerate set up on it."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from speculators.settings.run_config import RunConfig


def start_accelerator(device: torch.device, run: RunConfig, folder: Path) -> Accelerator:
    """accelerate's `Accelerator` on `device`, with the run's precision and tracker.

    Args:
        device: what `resolve` found.
        run: `precision` and `tracker` are read.
        folder: trackers that write files write under it.
    """
    if device.type != "cpu":
        torch.accelerator.set_device_index(device.index or 0)
    # accelerate keeps one state a process and refuses a second run with another precision or device.
    AcceleratorState._reset_state(reset_partial_state="WORLD_SIZE" not in os.environ)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if run.precision == "bf16" else "no",
        log_with=None if run.tracker.name == "none" else run.tracker.name,
        project_dir=folder,
    )
