"""Attention of an unrolled draft on a CUDA device beside the same attention with a dense mask: time and memory.

    python benchmarks/attention.py --write benchmarks/results/attention.md

All slots of a layer with the heads of an 8B verifier, forward and backward, on random queries, keys and values. The time is the
median of three after one that is not counted; memory is the peak beyond those inputs.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from speculators.nn.attention import Attend, KeyValue
from speculators.nn.unrolled_attention import dense, unrolled
from speculators.protocols.batch import spans_of

HEADS, KEY_HEADS, WIDTH = 32, 8, 128
TURNS = 3


class Case(NamedTuple):
    """Tokens of a batch and of each of its documents, slots, dtype and window."""

    tokens: int
    document: int
    slots: int
    dtype: torch.dtype
    window: int | None = None


LENGTHS = [(2048, 2048), (2048, 256), (8192, 8192), (8192, 256), (16384, 16384)]
CASES = [
    *(Case(*lengths, slots, torch.bfloat16) for lengths in LENGTHS for slots in (3, 7)),
    Case(8192, 8192, 3, torch.bfloat16, 1024),
    *(Case(*lengths, slots, torch.float32) for lengths in LENGTHS[:3] for slots in (3, 7)),
    Case(8192, 256, 3, torch.float32),
]


def measure(case: Case, batch: Any, tensors: list[Tensor], make: Callable[..., Attend]) -> tuple[float, float]:
    """Milliseconds and MiB."""

    def compute() -> float:
        started, total = time.perf_counter(), torch.zeros((), device="cuda")
        attend = make(batch, case.slots, case.dtype)
        for s in range(case.slots):
            seen = tuple(KeyValue(*tensors[3 * i + 1 : 3 * i + 3]) for i in range(s + 1))
            total = total + attend(tensors[3 * s], seen, case.window).float().square().sum()
        torch.autograd.grad(total, tensors)
        torch.cuda.synchronize()
        return time.perf_counter() - started

    compute()
    torch.cuda.reset_peak_memory_stats()
    before, taken = torch.cuda.memory_allocated(), sorted(compute() for _ in range(TURNS))
    return taken[TURNS // 2] * 1e3, (torch.cuda.max_memory_allocated() - before) / 2**20


def row(case: Case) -> str:
    """A row of the table."""
    place_1T = torch.arange(case.tokens).unsqueeze(0)
    document_1T, position_1T = place_1T // case.document, (place_1T % case.document).cuda()
    on_device = document_1T.cuda()
    batch = SimpleNamespace(
        token_BT=on_device, document_BT=on_device, position_BT=position_1T, spans=spans_of(document_1T)
    )
    tensors = [
        torch.randn(1, case.tokens, heads, WIDTH, device="cuda", dtype=case.dtype).transpose(1, 2).requires_grad_()
        for heads in (HEADS, KEY_HEADS, KEY_HEADS) * case.slots
    ]
    (own, own_memory), (old, old_memory) = (measure(case, batch, tensors, make) for make in (unrolled, dense))
    cells = f"{case.tokens:,}", f"{case.document:,}", case.slots, str(case.dtype)[6:], case.window or ""
    return f"| {' | '.join(map(str, cells))} | {own:.1f} | {old:.1f} | {own / old:.2f} | {own_memory:,.0f} | {old_memory:,.0f} |"


def main() -> None:
    """The table, printed as it is made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="file that gets the table")
    args = parser.parse_args()
    torch.manual_seed(0)
    lines = [
        f"# Attention of all slots on one {torch.cuda.get_device_name()}",
        "",
        f"`benchmarks/attention.py`, torch {torch.__version__}: {HEADS} heads, {KEY_HEADS} key heads of width {WIDTH}, forward "
        "and backward. A dense mask has tokens x slots x tokens values.",
        "",
        "| tokens | of a document | slots | dtype | window | ms | with a dense mask | ratio | memory, MiB | with a dense mask |",
        "|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    print("\n".join(lines))
    for case in CASES:
        lines.append(row(case))
        print(lines[-1], flush=True)
    if args.write:
        args.write.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
