"""The batches that training reads, bit for bit as in earlier versions: trained weights depend on every one of them."""

import hashlib
import json
from typing import Any

import pytest
import torch

from speculators.composition.compose import compose
from speculators.data.collate import collate
from speculators.data.prepare import Prepared, prepare
from speculators.data.template import ChatTemplate
from tests.data.conftest import Settings
from tests.data.families import FAMILIES, chat_template
from tests.data.test_template import ASKING, TALK, TOOLS, reasoned

CHAT = "c0a595e53b5bc43a9f90aa0f448ad916b5f20ad1470348cd7869c3442fb3ff87"
MIXED = {
    "qwen3": "6dfd6caf7d8442700c8f6728de35a6943f03e9e9ce4eb4b43bc64bd6425d11ee",
    "llama3_1": "684a7ac759ed478b9662019bcc735c06ac7f356e266968dc5ee734d0c2e0879d",
    "gpt_oss": "3f71b77e11fdb016d2a81f17ff82d8adca9f754a05b2e68efcb10652863cf10c",
}


def digest(made: Prepared) -> str:
    """SHA-256 of every batch of both sides, of the held-out prompts and of the counts."""
    found = hashlib.sha256()
    for side in (made.train, made.heldout):
        for start in range(0, len(side), 3):
            batch = collate(side[start : start + 3], 2)
            tensors = [batch.token_BT, batch.position_BT, batch.document_BT]
            tensors += [getattr(batch.rows, f"{name}_R") for name in ("target", "anchor", "slot", "group", "valid")]
            for tensor in tensors:
                found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    assert made.token_count_V.dtype == torch.int64
    found.update(made.token_count_V.numpy().tobytes())
    found.update(json.dumps([[list(p) for p in made.prompts], sorted(map(int, made.train_prompts))]).encode())
    return found.hexdigest()


def test_the_embedded_conversations() -> None:
    """With the default settings, as `data=chat` is trained on."""
    run = compose([])
    assert digest(prepare(run.data, ChatTemplate.of(run.verifier, run.data), 4096, run.seed)) == CHAT


def rows() -> list[dict[str, Any]]:
    """Several turns, reasoning, calls of tools, truncated and unusable ones."""
    made: list[dict[str, Any]] = []
    for n in range(40):
        talk = [m | {"content": f"{m['content']} {n}"} for m in TALK]
        longer = [*reasoned(talk), *({"role": m["role"], "content": m["content"] * (n % 4)} for m in talk)]
        asking = [m | {"content": m["content"] and f"{m['content']} {n // 2}"} for m in ASKING]
        made += [
            {"messages": talk[: 2 + n % 3]},
            {"messages": longer, "finish_reason": "length" if n % 5 == 0 else "stop"},
            {"messages": asking, "tools": TOOLS},
            {"messages": talk[:1] if n % 7 == 0 else talk[::-1]},
        ]
    return made


@pytest.mark.parametrize("family", MIXED)
def test_turns_tools_and_reasoning(family: str, data: Settings) -> None:
    """In templates that only append, and in those that render earlier answers differently."""
    template = chat_template(FAMILIES[family])
    settings = data(*rows(), max_length=256, heldout_fraction=0.2)
    assert digest(prepare(settings, template, len(template.tokenizer), 5)) == MIXED[family]
