"""A tiny verifier's folder, and runs and drafts for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from speculators.config import SpeculatorModelConfig
from speculators.model import SpeculatorModel
from speculators.protocols.head import VerifierHead
from speculators.protocols.initialisation import Initialisation
from speculators.settings.algorithm import LossWeights
from speculators.settings.export import ExportSettings
from speculators.settings.run_config import RunConfig
from speculators.verifier.facts import VerifierFacts

VOCAB, HIDDEN = 96, 64
LOSS = dict.fromkeys(LossWeights.model_fields, 0.0) | {"kl": 1.0}

EAGLE3 = {
    "name": "eagle3",
    "num_hidden_layers": 1,
    "intermediate_size": None,
    "slot_decay": 0.8,
    "ttt_steps": 3,
    "loss": LOSS,
    "draft_arch": "llama",
    "draft_vocab_size": 40,
    "norm_before_residual": False,
    "eagle_aux_hidden_state_layer_ids": [1, 2, 4],
    "norm_before_fc": False,
    "fc_norm": False,
    "norm_output": True,
    "embed_requires_grad": False,
    "sliding_window": None,
}
EAGLE = {
    "name": "eagle",
    "num_hidden_layers": 1,
    "intermediate_size": None,
    "slot_decay": 0.8,
    "ttt_steps": 3,
    "loss": LOSS | {"smooth_l1": 0.5},
    "transformer_layer_architecture": "auto",
    "layernorms": False,
    "fusion_bias": False,
    "detach_feedback": False,
    "state_noise": 0.0,
}


def export_settings(target: Any, engine_version: str = "0.32.0") -> ExportSettings:
    """Settings of the group `export`, its other keys as in conf."""
    return ExportSettings(
        target=target,
        engine_version=engine_version,
        dtype="float32",
        num_speculative_tokens_per_batch_size=None,
        enable_adaptive_verification=False,
        stitched_verifier=False,
        hub_repo=None,
        license=None,
        base_model=None,
    )


@pytest.fixture
def verifier(tmp_path: Path) -> Path:
    """A folder with a Llama's config.json: all that export reads of a verifier."""
    folder = tmp_path / "verifier"
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "vocab_size": VOCAB,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 512,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def facts(verifier: Path) -> VerifierFacts:
    return VerifierFacts.read(str(verifier))


@pytest.fixture
def make_run(verifier: Path) -> Callable[..., RunConfig]:
    """A run of an algorithm; `export` replaces keys of that group."""

    def make(algorithm: dict[str, Any], **export: str) -> RunConfig:
        proposal = {"proposal_type": "greedy", "speculative_tokens": 3, "verifier_accept_k": 1, "accept_tolerance": 0.0}
        speculators_config = {
            "algorithm": algorithm["name"],
            "default_proposal_method": "greedy",
            "proposal_methods": [proposal],
            "verifier": {"name_or_path": str(verifier), "architectures": ["LlamaForCausalLM"]},
        }
        return RunConfig.model_validate(
            {
                "seed": 0,
                "device": "cpu",
                "precision": "fp32",
                "dry_run": False,
                "other_proposals": [],
                "algorithm": algorithm,
                "proposal": proposal,
                "verifier": {
                    "name_or_path": str(verifier),
                    "revision": None,
                    "dtype": "float32",
                    "trust_remote_code": False,
                },
                "data": {
                    "source": "chat",
                    "max_length": 256,
                    "max_conversations": None,
                    "heldout_fraction": 0.1,
                    "regenerate": False,
                    "regenerate_max_new_tokens": 8,
                    "regenerate_unfinished": "keep",
                    "regenerate_temperature": 0.0,
                    "regenerate_seed": 0,
                    "regenerate_samples": 1,
                    "chat_template_kwargs": None,
                    "chat_template_date": None,
                },
                "verifier_states": {"source": "in_process"},
                "verifier_answers": {"source": "in_process"},
                "optimizer": {"name": "adamw", "lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.0},
                "schedule": {"name": "cosine", "warmup_ratio": 0.1, "min_lr_ratio": 0.1},
                "trainer": {
                    "epochs": 2,
                    "max_steps": None,
                    "batch_size": 4,
                    "gradient_accumulation_steps": 2,
                    "sequences_per_step": None,
                    "max_grad_norm": 1.0,
                    "log_every": 10,
                    "eval_every": None,
                    "save_every": None,
                    "keep_last": 1,
                    "keep_best": False,
                    "keep_best_prompts": 2,
                    "init_from": None,
                },
                "evaluation": {
                    "objective": "acceptance_length",
                    "data": None,
                    "cost_ratio": 0.05,
                    "num_prompts": 4,
                    "max_new_tokens": 16,
                    "batch_size": 4,
                    "temperature": 0.0,
                    "top_k": None,
                    "top_p": 1.0,
                    "tie_epsilon": 1e-4,
                },
                "export": export_settings("vllm").model_dump() | export,
                "cache": {"dir": None, "limit_gb": None},
                "tracker": {"name": "none", "project": "test"},
                "launch": {
                    "mode": "inline",
                    "timeout": None,
                    "on_failure": "continue",
                    "num_processes": None,
                    "num_nodes": 1,
                    "rdzv_endpoint": None,
                    "sharding": "ddp",
                    "num_threads": None,
                },
                "speculator": {
                    "speculators_model_type": algorithm["name"],
                    "speculators_config": speculators_config,
                },
            }
        )

    return make


@pytest.fixture
def published(facts: VerifierFacts) -> Callable[[RunConfig], dict[str, Any]]:
    """The published config of a run, as a plain dict."""
    return lambda run: run.speculator.model_dump() | run.algorithm.published(facts)


@pytest.fixture
def make_draft(published: Callable[[RunConfig], dict[str, Any]]) -> Callable[[RunConfig], SpeculatorModel]:
    """An untrained draft of a run."""

    def make(run: RunConfig) -> SpeculatorModel:
        config = SpeculatorModelConfig.from_dict(published(run))
        torch.manual_seed(0)
        model = SpeculatorModel.for_config(config)(config)
        head = VerifierHead(torch.randn(VOCAB, HIDDEN), torch.randn(VOCAB, HIDDEN))
        model.initialise(Initialisation(head, torch.randint(0, 9, (VOCAB,))))
        return model

    return make
