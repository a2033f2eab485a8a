"""FSDP2: parameters, gradients and optimizer states of a draft, divided among the processes by torch's `fully_shard`.

All parameters are one group. A layer that is unrolled is called several times in a step, and as a group of its own it would be
gathered each time.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from speculators.model import SpeculatorModel
from speculators.train.build import on_meta


def shard(model: nn.Module) -> None:
    """Leave each process its part of every parameter, in place; the values must be equal in all processes."""
    fully_shard(model)


def reshard(model: nn.Module) -> None:
    """Release the whole parameters that forward passes without a backward pass have gathered; does nothing without sharding."""
    if isinstance(model, FSDPModule):
        model.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor, gathered from all processes, which must all call this; itself if it is not sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors, of which the device holds one at a time; all processes must call this.

    Args:
        tensors: by name; those that are sharded are gathered, and moved to the host.
        keep: whether this process needs them; the others get none.
    """
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if keep:
            found[name] = tensor if full is tensor else full.cpu()
    return found


def part(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, divided like another one; itself if that is not sharded."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def unsharded(model: SpeculatorModel) -> SpeculatorModel:
    """A copy of a sharded draft with whole parameters, in all processes, which must all call this; itself without sharding."""
    if not isinstance(model, FSDPModule):
        return model
    model.reshard()
    plain = on_meta(model.config).float().to_empty(device=model.device)
    sources = _tensors(model)
    for name, tensor in _tensors(plain).items():
        tensor.copy_(whole(sources[name]))
        tensor.requires_grad_(sources[name].requires_grad)
    return plain.train(model.training)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
