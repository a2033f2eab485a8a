"""Write the embedded verifier's README: held-out perplexity, repeated 4-grams in what it writes, samples.

python tools/describe_tiny_verifier.py speculators/assets/tiny heldout.jsonl speculators/assets/chat.jsonl
"""

import argparse
import json
import math
import random
from pathlib import Path

import torch
from train_tiny_verifier import heldout_loss, tokenize
from transformers import AutoModelForCausalLM, AutoTokenizer

README = """# The embedded verifier

A Llama with {parameters:.1f} M parameters (hidden {hidden}, {layers} layers, vocabulary {vocabulary}, context {context}), its own
byte-level BPE tokenizer and a ChatML template. It is here so that a run needs no download; it is a small model, not a
good one.

It was trained by `tools/train_tiny_verifier.py` on {train} one-turn conversations whose answers SmolLM2-135M-Instruct
(Apache-2.0) wrote; so it is sequence-level distilled from that model, and under the same licence. The {heldout}
conversations of `../chat.jsonl` have other prompts, none of which it was trained on, and answers of its own, decoded
greedily (`tools/make_chat_data.py`).

| measure | value |
|---|---|
| perplexity per token on held-out conversations that SmolLM2 wrote | {perplexity:.1f} |
| the same per character | {character_perplexity:.2f} |
| repeated 4-grams in its greedy answers | {repeated:.0%} |
| repeated 4-grams in SmolLM2's greedy answers to the same prompts | {reference_repeated:.0%} |

A 4-gram of words counts as repeated if it stood earlier in the same answer; the figure is the mean over answers.
Written by `tools/describe_tiny_verifier.py`.

## What it writes
{samples}
"""


def repeated_4grams(text: str) -> float:
    words = text.split()
    grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verifier", type=Path)
    parser.add_argument("heldout", type=Path, help="conversations of the larger model")
    parser.add_argument("chat", type=Path, help="the verifier's own answers to the same prompts")
    parser.add_argument("--train-conversations", type=int, required=True)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.verifier)
    model = AutoModelForCausalLM.from_pretrained(args.verifier, dtype=torch.float32)
    reference = [json.loads(line) for line in args.heldout.open(encoding="utf-8")]
    own = [json.loads(line) for line in args.chat.open(encoding="utf-8")]

    conversations = [row["conversations"] for row in reference]
    documents = tokenize(tokenizer, conversations, [row["finish_reason"] == "length" for row in reference])
    loss = heldout_loss(model, documents)
    characters = sum(len(tokenizer.decode(d)) for d in documents)
    samples = random.Random(1).sample([r for r in own if r["finish_reason"] == "stop"], 4)
    readme = README.format(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        hidden=model.config.hidden_size,
        layers=model.config.num_hidden_layers,
        vocabulary=model.config.vocab_size,
        context=model.config.max_position_embeddings,
        train=args.train_conversations,
        heldout=len(own),
        perplexity=math.exp(loss),
        character_perplexity=math.exp(loss * sum(map(len, documents)) / characters),
        repeated=sum(repeated_4grams(r["conversations"][1]["content"]) for r in own) / len(own),
        reference_repeated=sum(repeated_4grams(r["conversations"][1]["content"]) for r in reference) / len(reference),
        samples="\n".join(
            f"> **{r['conversations'][0]['content']}**\n>\n"
            + "\n".join(f"> {line}" for line in r["conversations"][1]["content"].splitlines())
            + "\n"
            for r in samples
        ),
    )
    (args.verifier / "README.md").write_text(readme, encoding="utf-8")
    print(readme)


if __name__ == "__main__":
    main()
