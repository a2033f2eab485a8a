"""Checkpoints that upstream made: every one of a type known here loads and computes what upstream computes."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from speculators.data.row_plan import put_together
from speculators.model import SpeculatorModel, TrainingContext
from speculators.protocols.batch import Batch, spans_of
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.rows import SequenceRows

from .conftest import ALGORITHMS

GOLDEN = Path(__file__).parents[1] / "golden"
CHECKPOINTS = sorted(p.parent for p in (GOLDEN / "upstream").glob("*/config.json"))


def model_type(folder: Path) -> str:
    """Of the checkpoint, as raw JSON says."""
    return json.loads((folder / "config.json").read_text())["speculators_model_type"]


def rows(model: SpeculatorModel, folder: Path, golden: dict[str, Tensor]) -> tuple[Tensor, Batch]:
    """[S, N, D] logits of the training forward pass on the golden inputs, of every slot at every position, and the batch.

    Upstream's data set shifts tokens one to the left of the states, and counts positions from 1.
    """
    token_BT = torch.nn.functional.pad(golden["input_ids"][:, :-1], (1, 0))
    document_BT = golden["document_ids"]
    slots, length = len(golden["logits"]), token_BT.numel()
    target_R, slot_R = torch.arange(length).repeat(slots), torch.arange(1, slots + 1).repeat_interleave(length)
    own_R = document_BT[0][(target_R - slot_R).clamp_min(0)] == document_BT[0][target_R]
    planned = SequenceRows(target_R - slot_R, slot_R, target_R, own_R & (target_R >= slot_R), slots)
    batch = Batch(
        token_BT, golden["position_ids"] - 1, document_BT, put_together([planned], [length], [0]), spans_of(document_BT)
    )
    tensors = load_file(folder / "model.safetensors")
    embed_VH = tensors.get("embed_tokens.weight", torch.zeros(0))
    width = golden["hidden_states"].shape[-1] // 3
    states = VerifierStates(last_BTH=golden["hidden_states"][..., :width], aux_BTA=golden["hidden_states"])
    with torch.no_grad():
        # No setting changes what these drafts compute in training.
        made = model(batch, states, VerifierHead(embed_VH, embed_VH), TrainingContext[Any](None, 0.0))
    ((term,),) = [rows.terms for rows in made.rows.values()]
    (head_DH,) = term.weights
    return (term.input_RI @ head_DH.T).unflatten(0, (slots, length)), batch


@pytest.mark.parametrize("name", ALGORITHMS)
def test_there_is_a_checkpoint_of_every_shared_type(name: str) -> None:
    """Of the types here, upstream 0.9.0 has those of the golden files and no other."""
    upstream = set(json.loads((GOLDEN / "upstream" / "model_types.json").read_text()))
    assert (name in {model_type(c) for c in CHECKPOINTS}) == (name in upstream)


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda p: p.name)
def test_it_gives_upstreams_logits(folder: Path) -> None:
    """Every slot of two packed documents, to 1e-5."""
    golden = load_file(folder / "golden.safetensors")
    model = SpeculatorModel.from_pretrained(folder).eval()
    logits_SND, batch = rows(model, folder, golden)
    compared = 0
    for slot in range(1, len(logits_SND) + 1):
        targets = batch.rows.of_slot(batch.rows.target_R, slot)[batch.rows.of_slot(batch.rows.valid_R, slot)]
        torch.testing.assert_close(
            logits_SND[slot - 1, targets], golden["logits"][slot - 1, targets - slot], rtol=1e-5, atol=1e-5
        )
        compared += len(targets)
    assert compared == sum(2 * (13 - slot) for slot in range(1, 4))


@pytest.mark.slow
@pytest.mark.skipif("SPECULATORS_UPSTREAM_PYTHON" not in os.environ, reason="names no Python with upstream's release")
@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda p: p.name)
def test_upstream_loads_ours(folder: Path, tmp_path: Path) -> None:
    """Saved again from here, upstream loads it and computes the golden logits."""
    golden = load_file(folder / "golden.safetensors")
    expected = golden.pop("logits")
    model = SpeculatorModel.from_pretrained(folder)
    # Upstream loads a draft only with a verifier.
    embed_VH = load_file(folder / "model.safetensors")["embed_tokens.weight"]
    verifier = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(embed_VH), hidden_size=embed_VH.shape[1], num_hidden_layers=6, num_attention_heads=4)
    )
    verifier.save_pretrained(tmp_path / "verifier")
    model.config.speculators_config.verifier.name_or_path = str(tmp_path / "verifier")
    model.save_pretrained(tmp_path)
    # Where transformers leaves what is missing uninitialised, upstream does not see that the embedding is.
    tensors = load_file(tmp_path / "model.safetensors") | {"embed_tokens.weight": embed_VH}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    save_file(golden, tmp_path / "in.safetensors")
    script = (GOLDEN / "make_upstream_logits.py").resolve()
    command = [os.environ["SPECULATORS_UPSTREAM_PYTHON"], str(script), ".", "in.safetensors", "out.safetensors"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(load_file(tmp_path / "out.safetensors")["logits"], expected, rtol=1e-5, atol=1e-5)
