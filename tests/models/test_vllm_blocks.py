"""Drafts of blocks published here, against what vLLM's own modules compute with them (`tests/golden/make_vllm_blocks.py`)."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from speculators.model import SpeculatorModel, TrainingContext
from speculators.nn.vocabulary import widen
from speculators.proposals.chain import draft_chain
from speculators.protocols.drafter import Context
from speculators.protocols.hidden_states import VerifierStates
from tests.golden.drafts import batch_of, head

DRAFTS = sorted(path.parent for path in (Path(__file__).parents[1] / "golden" / "vllm_blocks").glob("*/config.json"))
every = pytest.mark.parametrize("folder", DRAFTS, ids=lambda p: p.name)


def same(found: Tensor, expected: Tensor) -> None:
    """To 1e-4."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def states_of(aux_BTA: Tensor) -> VerifierStates:
    """The joined states of three layers; block drafts read no other."""
    return VerifierStates(aux_BTA[..., : aux_BTA.shape[-1] // 3], aux_BTA)


@every
@torch.no_grad()
def test_training_computes_what_vllm_does(folder: Path) -> None:
    """Every slot of every block: the layers' output, the head's logits, with the Markov term, and the confidence."""
    golden = load_file(folder.with_suffix(".safetensors"))
    model, batch, ends = SpeculatorModel.from_pretrained(folder).eval(), batch_of(golden), head(folder, golden)
    settings: Any = SimpleNamespace(dpace_alpha=None)
    made = model(batch, states_of(golden["hidden_states"]), ends, TrainingContext(settings, 0.0))
    (rows,) = made.rows.values()
    logits = [term.input_RI @ term.weights[0].T for term in rows.terms]
    assert batch.rows.valid_R.all() and len(logits) == 1 + ("corrected" in golden)
    same(rows.terms[0].input_RI, golden["hidden"].flatten(0, 1))
    same(widen(logits[0], rows.kept_D, len(ends.head_VH)), golden["logits"].flatten(0, 1))
    if "corrected" in golden:
        same(widen(sum(logits), rows.kept_D, len(ends.head_VH)), golden["corrected"].flatten(0, 1))
    assert ("confidence" in golden) == ("confidence" in made.extra_losses)
    if "confidence" in golden:
        foreseen_R = model.foreseen(rows.terms[0].input_RI, rows.terms[1].input_RI)
        same(foreseen_R.sigmoid(), golden["confidence"].flatten())


@every
@torch.no_grad()
def test_drafting_computes_what_vllm_does(folder: Path) -> None:
    """One round for all blocks side by side, each after its own text, which is padded on the left."""
    golden = load_file(folder.with_suffix(".safetensors"))
    model, ends = SpeculatorModel.from_pretrained(folder).eval(), head(folder, golden)
    start_B, token_T, position_T = golden["anchor_positions"], golden["input_ids"][0], golden["position_ids"][0]
    length_B1 = position_T[start_B].unsqueeze(1)
    place_BT = start_B.unsqueeze(1) - int(length_B1.max()) + torch.arange(int(length_B1.max()))
    valid_BT = place_BT >= start_B.unsqueeze(1) - length_B1
    place_BT = place_BT.clamp_min(0)
    context = Context(
        token_T[place_BT],
        token_T[place_BT + 1],
        states_of(golden["hidden_states"][0][place_BT]),
        position_T[place_BT],
        valid_BT,
    )
    seen: list[Tensor] = []

    def teach(logits_BV: Tensor) -> tuple[Tensor, None]:
        seen.append(logits_BV)
        return token_T[
            (start_B + len(seen)).clamp(max=len(token_T) - 1)
        ], None  # after the last level it counts for nothing

    draft_chain(model.drafter(ends, len(start_B)), context, len(golden["hidden"]), teach)
    same(torch.stack(seen), golden.get("corrected", golden["logits"]))
