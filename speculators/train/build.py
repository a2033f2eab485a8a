"""Builds a new draft: created on the meta device, materialised on its own, initialised by the algorithm."""

import torch

from speculators.config import SpeculatorModelConfig
from speculators.model import SpeculatorModel
from speculators.protocols.initialisation import Initialisation


def on_meta(config: SpeculatorModelConfig) -> SpeculatorModel:
    """The draft that `config` describes, on the meta device: shapes without memory."""
    with torch.device("meta"):
        return SpeculatorModel.for_config(config)(config)


def build(config: SpeculatorModelConfig, given: Initialisation, device: torch.device) -> SpeculatorModel:
    """The draft that `config` describes, float32, on `device`.

    Args:
        config: the published config.
        given: weights from which the draft may be initialised.
        device: where it is materialised; no part of it is allocated on another device.

    Raises:
        RuntimeError: the algorithm's `initialise` left a tensor without values.
    """
    model = on_meta(config).float().to_empty(device=device)
    # to_empty leaves memory uninitialised; NaN reveals what `initialise` does not set.
    floats = {n: t for n, t in (*model.named_parameters(), *model.named_buffers()) if t.is_floating_point()}
    with torch.no_grad():
        for tensor in floats.values():
            tensor.fill_(float("nan"))
    model.initialise(given)
    named = (*model.named_parameters(), *model.named_buffers())
    forgotten = [n for n, t in named if t.is_floating_point() and not torch.isfinite(t).all()]
    if forgotten:
        raise RuntimeError(f"{type(model).__name__}.initialise must set {', '.join(forgotten)}")
    return model
