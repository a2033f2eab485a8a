"""A tiny random verifier, data for it, and runs of a few steps."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from speculators.config import SpeculatorModelConfig
from speculators.data.prepare import DataReport, Prepared
from speculators.data.sequences import Sequences, in_columns
from speculators.data.template import Document
from speculators.model import SpeculatorModel
from speculators.protocols.initialisation import Initialisation
from speculators.settings.algorithm import LossWeights
from speculators.settings.run_config import RunConfig
from speculators.train.build import build
from speculators.verifier.facts import VerifierFacts
from speculators.verifier.in_process import Verifier

VOCAB = 40
LOSS = dict.fromkeys(LossWeights.model_fields, 0.0) | {"kl": 1.0}


@pytest.fixture(scope="session")
def llama() -> LlamaForCausalLM:
    return tiny_llama()


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=128, pad_token_id=0, initializer_range=0.3,
        )
    )  # fmt: skip


@pytest.fixture(scope="session")
def verifier(llama: LlamaForCausalLM) -> Verifier:
    return Verifier(llama)


def documents(count: int, seed: int, unsupervised: int = 0) -> list[list[Document]]:
    """Sequences of two documents each, of uneven numbers of supervised tokens; the first `unsupervised` sequences have none."""
    generator = torch.Generator().manual_seed(seed)

    def document(supervised: bool) -> Document:
        length, prompt = torch.randint(6, 14, (1,), generator=generator).item(), 3
        tokens = torch.randint(1, VOCAB, (int(length),), generator=generator).tolist()
        return Document(tokens, [supervised and i >= prompt for i in range(len(tokens))])

    return [[document(number >= unsupervised) for _ in range(2)] for number in range(count)]


@pytest.fixture(scope="session")
def prepared() -> Prepared:
    return prepared_data()


def prepared_data(unsupervised: int = 0) -> Prepared:
    """Eleven sequences to train on, and three held-out ones."""
    train, heldout = documents(11, 1, unsupervised), documents(3, 2)
    supervised = [t for s in train for d in s for t, m in zip(d.tokens, d.supervised, strict=True) if m]
    report = DataReport(14, {}, 0, 11, 3, sum(len(d.tokens) for s in train for d in s), len(supervised), 2)
    counts = torch.bincount(torch.tensor(supervised), minlength=VOCAB)
    columns, _ = in_columns(chain(train, heldout))
    two_each = Sequences(columns, np.arange(28), np.arange(0, 29, 2))
    return Prepared(two_each, [[1, 2, 3], [4, 5]], counts, report, np.empty(0, np.int64))


@pytest.fixture(scope="session")
def make_run():
    """Makes runs of eagle3 in steps of two sequences."""
    return composed


def composed(**groups: Any) -> RunConfig:
    """`group={key: value}` changes single values, unless the group's name changes; others replace."""
    tree: dict[str, Any] = {
        "seed": 0, "device": "cpu", "precision": "fp32", "dry_run": False, "other_proposals": [],
        "algorithm": {
            "name": "eagle3", "ttt_steps": 3, "draft_arch": "llama", "num_hidden_layers": 1, "draft_vocab_size": 24,
            "norm_before_residual": True, "eagle_aux_hidden_state_layer_ids": [1, 2, 3], "norm_before_fc": False,
            "fc_norm": False, "norm_output": False, "embed_requires_grad": False, "sliding_window": None, "slot_decay": 0.8,
            "loss": LOSS, "intermediate_size": None,
        },
        "proposal": {
            "proposal_type": "greedy", "speculative_tokens": 3, "verifier_accept_k": 1, "accept_tolerance": 0.0,
        },
        "verifier": {"name_or_path": "tiny", "revision": None, "dtype": "auto", "trust_remote_code": False},
        "data": {
            "source": "chat", "max_length": 64, "max_conversations": None, "heldout_fraction": 0.2,
            "chat_template_kwargs": None, "chat_template_date": None, "regenerate_unfinished": "keep",
            "regenerate_temperature": 0.0, "regenerate_seed": 0, "regenerate_samples": 1,
            "regenerate": False, "regenerate_max_new_tokens": 8,
        },
        "verifier_states": {"source": "in_process"},
        "verifier_answers": {"source": "in_process"},
        "optimizer": {"name": "adamw", "lr": 0.01, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.01},
        "schedule": {"name": "cosine", "warmup_ratio": 0.2, "min_lr_ratio": 0.1},
        "trainer": {
            "epochs": 1, "max_steps": None, "batch_size": 2, "gradient_accumulation_steps": 1, "max_grad_norm": 1.0,
            "log_every": 2, "eval_every": None, "save_every": None, "keep_last": 1, "keep_best": False, "keep_best_prompts": 2,
            "init_from": None, "sequences_per_step": None,
        },
        "evaluation": {
            "objective": "acceptance_length", "data": None, "cost_ratio": 0.05,
            "num_prompts": 2, "max_new_tokens": 8, "batch_size": 2, "temperature": 0.0,
            "top_k": None, "top_p": 1.0, "tie_epsilon": 1e-3,
        },
        "export": {
            "target": "none", "engine_version": "0.32.0", "dtype": "float32",
            "num_speculative_tokens_per_batch_size": None, "enable_adaptive_verification": False,
            "stitched_verifier": False,
            "hub_repo": None, "license": None, "base_model": None,
        },
        "cache": {"dir": None, "limit_gb": None},
        "tracker": {"name": "none", "project": "test"},
        "launch": {
            "mode": "inline", "timeout": None, "on_failure": "continue", "num_processes": None,
            "num_nodes": 1, "rdzv_endpoint": None, "sharding": "ddp", "num_threads": None,
        },
        "speculator": {"speculators_model_type": "eagle3", "speculators_config": {}},
    }  # fmt: skip
    for group, value in groups.items():
        merged = isinstance(value, dict) and value.get("name") in (None, tree[group].get("name"), "tensorboard")
        tree[group] = tree[group] | value if merged else value
    return RunConfig.model_validate(tree)


@pytest.fixture
def fresh(verifier: Verifier, prepared: Prepared):
    """Builds the fresh draft of a run, always the same."""
    return lambda run: drafted(run, verifier, prepared)


def drafted(run: RunConfig, verifier: Verifier, prepared: Prepared) -> SpeculatorModel:
    """The fresh draft of a run."""
    torch.manual_seed(run.seed)
    verifier_config = json.loads(verifier.model.config.to_json_string(use_diff=False))
    facts = VerifierFacts.from_dict("tiny", verifier_config | {"architectures": ["LlamaForCausalLM"]})
    proposals = {"proposal_methods": [run.proposal.model_dump()], "default_proposal_method": "greedy"}
    own = {"algorithm": run.algorithm.name, "verifier": {"name_or_path": "tiny", "architectures": []}}
    config = SpeculatorModelConfig.from_dict(
        {"speculators_model_type": run.algorithm.name, "speculators_config": own | proposals}
        | run.algorithm.published(facts)
    )
    return build(config, Initialisation(verifier.head, prepared.token_count_V), verifier.device)


@pytest.fixture(scope="session")
def lines():
    """Reads a run's readings of one kind."""

    def read(folder: Path, kind: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [reading for reading in found if reading["kind"] == kind]

    return read
