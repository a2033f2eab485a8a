"""Make a small MiMo verifier of the embedded one, and train its MTP layer for one step, as such models are published.

    python tools/train_tiny_mimo.py --output runs/tiny_mimo

MiMo's decoder layers are Qwen2's: Llama's, with biases of queries, keys and values. With biases of zero they compute what the
embedded verifier computes, so that the embedded conversations are this verifier's own answers. Its config.json names Qwen2's
config class, which transformers has, and MiMo's model class, by which vLLM recognises it.

The MTP layer (MiMo, arXiv:2505.07608) reads the state after the last layer, before the final norm, as vLLM's does, and the
embedding of the next token, and is trained on the token after that, in the conversations that a run with the default settings
trains on. Matrices are trained with Muon, norms and biases with AdamW.
"""

import argparse
import json
import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from train_tiny_verifier import Muon, batches, pad
from transformers import AutoModelForCausalLM, Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm, Qwen2RotaryEmbedding

TINY = Path(__file__).resolve().parents[1] / "speculators" / "assets" / "tiny"
WEIGHTS, PREFIX = "model.safetensors", "model.mtp_layers.0."


class MTPLayer(Qwen2DecoderLayer):
    """MiMo's MTP layer, of transformers' parts."""

    def __init__(self, config: Qwen2Config) -> None:
        config._attn_implementation = "eager"
        super().__init__(config, 0)
        size, eps = config.hidden_size, config.rms_norm_eps
        self.hidden_layernorm, self.token_layernorm = Qwen2RMSNorm(size, eps), Qwen2RMSNorm(size, eps)
        self.input_proj = nn.Linear(2 * size, size, bias=False)
        self.final_layernorm = Qwen2RMSNorm(size, eps)

    def after(self, state_BTH: Tensor, embed_BTH: Tensor, rotary: nn.Module) -> Tensor:
        """[B, T, H] what the head reads, of texts of T tokens that begin at position 0."""
        T = state_BTH.shape[1]
        embed_BTH = torch.cat((torch.zeros_like(embed_BTH[:, :1]), embed_BTH[:, 1:]), dim=1)  # as vLLM does
        x_BTH = self.input_proj(torch.cat((self.hidden_layernorm(state_BTH), self.token_layernorm(embed_BTH)), dim=-1))
        later_TT = torch.full((T, T), -torch.inf).triu(1)
        rotation = rotary(x_BTH, torch.arange(T)[None])
        return self.final_layernorm(
            super().forward(x_BTH, attention_mask=later_TT[None, None], position_embeddings=rotation)
        )


def convert(source: Path, output: Path, seed: int = 0) -> MTPLayer:
    """Write a verifier of MiMo's class that computes what a Llama computes; its MTP layer is a new one.

    Args:
        source: folder of the Llama, whose head_dim must be hidden_size / num_attention_heads, as in Qwen2.
        output: folder of the verifier.
        seed: of the new layer.

    Returns:
        The layer.
    """
    shutil.copytree(source, output, dirs_exist_ok=True)
    llama = json.loads((source / "config.json").read_text())
    if llama.get("head_dim", 0) * llama["num_attention_heads"] != llama["hidden_size"]:
        raise SystemExit(f"{source}: head_dim must be hidden_size / num_attention_heads")
    gone = ("model_type", "architectures", "attention_bias", "mlp_bias", "pretraining_tp", "transformers_version")
    config = Qwen2Config(**{k: v for k, v in llama.items() if k not in gone})
    values = config.to_dict() | {"architectures": ["MiMoForCausalLM"], "num_nextn_predict_layers": 1}
    (output / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    torch.manual_seed(seed)
    layer = MTPLayer(config)
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    tensors = load_file(source / WEIGHTS)
    for name in [name for name in tensors if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))]:
        tensors[name.replace(".weight", ".bias")] = torch.zeros(len(tensors[name]), dtype=tensors[name].dtype)
    save(tensors, layer, output)
    return layer


def save(tensors: dict[str, Tensor], layer: MTPLayer, output: Path) -> None:
    """The whole verifier in one file; the MTP layer keeps float32."""
    own = {PREFIX + name: tensor.detach().clone() for name, tensor in layer.state_dict().items()}
    save_file(tensors | own, output / WEIGHTS, metadata={"format": "pt"})


def train(layer: MTPLayer, output: Path, epochs: int, batch_tokens: int, seed: int) -> None:
    """Train the layer on the texts that a run trains on, and write it into the verifier."""
    from speculators.composition.compose import compose
    from speculators.data.prepare import prepare
    from speculators.data.template import ChatTemplate
    from speculators.verifier.facts import VerifierFacts

    run = compose([])  # of the embedded verifier, whose texts are those of this one
    facts = VerifierFacts.read(run.verifier.name_or_path)
    prepared = prepare(run.data, ChatTemplate.of(run.verifier, run.data), facts.vocab_size, run.seed)
    documents = [document.tokens for sequence in prepared.train for document in sequence if len(document.tokens) > 2]
    model = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32).requires_grad_(False).eval()
    rotary = Qwen2RotaryEmbedding(model.config)
    seen: dict[str, Tensor] = {}
    model.model.layers[-1].register_forward_hook(lambda module, args, out: seen.update(state=out))
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    matrices = [p for p in layer.parameters() if p.ndim == 2]
    optimizers = [
        Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW([p for p in layer.parameters() if p.ndim != 2], lr=1e-3, betas=(0.9, 0.95)),
    ]
    base = [[g["lr"] for g in optimizer.param_groups] for optimizer in optimizers]
    rng = random.Random(seed)
    steps = [batch for _ in range(epochs) for batch in batches(documents, batch_tokens, rng)]
    for step, batch in enumerate(steps):
        ids_BT, labels_BT = pad(batch)
        with torch.no_grad():
            model.model(input_ids=ids_BT)
        output_BTH = layer.after(seen["state"][:, :-2], embedding(ids_BT[:, 1:-1]), rotary)
        loss = F.cross_entropy(head(output_BTH).flatten(0, 1), labels_BT[:, 2:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        scale = min(1.0, (step + 1) / 20, (len(steps) - step) / (0.6 * len(steps)))
        for optimizer, rates in zip(optimizers, base, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 20 == 0:
            print(f"{step + 1}/{len(steps)} loss {loss.item():.3f}", flush=True)
    save(load_file(output / WEIGHTS), layer, output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train(convert(TINY, args.output, args.seed), args.output, args.epochs, args.batch_tokens, args.seed)


if __name__ == "__main__":
    main()
