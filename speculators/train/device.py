"""Sets up accelerate and the precision of float32 products on a run's device."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
    # accelerate keeps one state per process and refuses a second run with another precision or device.
    AcceleratorState._reset_state(reset_partial_state="WORLD_SIZE" not in os.environ)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if run.precision == "bf16" else "no",
        log_with=None if run.tracker.name == "none" else run.tracker.name,
        project_dir=folder,
    )


@contextmanager
def float32_products(device: torch.device, precision: str) -> Iterator[None]:
    """While entered, an accelerator computes float32 products in TF32, unless precision is `fp32`.

    For training alone: decoding compares logits more closely than TF32 rounds them.

    Args:
        device: where the run computes; products on a CPU are not affected.
        precision: the run's.
    """
    before = torch.get_float32_matmul_precision()
    if device.type != "cpu" and precision != "fp32":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
