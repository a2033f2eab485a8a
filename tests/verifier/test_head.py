"""Embedding and head read alone are those of the loaded model, for every family and every way of storing it."""

import json
from pathlib import Path
from typing import Any, Literal

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from speculators.protocols.head import VerifierHead
from speculators.verifier.head import read_head
from speculators.verifier.in_process import Verifier, run_dtype
from speculators.verifier.settings import VerifierSettings
from speculators.verifier.tensors import NotInSafetensors, VerifierTensors

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
# What of a family matters here: tied or not, scales, caps, biases, and the names of the tensors.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "qwen3": {"tie_word_embeddings": True},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gemma2": {"final_logit_softcapping": 5.0},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 8.0},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "phi": {},
    "gemma3": {"text_config": SIZES, "vision_config": {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }},
}  # fmt: skip


def random_model(family: str) -> PreTrainedModel:
    """A tiny model of a family; every weight is random, biases as well."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**({} if "text_config" in FAMILIES[family] else SIZES) | FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def settings(folder: Path | str, dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto") -> VerifierSettings:
    return VerifierSettings(name_or_path=str(folder), revision=None, dtype=dtype, trust_remote_code=False)


def check_equal(chosen: VerifierSettings, on_cpu: bool = True) -> VerifierHead:
    """Both ways give the same tensors and the same logits, bit for bit."""
    dtype = run_dtype(chosen, on_cpu)
    whole = Verifier(AutoModelForCausalLM.from_pretrained(chosen.name_or_path, dtype=dtype)).head
    alone = read_head(chosen, dtype, CPU)
    assert torch.equal(alone.embed_VH, whole.embed_VH) and alone.embed_VH.dtype == whole.embed_VH.dtype
    assert torch.equal(alone.head_VH, whole.head_VH) and alone.head_VH.dtype == whole.head_VH.dtype
    assert (alone.embed_VH.data_ptr() == alone.head_VH.data_ptr()) == (
        whole.embed_VH.data_ptr() == whole.head_VH.data_ptr()
    )
    states_NH = torch.randn(7, whole.head_VH.shape[1], dtype=whole.head_VH.dtype)
    assert torch.equal(alone.logits(states_NH), whole.logits(states_NH))
    assert torch.equal(alone.embed(torch.arange(5)), whole.embed(torch.arange(5)))
    return alone


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_that_of_the_loaded_model(family: str, tmp_path: Path) -> None:
    random_model(family).save_pretrained(tmp_path)
    check_equal(settings(tmp_path))


def test_it_is_read_from_shards(tmp_path: Path) -> None:
    """Embedding and head are in different files of an index."""
    random_model("llama").save_pretrained(tmp_path, max_shard_size="8KB")
    files = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert files["model.embed_tokens.weight"] != files["lm_head.weight"]
    check_equal(settings(tmp_path))


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float32"])
@pytest.mark.parametrize("in_config", [True, False])
def test_its_dtype_is_that_of_the_loaded_model(dtype: Any, in_config: bool, tmp_path: Path) -> None:
    """Also on an accelerator, where `auto` is the config's dtype, or the checkpoint's where the config has none."""
    random_model("llama").half().save_pretrained(tmp_path)
    if not in_config:
        config = json.loads((tmp_path / "config.json").read_text())
        del config["dtype"]
        (tmp_path / "config.json").write_text(json.dumps(config))
    head = check_equal(settings(tmp_path, dtype), on_cpu=False)
    assert head.head_VH.dtype == (torch.float16 if dtype == "auto" else getattr(torch, dtype))
    check_equal(settings(tmp_path, dtype), on_cpu=True)


def rewrite(folder: Path, change: Any) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def test_names_may_have_another_prefix(tmp_path: Path) -> None:
    """A checkpoint of the model without a head, as older GPT-2s are."""
    random_model("gpt2").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: {n.removeprefix("transformer."): t for n, t in tensors.items()})
    check_equal(settings(tmp_path))


def test_a_tied_head_may_be_stored_instead_of_the_embedding(tmp_path: Path) -> None:
    random_model("qwen3").save_pretrained(tmp_path)
    names = {"model.embed_tokens.weight": "lm_head.weight"}
    rewrite(tmp_path, lambda tensors: {names.get(n, n): t for n, t in tensors.items()})
    check_equal(settings(tmp_path))


def test_it_is_found_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the Hub's own cache: of a sharded checkpoint no more files need be there than those of the two tensors."""
    model = random_model("llama")
    model.save_pretrained(tmp_path / "whole", max_shard_size="8KB")
    repository = tmp_path / "models--someone--tiny"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    files = json.loads((tmp_path / "whole" / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {files["model.embed_tokens.weight"], files["lm_head.weight"]}
    for name in {"config.json", "model.safetensors.index.json", *needed}:
        (snapshot / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    assert set(files.values()) - needed
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    head = read_head(settings("someone/tiny"), "float32", CPU)
    assert torch.equal(head.head_VH, model.get_output_embeddings().weight)
    missing = next(name for name, file in files.items() if file not in needed)
    with pytest.raises(NotInSafetensors, match=f"no tensor {missing}"):
        VerifierTensors(settings("someone/tiny")).read(missing, CPU)


def test_the_embedded_verifier_is_read() -> None:
    chosen = settings("pkg://speculators.assets/tiny")
    whole = Verifier.load(chosen, CPU).head
    alone = read_head(chosen, run_dtype(chosen, True), CPU)
    assert torch.equal(alone.embed_VH, whole.embed_VH) and torch.equal(alone.head_VH, whole.head_VH)


def test_another_format_is_refused(tmp_path: Path) -> None:
    model = random_model("llama")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    for read in (lambda chosen: read_head(chosen, "float32", CPU), lambda chosen: Verifier.load(chosen, CPU)):
        with pytest.raises(NotInSafetensors, match="neither model.safetensors nor .*; convert it to safetensors"):
            read(settings(tmp_path))


@pytest.mark.parametrize("link", [False, True])
def test_an_index_names_files_of_its_folder_alone(link: bool, tmp_path: Path) -> None:
    """Also when the whole model is loaded, by a library that would follow the index anywhere."""
    model, folder = random_model("llama"), tmp_path / "verifier"
    model.save_pretrained(folder)
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    name = "part.safetensors" if link else "../outside.safetensors"
    if link:
        (folder / name).symlink_to(tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(model.state_dict(), name)})
    )
    with pytest.raises(ValueError, match="the path leaves the folder"):
        Verifier.load(settings(folder), CPU)


def test_named_tensors_are_read_one_by_one(tmp_path: Path) -> None:
    """As stored, or in another dtype; what was read does not depend on the file any more."""
    model = random_model("llama")
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    tensors = VerifierTensors(settings(tmp_path))
    assert set(tensors.names) == set(model.state_dict())
    for name, value in model.state_dict().items():
        assert tensors.shape(name) == value.shape
        assert torch.equal(tensors.read(name, CPU), value)
        assert torch.equal(tensors.read(name, CPU, torch.bfloat16), value.bfloat16())
    held = tensors.read("model.norm.weight", CPU)
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(b"\0" * file.stat().st_size)
    assert torch.equal(held, model.state_dict()["model.norm.weight"])
    with pytest.raises(NotInSafetensors, match=r"no tensor model.layers.9"):
        tensors.read("model.layers.9.mlp.up_proj.weight", CPU)
