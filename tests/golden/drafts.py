"""The inputs of golden drafts, in the form in which models here read them."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from speculators.data.row_plan import put_together
from speculators.protocols.batch import Batch, spans_of
from speculators.protocols.head import VerifierHead
from speculators.protocols.rows import SequenceRows


def head(folder: Path, golden: dict[str, Tensor]) -> VerifierHead:
    """The verifier's ends, as far as there are any: in the file, or beside it where upstream does not save them."""
    tensors = load_file(folder / "model.safetensors")
    embed_VH = golden.get("embed_tokens", tensors.get("embed_tokens.weight", torch.zeros(0)))
    return VerifierHead(embed_VH, golden.get("lm_head", embed_VH))


def batch_of(golden: dict[str, Tensor]) -> Batch:
    """The golden inputs, with every row whose logits are golden: row (s, n) is the n-th anchor's slot s.

    For its drafts that unroll, upstream's data set shifts tokens one to the left of the states, and counts positions from 1.
    Blocks begin with the token after their anchor.
    """
    token_BT, position_BT, document_BT = (golden[k] for k in ("input_ids", "position_ids", "document_ids"))
    slots, length = len(golden["logits"]), token_BT.numel()
    anchor_N = torch.arange(length)
    if "anchor_positions" in golden:
        anchor_N = golden["anchor_positions"] - 1
    else:
        token_BT, position_BT = torch.nn.functional.pad(token_BT[:, :-1], (1, 0)), position_BT - 1
    slot_R, anchor_R = torch.arange(1, slots + 1).repeat_interleave(len(anchor_N)), anchor_N.repeat(slots)
    target_R = (anchor_R + slot_R).clamp(max=length - 1)
    own_R = (anchor_R + slot_R < length) & (document_BT[0][anchor_R] == document_BT[0][target_R])
    planned = SequenceRows(anchor_R, slot_R, torch.arange(len(anchor_N)).repeat(slots), own_R, slots)
    plan = put_together([planned], [length], [0])
    return Batch(token_BT, position_BT, document_BT, plan, spans_of(document_BT))
