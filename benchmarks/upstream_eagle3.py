"""Train upstream's eagle3 draft on a CPU, to compare with a draft of this package that had the same conversations.

    UPSTREAM_ENV/bin/python benchmarks/upstream_eagle3.py VERIFIER --data answers.jsonl --output upstream_draft

Runs in an environment of its own, with upstream speculators 0.9.0. Settings are the defaults of its training command (whole
vocabulary, three steps of training-time test, Muon, bfloat16 autocast), but for epochs and tokens a step. `--dtype float32` is
for CPUs without bfloat16 products; Muon's iteration, in bfloat16 in torch, is then in float32 as well. Draft, packing,
optimizers, schedule, clipping and published form are its own. Its loop asks for an accelerator and its data preparation for a
vLLM server, so that the loop, the rendering and the verifier's states stand here.

Prints the CPU seconds of the states and of the training.
"""

import argparse
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from speculators.models.eagle3.data import shift_batch
from speculators.train.checkpointer import convert_float_dtype, patch_config_dtype
from speculators.train.cli import build_draft_model
from speculators.train.config import TrainConfig
from speculators.train.data import CollateFn
from speculators.train.distributed_batch_sampler import MultipackDistributedBatchSamplerV2
from speculators.train.optimizers import build_optimizers
from torch.optim import _muon
from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup

from speculators import SpeculatorModel


def rendered(tokenizer: Any, messages: list[dict[str, str]], limit: int) -> tuple[list[int], list[int]]:
    """Tokens of a conversation, and 1 where one is of an answer: what the prompt for that answer does not have yet."""
    render = partial(tokenizer.apply_chat_template, return_dict=False)
    tokens, supervised = render(messages), []
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            supervised += [0] * (len(render(messages[:i], add_generation_prompt=True)) - len(supervised))
            supervised += [1] * (len(render(messages[: i + 1])) - len(supervised))
    supervised += [0] * (len(tokens) - len(supervised))
    return tokens[:limit], supervised[:limit]


@torch.inference_mode()
def samples(
    verifier_path: str, file: Path, layer_ids: list[int], limit: int, dtype: torch.dtype
) -> Iterator[dict[str, torch.Tensor]]:
    """What upstream's data set has of each conversation, with states in `dtype`."""
    tokenizer = AutoTokenizer.from_pretrained(verifier_path)
    verifier = AutoModelForCausalLM.from_pretrained(verifier_path, dtype=dtype).eval().base_model
    last: list[torch.Tensor] = []
    # The last entry of hidden_states has the final norm; upstream's draft applies it itself.
    verifier.layers[-1].register_forward_hook(lambda _module, _given, made: last.append(made))
    for line in file.read_text().splitlines():
        tokens, supervised = rendered(tokenizer, json.loads(line)["conversations"], limit)
        found = verifier(input_ids=torch.tensor([tokens]), output_hidden_states=True, use_cache=False).hidden_states
        yield {
            "input_ids": torch.tensor(tokens),
            "loss_mask": torch.tensor(supervised),
            "hidden_states": torch.cat([found[i][0] for i in layer_ids], dim=-1),
            "verifier_last_hidden_states": last.pop()[0],
            "lengths": torch.tensor([len(tokens)]),
            "position_ids": torch.arange(len(tokens)),
        }


def orthogonalized(
    grad: torch.Tensor, ns_coefficients: tuple[float, float, float], ns_steps: int, eps: float
) -> torch.Tensor:
    """The Newton-Schulz iteration of torch.optim.Muon in the gradient's own dtype."""
    a, b, c = ns_coefficients
    wide = grad.T if grad.size(0) > grad.size(1) else grad
    x = wide / wide.norm().clamp(min=eps)
    for _ in range(ns_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if grad.size(0) > grad.size(1) else x


def main() -> None:
    """Train, and write upstream's published form with the one line of a model card that says how it is served."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verifier", help="folder of the verifier")
    parser.add_argument("--data", required=True, type=Path, help="conversations with the verifier's answers")
    parser.add_argument("--output", required=True, type=Path, help="folder to write")
    parser.add_argument("--epochs", type=int, default=5, help="5 in the example scripts of its repository")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens a step; 8,192 by default there")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of verifier and training")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype: torch.dtype = getattr(torch, options.dtype)
    flags = {
        "verifier_name_or_path": options.verifier,
        "draft_attn_impl": "sdpa",  # its default attention and loss need an accelerator
        "loss_implementation": "eager",
        "epochs": options.epochs,
        "total_seq_len": options.tokens,
    }
    settings = argparse.Namespace(**TrainConfig.from_sources(cli=flags, argv=[]).flatten())
    if dtype == torch.float32:
        _muon._zeropower_via_newtonschulz = orthogonalized
    torch.manual_seed(settings.seed)
    verifier_config = json.loads((Path(options.verifier) / "config.json").read_text())
    draft_class = SpeculatorModel.registry["eagle3"]
    draft: Any = build_draft_model(settings, draft_class, None, None, verifier_config["vocab_size"])
    start = time.process_time()
    data = list(samples(options.verifier, options.data, draft.target_layer_ids, options.tokens, dtype))
    lengths = [len(one["input_ids"]) for one in data]
    print(f"states of {sum(lengths)} tokens: {time.process_time() - start:.0f} CPU s", flush=True)
    packing = MultipackDistributedBatchSamplerV2(options.tokens, lengths, num_replicas=1, rank=0, seed=settings.seed)
    collate = CollateFn(
        options.tokens, verifier_config["hidden_size"], len(draft.target_layer_ids), preprocess=shift_batch
    )
    optimizers = build_optimizers(draft, settings)
    total = len(packing) * options.epochs
    schedules = [get_linear_schedule_with_warmup(one, total // 100, total) for one in optimizers]
    given, _ = draft_class.get_trainer_kwargs(**vars(settings))
    start, wall = time.process_time(), time.perf_counter()
    draft.train()
    step = 0
    for epoch in range(options.epochs):
        packing.set_epoch(epoch)
        for chosen in packing:
            # shift_batch makes new tensors of each sample; the samples stay as they are.
            batch = {k: v for k, v in collate([data[i] for i in chosen]).items() if isinstance(v, torch.Tensor)}
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                _, loss, _ = draft(**batch, **given)
            for one in optimizers:
                one.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(draft.parameters(), 1.0)
            for one in (*optimizers, *schedules):
                one.step()
            step += 1
            if step % 10 == 0:
                print(f"step {step}/{total} loss {loss.item():.3f} {time.process_time() - start:.0f} CPU s", flush=True)
    seconds = time.process_time() - start
    print(f"training, {step} steps: {seconds:.0f} CPU s, {time.perf_counter() - wall:.0f} s", flush=True)
    tensors = convert_float_dtype(draft.state_dict(), torch.bfloat16)
    draft.save_pretrained(options.output, state_dict=tensors)
    patch_config_dtype(options.output / "config.json", torch.bfloat16)
    (options.output / "README.md").write_text("vllm serve .\n")


if __name__ == "__main__":
    main()
