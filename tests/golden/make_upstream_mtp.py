"""An MTP layer of upstream's speculators 0.9.0, with the logits of its first step. Run it where upstream is installed.

UPSTREAM/bin/python tests/golden/make_upstream_mtp.py                 writes tests/golden/upstream/mtp_qwen3/
UPSTREAM/bin/python tests/golden/make_upstream_mtp.py FOLDER IN OUT     loads a draft, computes OUT from the inputs IN

Later steps of upstream see the keys of their own step alone, which no engine computes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Qwen3Config
from upstream_drafts import main, randomise, usage

from speculators.models.mtp import MTPDraftModel, MTPSpeculatorConfig

VOCAB, HIDDEN, TOKENS = 128, 32, 26
DRAFTS: dict[str, dict[str, Any]] = {
    "mtp_qwen3": {
        "transformer_layer_config": Qwen3Config(
            vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
            head_dim=8, max_position_embeddings=2048, num_hidden_layers=3,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
    },
}  # fmt: skip


def draft(algorithm: str, options: dict[str, Any]) -> MTPDraftModel:
    """A draft of random weights, norms included."""
    torch.manual_seed(0)
    model = MTPDraftModel(MTPSpeculatorConfig(**options, speculators_config=usage(algorithm)))
    randomise(model, VOCAB)
    del model.verifier_lm_head  # as upstream does before training
    return model


def inputs(model: MTPDraftModel) -> dict[str, Tensor]:
    """Two documents side by side; tokens one to the left of the states and positions from 1, as upstream's other drafts have."""
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, TOKENS, HIDDEN),
        "input_ids": torch.randint(VOCAB, (1, TOKENS)),
        "document_ids": torch.tensor([[0] * 15 + [1] * 11]),
        "position_ids": torch.tensor([[*range(1, 16), *range(1, 12)]]),
        "embed_tokens": model.embed_tokens.weight.data,
        "lm_head": model.lm_head.weight.data,
    }


@torch.no_grad()
def logits(model: MTPDraftModel, given: dict[str, Tensor]) -> Tensor:
    """[1, tokens, vocabulary] of the first step; this class takes tokens where they are, and leaves out the last two rows."""
    model.float().eval()
    model.embed_tokens.weight.copy_(given["embed_tokens"])
    model.lm_head.weight.copy_(given["lm_head"])
    model.config.speculators_config.proposal_methods[0].speculative_tokens = 1
    (found,), _, _ = model(
        input_ids=pad(given["input_ids"], (1, 1)),
        hidden_states=pad(given["hidden_states"], (0, 0, 0, 2)),
        position_ids=pad(given["position_ids"] - 1, (0, 2)),
    )
    model.config.speculators_config.proposal_methods[0].speculative_tokens = 3
    return found


main({"mtp": MTPDraftModel}, DRAFTS, draft, inputs, logits)
