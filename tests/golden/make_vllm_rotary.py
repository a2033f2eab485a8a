"""How vLLM rotates one vector at some positions, for each kind of rotary embedding. Run it where vLLM 0.32.0 is installed.

VLLM/bin/python tests/golden/make_vllm_rotary.py      writes tests/golden/vllm_rotary.json
"""

import json
from pathlib import Path
from typing import Any

import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.rotary_embedding import get_rope

FILE = Path(__file__).parent / "vllm_rotary.json"
HEAD_DIM, LONGEST, POSITIONS = 16, 256, [0, 1, 2, 63, 64, 200, 255]
ORIGINAL = {"original_max_position_embeddings": 64}
KINDS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 1e4},
    "partial": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
    "linear": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "linear_partial": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0, "partial_rotary_factor": 0.5},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        **ORIGINAL,
    },
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, **ORIGINAL},
    "yarn_partial": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "partial_rotary_factor": 0.5, **ORIGINAL},
    "gpt_oss": {
        "rope_type": "yarn", "rope_theta": 150000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "truncate": False, **ORIGINAL,
    },
    "deepseek_v3": {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 1.0, "beta_fast": 32,
        "beta_slow": 1, **ORIGINAL,
    },
    "proportional": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
}  # fmt: skip


def main() -> None:
    """Rotate."""
    g = torch.Generator().manual_seed(0)
    vector = torch.randn(HEAD_DIM, generator=g)
    query = vector.expand(len(POSITIONS), -1).contiguous()
    rotated = {}
    with set_current_vllm_config(VllmConfig()):
        for name, parameters in KINDS.items():
            rope = get_rope(HEAD_DIM, LONGEST, True, parameters, dtype=torch.float32)
            turned, _ = rope.forward_native(torch.tensor(POSITIONS), query.clone(), query.clone())
            rotated[name] = {"rope_parameters": parameters, "rotated": turned.tolist()}
    sizes = {
        "head_dim": HEAD_DIM,
        "max_position_embeddings": LONGEST,
        "positions": POSITIONS,
        "vector": vector.tolist(),
    }
    FILE.write_text(json.dumps(sizes | {"kinds": rotated}) + "\n")


main()
