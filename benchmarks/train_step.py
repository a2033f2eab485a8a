"""A training step of eagle3 here and in upstream speculators: memory, tokens per second, and what the products allow.

    python benchmarks/train_step.py --upstream-python UPSTREAM_ENV/bin/python --write benchmarks/results/train_step.md

and, for the same figures of an older checkout, whose own script is run in an environment with its package,

    python benchmarks/train_step.py --old CHECKOUT --old-python OLD_ENV/bin/python

Each measurement is a process of its own, with one CPU thread; here and upstream take turns. Both train the same shapes from
random weights on the same random verifier states. UPSTREAM_ENV is an environment with `speculators==0.9.0`, which must not be
this one: both packages have one import name. Linux alone has the counters that this reads. On a CPU without bfloat16 products,
which takes a hundred times as long for them, those cells are left out.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

H, HEADS, KV_HEADS, INTERMEDIATE = 576, 9, 3, 1536
LAYER_IDS = [2, 15, 27]
# Of a packed conversation: tokens, and those of its prompt.
CONVERSATION, PROMPT = 256, 64
# Has the C library return freed memory at once, so that what is resident is in use; it costs time. Steps that are timed have the
# values that the library comes to by itself: mallopt's parameters, and these values.
NO_CACHE = {"MALLOC_MMAP_THRESHOLD_": "65536"}
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = (-3, 32 * 2**20), (-1, 64 * 2**20)
ATTENTION_TOKENS, ATTENTION_SLOTS = 8192, 3
TURNS = 5


@dataclass(frozen=True)
class Cell:
    """What is measured: tokens, steps of training-time test, dtype of products, vocabulary.

    `chat`: packed conversations, of which the answers are supervised, instead of one document. `upstream`: there as well.
    `timed`: steps that are timed after the one whose memory is measured; with none, that one is. `warm`: tokens of the step
    before all these.
    """

    tokens: int
    slots: int
    dtype: str = "float32"
    vocab: int = 4096
    chat: bool = False
    upstream: bool = False
    timed: int = 1
    warm: int = 512


CELLS = [
    *(Cell(tokens, slots, upstream=True) for tokens in (512, 2048) for slots in (3, 7)),
    *(Cell(tokens, slots, "bfloat16", upstream=True) for tokens in (512, 2048) for slots in (3, 7)),
    Cell(8192, 3, "bfloat16", timed=0),
    Cell(8192, 3, timed=0),
    Cell(8192, 7, timed=0),
    Cell(16384, 7, timed=0),
    Cell(2048, 3, vocab=49152, upstream=True),
    Cell(2048, 3, vocab=49152, chat=True, upstream=True),
    Cell(2048, 3, "bfloat16", vocab=49152, chat=True, upstream=True),
]  # fmt: skip


def layer(cell: Cell) -> dict[str, Any]:
    """Sizes of the draft's layer, SmolLM2-135M's but for the vocabulary."""
    return {
        "vocab_size": cell.vocab,
        "hidden_size": H,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    }


def ours(cell: Cell) -> tuple[Any, Callable[[int], Any]]:
    """This project's draft, and its loss on so many tokens."""
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

    config = Eagle3SpeculatorConfig(
        transformer_layer_config=LlamaConfig(**layer(cell)),
        draft_vocab_size=cell.vocab,
        eagle_aux_hidden_state_layer_ids=LAYER_IDS,
        speculators_config=SpeculatorsConfig(
            algorithm="eagle3",
            proposal_methods=[GreedyTokenProposalConfig(speculative_tokens=cell.slots)],
            default_proposal_method="greedy",
            verifier=VerifierConfig(name_or_path=None, architectures=["LlamaForCausalLM"]),
        ),
    )
    torch.manual_seed(0)
    head_VH = torch.randn(cell.vocab, H) * 0.04
    verifier = VerifierHead(head_VH, head_VH)
    model = Eagle3Speculator(config)
    model.initialise(Initialisation(verifier, torch.arange(cell.vocab).flip(0)))
    context = TrainingContext[Any](None, 0.0)

    def loss(tokens: int) -> torch.Tensor:
        inputs = random_inputs(cell, tokens)
        position_BT, document_BT = inputs["position"], inputs["document"]
        predicts = inputs["supervised"][0, 1:] & (position_BT[0, 1:] > 0)
        targets = PackedTargets(position_BT[0], document_BT[0], predicts.nonzero()[:, 0])
        rows = put_together([dense_rows(targets, cell.slots)], [tokens], [0])
        batch = Batch(inputs["token"], position_BT, document_BT, rows, spans_of(document_BT))
        states = VerifierStates(last_BTH=inputs["last"], aux_BTA=inputs["aux"])
        (found,) = model(batch, states, verifier, context).rows.values()
        return distill(found, batch, states, verifier, {"kl": 1.0}, 1.0).loss

    return model, loss


