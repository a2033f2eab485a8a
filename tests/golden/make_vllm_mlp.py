"""Logits of vLLM's MLP speculator at small sizes. Run it where vLLM 0.32.0 is installed.

VLLM/bin/python tests/golden/make_vllm_mlp.py      writes tests/golden/vllm_mlp/

vLLM 0.32.0 has the class and its constants and no longer runs them: the stages are called as its last version with a runner
did (0.9, generate_proposals).
"""

import os
from pathlib import Path
from types import SimpleNamespace

os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29555"}
import torch
from safetensors.torch import save_file
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.model_executor.models.mlp_speculator import MLPSpeculator
from vllm.transformers_utils.configs.mlp_speculator import MLPSpeculatorConfig

FOLDER = Path(__file__).parent / "vllm_mlp"
VOCAB, STATE, WIDTH, STAGES, ANCHORS = 61, 16, 12, 3, 5


def golden(tied: bool, scaled: bool) -> dict[str, torch.Tensor]:
    """Weights, inputs, and the logits of every stage."""
    config = MLPSpeculatorConfig(
        vocab_size=VOCAB, emb_dim=STATE, inner_dim=WIDTH, n_predict=STAGES, tie_weights=tied, scale_input=scaled
    )
    model = MLPSpeculator(vllm_config=SimpleNamespace(model_config=SimpleNamespace(hf_config=config)))  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(2 * tied + scaled)
    weights = {n: torch.randn(p.shape, generator=g) * 0.4 for n, p in sorted(model.named_parameters())}
    # vLLM's embedding and head have rows of padding behind the vocabulary's.
    weights = {n: w[:VOCAB].contiguous() if n.startswith(("emb.", "head.")) else w for n, w in weights.items()}
    if tied:  # the heads are modules of their own in vLLM, which reads each from the file
        weights |= {f"head.{i}.weight": weights["head.0.weight"].clone() for i in range(STAGES)}
    assert model.load_weights(weights.items()) == weights.keys()
    state = torch.randn(ANCHORS, STATE, generator=g)
    token = torch.randint(VOCAB, (ANCHORS, STAGES), generator=g)
    x, logits = model.ln0(state) / 2**0.5 if scaled else state, []
    for i in range(STAGES):
        z = model.emb[i](token[:, i])
        x = model.activation(model.ln[i](model.proj[i](x).add(z, alpha=model.emb_weight / model.state_weight)))
        logits.append(x @ model.head[i].weight[:VOCAB].T)
    kept = {n: w for n, w in weights.items() if not (tied and n in ("head.1.weight", "head.2.weight"))}
    return kept | {"state": state, "token": token, "logits": torch.stack(logits)}


@torch.no_grad()
def main() -> None:
    """One file for each combination of the two switches."""
    FOLDER.mkdir(exist_ok=True)
    with set_current_vllm_config(VllmConfig()):
        init_distributed_environment(1, 0, "env://", 0, "gloo")
        initialize_model_parallel()
        for tied in (False, True):
            for scaled in (False, True):
                name = f"{'tied' if tied else 'own'}_{'scaled' if scaled else 'plain'}"
                save_file({n: t.float() if t.is_floating_point() else t for n, t in golden(tied, scaled).items()},
                          FOLDER / f"{name}.safetensors")  # fmt: skip


main()
