"""Logits of vLLM's MTP layer of MiMo at small sizes. Run it where vLLM 0.32.0 is installed.

VLLM/bin/python tests/golden/make_vllm_mimo.py      writes tests/golden/vllm_mimo.safetensors

The class, its projection, norms, rotary embedding and loader are vLLM's; its attention kernel, which needs an engine's cache, is
replaced by the sum over all keys so far. For each anchor the layer reads the verified text up to it, as the drafter's first
pass does, and then two more tokens, each with its own output at the one before.
"""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29556"}
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Qwen2Config
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.models import qwen2
from vllm.model_executor.models.mimo_mtp import MiMoMTP

FILE = Path(__file__).parent / "vllm_mimo.safetensors"
VOCAB, HIDDEN, LENGTH, STEPS = 23, 16, 8, 3
CONFIG = Qwen2Config(
    vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=20, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-3,
    rope_parameters={"rope_type": "default", "rope_theta": 100.0}, num_nextn_predict_layers=1,
)  # fmt: skip


class Causal(nn.Module):
    """Attention over the keys of all calls since the last reset."""

    def __init__(self, heads: int, size: int, scaling: float, num_kv_heads: int, **_: Any) -> None:
        super().__init__()
        self.heads, self.groups, self.size, self.scaling = heads, num_kv_heads, size, scaling
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        before = sum(len(key) for key, _ in self.seen)
        self.seen.append((k.view(-1, self.groups, self.size), v.view(-1, self.groups, self.size)))
        key, value = (torch.cat(part) for part in zip(*self.seen, strict=True))
        out = torch.zeros(len(q), self.heads, self.size)
        for i, query in enumerate(q.view(-1, self.heads, self.size)):
            for head in range(self.heads):
                group, last = head // (self.heads // self.groups), before + i + 1
                scores = (key[:last, group] @ query[head] * self.scaling).softmax(0)
                out[i, head] = scores @ value[:last, group]
        return out.flatten(1)


qwen2.Attention = Causal  # pyright: ignore[reportAttributeAccessIssue]


@torch.no_grad()
def main() -> None:
    """One file: weights under the published names, inputs, and logits [anchors, steps, vocabulary]."""
    g = torch.Generator().manual_seed(0)
    given = SimpleNamespace(model_config=SimpleNamespace(hf_config=CONFIG), cache_config=None, quant_config=None)
    model = MiMoMTP(vllm_config=given)  # type: ignore[arg-type]
    block = f"model.mtp_layers.{CONFIG.num_hidden_layers}.mtp_block"
    attention = model.get_submodule(f"{block}.self_attn.attn")
    kv, inner = HIDDEN // 2, CONFIG.intermediate_size
    shapes = {f"self_attn.{n}_proj": (w, HIDDEN) for n, w in (("q", HIDDEN), ("k", kv), ("v", kv), ("o", HIDDEN))}
    shapes |= {"mlp.gate_proj": (inner, HIDDEN), "mlp.up_proj": (inner, HIDDEN), "mlp.down_proj": (HIDDEN, inner)}
    shapes |= {"input_proj": (HIDDEN, 2 * HIDDEN)}
    norms = ("input_layernorm", "post_attention_layernorm", "hidden_layernorm", "token_layernorm", "final_layernorm")
    weights = {f"{name}.weight": torch.randn(shape, generator=g) * 0.4 for name, shape in shapes.items()}
    weights |= {
        f"self_attn.{n}_proj.bias": torch.randn(w, generator=g) for n, w in (("q", HIDDEN), ("k", kv), ("v", kv))
    }
    weights |= {f"{name}.weight": torch.rand(HIDDEN, generator=g) + 0.5 for name in norms}
    embed, head = (torch.randn(VOCAB, HIDDEN, generator=g) * scale for scale in (1.0, 0.2))
    stored = {f"model.mtp_layers.0.{name}": weight for name, weight in weights.items()}
    stored |= {"model.embed_tokens.weight": embed, "lm_head.weight": head}
    loaded = model.load_weights(stored.items())
    assert loaded == {name for name, _ in model.named_parameters()}, loaded
    for module in model.modules():  # vLLM's loader does this; on a CPU it chooses the kernel
        if isinstance(module, LinearBase):
            module.quant_method.process_weights_after_loading(module)  # type: ignore[union-attr]
    token, state = torch.randint(VOCAB, (LENGTH,), generator=g), torch.randn(LENGTH, HIDDEN, generator=g)
    logits = torch.full((LENGTH - 1, STEPS, VOCAB), torch.nan)
    for anchor in range(LENGTH - 1):
        attention.seen.clear()  # type: ignore[union-attr]
        output = model(token[1 : anchor + 2], torch.arange(anchor + 1), state[: anchor + 1])[-1:]
        for step in range(min(STEPS, LENGTH - 1 - anchor)):
            if step:
                place = anchor + step
                output = model(token[place + 1 : place + 2], torch.tensor([place]), output)
            logits[anchor, step] = (output @ head.T)[0]
    published = {f"mtp_layers.0.{name}": weight for name, weight in weights.items()}
    save_file(published | {"embed": embed, "head": head, "token": token, "state": state, "logits": logits}, FILE)


with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, "env://", 0, "gloo")
    initialize_model_parallel()
    main()
