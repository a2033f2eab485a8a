"""An MTP layer's mathematics, against vLLM's class and a naive draft; and its first weights, the verifier's own."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from speculators.composition.compose import compose
from speculators.config import SpeculatorModelConfig
from speculators.data.collate import collate
from speculators.data.template import Document
from speculators.export.publish import publish
from speculators.format.published import speculator_dict
from speculators.model import SpeculatorModel, TrainingContext
from speculators.protocols.drafter import Context
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.initialisation import Initialisation
from speculators.train.build import build
from speculators.verifier.facts import VerifierFacts
from speculators.verifier.tensors import VerifierTensors
from tests.verifiers import drafted_for as drafted_for

from .compare import HIDDEN, check_drafting, check_training, layer_config, make_draft, make_verifier
from .naive import NaiveDraft, Past, linear, pre_norm_layer, rms_norm

GOLDEN = Path(__file__).parents[1] / "golden" / "vllm_mimo.safetensors"


def draft_of(layer: dict[str, Any]) -> SpeculatorModel:
    """A random draft for a verifier of these layers."""
    return make_draft({"speculators_model_type": "mtp", "transformer_layer_config": layer})


def mimo(**others: Any) -> dict[str, Any]:
    """MiMo's layers; a Qwen2 config has no head_dim, which is hidden_size / num_attention_heads."""
    layer = layer_config("qwen2", 3, head_dim=HIDDEN // 4, **others)
    return {k: v for k, v in layer.items() if k not in ("attention_bias", "mlp_bias")}


@torch.no_grad()
def test_it_computes_what_vllms_class_computes() -> None:
    """Every row of training, and every step of drafting after every anchor, to 1e-5 (tests/golden/make_vllm_mimo.py)."""
    golden = load_file(GOLDEN)
    embed, head, token, state, logits = (golden.pop(n) for n in ("embed", "head", "token", "state", "logits"))
    model, ends = draft_of(mimo()), VerifierHead(embed, head)
    model.load_state_dict(golden)
    # What follows the final norm is not read.
    states = VerifierStates(torch.full_like(state, torch.nan)[None], state[None])
    batch = collate([[Document(token.tolist(), [True] * len(token))]], logits.shape[1])
    (rows,) = model(batch, states, ends, TrainingContext[Any](None, 0.0)).rows.values()
    valid_R, (term,) = batch.rows.valid_R, rows.terms
    expected_RV = logits[batch.rows.anchor_R[valid_R], batch.rows.slot_R[valid_R] - 1]
    torch.testing.assert_close(term.input_RI[valid_R] @ head.T, expected_RV, rtol=1e-5, atol=1e-5)
    for anchor in range(len(logits)):
        places = torch.arange(anchor + 1)[None]
        read = VerifierStates(states.last_BTH[:, : anchor + 1], state[None, : anchor + 1])
        context = Context(token[places], token[places + 1], read, places, places >= 0)
        drafter = model.drafter(ends, 1)
        found = [drafter.extend(context, 3).logits_BNV]
        for place in range(anchor + 2, min(anchor + 4, len(token))):
            found.append(drafter.expand(token[None, place : place + 1], torch.zeros(1, 1).long()).logits_BNV)
        found_SV = torch.cat(found)[:, 0]
        torch.testing.assert_close(found_SV, logits[anchor, : len(found)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@pytest.mark.parametrize("check", [check_training, check_drafting])
def test_equals_the_naive_draft(check: Callable[..., None], kind: str) -> None:
    """MiMo's layer, and the one that upstream trains for plain Qwen3 models."""
    layer = mimo() if kind == "qwen2" else layer_config("qwen3", 3)
    model, (head, states) = draft_of(layer), make_verifier(HIDDEN)
    weights = {n.replace("mtp_layers.0.", ""): w for n, w in model.state_dict().items()}
    inner, eps = {f"layers.0.{n}": w for n, w in weights.items()}, layer["rms_norm_eps"]

    def run(embed_H: torch.Tensor, fed_H: torch.Tensor, position: int, past: list[Past]):
        if kind == "qwen2" and position == 0:
            embed_H = torch.zeros_like(embed_H)
        parts = [rms_norm(fed_H, weights["hidden_layernorm.weight"], eps)]
        parts.insert(1 if kind == "qwen2" else 0, rms_norm(embed_H, weights["token_layernorm.weight"], eps))
        x_H = pre_norm_layer(linear(torch.cat(parts), weights, "input_proj"), inner, 0, layer, position, past[0])
        out_H = rms_norm(x_H, weights["final_layernorm.weight"], eps)
        return out_H, out_H

    def logits(x_H: torch.Tensor) -> torch.Tensor:
        return 9.0 * torch.tanh(0.7 * (head.head_VH @ x_H) / 9.0)

    aux_BTA = states.aux_BTA
    assert aux_BTA is not None
    check(model, head, states, NaiveDraft(1, head.embed_VH, lambda i: aux_BTA[0, i], run, logits))


def test_the_first_weights_are_the_verifiers(drafted_for: Callable[[str], list[str]], tmp_path: Path) -> None:
    """Bit for bit; a verifier without such a layer is refused with the tensor that it lacks."""
    run = compose(["algorithm=mtp", *drafted_for("mtp")])
    facts = VerifierFacts.read(run.verifier.name_or_path)
    config = SpeculatorModelConfig.from_dict(speculator_dict(run, facts))
    head = VerifierHead(torch.zeros(1, 1), torch.zeros(1, 1))

    def given(folder: str | Path) -> Initialisation:
        settings = run.verifier.model_copy(update={"name_or_path": str(folder)})
        return Initialisation(head, torch.zeros(1), lambda: VerifierTensors(settings))

    stored = load_file(Path(run.verifier.name_or_path) / "model.safetensors")
    own = build(config, given(run.verifier.name_or_path), torch.device("cpu")).state_dict()
    assert {f"model.{name}" for name in own} == {name for name in stored if "mtp_layers" in name}
    assert [name for name, tensor in own.items() if not torch.equal(tensor, stored[f"model.{name}"].float())] == []

    save_file({n: t for n, t in stored.items() if not n.endswith("input_proj.weight")}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"no tensor model\.mtp_layers\.0\.input_proj\.weight"):
        build(config, given(tmp_path), torch.device("cpu"))


def test_the_verifier_is_stitched(drafted_for: Callable[[str], list[str]], tmp_path: Path) -> None:
    """A copy of the verifier, in one file or several, has the trained tensors; all other tensors and files are the verifier's."""
    run = compose(["algorithm=mtp", *drafted_for("mtp"), "export.stitched_verifier=true"])
    facts, source = VerifierFacts.read(run.verifier.name_or_path), Path(run.verifier.name_or_path)
    stored = load_file(source / "model.safetensors")
    sharded = tmp_path / "sharded"
    shutil.copytree(source, sharded)
    (sharded / "model.safetensors").unlink()
    names = sorted(stored)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({n: stored[n] for n in own}, sharded / file, metadata={"format": "pt"})
    index = {"weight_map": {n: file for file, own in parts.items() for n in own}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    for folder in (source, sharded):
        settings = run.verifier.model_copy(update={"name_or_path": str(folder)})
        given = Initialisation(
            VerifierHead(torch.zeros(1, 1), torch.zeros(1, 1)), torch.zeros(1), partial(VerifierTensors, settings)
        )
        model = build(SpeculatorModelConfig.from_dict(speculator_dict(run, facts)), given, torch.device("cpu"))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        published = publish(model, run.model_copy(update={"verifier": settings}), facts, tmp_path / "run")
        copied = tmp_path / "run" / "stitched_verifier"
        assert {f.name for f in copied.iterdir()} == {f.name for f in folder.iterdir()}
        found = {n: t for file in copied.glob("*.safetensors") for n, t in load_file(file).items()}
        native = load_file(published / "vllm" / "model.safetensors")
        assert found.keys() == stored.keys() and native.keys() == {n for n in stored if "mtp_layers" in n}
        assert [n for n, t in found.items() if not torch.equal(t, native.get(n, stored[n]))] == []
        assert all(torch.equal(native[n], stored[n] + 1.0) for n in native)
        for file in folder.glob("*.json"):
            assert (copied / file.name).read_bytes() == file.read_bytes()
