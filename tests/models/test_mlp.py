"""The MLP speculator's mathematics, against vLLM's class and by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from speculators.composition.compose import compose
from speculators.config import SpeculatorModelConfig
from speculators.model import SpeculatorModel
from speculators.models.mlp import MLPSpeculator
from speculators.protocols.drafter import Context
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.utils.messages import WrongInput

GOLDEN = Path(__file__).parents[1] / "golden" / "vllm_mlp"


def config(stages: int, **others: Any) -> SpeculatorModelConfig:
    """A published config."""
    use = {
        "algorithm": "mlp",
        "default_proposal_method": "greedy",
        "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": stages}],
        "verifier": {"name_or_path": "none", "architectures": []},
    }
    counts = {"n_predict": stages, "top_k_tokens_per_head": [1] * stages}
    return SpeculatorModelConfig.from_dict(
        {"speculators_model_type": "mlp", "speculators_config": use, **counts, **others}
    )


def drafted(model: SpeculatorModel, state_BH: torch.Tensor, token_BS: torch.Tensor) -> torch.Tensor:
    """[S, B, V] logits of drafting with these tokens."""
    head = VerifierHead(torch.zeros(1, 1), torch.zeros(1, 1))
    drafter, zero_B1 = model.drafter(head, len(state_BH)), torch.zeros_like(token_BS[:, :1])
    states = VerifierStates(state_BH.unsqueeze(1), None)
    context = Context(zero_B1, token_BS[:, :1], states, zero_B1, zero_B1 == 0)
    with torch.no_grad():
        found = [drafter.extend(context, token_BS.shape[1]).logits_BNV]
        found += [drafter.expand(token_BS[:, i : i + 1], zero_B1).logits_BNV for i in range(1, token_BS.shape[1])]
    return torch.stack(found).squeeze(2)


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.safetensors")), ids=lambda f: f.stem)
def test_it_computes_what_vllms_class_computes(file: Path) -> None:
    """tests/golden/make_vllm_mlp.py made them, with weights tied and not, and the state scaled and not."""
    weights = load_file(file)
    logits_SBV, state_BH, token_BS = (weights.pop(name) for name in ("logits", "state", "token"))
    tied, scaled = (word in file.stem for word in ("tied", "scaled"))
    vocab, width = weights["emb.0.weight"].shape
    model = MLPSpeculator(
        config(
            len(logits_SBV),
            vocab_size=vocab,
            emb_dim=state_BH.shape[1],
            inner_dim=width,
            tie_weights=tied,
            scale_input=scaled,
        )
    )
    model.load_state_dict(weights)
    torch.testing.assert_close(drafted(model, state_BH, token_BS), logits_SBV, rtol=1e-5, atol=1e-5)


def test_a_stage_by_hand() -> None:
    """Two stages two wide: a = 0.5 ** 0.25, b = sqrt(1 - a * a); (1, 0) + b / a (0, 1), normalised, through GELU."""
    model = MLPSpeculator(config(2, vocab_size=2, emb_dim=2, inner_dim=0))
    with torch.no_grad():
        for part in (*model.proj, *model.emb, *model.head):
            part.get_parameter("weight").copy_(torch.eye(2))
    found = drafted(model, torch.tensor([[1.0, 0.0]]), torch.tensor([[1]]))
    torch.testing.assert_close(found[0, 0], torch.tensor([1.049856, 0.595435]), rtol=0, atol=1e-6)


def test_one_stage_cannot_be_tied() -> None:
    """Refused in a run and in a published config; so are candidates for another number of stages."""
    one = ["algorithm=mlp", "algorithm.n_predict=1", "proposal.speculative_tokens=1"]
    with pytest.raises(WrongInput, match="one stage has none to share weights with"):
        compose(one)
    assert compose([*one, "algorithm.tie_weights=false"]).algorithm.slots == 1
    with pytest.raises(ValueError, match="one stage has none to share weights with"):
        config(1, tie_weights=True)
    with pytest.raises(ValueError, match="must have n_predict=3 entries"):
        config(3, top_k_tokens_per_head=[5, 4])


def test_no_engine_serves_it() -> None:
    """export=vllm says why before anything is trained."""
    with pytest.raises(WrongInput, match="has no runner for them; use export=none"):
        compose(["algorithm=mlp", "export=vllm"])
