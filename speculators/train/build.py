"""Builds a new draft: created on the meta device, materialised on its own, initialised by the algorithm."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from speculators.config import SpeculatorModelConfig
from speculators.model import SpeculatorModel
from speculators.protocols.initialisation import Initialisation

# The weights of a published draft.
WEIGHTS = "model.safetensors"


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


def unfit(model: SpeculatorModel, checkpoint: Path) -> str | None:
    """Why a published draft's weights cannot be those of another draft; None if they can. Reads the header alone.

    Args:
        model: of any device.
        checkpoint: the published folder.
    """
    own = model.state_dict()
    try:
        with safe_open(checkpoint / WEIGHTS, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        return f"its {WEIGHTS} cannot be read ({error})"
    if unknown := sorted(shapes.keys() - own.keys()):
        return f"it has {unknown[0]}, which this draft has not"
    differing = [name for name, shape in shapes.items() if shape != tuple(own[name].shape)]
    if differing:
        name = differing[0]
        return f"its {name} has the shape {list(shapes[name])}, and this draft's has {list(own[name].shape)}"
    return None


def start_from(model: SpeculatorModel, checkpoint: Path) -> None:
    """Load a published draft's weights into a new one; tensors that were not published keep their values.

    Args:
        model: built; the shapes fit.
        checkpoint: the published folder.
    """
    model.load_state_dict(load_file(checkpoint / WEIGHTS, device=str(model.device)), strict=False)
