"""Acceptance length of drafts by every proposal method that they can draft, greedy and sampled.

    python benchmarks/proposals.py RUN/checkpoint... --write docs/proposals.md

Each draft is measured on the prompts that its training held out. Greedy numbers are found from one decoded text
(`speculators evaluate ... proposals=[...]` does the same), sampled ones by decoding.
"""

import argparse
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from speculators.composition.compose import compose
from speculators.evaluate.checkpoint import with_its_own
from speculators.evaluate.comparison import Candidate, Choice, Comparison, compare
from speculators.execution.rules import drafts_what_it_can
from speculators.proposals import TokenProposalConfig
from speculators.runfolder.folder import RunFolder
from speculators.settings.run_config import RunConfig

BEGIN, END = "<!-- written by benchmarks/proposals.py -->\n", "<!-- end -->\n"


def chain(tokens: int, method: str = "greedy", *settings: str) -> tuple[str, ...]:
    """Overrides of a chain."""
    return (f"proposal={method}", f"proposal.speculative_tokens={tokens}", *settings)


def dynamic(tokens: int) -> tuple[str, ...]:
    """Overrides of a dynamic tree with as many levels as the chain of 5 tokens."""
    return ("proposal=dynamic_tree", "proposal.depth=5", f"proposal.speculative_tokens={tokens}")


STATIC = ("proposal=static_tree", "proposal.depth=5")
# 16 tokens: 4 chains of 4 tokens each.
STATIC_16 = ("proposal=static_tree", "proposal.branching_factor=1", "proposal.depth=4")
BLOCK = "proposal.rejection_sample_method=block"
# Title, what is alike in its rows, rows. A method may stand in several tables; it is measured once.
GREEDY = {
    "Chains": [chain(1), chain(3), chain(5), chain(16)],
    "Chain and trees at equal verifier passes, 5 levels each": [chain(5), dynamic(16), dynamic(48), STATIC],
    "Chain and tree at equal verified tokens: 5": [chain(5), dynamic(5)],
    "Chain and trees at equal verified tokens: 16": [chain(16), dynamic(16), STATIC_16],
}
SAMPLED = {
    "Chains at equal verified tokens": [chain(5), chain(5, "sampling"), chain(5, "sampling", BLOCK)],
    "Chain and trees at equal verifier passes, 5 levels each": [chain(5, "sampling"), dynamic(16), dynamic(48), STATIC],
    "Chain and tree at equal verified tokens: 5": [chain(5, "sampling"), dynamic(5)],
}


def measure(
    checkpoints: Sequence[Path], tables: dict[str, list[tuple[str, ...]]], evaluation: Sequence[str]
) -> Comparison:
    """Every draft with every method of the tables that it can draft.

    Args:
        checkpoints: published folders.
        tables: rows by title, each row the overrides that choose a method.
        evaluation: overrides of the evaluation.
    """
    methods = list(dict.fromkeys(method for rows in tables.values() for method in rows))
    proposals = [compose([*evaluation, *method]).proposal for method in methods]
    candidates = []
    for checkpoint in checkpoints:
        run = compose(*with_its_own(checkpoint, [*evaluation, *methods[0]]))
        candidates.append(Candidate(checkpoint, run, True, [p for p in proposals if can_draft(run, p)]))
    return compare(candidates)


def can_draft(run: RunConfig, proposal: TokenProposalConfig) -> bool:
    """Whether a run's draft can draft so far ahead, and trees if it is one."""
    return not list(drafts_what_it_can(run.model_copy(update={"proposal": proposal})))


def named(proposal: TokenProposalConfig) -> str:
    """A method with what the tables vary of its settings."""
    block = ", block" if proposal.model_dump().get("rejection_sample_method") == "block" else ""
    return f"`{proposal.proposal_type}`{block}"


def table(title: str, methods: Sequence[tuple[str, ...]], comparison: Comparison, evaluation: Sequence[str]) -> str:
    """Markdown: a row for each method, a column for each draft."""
    drafts = [list(own) for _, own in groupby(comparison.choices, key=lambda choice: choice.checkpoint)]
    heads = " | ".join(own[0].algorithm for own in drafts)
    rows = [f"**{title}**\n", f"| proposal | levels | tokens | {heads} |"]
    rows.append("|---|--:|--:|" + "---|" * len(drafts))
    for method in methods:
        proposal = compose([*evaluation, *method]).proposal
        cells = ["".join(measured(choice) for choice in own if choice.proposal == proposal) or "-" for own in drafts]
        rows.append(f"| {named(proposal)} | {proposal.levels} | {proposal.nodes} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def steps(checkpoint: Path) -> int:
    """How many steps a run trained its draft for."""
    metrics = RunFolder(checkpoint.parent).metrics.read_text(encoding="utf-8")
    return json.loads(metrics.splitlines()[-1])["step"]


def measured(choice: Choice) -> str:
    """An acceptance length with its interval."""
    low, high = choice.interval or (choice.acceptance_length, choice.acceptance_length)
    return f"{choice.acceptance_length:.2f} ({low:.2f}-{high:.2f})"


def main() -> None:
    """Measure every checkpoint greedily and sampled; print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path, help="published folders")
    parser.add_argument("--num-prompts", type=int, default=24)
    parser.add_argument("--write", type=Path, help="put the tables into this page, between its two marks")
    options = parser.parse_args()
    run, prompts = compose([]), f"evaluation.num_prompts={options.num_prompts}"
    trained = sorted({steps(checkpoint) for checkpoint in options.checkpoints})
    parts = [
        f"Verifier {run.verifier.name_or_path}, each draft trained on the embedded conversations with the settings of its "
        f"YAML, {' or '.join(map(str, trained))} steps; {options.num_prompts} held-out prompts of at most "
        f"{run.evaluation.max_new_tokens} new tokens, float32, torch {version('torch')} on a CPU ({platform.machine()}). "
        "Acceptance length, and in brackets its 95 % bootstrap interval over prompts. `levels` is the most tokens that a "
        "pass of the verifier can accept, `tokens` how many drafted tokens it verifies; - is more than the draft can draft.\n"
    ]
    for heading, tables, temperature in (("Temperature 0", GREEDY, 0.0), ("Temperature 1", SAMPLED, 1.0)):
        evaluation = [prompts, f"evaluation.temperature={temperature}"]
        comparison = measure(options.checkpoints, tables, evaluation)
        parts.append(f"### {heading}\n")
        parts += [table(title, methods, comparison, evaluation) for title, methods in tables.items()]
    text = "\n".join(parts)
    print(text)
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        head, _, rest = page.partition(BEGIN)
        options.write.write_text(head + BEGIN + text + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
