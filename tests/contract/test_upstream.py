"""Checkpoints that upstream made: every one of a type known here loads and computes what upstream computes."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from speculators.model import SpeculatorModel, TrainingContext
from speculators.protocols.batch import Batch
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from tests.golden.drafts import batch_of, head

from .conftest import ALGORITHMS

GOLDEN = Path(__file__).parents[1] / "golden"
CHECKPOINTS = sorted(p.parent for p in (GOLDEN / "upstream").glob("*/config.json"))


def model_type(folder: Path) -> str:
    """Of the checkpoint, as raw JSON says."""
    return json.loads((folder / "config.json").read_text())["speculators_model_type"]


def logits(model: SpeculatorModel, golden: dict[str, Tensor], batch: Batch, ends: VerifierHead) -> Tensor:
    """[R, D] of the training forward pass."""
    width = golden["hidden_states"].shape[-1] // len(model.layer_ids)
    states = VerifierStates(last_BTH=golden["hidden_states"][..., :width], aux_BTA=golden["hidden_states"])
    with torch.no_grad():
        # No setting changes the logits.
        made = model(batch, states, ends, TrainingContext[Any](SimpleNamespace(dpace_alpha=None), 0.0))
    (rows,) = made.rows.values()
    return torch.stack([term.input_RI @ term.weights[0].T for term in rows.terms]).sum(0)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_there_is_a_checkpoint_of_every_shared_type(name: str) -> None:
    """Of the types here, upstream 0.9.0 has those of the golden files and no other."""
    upstream = set(json.loads((GOLDEN / "upstream" / "model_types.json").read_text()))
    assert (name in {model_type(c) for c in CHECKPOINTS}) == (name in upstream)


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda p: p.name)
def test_it_gives_upstreams_logits(folder: Path) -> None:
    """Every slot of two packed documents, to 1e-5."""
    golden = load_file(folder / "golden.safetensors")
    model, batch = SpeculatorModel.from_pretrained(folder).eval(), batch_of(golden)
    found_RD, valid_R = logits(model, golden, batch, head(folder, golden)), batch.rows.valid_R
    torch.testing.assert_close(found_RD[valid_R], golden["logits"].flatten(0, 1)[valid_R], rtol=1e-5, atol=1e-5)
    assert valid_R.sum() > 20


@pytest.mark.slow
@pytest.mark.skipif("SPECULATORS_UPSTREAM_PYTHON" not in os.environ, reason="names no Python with upstream's release")
@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda p: p.name)
def test_upstream_loads_ours(folder: Path, tmp_path: Path) -> None:
    """Saved again from here, upstream loads it and computes the golden logits."""
    golden = load_file(folder / "golden.safetensors")
    expected = golden.pop("logits")
    model = SpeculatorModel.from_pretrained(folder)
    # Upstream loads a draft only with a verifier.
    embed_VH = head(folder, golden).embed_VH
    verifier = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(embed_VH), hidden_size=embed_VH.shape[1], num_hidden_layers=6, num_attention_heads=4)
    )
    verifier.save_pretrained(tmp_path / "verifier")
    model.config.speculators_config.verifier.name_or_path = str(tmp_path / "verifier")
    model.save_pretrained(tmp_path)
    if "embed_tokens" not in golden:
        # Where transformers leaves what is missing uninitialised, upstream does not see that the embedding is.
        tensors = load_file(tmp_path / "model.safetensors") | {"embed_tokens.weight": embed_VH}
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    save_file(golden, tmp_path / "in.safetensors")
    others = {"dflash": "blocks", "dspark": "blocks", "mtp": "mtp"}
    script = GOLDEN / f"make_upstream_{others.get(model_type(folder), 'logits')}.py"
    command = [
        os.environ["SPECULATORS_UPSTREAM_PYTHON"],
        str(script.resolve()),
        ".",
        "in.safetensors",
        "out.safetensors",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(load_file(tmp_path / "out.safetensors")["logits"], expected, rtol=1e-5, atol=1e-5)
