"""A training step with the verifier's states computed and read, what they take on disk, and preparing data again.

    python benchmarks/cache.py --write benchmarks/results/cache.md [data.max_conversations=200 ...]

Each algorithm trains on the embedded verifier and conversations, or those that overrides name, with the settings of its
YAML. Both kinds of step are the same optimizer step on the same batch, in one process, and take turns; the ratio is that
of neighbours.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

WARM_UP = 2


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and what it returns."""
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def measured(algorithm: str, overrides: list[str], folder: Path, steps: int) -> dict[str, float]:
    """Seconds and bytes of one algorithm's run."""
    import torch

    from speculators.cache.store import Store
    from speculators.composition.compose import compose
    from speculators.config import SpeculatorModelConfig
    from speculators.data import saved
    from speculators.data.cached_states import cached_states
    from speculators.data.collate import collate
    from speculators.format.published import speculator_dict
    from speculators.protocols.initialisation import Initialisation
    from speculators.train import optimizer
    from speculators.train.build import build
    from speculators.train.device import start_accelerator
    from speculators.train.step import Student
    from speculators.utils.device import resolve
    from speculators.verifier.facts import VerifierFacts
    from speculators.verifier.in_process import Verifier

    run = compose([f"algorithm={algorithm}", "tracker=none", f"cache.dir={folder / algorithm}", *overrides])
    device, store = resolve(run.device), Store.of(run.cache)
    facts = VerifierFacts.read(run.verifier.name_or_path, run.verifier.revision)
    verifier = Verifier.load(run.verifier, device)
    prepare, prepared = timed(lambda: saved.prepared(run, store, verifier, facts.vocab_size))
    again, _ = timed(lambda: saved.prepared(run, store, verifier, facts.vocab_size))
    given = Initialisation(verifier.head, prepared.token_count_V)
    model = build(SpeculatorModelConfig.from_dict(speculator_dict(run, facts)), given, device)
    accelerator = start_accelerator(device, run, folder)
    optimizers = [accelerator.prepare_optimizer(o) for o in optimizer.build(model, run.optimizer)]
    size = run.trainer.batch_size
    sequences = prepared.train[: size * (steps + WARM_UP)]
    start = time.perf_counter()
    with cached_states(store, run.verifier, verifier, sequences, model.layer_ids) as states:
        extract = time.perf_counter() - start
        students = [Student(model, source, run.algorithm, accelerator) for source in (verifier, states)]
        model.train()
        seconds: list[list[float]] = [[], []]
        for step in range(steps + WARM_UP):
            batch = collate(sequences[step * size : (step + 1) * size], partial(type(model).plan_rows, run.algorithm))

            def learn(student: Student) -> float:
                sums = student.learn([batch], 0.0)  # noqa: B023 (called at once)
                return float(student.update(optimizers, run.trainer.max_grad_norm) + sums["loss"])

            # Whoever goes second finds warm caches: they take turns at that too.
            for i in (0, 1) if step % 2 else (1, 0):
                seconds[i].append(timed(lambda i=i: learn(students[i]))[0])
        tokens = sum(len(document.tokens) for sequence in sequences for document in sequence)
        entry = next(e for e in store.entries() if e.name.startswith("states"))
        online, cached = (s[WARM_UP:] for s in seconds)
        return {
            "online": statistics.median(online),
            "cached": statistics.median(cached),
            "ratio": statistics.median(c / o for c, o in zip(cached, online, strict=True)),
            "low": min(c / o for c, o in zip(cached, online, strict=True)),
            "high": max(c / o for c, o in zip(cached, online, strict=True)),
            "bytes": entry.size / tokens,
            "numbers": facts.hidden_size * (1 + len(model.layer_ids)),
            "extract": extract,
            "tokens": tokens,
            "prepare": prepare,
            "again": again,
            "train_tokens": prepared.report.train_tokens,
            "threads": torch.get_num_threads(),
        }


def main() -> None:
    """Measure every algorithm and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()

    from speculators.settings.algorithm import AlgorithmSettings

    with tempfile.TemporaryDirectory() as folder:
        rows = {a: measured(a, args.overrides, Path(folder), args.steps) for a in AlgorithmSettings.names()}
    first = next(iter(rows.values()))
    lines = [
        "# Training from cached hidden states",
        "",
        f"{' '.join(args.overrides) or 'The embedded verifier and conversations'}, the settings of each algorithm's YAML, "
        f"{first['threads']} CPU thread(s), {args.steps} steps of each kind, taking turns; medians, and the ratio of "
        "neighbours with its range. A step is everything from the batch on the host to the updated weights.",
        "",
        "| | step online, s | step cached, s | ratio | extraction, tokens/s | disk, bytes a token | numbers a token |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for algorithm, row in rows.items():
        lines.append(
            f"| {algorithm} | {row['online']:.2f} | {row['cached']:.2f} | {row['ratio']:.2f} ({row['low']:.2f} to "
            f"{row['high']:.2f}) | {row['tokens'] / row['extract']:.0f} | {row['bytes']:.0f} | {row['numbers']:.0f} |"
        )
    lines += [
        "",
        f"Preparing the data, {first['train_tokens']:,.0f} tokens to train on: "
        f"{statistics.median(r['prepare'] for r in rows.values()):.2f} s to tokenise and keep them, "
        f"{statistics.median(r['again'] for r in rows.values()):.2f} s from the cache.",
    ]
    print("\n".join(lines))
    if args.write:
        args.write.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
