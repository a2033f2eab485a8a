"""Sums of losses and per-slot counts that stay on the device until they are read."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from speculators.losses.metrics import expected_acceptance_length

# Numbers by name, and lists with one number per slot.
Readings = dict[str, Any]


class Meter:
    """Collects what micro-batches report; one transfer to the host per `read`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Add device tensors by name; `loss` is a share of a step's loss, names in `_S` are sums per slot."""
        for name, value in sums.items():
            value = value.detach().double() if value.device.type != "mps" else value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def read(self, accelerator: Accelerator, steps: float = 1) -> Readings:
        """Means since the last read, over all processes; empties the meter.

        Args:
            accelerator: reduces over processes.
            steps: what scalar losses are divided by.

        Returns:
            The scalars; `accuracy` (draft's first choice is the verifier's) and `overlap` (chance of acceptance when
            sampling) per slot; `acceptance`, the acceptance length that greedy verification from every anchor gives.
        """
        names = list(self._sums)
        flat = torch.cat([self._sums[n].reshape(-1) for n in names])
        parts = accelerator.reduce(flat, "sum").cpu().split([self._sums[n].numel() for n in names])  # type: ignore[union-attr] # reduce is typed for nests
        values = dict(zip(names, parts, strict=True))
        self._sums = {}
        count_S = values.pop("count_S").clamp(min=1)
        accuracy_S, overlap_S = values.pop("correct_S") / count_S, values.pop("overlap_S") / count_S
        chained_S = values.pop("kept_S") / values.pop("tried_S").clamp(min=1)
        readings: Readings = {n: v.item() / (steps * accelerator.num_processes) for n, v in values.items()}
        readings["accuracy"] = accuracy_S.tolist()
        readings["overlap"] = overlap_S.tolist()
        readings["acceptance"] = float(expected_acceptance_length(chained_S))
        return readings
