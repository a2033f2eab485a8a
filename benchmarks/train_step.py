"""A training step of eagle3 here, in an older checkout and in upstream speculators: peak memory and tokens per second.

Each measurement is a process of its own; the subjects take turns. All train the same shapes, SmolLM2-135M's, from random
weights on the same random verifier states, in float32 on the CPU, every token supervised:

    python benchmarks/train_step.py --old OLD_CHECKOUT --old-python OLD_ENV/bin/python \\
        --upstream-python UPSTREAM_ENV/bin/python --write benchmarks/results/train_step.md

OLD_ENV has the package of OLD_CHECKOUT, whose own script is run. UPSTREAM_ENV is an environment with `speculators==0.9.0`,
which must not be this one: both packages have one import name. Linux alone has the counters that this reads.
"""

import argparse
import ctypes
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

H, HEADS, KV_HEADS, INTERMEDIATE, VOCAB, LAYERS = 576, 9, 3, 1536, 49152, 30
LAYER_IDS = [2, 15, 27]
# Has the C library return freed memory at once, so that what is resident is in use; it costs time.
NO_CACHE = {"MALLOC_MMAP_THRESHOLD_": "65536"}
LAYER = {
    "vocab_size": VOCAB,
    "hidden_size": H,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
}


def ours(args: argparse.Namespace) -> tuple[Any, Callable[[], Any]]:
    """This project's draft, and its loss."""
    import torch
    from transformers import LlamaConfig

    from speculators import SpeculatorsConfig, VerifierConfig
    from speculators.data.row_plan import dense_rows, put_together
    from speculators.losses.distillation import distill
    from speculators.model import TrainingContext
    from speculators.models.eagle3.config import Eagle3SpeculatorConfig
    from speculators.models.eagle3.model import Eagle3Speculator
    from speculators.proposals import GreedyTokenProposalConfig
    from speculators.protocols.batch import Batch, spans_of
    from speculators.protocols.head import VerifierHead
    from speculators.protocols.hidden_states import VerifierStates
    from speculators.protocols.initialisation import Initialisation
    from speculators.protocols.rows import PackedTargets

    methods = [GreedyTokenProposalConfig(speculative_tokens=args.ttt_steps)]
    config = Eagle3SpeculatorConfig(
        transformer_layer_config=LlamaConfig(**LAYER),
        draft_vocab_size=args.draft_vocab,
        eagle_aux_hidden_state_layer_ids=LAYER_IDS,
        speculators_config=SpeculatorsConfig(
            algorithm="eagle3",
            proposal_methods=methods,
            default_proposal_method="greedy",
            verifier=VerifierConfig(name_or_path=None, architectures=["LlamaForCausalLM"]),
        ),
    )
    inputs = random_inputs(args.tokens)
    head_VH = torch.randn(VOCAB, H) * 0.04
    verifier = VerifierHead(head_VH, head_VH)
    model = Eagle3Speculator(config)
    model.initialise(Initialisation(verifier, torch.arange(VOCAB).flip(0)))
    document_BT = torch.zeros_like(inputs["token"])
    targets = PackedTargets(inputs["position"][0], document_BT[0], torch.arange(args.tokens - 1))
    rows = put_together([dense_rows(targets, args.ttt_steps)], [args.tokens], [0])
    batch = Batch(inputs["token"], inputs["position"], document_BT, rows, spans_of(document_BT))
    states = VerifierStates(last_BTH=inputs["last"], aux_BTA=inputs["aux"])
    context = TrainingContext[Any](None, 0.0)

    def loss() -> torch.Tensor:
        (rows,) = model(batch, states, verifier, context).rows.values()
        return distill(rows, batch, states, verifier, {"kl": 1.0}, 1.0).loss

    return model, loss


