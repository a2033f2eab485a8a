"""What is computed again for the backward pass gives the same gradients, and is not kept."""

import torch
from torch import Tensor

from speculators.nn.norm import RMSNorm


def test_a_norm_keeps_its_input_alone_and_has_the_gradients_of_its_formula() -> None:
    torch.manual_seed(0)
    norm, x_BTH = RMSNorm(16, 1e-6), torch.randn(2, 3, 16, requires_grad=True)
    slope_BTH, kept = torch.randn(2, 3, 16), []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output_BTH = norm(x_BTH)
    assert sum(tensor.numel() for tensor in kept) == x_BTH.numel()
    plain_BTH = norm.weight * (x_BTH * torch.rsqrt(x_BTH.pow(2).mean(-1, keepdim=True) + 1e-6))
    assert torch.equal(output_BTH, plain_BTH)
    found = torch.autograd.grad(output_BTH, (x_BTH, norm.weight), slope_BTH)
    wanted = torch.autograd.grad(plain_BTH, (x_BTH, norm.weight), slope_BTH)
    assert all(map(torch.equal, found, wanted))
