"""Write the package's chat data: greedy answers of the embedded verifier to prompts that it was never trained on.

    python tools/make_chat_data.py speculators/assets/tiny prompts.jsonl speculators/assets/chat.jsonl

A draft learns what the verifier would say, so answers of the verifier itself (on-policy data) are worth several times
those of another model.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verifier", type=Path)
    parser.add_argument("prompts", type=Path, help="conversations; their first message is the prompt")
    parser.add_argument("output", type=Path)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.verifier, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(args.verifier, dtype=torch.float32)

    rows = [json.loads(line) for line in args.prompts.open(encoding="utf-8")]
    # One conversation a prompt, in the file's order.
    unique = list({row["conversations"][0]["content"]: row for row in rows}.values())
    rendered = [
        tokenizer.apply_chat_template(row["conversations"][:1], tokenize=False, add_generation_prompt=True)
        for row in unique
    ]
    order = sorted(range(len(unique)), key=lambda i: len(rendered[i]))
    answers: dict[int, tuple[str, str]] = {}
    for start in range(0, len(order), args.batch_size):
        chosen = order[start : start + args.batch_size]
        inputs = tokenizer([rendered[i] for i in chosen], return_tensors="pt", padding=True)
        output = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=args.max_new_tokens,
            do_sample=False,
        )
        for i, tokens in zip(chosen, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            stopped = tokenizer.eos_token_id in tokens
            text = tokenizer.decode(tokens[: tokens.index(tokenizer.eos_token_id)] if stopped else tokens)
            answers[i] = (text, "stop" if stopped else "length")
        print(f"{min(start + args.batch_size, len(order))}/{len(order)}", flush=True)

    with args.output.open("w", encoding="utf-8") as file:
        for i, row in enumerate(unique):
            text, reason = answers[i]
            conversation = [row["conversations"][0], {"role": "assistant", "content": text}]
            record = {"category": row["category"], "finish_reason": reason, "conversations": conversation}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
