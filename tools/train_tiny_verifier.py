"""Train the embedded verifier: a small Llama, its byte-level BPE tokenizer and a ChatML template, from chat files alone.

    python tools/train_tiny_verifier.py --train more.jsonl --heldout chat.jsonl --output speculators/assets/tiny

The answers were written by a larger model, so this is sequence-level distillation (Kim & Rush 2016, arXiv:1606.07947).
Matrices are trained with Muon, the rest with AdamW: on a corpus this small, four epochs of Muon reach what AdamW needs
eight for. Nothing of `--heldout` is trained on: it gives the perplexity, and its prompts are the package's chat data.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def read(path: Path) -> list[list[dict[str, str]]]:
    return [json.loads(line)["conversations"] for line in path.open(encoding="utf-8")]


def train_tokenizer(conversations: list[list[dict[str, str]]], vocab_size: int) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    # Digits stand alone: sums then look alike whatever their length.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator((m["content"] for c in conversations for m in c), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.model_max_length = 2048
    return tokenizer


def tokenize(
    tokenizer: PreTrainedTokenizerFast, conversations: list[list[dict[str, str]]], truncated: list[bool]
) -> list[list[int]]:
    documents = []
    for conversation, cut in zip(conversations, truncated, strict=True):
        ids = tokenizer.encode(tokenizer.apply_chat_template(conversation, tokenize=False))
        # An answer that was cut at its token limit did not end there: its end mark is not taught.
        documents.append(ids[:-2] if cut else ids)
    return documents


def batches(documents: list[list[int]], tokens: int, rng: random.Random) -> list[list[list[int]]]:
    """Documents of like length together, about `tokens` padded tokens a batch, in random order."""
    order = sorted(range(len(documents)), key=lambda i: len(documents[i]) + rng.random() * 16)
    made: list[list[list[int]]] = [[]]
    for i in order:
        if made[-1] and len(documents[i]) * (len(made[-1]) + 1) > tokens:
            made.append([])
        made[-1].append(documents[i])
    rng.shuffle(made)
    return made


def pad(batch: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, batch))
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    labels = torch.full((len(batch), width), -100)
    for row, document in enumerate(batch):
        ids[row, : len(document)] = torch.tensor(document)
        labels[row, : len(document)] = ids[row, : len(document)]
    return ids, labels


@torch.no_grad()
def heldout_loss(model: LlamaForCausalLM, documents: list[list[int]]) -> float:
    model.eval()
    total, count = 0.0, 0
    for batch in batches(documents, 4096, random.Random(0)):
        ids, labels = pad(batch)
        supervised = int((labels[:, 1:] != -100).sum())
        total += float(model(input_ids=ids, labels=labels).loss) * supervised
        count += supervised
    model.train()
    return total / count


def add_dropout(model: LlamaForCausalLM, rate: float) -> None:
    """Dropout on both sublayers' outputs, in training mode only; Llama has no residual dropout of its own."""
    for layer in model.model.layers:
        for sublayer in (layer.self_attn.o_proj, layer.mlp.down_proj):
            sublayer.register_forward_hook(lambda m, _, out: torch.nn.functional.dropout(out, rate, m.training))


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by five Newton-Schulz steps (Jordan et al. 2024).

    torch.optim.Muon iterates in bfloat16, which a CPU without bfloat16 units emulates ten times slower than float32.
    """

    def __init__(self, params: list[torch.nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                velocity.mul_(group["momentum"]).add_(p.grad)
                x = p.grad + group["momentum"] * velocity
                tall = x.shape[0] > x.shape[1]
                x = (x.mT if tall else x) / (x.norm() + 1e-7)
                for _ in range(5):
                    gram = x @ x.mT
                    x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(x.mT if tall else x, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)

    files = {
        name: [json.loads(line) for line in path.open(encoding="utf-8")]
        for name, path in (("train", args.train), ("heldout", args.heldout))
    }
    tokenizer = train_tokenizer([r["conversations"] for r in files["train"]], args.vocab_size)
    documents = {
        name: tokenize(tokenizer, [r["conversations"] for r in rows], [r["finish_reason"] == "length" for r in rows])
        for name, rows in files.items()
    }
    print({name: sum(map(len, d)) for name, d in documents.items()}, "tokens")

    config = LlamaConfig(
        vocab_size=args.vocab_size, hidden_size=256, intermediate_size=768, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=2048,
        rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=0, pad_token_id=0, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    add_dropout(model, args.dropout)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.1),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.01),
    ]
    base = [[g["lr"] for g in o.param_groups] for o in optimizers]
    total = args.epochs * len(batches(documents["train"], args.batch_tokens, random.Random(0)))
    step, start = 0, time.time()
    for epoch in range(args.epochs):
        for batch in batches(documents["train"], args.batch_tokens, rng):
            # Warm-up over 40 steps, flat, then linear to zero over the last 60 %.
            scale = min(1.0, (step + 1) / 40, max(0.0, (total - step) / (0.6 * total)))
            for optimizer, rates in zip(optimizers, base, strict=True):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * scale
            ids, labels = pad(batch)
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            step += 1
            if step % 20 == 0:
                print(f"{step}/{total} loss {loss.item():.3f} {time.time() - start:.0f} s", flush=True)
        print(
            f"epoch {epoch + 1}: held-out perplexity {math.exp(heldout_loss(model, documents['heldout'])):.2f}",
            flush=True,
        )
        args.output.mkdir(parents=True, exist_ok=True)
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.to(torch.bfloat16).save_pretrained(args.output)
        model.float()
        tokenizer.save_pretrained(args.output)


if __name__ == "__main__":
    main()
