"""Devices of this machine: their names, the choice for a run, and their memory use."""

import os
import time

import psutil
import torch


def available() -> list[str]:
    """Names of the devices of this machine, best first; always ends in `cpu`."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return ["cpu"]
    if accelerator.type == "mps":
        return ["mps", "cpu"]
    return [f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count())] + ["cpu"]


def resolve(name: str) -> torch.device:
    """Resolve a run's `device` setting to a device of this machine.

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
        raise ValueError(
            f"launch.num_processes: there is no {wanted} for process {local}; {here}. Start fewer processes"
        )
    raise ValueError(f"device={name} does not exist; {here}. Set device=auto")


def bfloat16_slowdown() -> float:
    """How many times as long a matrix product takes in bfloat16 as in float32 on this machine's CPU, which may emulate it."""

    def seconds(dtype: torch.dtype) -> float:
        left, right = torch.ones(64, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
        times = []
        for _ in range(3):
            start = time.process_time()
            torch.mm(left, right)
            times.append(time.process_time() - start)
        return min(times)

    return seconds(torch.bfloat16) / seconds(torch.float32)


def memory_gb(device: torch.device) -> float:
    """Peak gigabytes allocated on an accelerator; on the CPU the current resident memory of the process."""
    if device.type in ("cuda", "xpu"):
        return torch.accelerator.max_memory_allocated(device) / 1e9
    return psutil.Process().memory_info().rss / 1e9
