"""Noise that does not depend on how a batch is split."""

import torch
from torch import Tensor

from speculators.protocols.batch import Batch


def uniform_noise(batch: Batch, like_BTH: Tensor) -> Tensor:
    """Noise in [-0.5, 0.5) of the shape and dtype of a tensor of the batch, 0 at padding.

    Drawn on the device, sequence by sequence, from the seeds of the row plan: a resumed run has the same, however its
    steps are split into micro-batches and processes. Another kind of device draws other numbers.

    Args:
        batch: its plan has seeds and lengths.
        like_BTH: [B, T, ...].
    """
    noise_BTH = torch.zeros_like(like_BTH)
    for b, (seed, length) in enumerate(zip(batch.rows.seeds, batch.rows.lengths, strict=True)):
        generator = torch.Generator(like_BTH.device).manual_seed(seed)
        own_TH = noise_BTH[b, :length]
        own_TH.copy_(torch.rand(own_TH.shape, generator=generator, device=like_BTH.device) - 0.5)
    return noise_BTH
