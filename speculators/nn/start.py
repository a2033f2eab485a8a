"""Initial weights of a new draft."""

import torch
from torch import nn

from speculators.nn.norm import RMSNorm


@torch.no_grad()
def start_weights(module: nn.Module, deviation: float) -> None:
    """Linear weights and embeddings from a normal distribution, biases zero, norms one.

    Args:
        module: every layer below it is set.
        deviation: standard deviation, the layer config's `initializer_range`.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Embedding):
            layer.weight.normal_(0.0, deviation)
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            layer.bias.zero_()
        if isinstance(layer, RMSNorm):
            layer.weight.fill_(1.0)
