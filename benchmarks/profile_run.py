"""Where the time of a run goes: the verifier, products of matrices and other operators of torch, in training and in decoding.

    python benchmarks/profile_run.py algorithm=eagle proposal=greedy trainer.max_steps=20

Overrides are those of train.py. The time of an operator is without that of the operators that it calls; Python between operators
is an entry of its own. Prints every entry above a percent of its stage.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from speculators.cli.hydra_app import main as train
from speculators.execution import run
from speculators.verifier.in_process import Verifier

STAGES = ("training", "decoding")
PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_addmm_activation"}
LEAST = 0.01


def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, as an entry of the profile."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(name):
            return function(*args, **kwargs)

    return call


def ranges(event: Any) -> set[str]:
    """Names of an event and of all that it is part of."""
    found = set()
    while event is not None:
        found.add(event.name)
        event = event.cpu_parent
    return found


def main() -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="as for train.py")
    overrides = parser.parse_args().overrides
    run.train = named("training", run.train)
    run.evaluate_both = named("decoding", run.evaluate_both)
    Verifier.states = named("verifier", Verifier.states)
    sys.argv[1:] = [*overrides, "launch.mode=inline", "tracker=none", "launch.num_threads=1"]
    with profile(activities=[ProfilerActivity.CPU]) as taken:
        train()
    spent = {stage: Counter[str]() for stage in STAGES}
    for event in taken.events():
        inside = ranges(event)
        entry = "the verifier" if "verifier" in inside else event.name
        entry = "products of matrices" if entry in PRODUCTS else "Python" if entry in STAGES else entry
        for stage in inside & spent.keys():
            spent[stage][entry] += event.self_cpu_time_total
    for stage, entries in spent.items():
        whole = entries.total()
        print(f"\n{stage}: {whole / 1e6:.1f} s\n\n| | share |\n|---|--:|")
        for entry, time in entries.most_common():
            if time > LEAST * whole:
                print(f"| {entry} | {time / whole:.0%} |")


if __name__ == "__main__":
    main()
