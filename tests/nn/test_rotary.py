"""Rotary embeddings against vLLM's own, and by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Qwen3Config

from speculators.nn.rotary import Rotary, rotate

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "vllm_rotary.json").read_text())


@pytest.mark.parametrize("config_class", [LlamaConfig, Qwen3Config])
@pytest.mark.parametrize("kind", GOLDEN["kinds"])
def test_it_rotates_as_vllm(kind: str, config_class: type[LlamaConfig] | type[Qwen3Config]) -> None:
    """Every kind that a draft may have, at positions inside and beyond those that scaled ones were trained on."""
    case = GOLDEN["kinds"][kind]
    config = config_class(
        head_dim=GOLDEN["head_dim"],
        max_position_embeddings=GOLDEN["max_position_embeddings"],
        rope_parameters=dict(case["rope_parameters"]),
    )
    position_BT = torch.tensor([GOLDEN["positions"]])
    query_BHTd = torch.tensor(GOLDEN["vector"]).expand(1, 1, position_BT.shape[1], -1)
    found = rotate(query_BHTd, Rotary(config)(position_BT, torch.float32))
    torch.testing.assert_close(found[0, 0], torch.tensor(case["rotated"]), rtol=0, atol=1e-5)


def test_a_part_of_the_head_is_rotated_by_hand() -> None:
    """Of 8 numbers the first 4 turn in pairs (0, 2) and (1, 3), by p and p / 100; the others stay."""
    config = LlamaConfig(
        head_dim=8,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    )
    x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    position = 3
    right = list(x)
    for i, angle in enumerate((position, position / 100)):
        low, high = x[i], x[i + 2]
        right[i] = low * math.cos(angle) - high * math.sin(angle)
        right[i + 2] = high * math.cos(angle) + low * math.sin(angle)
    found = rotate(torch.tensor(x)[None, None, None], Rotary(config)(torch.tensor([[position]]), torch.float32))
    torch.testing.assert_close(found.flatten(), torch.tensor(right))
