"""A packed batch of conversations and the rows that are supervised in it.

Shape legend, used everywhere: B batch, T tokens, H hidden, V vocabulary, D draft vocabulary, N rows (supervised target
positions), S slots, K speculative tokens. A tensor's name ends in its shape: `hidden_SNH`.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Packed sequences.

    Position p = b * T + t of the flattened batch is a *target* if the verifier's state there is to be imitated: it
    predicts token p + 1, which is supervised and of the same document. Slot s of target p is drafted from anchor
    p - s, the last verified position.

    Attributes:
        token_BT: int64 token ids; padding is 0 with document -1.
        position_BT: int64 position inside the document, from 0.
        document_BT: int64 document number, unique in the batch; -1 is padding. Attention never crosses documents.
        target_N: int64 flat target positions, ascending; made on the host, so that no step waits for the device.
        valid_SN: bool, True where the anchor target_N - s (s = 1 ... S) lies in the target's document.
    """

    token_BT: Tensor
    position_BT: Tensor
    document_BT: Tensor
    target_N: Tensor
    valid_SN: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return replace(self, **{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})