def upstream(cell: Cell) -> tuple[Any, Callable[[int], Any]]:
    """Upstream's class, called as its trainer calls it, with the attention and loss that run on a CPU."""
    import torch
    from transformers import LlamaConfig

    from speculators import SpeculatorsConfig, VerifierConfig
    from speculators.losses import resolve_loss_config
    from speculators.models.eagle3 import Eagle3DraftModel, Eagle3SpeculatorConfig
    from speculators.proposals.greedy import GreedyTokenProposalConfig

    layer_config = LlamaConfig(**layer(cell))
    layer_config._attn_implementation = "sdpa"  # what its trainer sets for draft_attn_impl=sdpa
    config = Eagle3SpeculatorConfig(
        transformer_layer_config=layer_config,
        draft_vocab_size=cell.vocab,
        eagle_aux_hidden_state_layer_ids=LAYER_IDS,
        speculators_config=SpeculatorsConfig(
            algorithm="eagle3",
            proposal_methods=[GreedyTokenProposalConfig(speculative_tokens=cell.slots)],
            default_proposal_method="greedy",
            verifier=VerifierConfig(name_or_path=None, architectures=["LlamaForCausalLM"]),
        ),
    )
    torch.manual_seed(0)
    model = Eagle3DraftModel(config)
    with torch.no_grad():
        for part in (model.embed_tokens, model.lm_head, model.verifier_lm_head):
            part.weight.normal_(0, 0.04)

    def loss(tokens: int) -> torch.Tensor:
        inputs = random_inputs(cell, tokens)
        # Its data set shifts tokens and final states one to the left of the fused states.
        return model(
            hidden_states=inputs["aux"],
            input_ids=inputs["token"].roll(-1, 1),
            document_ids=inputs["document"],
            loss_mask=inputs["supervised"].roll(-1, 1).long(),
            position_ids=inputs["position"] + 1,
            verifier_last_hidden_states=inputs["last"].roll(-1, 1),
            ttt_steps=cell.slots,
            loss_config=resolve_loss_config("kl_div", "eager"),
        )[1]

    return model, loss


def random_inputs(cell: Cell, tokens: int) -> dict[str, Any]:
    """Random tokens and verifier states."""
    import torch

    torch.manual_seed(0)
    length = CONVERSATION if cell.chat else tokens
    place_1T = torch.arange(tokens).unsqueeze(0)
    position_1T = place_1T % length
    dtype = getattr(torch, cell.dtype)
    return {
        "token": torch.randint(cell.vocab, (1, tokens)),
        "position": position_1T,
        "document": place_1T // length,
        "supervised": position_1T >= (PROMPT if cell.chat else 0),
        "last": torch.randn(1, tokens, H).to(dtype),
        "aux": torch.randn(1, tokens, len(LAYER_IDS) * H).to(dtype),
    }


def status_mb(key: str) -> float:
    """A line of /proc/self/status, in MiB: VmRSS is now, VmHWM the most since the last reset."""
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {key}: memory is measured on Linux alone")
    return int(found[1]) / 1024


@contextmanager
def cpu_seconds(into: list[float]) -> Iterator[None]:
    """Append the CPU seconds that the block takes; with one thread, those are its time on an idle core."""
    before = time.process_time()
    yield
    into.append(time.process_time() - before)


