"""A training step with the verifier's states computed and read, what they take on disk, and preparing data again.

    python benchmarks/cache.py --write benchmarks/results/cache.md [data.max_conversations=200 ...]
    python benchmarks/cache.py --memory --smollm2 FOLDER --data FILE --write benchmarks/results/cache.md

--memory measures the memory of training instead, each kind in a process of its own, and appends its table to the file.

Each algorithm trains on the embedded verifier and conversations, or those that overrides name, with the settings of its
YAML. Both kinds of step are the same optimizer step on the same batch, in one process, and take turns; the ratio is that
of neighbours.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    from speculators.verifier.loader import VerifierLoader

    run = compose([f"algorithm={algorithm}", "tracker=none", f"cache.dir={folder / algorithm}", *overrides])
    device, store = resolve(run.device), Store.of(run.cache)
    facts = VerifierFacts.read(run.verifier.name_or_path, run.verifier.revision)
    loader = VerifierLoader(run.verifier, device)
    verifier = loader.whole()
    prepare, prepared = timed(lambda: saved.prepared(run, store, loader, facts.vocab_size))
    again, _ = timed(lambda: saved.prepared(run, store, loader, facts.vocab_size))
    given = Initialisation(verifier.head, prepared.token_count_V)
    model = build(SpeculatorModelConfig.from_dict(speculator_dict(run, facts)), given, device)
    accelerator = start_accelerator(device, run, folder)
    optimizers = [accelerator.prepare_optimizer(o) for o in optimizer.build(model, run.optimizer)]
    size = run.trainer.batch_size
    sequences = prepared.train[: size * (steps + WARM_UP)]
    start = time.perf_counter()
    with cached_states(store, loader, sequences, model.layer_ids) as states:
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


KINDS = {
    "in_process": "states computed in every step",
    "kept": "cached states, the verifier's layers kept in memory",
    "cached": "cached states",
}


def train_and_watch(kind: str, overrides: list[str], folder: Path) -> dict[str, float]:
    """Peak memory of this process during a short training, in bytes; Linux counts it.

    Args:
        kind: one of `KINDS`.
        overrides: of the run.
        folder: holds the cache, which is filled first.
    """
    from speculators.cache.store import Store
    from speculators.composition.compose import compose
    from speculators.config import SpeculatorModelConfig
    from speculators.data import saved
    from speculators.data.verifier_states import open_states
    from speculators.format.published import speculator_dict
    from speculators.protocols.initialisation import Initialisation
    from speculators.train.build import build, on_meta
    from speculators.train.loop import train
    from speculators.utils.device import resolve
    from speculators.verifier.facts import VerifierFacts
    from speculators.verifier.loader import VerifierLoader
    from speculators.verifier.tensors import VerifierTensors

    source = "in_process" if kind == "in_process" else "cached"
    always = ["device=cpu", "tracker=none", "trainer.max_steps=4", f"cache.dir={folder}", f"verifier_states={source}"]
    run = compose([*overrides, *always])
    store, loader = Store.of(run.cache), VerifierLoader(run.verifier, resolve(run.device))
    facts = VerifierFacts.read(run.verifier.name_or_path, run.verifier.revision)
    config = SpeculatorModelConfig.from_dict(speculator_dict(run, facts))
    prepared = saved.prepared(run, store, loader, facts.vocab_size)
    with open_states(run, store, loader, prepared.sequences, on_meta(config).layer_ids) as states, watched() as peaks:
        held = loader.whole() if kind == "kept" else None
        given = Initialisation(states.head, prepared.token_count_V, partial(VerifierTensors, run.verifier))
        model = build(config, given, states.device)
        Path("/proc/self/clear_refs").write_text("5")
        peaks.clear()
        with tempfile.TemporaryDirectory() as scratch:
            train(model, states, prepared, run, Path(scratch))
        del held
        return {"resident": status("VmHWM"), "anonymous": max(peaks)}


@contextmanager
def watched() -> Iterator[list[int]]:
    """A list that the process's anonymous memory is appended to, every few milliseconds."""
    readings: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            readings.append(status("RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    yield readings
    stop.set()
    thread.join()


def status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def memory(cases: dict[str, list[str]]) -> list[str]:
    """The lines of the table: a process for each case and kind, the first one fills the cache."""
    lines = [
        "## Memory of training",
        "",
        "Peak resident memory of the training process from the first step on, eagle3, 4 steps, GB of 10^9 bytes; states and "
        "tokenised data are in the cache before. Anonymous memory is what the process owns; the rest of resident memory "
        "are mapped files, libraries and the read states, which the system drops when it needs the room.",
        "",
        "| | resident | of it anonymous |",
        "|---|--:|--:|",
    ]
    for name, overrides in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--folder", folder, "--peak"]
            subprocess.run([*command, "cached", *overrides], check=True, capture_output=True)
            for kind, words in KINDS.items():
                done = subprocess.run([*command, kind, *overrides], check=True, capture_output=True, text=True)
                found = json.loads(done.stdout.splitlines()[-1])
                lines.append(f"| {name}: {words} | {found['resident'] / 1e9:.2f} | {found['anonymous'] / 1e9:.2f} |")
    return lines


def main() -> None:
    """Measure every algorithm and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--memory", action="store_true", help="measure the memory of training instead")
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct, for --memory")
    parser.add_argument("--data", type=Path, help="conversations for it")
    parser.add_argument("--peak", choices=KINDS, help="one measurement of --memory, in this process")
    parser.add_argument("--folder", type=Path, help="cache of --peak")
    args = parser.parse_intermixed_args()
    if args.peak:
        print(json.dumps(train_and_watch(args.peak, args.overrides, args.folder)))
        return
    if args.memory:
        cases = {"tiny": ["data.max_conversations=120", *args.overrides]}
        if args.smollm2 and args.data:
            named = [f"verifier.name_or_path={args.smollm2.resolve()}", f"data.path={args.data.resolve()}"]
            cases["SmolLM2-135M"] = ["recipe=smollm2_eagle3", "data.max_conversations=24", *named, *args.overrides]
        lines = memory(cases)
        print("\n".join(lines))
        if args.write:
            with args.write.open("a", encoding="utf-8") as file:
                file.write("\n" + "\n".join(lines) + "\n")
        return

    from speculators.settings.algorithm import AlgorithmSettings

    everywhere = [a for a in AlgorithmSettings.names() if not AlgorithmSettings.named(a).verifier_architectures]
    with tempfile.TemporaryDirectory() as folder:
        rows = {a: measured(a, args.overrides, Path(folder), args.steps) for a in everywhere}
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
