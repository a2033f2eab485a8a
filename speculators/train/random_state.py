"""The state of the random generators of a process as JSON: Python's, NumPy's, torch's and the accelerator's."""

import random
from typing import Any

import numpy
import torch


def get(device: torch.device) -> dict[str, Any]:
    """The state, in values that JSON can hold.

    Args:
        device: on which the process computes.
    """
    version, words, gauss = random.getstate()
    found: Any = numpy.random.get_state()
    name, keys, *rest = found
    state = {
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), *rest],
        "torch": _text(torch.get_rng_state()),
    }
    if device.type != "cpu":
        state[device.type] = _text(torch.get_device_module(device).get_rng_state())
    return state


def put(state: dict[str, Any], device: torch.device) -> None:
    """Set the generators to what `get` gave, on a device of the same kind."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), *rest))
    torch.set_rng_state(_bytes(state["torch"]))
    if device.type in state:
        torch.get_device_module(device).set_rng_state(_bytes(state[device.type]))


def _text(state: torch.Tensor) -> str:
    return bytes(state.tolist()).hex()


def _bytes(state: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(state)), dtype=torch.uint8)