def measure(subject: str, cell: Cell) -> dict[str, float]:
    """A step on few tokens, which allocates gradients and optimizer state, then the steps to measure."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(1)
    model, loss = {"ours": ours, "upstream": upstream}[subject](cell)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step(tokens: int) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=cell.dtype == "bfloat16"):
            value = loss(tokens)
        value.backward()
        optimizer.step()

    # The CPU's flash attention is not among what is counted.
    with FlopCounterMode(display=False) as counter:
        step(cell.warm)
    libc, seconds = ctypes.CDLL("libc.so.6"), []
    libc.malloc_trim(0)
    resting = status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    with cpu_seconds(seconds):
        step(cell.tokens)
    memory = status_mb("VmHWM") - resting
    for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
        libc.mallopt(*parameter)
    for _ in range(cell.timed):
        with cpu_seconds(seconds):
            step(cell.tokens)
    length = CONVERSATION if cell.chat else cell.tokens
    flop = counter.get_total_flops() * cell.tokens / cell.warm
    # Seven products of half the scores: two forward, five backward.
    flop += 7 * cell.slots * cell.tokens * length * H
    return {
        "memory": memory,
        "tokens_per_second": cell.tokens / min(seconds),
        "bound": cell.tokens / (flop / product_rate(getattr(torch, cell.dtype))),
    }


def product_rate(dtype: Any) -> float:
    """FLOP per CPU second of a large matrix product."""
    import torch

    left, right = torch.randn(2048, 1536).to(dtype), torch.randn(1536, 2048).to(dtype)
    seconds: list[float] = []
    for _ in range(8):
        with cpu_seconds(seconds):
            left @ right
    return 2 * 2048 * 1536 * 2048 / min(seconds)


def attention() -> dict[str, float]:
    """CPU seconds of the attention of all slots, forward and backward: without a dense mask, and with it."""
    import torch

    from speculators.data.row_plan import dense_rows, put_together
    from speculators.nn.attention import KeyValue, masked
    from speculators.nn.unrolled_attention import dense_mask, unrolled
    from speculators.protocols.batch import Batch, spans_of
    from speculators.protocols.rows import PackedTargets

    torch.set_num_threads(1)
    inputs = random_inputs(Cell(ATTENTION_TOKENS, ATTENTION_SLOTS), ATTENTION_TOKENS)
    targets = PackedTargets(inputs["position"][0], inputs["document"][0], torch.arange(ATTENTION_TOKENS - 1))
    rows = put_together([dense_rows(targets, ATTENTION_SLOTS)], [ATTENTION_TOKENS], [0])
    batch = Batch(inputs["token"], inputs["position"], inputs["document"], rows, spans_of(inputs["document"]))
    d = H // HEADS
    query = torch.randn(1, HEADS, ATTENTION_TOKENS, d, requires_grad=True)
    seen = [
        KeyValue(*torch.randn(2, 1, KV_HEADS, ATTENTION_TOKENS, d, requires_grad=True).unbind())
        for _ in range(ATTENTION_SLOTS)
    ]

    def without_mask() -> None:
        attend = unrolled(batch, ATTENTION_SLOTS, torch.float32)
        for slots in range(1, ATTENTION_SLOTS + 1):
            attend(query, tuple(seen[:slots])).sum().backward()

    def with_mask() -> None:
        mask = dense_mask(batch, ATTENTION_SLOTS, torch.float32)
        for slots in range(1, ATTENTION_SLOTS + 1):
            attend = masked(mask[..., : slots * ATTENTION_TOKENS].contiguous())
            attend(query, tuple(seen[:slots])).sum().backward()

    seconds: list[float] = []
    for way in (without_mask, with_mask):
        with cpu_seconds(seconds):
            way()
    return dict(zip(("without", "dense"), seconds, strict=True))


def alone(python: str, subject: str, cell: Cell | None = None) -> dict[str, float]:
    """What a subject measures in a process of its own."""
    return printed(
        [python, str(Path(__file__).resolve()), "--subject", subject]
        + (["--cell", json.dumps(asdict(cell))] if cell else [])
    )


def printed(command: list[str]) -> dict[str, float]:
    """The JSON that a command prints last."""
    environment = os.environ | NO_CACHE | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path.home(), env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def row(cell: Cell, upstream_python: str | None) -> str:
    """A line of the table."""
    here = alone(sys.executable, "ours", cell)
    there = alone(upstream_python, "upstream", cell) if cell.upstream and upstream_python else None
    speed = here["tokens_per_second"]
    cells = [
        f"{cell.tokens:,}",
        str(cell.slots),
        cell.dtype,
        f"{cell.vocab:,}",
        "chat" if cell.chat else "one document",
        f"{here['memory']:,.0f}",
        f"{there['memory']:,.0f}" if there else "",
        f"{speed:,.0f}",
        f"{there['tokens_per_second']:,.0f}" if there else "",
        f"{speed / there['tokens_per_second']:.2f}" if there else "",
        f"{speed / here['bound']:.0%}",
    ]
    return "| " + " | ".join(cells) + " |"


def beside_older(checkout: Path, python: str) -> str:
    """A step here and in an older checkout, in turns: ratios of neighbours with their range."""
    # As the older script measures: after a step of the same size.
    cell = Cell(2048, 3, vocab=49152, timed=0, warm=2048)
    older = [python, str(checkout.resolve() / "benchmarks" / "train_step.py"), "--subject", "ours", "--threads", "1"]
    ways = [lambda: alone(sys.executable, "ours", cell), lambda: printed(older)]
    memory, speed = [], []
    for turn in range(TURNS):
        # What goes second finds warm caches: they take turns at that too.
        first = turn % 2
        taken = {first: ways[first](), 1 - first: ways[1 - first]()}
        memory.append(taken[0]["memory"] / taken[1]["memory_mb"])
        speed.append(taken[0]["tokens_per_second"] / taken[1]["tokens_per_cpu_second"])
        print(taken, flush=True)
    ratios = [f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})" for values in (memory, speed)]
    return (
        f"{cell.tokens:,} tokens, {cell.slots} steps, vocabulary {cell.vocab:,}, {cell.dtype}, beside {checkout}, {TURNS} "
        f"processes of each in turns: memory of a step {ratios[0]} of the older one's, tokens per CPU second {ratios[1]}."
    )


def main() -> None:
    """Measure every cell, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--subject", choices=("ours", "upstream", "attention"), help="measure here, print JSON, and stop"
    )
    parser.add_argument("--cell", type=lambda text: Cell(**json.loads(text)), help="what `--subject` measures, as JSON")
    parser.add_argument("--upstream-python", help="python of an environment with upstream speculators 0.9.0")
    parser.add_argument("--old", type=Path, help="an older checkout: compare with it, and stop")
    parser.add_argument("--old-python", default=sys.executable, help="python that has the older checkout's package")
    parser.add_argument("--write", type=Path, help="write the table there as well")
    args = parser.parse_args()
    if args.old:
        print(beside_older(args.old, args.old_python))
        return
    if args.subject:
        print(json.dumps(attention() if args.subject == "attention" else measure(args.subject, args.cell)))
        return
    import torch

    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    lines = [
        "# A training step of eagle3",
        "",
        f"`make bench`: hidden size {H}, {HEADS} heads, one layer, AdamW, one CPU thread, random weights and states. bfloat16 is "
        "autocast, as both trainers use it. In one document every token is supervised; chat is packed conversations of "
        f"{CONVERSATION} tokens, the first {PROMPT} of them a prompt. Memory of a step is the peak of the resident set during a "
        "step minus the resident set before it, with weights, gradients and optimizer state allocated, while the C library "
        "returns freed memory at once. Tokens are per CPU second. The bound is a step whose matrix products and attention, "
        "recomputation included, run as fast as a product of 2,048 x 1,536 x 2,048 in the same process.",
        "",
        "| tokens | steps | dtype | vocabulary | batch | memory, MiB | upstream's, MiB | tokens/s | upstream's | ratio "
        "| share of the bound |",
        "|--:|--:|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for cell in CELLS:
        if cell.dtype == "bfloat16" and not has_bfloat16:
            print(f"{cell}: left out, this CPU has no bfloat16 products", flush=True)
            continue
        lines.append(row(cell, args.upstream_python))
        print(lines[-1], flush=True)
    taken = alone(sys.executable, "attention")
    lines += [
        "",
        f"Attention of {ATTENTION_SLOTS} slots, forward and backward, float32, one document of {ATTENTION_TOKENS:,} tokens: "
        f"{taken['without']:.1f} CPU seconds, with a dense mask {taken['dense']:.1f}, a ratio of "
        f"{taken['without'] / taken['dense']:.2f}.",
    ]
    print(lines[-1])
    if args.write:
        args.write.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
