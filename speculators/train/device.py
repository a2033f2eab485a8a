"""Where a run computes: the device that was asked for, and accelerate set up on it."""

import os
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from speculators.run_config import RunConfig


def available() -> list[str]:
    """Names of the devices of this machine, best first; always ends in `cpu`."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return ["cpu"]
    if accelerator.type == "mps":
        return ["mps", "cpu"]
    return [f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count())] + ["cpu"]


def resolve(name: str) -> torch.device:
    """The device that a run's `device` names.

    Args:
        name: `auto`, `cpu`, `mps`, or `cuda`, `xpu`, `npu` with or without `:N`. Under torchrun a name without number
            is this process's own device.

    Raises:
        ValueError: this machine has no such device.
    """
    there = available()
    local = os.environ.get("LOCAL_RANK", "0")
    wanted = there[0].split(":")[0] if name == "auto" else name
    found = next((d for d in there if d in (wanted, f"{wanted}:{local}")), None)
    if found is not None:
        return torch.device(found)
    here = f"this machine has {', '.join(there)}"
    if any(d.startswith(f"{wanted}:") for d in there):
        raise ValueError(f"launch.num_processes: process {local} has no {wanted} of its own; {here}")
    raise ValueError(f"device={name} is not there; {here}. Set device=auto")


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


def memory_gb(device: torch.device) -> float:
    """Peak gigabytes allocated on an accelerator; on the CPU what the process holds now."""
    if device.type in ("cuda", "xpu"):
        return torch.accelerator.max_memory_allocated(device) / 1e9
    return psutil.Process().memory_info().rss / 1e9