def upstream(args: argparse.Namespace) -> tuple[Any, Callable[[], Any]]:
    """Upstream's class, called as its trainer calls it, with the attention and loss that run on a CPU."""
    import torch
    from transformers import LlamaConfig

    from speculators import SpeculatorsConfig, VerifierConfig
    from speculators.losses import resolve_loss_config
    from speculators.models.eagle3 import Eagle3DraftModel, Eagle3SpeculatorConfig
    from speculators.proposals.greedy import GreedyTokenProposalConfig

    layer = LlamaConfig(**LAYER)
    layer._attn_implementation = "sdpa"  # what its trainer sets for draft_attn_impl=sdpa
    config = Eagle3SpeculatorConfig(
        transformer_layer_config=layer,
        draft_vocab_size=args.draft_vocab,
        eagle_aux_hidden_state_layer_ids=LAYER_IDS,
        speculators_config=SpeculatorsConfig(
            algorithm="eagle3",
            proposal_methods=[GreedyTokenProposalConfig(speculative_tokens=args.ttt_steps)],
            default_proposal_method="greedy",
            verifier=VerifierConfig(name_or_path=None, architectures=["LlamaForCausalLM"]),
        ),
    )
    inputs = random_inputs(args.tokens)
    model = Eagle3DraftModel(config)
    if args.draft_vocab < VOCAB:
        model.load_vocab_mappings(
            torch.arange(VOCAB) < args.draft_vocab, torch.zeros(args.draft_vocab, dtype=torch.int64)
        )
    with torch.no_grad():
        for part in (model.embed_tokens, model.lm_head, model.verifier_lm_head):
            part.weight.normal_(0, 0.04)
    # Its data set shifts tokens and final states one to the left of the fused states.
    call = {
        "hidden_states": inputs["aux"],
        "input_ids": inputs["token"].roll(-1, 1),
        "document_ids": torch.zeros_like(inputs["token"]),
        "loss_mask": torch.ones_like(inputs["token"]),
        "position_ids": inputs["position"] + 1,
        "verifier_last_hidden_states": inputs["last"].roll(-1, 1),
        "ttt_steps": args.ttt_steps,
        "loss_config": resolve_loss_config("kl_div", "eager"),
    }
    return model, lambda: model(**call)[1]


def random_inputs(tokens: int) -> dict[str, Any]:
    """One document of random tokens and verifier states."""
    import torch

    torch.manual_seed(0)
    return {
        "token": torch.randint(VOCAB, (1, tokens)),
        "position": torch.arange(tokens).unsqueeze(0),
        "last": torch.randn(1, tokens, H),
        "aux": torch.randn(1, tokens, len(LAYER_IDS) * H),
    }


def status_mb(key: str) -> float:
    """A line of /proc/self/status, in MiB: VmRSS is now, VmHWM the most since the last reset."""
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {key}: memory is measured on Linux alone")
    return int(found[1]) / 1024


def measure(args: argparse.Namespace) -> dict[str, float]:
    """One step to allocate gradients and optimizer state, then `--steps` measured ones."""
    import torch

    torch.set_num_threads(args.threads)
    model, loss = {"ours": ours, "upstream": upstream}[args.subject](args)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step() -> float:
        # As training loops do; --keep-gradients is a later micro-batch of an accumulated step.
        if not args.keep_gradients:
            optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.detach().item()

    first = step()
    # Freed memory that the allocator kept would hide the same amount of what the step needs.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    resting = status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    wall, cpu = time.perf_counter(), time.process_time()
    losses = [step() for _ in range(args.steps)]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "memory_mb": status_mb("VmHWM") - resting,
        "resting_mb": resting,
        "tokens_per_second": args.tokens * args.steps / wall,
        "tokens_per_cpu_second": args.tokens * args.steps / cpu,
        "first_loss": first,
        "last_loss": losses[-1],
    }


