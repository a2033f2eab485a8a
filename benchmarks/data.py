"""Preparing and training on synthetic conversations: tokens a second, bytes on disk, and memory of a training process.

    python benchmarks/data.py --write benchmarks/results/data.md [--tokens 1e6 1e7 5e7] [--old CHECKOUT --old-python PYTHON]

Conversations of two exchanges in words of the embedded prompts, about 300 tokens each. The embedded verifier's tokenizer prepares
them, by as many processes as there are cores for a large source; then a process that finds them in the cache trains an eagle3
draft for some steps. With an older checkout, both take turns.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

WORDS = (16, 85)  # of a question, of an answer: about 300 tokens for two of each
TOKENS = 300
STEPS = 4
OVERRIDES = (
    "device=cpu tracker=none launch.num_threads=1 data=jsonl data.max_length=1024 trainer.batch_size=1 "
    f"trainer.max_steps={STEPS} trainer.eval_every=null data.heldout_fraction=0.0001"
).split()


def write_conversations(file: Path, tokens: int) -> None:
    """Conversations with about so many tokens, all different."""
    from importlib.resources import files

    prompts = files("speculators.assets").joinpath("prompts.jsonl").read_text(encoding="utf-8")
    words = [word for line in prompts.splitlines() for word in json.loads(line)["messages"][0]["content"].split()]
    rng = random.Random(0)
    with file.open("w", encoding="utf-8") as lines:
        for number in range(tokens // TOKENS):
            said = [" ".join(rng.choices(words, k=count)) for count in WORDS * 2]
            roles = ("user", "assistant") * 2
            messages = [{"role": role, "content": f"{number} {text}"} for role, text in zip(roles, said, strict=True)]
            lines.write(json.dumps({"messages": messages}) + "\n")


def anonymous() -> int:
    """Bytes of memory that this process holds itself; mapped files are not among them."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def one(data: Path, folder: Path, steps: bool) -> dict[str, Any]:
    """Prepare data, or train on what is prepared, in this process.

    Args:
        data: file of conversations.
        folder: of the cache.
        steps: train.
    """
    from speculators.cache.store import Store
    from speculators.composition.compose import compose
    from speculators.config import SpeculatorModelConfig
    from speculators.data import saved
    from speculators.format.published import speculator_dict
    from speculators.protocols.initialisation import Initialisation
    from speculators.train.build import build
    from speculators.train.loop import train
    from speculators.utils.device import resolve
    from speculators.verifier.facts import VerifierFacts
    from speculators.verifier.loader import VerifierLoader

    run = compose([*OVERRIDES, f"data.path={data}", f"cache.dir={folder}"])
    store, loader = Store.of(run.cache), VerifierLoader(run.verifier, resolve(run.device))
    facts = VerifierFacts.read(run.verifier.name_or_path, run.verifier.revision)
    peaks, stop = [anonymous()], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            peaks.append(anonymous())

    threading.Thread(target=watch, daemon=True).start()
    before, wall, cpu = anonymous(), time.perf_counter(), cpu_seconds()
    prepared = saved.prepared(run, store, loader, facts.vocab_size)
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    if steps:
        verifier = loader.whole()
        config = SpeculatorModelConfig.from_dict(speculator_dict(run, facts))
        model = build(config, Initialisation(verifier.head, prepared.token_count_V), verifier.device)
        with tempfile.TemporaryDirectory() as scratch:
            train(model, verifier, prepared, run, Path(scratch))
    stop.set()
    size = sum(entry.size for entry in store.entries())
    held = max(peaks) - before
    return {"tokens": prepared.tokens, "wall": wall, "cpu": cpu, "bytes": size, "held": held, "peak": max(peaks)}


def cpu_seconds() -> float:
    """CPU seconds of this process and of those that it started."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in used)


def measured(python: str, checkout: Path, data: Path, folder: Path, steps: bool) -> dict[str, Any]:
    """`one` in a process of its own, of a checkout."""
    command = [python, str(Path(__file__).resolve()), "--data", str(data), "--cache", str(folder)]
    command += ["--steps"] if steps else []
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(command, env=environment, cwd=checkout, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure each number of tokens, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", nargs="+", type=float, default=[1e6, 1e7, 5e7])
    parser.add_argument("--old", type=Path, help="an older checkout to compare with")
    parser.add_argument("--old-python", default=sys.executable)
    parser.add_argument("--old-most", type=float, default=1e9, help="most tokens that it prepares")
    parser.add_argument("--write", type=Path, help="a file for the table")
    parser.add_argument("--data", type=Path, help="one measurement, in this process")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--steps", action="store_true")
    args = parser.parse_args()
    if args.data:
        print(json.dumps(one(args.data, args.cache, args.steps)))
        return
    checkouts = {"this": (sys.executable, Path(__file__).resolve().parents[1])}
    if args.old:
        checkouts = {"older checkout": (args.old_python, args.old.resolve())} | checkouts
    rows = []
    for tokens in map(int, args.tokens):
        for name, (python, checkout) in checkouts.items():
            if name != "this" and tokens > args.old_most:
                continue
            with tempfile.TemporaryDirectory() as folder:
                data = Path(folder) / "data.jsonl"
                write_conversations(data, tokens)
                made, used = (
                    measured(python, checkout, data, Path(folder) / "cache", steps) for steps in (False, True)
                )
            rows.append(
                f"| {made['tokens']:,} | {name} | {made['tokens'] / made['wall']:,.0f} | {made['tokens'] / made['cpu']:,.0f} "
                f"| {made['bytes'] / made['tokens']:.2f} | {made['held'] / 1e6:,.0f} | {used['peak'] / 1e6:,.0f} |"
            )
            print(rows[-1], flush=True)
    about = (
        f"`python benchmarks/data.py`: conversations of some {TOKENS} tokens, the embedded verifier's tokenizer, "
        f"{os.cpu_count()} cores beside other work. CPU seconds are those of all processes. The memory of preparing is what its "
        "process allocates at most beyond what it had before; that of training is all anonymous memory (RssAnon) of a process "
        f"that finds the data in the cache and trains eagle3 for {STEPS} steps."
    )
    columns = (
        "| tokens | | prepared, tokens/s | tokens per CPU second | disk, bytes a token | memory of preparing, MB | "
        "memory of training, MB |"
    )
    text = "\n".join(["# Data at size", "", about, "", columns, "|--:|---|--:|--:|--:|--:|--:|", *rows, ""])
    if args.write:
        args.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
