"""The precision that products are taken in."""

import torch
from torch import Tensor


def product_dtype(x: Tensor) -> torch.dtype:
    """Autocast's dtype on x's device where that is on, else x's own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