def main() -> None:
    """Take turns, print every measurement and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", choices=("ours", "upstream"), help="measure one here, print JSON, and stop")
    parser.add_argument("--old", type=Path, help="an older checkout of this project")
    parser.add_argument("--old-python", default=sys.executable, help="python that has the older checkout's package")
    parser.add_argument("--upstream-python", help="python of an environment with upstream speculators 0.9.0")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each")
    parser.add_argument("--steps", type=int, default=1, help="measured steps of a process")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch's CPU threads")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--ttt-steps", type=int, default=3)
    parser.add_argument("--draft-vocab", type=int, default=VOCAB)
    parser.add_argument("--keep-gradients", action="store_true", help="add to the gradients instead of freeing them")
    parser.add_argument("--write", type=Path, help="write the table there as well")
    args = parser.parse_args()
    if args.subject:
        print(json.dumps(measure(args)))
        return
    commands = {"ours": [sys.executable, __file__, "--subject", "ours"]}
    if args.old:
        commands["old"] = [
            args.old_python,
            str(args.old.resolve() / "benchmarks" / "train_step.py"),
            "--subject",
            "ours",
        ]
    if args.upstream_python:
        commands["upstream"] = [args.upstream_python, __file__, "--subject", "upstream"]
    passed = [
        f"--{key}={vars(args)[key.replace('-', '_')]}"
        for key in ("steps", "threads", "tokens", "ttt-steps", "draft-vocab")
    ]
    passed += ["--keep-gradients"] if args.keep_gradients else []
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for turn in range(args.repeats):
        # Whoever goes second finds warm caches: they take turns at that too.
        for name in list(commands) if turn % 2 == 0 else reversed(commands):
            in_use, values = (run_alone([*commands[name], *passed], environment) for environment in (NO_CACHE, {}))
            values["in_use_mb"] = in_use["memory_mb"]
            measured[name].append(values)
            print(name, values, flush=True)
    table = report(measured, args)
    print(table)
    if args.write:
        args.write.parent.mkdir(parents=True, exist_ok=True)
        args.write.write_text(table)


def run_alone(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """What a subject measures in a process of its own."""
    env = {**os.environ, **environment}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path.home(), env=env)
    return json.loads(done.stdout.splitlines()[-1])


def report(measured: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> str:
    """Medians, and the ratio of neighbouring processes with its spread."""
    others = [name for name in ("old", "upstream") if name in measured]
    titles = {"old": "older checkout", "upstream": "upstream 0.9.0"}
    names = {"in_use_mb": "memory of a step, MiB", "memory_mb": "with the C library's cache, MiB"}
    names |= {"resting_mb": "memory between steps, MiB"}
    names |= {"tokens_per_second": "tokens/s", "tokens_per_cpu_second": "tokens per CPU second"}
    gradients = "kept and added to" if args.keep_gradients else "freed before a step, as training loops do"
    lines = [
        "# A training step of eagle3",
        "",
        f"{args.tokens} tokens, {args.ttt_steps} steps of training-time test, vocabulary {VOCAB}, draft vocabulary "
        f"{args.draft_vocab}, hidden size {H}, one layer, float32, AdamW, {args.threads} CPU thread(s), random weights "
        "and states, every token supervised. Memory of a step: the peak of the resident set during a step minus the "
        f"resident set after a finished one, when gradients and optimizer state are allocated; gradients are {gradients}. "
        "In the first line the C library returns freed memory at once, so that what is resident is in use; in the second "
        "it keeps what it likes. "
        f"{args.repeats} processes of each, taking turns; medians, and the ratio of neighbours with its range.",
        "",
        "| | this project |" + "".join(f" {titles[name]} | ratio |" for name in others),
        "|---|---|" + "---|---|" * len(others),
    ]
    for key, name in names.items():
        values = {subject: [m[key] for m in ms] for subject, ms in measured.items()}
        cells = [name, f"{statistics.median(values['ours']):.4g}"]
        for other in others:
            ratios = [a / b for a, b in zip(values["ours"], values[other], strict=True)]
            cells += [f"{statistics.median(values[other]):.4g}"]
            cells += [f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
