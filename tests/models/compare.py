"""A drafted document, and the comparison of a draft's two ways to compute with a naive one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from speculators.config import SpeculatorModelConfig
from speculators.data.collate import collate
from speculators.data.template import Document
from speculators.model import SpeculatorModel, TrainingContext
from speculators.proposals.chain import draft_chain
from speculators.protocols.drafter import Context
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates

from .naive import NaiveDraft

VOCAB, HIDDEN, LENGTH, SLOTS = 23, 16, 8, 3


def layer_config(model_type: str, layers: int, **others: Any) -> dict[str, Any]:
    """A layer config of which no two sizes are equal."""
    return {
        "model_type": model_type, "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": 20,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
        "hidden_act": "silu", "max_position_embeddings": 64, "rms_norm_eps": 1e-3, "attention_bias": False,
        "mlp_bias": False, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
        "tie_word_embeddings": False, **others,
    }  # fmt: skip


def make_draft(values: Mapping[str, Any]) -> SpeculatorModel:
    """A draft of a published config, every floating tensor random."""
    proposal = {"proposal_type": "greedy", "speculative_tokens": SLOTS}
    use = {
        "algorithm": values["speculators_model_type"],
        "default_proposal_method": "greedy",
        "proposal_methods": [proposal],
        "verifier": {"name_or_path": "none", "architectures": []},
    }
    config = SpeculatorModelConfig.from_dict({**values, "speculators_config": use})
    torch.manual_seed(0)
    model = SpeculatorModel.for_config(config)(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return model


def make_verifier(aux_size: int) -> tuple[VerifierHead, VerifierStates]:
    """Random ends, of which logits are scaled and capped, and random states of a document."""
    g = torch.Generator().manual_seed(1)
    head = VerifierHead(
        torch.randn(VOCAB, HIDDEN, generator=g), torch.randn(VOCAB, HIDDEN, generator=g), logit_scale=0.7, softcap=9.0
    )
    aux = torch.randn(1, LENGTH, aux_size, generator=g) if aux_size else None
    return head, VerifierStates(torch.randn(1, LENGTH, HIDDEN, generator=g), aux)


TOKENS = [3, 22, 7, 7, 0, 15, 9, 11]


def check_training(model: SpeculatorModel, head: VerifierHead, states: VerifierStates, naive: NaiveDraft) -> None:
    """Every valid row of the training pass, as logits, equals the naive draft's."""
    batch = collate([[Document(TOKENS, [True] * LENGTH)]], SLOTS)
    with torch.no_grad():
        # No setting changes what these drafts compute in training.
        (rows,) = model(batch, states, head, TrainingContext[Any](None, 0.0)).rows.values()
    (term,) = rows.terms
    compared = 0
    for r in batch.rows.valid_R.nonzero().flatten().tolist():
        wide = torch.full((VOCAB,), -torch.inf)
        logits_D = term.weights[0] @ term.input_RI[r]
        kept = torch.arange(VOCAB) if rows.kept_D is None else rows.kept_D
        wide[kept] = head.scaled(logits_D) if rows.scaled_as_verifier else logits_D
        expected = naive.draft(TOKENS, int(batch.rows.anchor_R[r]), int(batch.rows.slot_R[r]))[-1]
        torch.testing.assert_close(wide, expected, rtol=5e-4, atol=5e-4)
        compared += 1
    assert compared == 6 + 5 + 4


def check_drafting(model: SpeculatorModel, head: VerifierHead, states: VerifierStates, naive: NaiveDraft) -> None:
    """Drafting after two rounds of verified positions, the second padded on the left, equals the naive draft's."""
    drafter, seen = model.drafter(head, 1), list[Tensor]()

    def teach(logits_BV: Tensor) -> tuple[Tensor, None]:
        seen.append(logits_BV[0])
        return torch.tensor([TOKENS[anchor + 1 + len(seen)]]), None

    for start, anchor, padding in ((0, 2, 0), (3, 4, 2)):
        seen.clear()
        places = [0] * padding + list(range(start, anchor + 1))
        aux_BTA = None if states.aux_BTA is None else states.aux_BTA[:, places]
        valid_BT = torch.tensor([[False] * padding + [True] * (len(places) - padding)])
        next_BT = torch.tensor([[TOKENS[p + 1] for p in places]])
        context = Context(
            torch.tensor([[TOKENS[p] for p in places]]),
            next_BT,
            VerifierStates(states.last_BTH[:, places], aux_BTA),
            torch.tensor([places]),
            valid_BT,
        )
        with torch.no_grad():
            draft_chain(drafter, context, SLOTS - 1, teach)
        for found, expected in zip(seen, naive.draft(TOKENS, anchor, SLOTS - 1), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
