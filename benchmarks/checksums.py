"""CPU seconds of all checksums of a run with cached states, beside those of its training steps.

    python benchmarks/checksums.py --write benchmarks/results/checksums.md trainer.max_steps=80 [...]

A default run without its evaluation, in one process and with a cache of its own. Every call of SHA-256 is measured, by
whatever module; what reads a file for its hash counts with it. With trainer.max_steps the seconds inside steps are
scaled to the steps of a whole run: too much for shards of states, which are compared once. A resume reads its
checkpoint once more.
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

seconds = {"before and after": 0.0, "in steps": 0.0, "steps": 0.0}
state = {"in a step": False, "scale": 1.0}


def timed(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function that adds the CPU seconds of each call to those of checksums."""

    def measured(*args: Any, **options: Any) -> Any:
        start = time.process_time()
        try:
            return call(*args, **options)
        finally:
            seconds["in steps" if state["in a step"] else "before and after"] += time.process_time() - start

    return measured


class Sha256:
    """hashlib's, measured."""

    def __init__(self, data: bytes = b"", **options: Any) -> None:
        self._hash = timed(original)(data, **options)
        self.update = timed(self._hash.update)
        self.digest, self.hexdigest = self._hash.digest, self._hash.hexdigest


# Before the project is imported, whose modules import the function itself.
original = hashlib.sha256
hashlib.sha256 = Sha256  # pyright: ignore[reportAttributeAccessIssue]
hashlib.file_digest = timed(hashlib.file_digest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="a file for the table")
    options, overrides = parser.parse_known_args()

    from speculators.composition.compose import pinned
    from speculators.execution.run import run
    from speculators.train.loop import Loop
    from speculators.train.order import Order

    step = Loop.step

    def measured(loop: Loop, check: bool) -> None:
        whole = loop.settings.trainer.model_copy(update={"max_steps": None})
        state["scale"] = Order(len(loop.data.train), loop.settings.seed, whole, 1).steps / loop.order.steps
        state["in a step"], start = True, time.process_time()
        step(loop, check)
        state["in a step"] = False
        seconds["steps"] += time.process_time() - start

    Loop.step = measured
    with tempfile.TemporaryDirectory() as folder:
        own = ["verifier_states=cached", f"cache.dir={folder}/cache", "evaluation.num_prompts=0", "tracker=none"]
        pinned([*own, *overrides], Path(folder) / "run")
        run(Path(folder) / "run")
    steps, inside = (seconds[name] * state["scale"] for name in ("steps", "in steps"))
    checksums = seconds["before and after"] + inside
    part = state["scale"]
    scaled = "every step was run." if part == 1 else f"one step in {part:.1f} was run, and seconds in steps are scaled."
    text = f"""# Checksums of a run with cached states

| CPU seconds | |
|---|--:|
| training steps | {steps:.1f} |
| checksums outside of them: data, verifier, writing states and checkpoint, publishing | {seconds["before and after"]:.2f} |
| checksums in them: shards of states when they are first read, finding a sequence's states | {inside:.2f} |
| all checksums over training steps | {checksums / steps:.2%} |

`{" ".join(["python benchmarks/checksums.py", *overrides])}`; {scaled}
"""
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
