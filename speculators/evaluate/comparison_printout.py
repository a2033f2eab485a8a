"""Output of a comparison of drafts and proposals: tables, a plot and comparison.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.table import Table

from speculators.evaluate.comparison import Choice, Comparison, families_of, length_of
from speculators.evaluate.interval import acceptance_interval
from speculators.utils import files
from speculators.utils.terminal import console

# Cost ratios of the table beside evaluation.cost_ratio: of a verifier a hundred times as slow as its draft, and of one that
# is hardly slower.
COST_RATIOS = (0.01, 0.05, 0.2)
RESULT, PLOT = "comparison.json", "comparison.png"


def report(comparison: Comparison, folder: Path) -> None:
    """Print a comparison and write it into a folder.

    Args:
        comparison: what was measured.
        folder: gets comparison.json and comparison.png.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / RESULT, json.dumps(as_json(comparison), indent=2) + "\n")
    plot(comparison, folder / PLOT)
    shown = console()
    shown.print(table(comparison))
    if (by_category := category_table(comparison)) is not None:
        shown.print(by_category)
    for line in conclusion(comparison):
        shown.print(line, markup=False, highlight=False, soft_wrap=True)


def ratios(comparison: Comparison) -> list[float]:
    """The cost ratios that are shown."""
    return sorted({*COST_RATIOS, comparison.cost_ratio})


def table(comparison: Comparison) -> Table:
    """One row for each draft and proposal; the best speed-up at each cost ratio has a star."""
    shown = Table(
        title="Acceptance length, and modelled speed-up by cost ratio",
        title_justify="left",
        box=SIMPLE,
        pad_edge=False,
        caption="cost ratio: time of a draft pass / time of a verifier pass; * the best at that cost ratio",
        caption_justify="left",
    )
    several = any(comparison.draft(choice) for choice in comparison.choices)
    for name in [*(["draft"] if several else []), "proposal"]:
        shown.add_column(name, overflow="fold")
    for name in ["levels", "verified", "length (95 %)", *(f"{ratio:g}" for ratio in ratios(comparison))]:
        shown.add_column(name, justify="right", no_wrap=True)
    best = {ratio: comparison.best(ratio) for ratio in ratios(comparison)}
    for choice in comparison.choices:
        interval = choice.interval
        shown.add_row(
            *([comparison.draft(choice)] if several else []),
            comparison.label(choice) + (" (lossy)" if choice.lossy else ""),
            str(choice.proposal.levels),
            f"{choice.verified:.1f}",
            f"{choice.acceptance_length:.2f}" + (f" ({interval[0]:.2f}-{interval[1]:.2f})" if interval else ""),
            *(f"{choice.speedup(ratio):.2f}{'*' if choice is best[ratio] else ' '}" for ratio in best),
        )
    return shown


def category_table(comparison: Comparison) -> Table | None:
    """Acceptance length by category, for each draft's best proposal; None if the prompts name fewer than two."""
    best: dict[Path, Choice] = {}
    for choice in sorted(comparison.choices, key=lambda c: c.speedup(comparison.cost_ratio)):
        best[choice.checkpoint] = choice
    rounds = {checkpoint: choice.by_category() for checkpoint, choice in best.items()}
    names = sorted({name for own in rounds.values() for name in own})
    if len(names) < 2:
        return None
    shown = Table(title="Acceptance length by category of the prompt", title_justify="left", box=SIMPLE, pad_edge=False)
    shown.add_column("category")
    for choice in best.values():
        shown.add_column(f"{comparison.draft(choice) or choice.algorithm}, {comparison.label(choice)}")
    for name in names:
        cells = []
        for own in (rounds[checkpoint].get(name, []) for checkpoint in best):
            interval = acceptance_interval(own)
            ends = f"{interval[0]:.2f}-{interval[1]:.2f}, " if interval else ""
            cells.append(f"{length_of(own):.2f} ({ends}{len(own)} prompts)" if own else "")
        shown.add_row(name, *cells)
    return shown


def conclusion(comparison: Comparison) -> Iterator[str]:
    """The best choice and how it is served."""
    ratio = comparison.cost_ratio
    best = comparison.best(ratio)
    if not comparison.same_prompts:
        yield "The drafts were measured on different prompts, each on its own; data=... measures all on the same."
    if best.speedup(ratio) <= 1:
        yield f"At a cost ratio of {ratio:g} none is faster than decoding without a draft."
        return
    yield f"Best at a cost ratio of {ratio:g} (evaluation.cost_ratio): {best.checkpoint}, {comparison.label(best)}"
    if best.command is None:
        yield "  No engine serves it."
        served = [choice for choice in comparison.choices if choice.command is not None]
        if not served:
            return
        best = max(served, key=lambda choice: choice.speedup(ratio))
        yield f"Best that an engine serves: {best.checkpoint}, {comparison.label(best)}"
    yield f"  {best.command}"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything that was measured."""

    def measured(choice: Choice) -> dict[str, Any]:
        return {
            "checkpoint": str(choice.checkpoint),
            "algorithm": choice.algorithm,
            "proposal": choice.proposal.model_dump(),
            "levels": choice.proposal.levels,
            "passes": choice.passes,
            "acceptance_length": choice.acceptance_length,
            "acceptance_length_interval": choice.interval,
            "drafts": choice.drafts,
            "drafted": choice.drafted,
            "accepted": sum(map(sum, choice.rounds)),
            "num_prompts": len(choice.rounds),
            "speedup": {f"{ratio:g}": choice.speedup(ratio) for ratio in ratios(comparison)},
            "categories": {
                name: {
                    "acceptance_length": length_of(own),
                    "acceptance_length_interval": acceptance_interval(own),
                    "num_prompts": len(own),
                }
                for name, own in choice.by_category().items()
            },
            "lossy": choice.lossy,
            "serve_command": choice.command,
        }

    return {
        "cost_ratio": comparison.cost_ratio,
        "best": comparison.choices.index(comparison.best(comparison.cost_ratio)),
        "same_prompts": comparison.same_prompts,
        "choices": [measured(choice) for choice in comparison.choices],
    }


def plot(comparison: Comparison, file: Path) -> None:
    """Write acceptance length by levels, and the best speed-up of each draft and method by cost ratio, as PNG."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    lengths, speedups = figure.subplots(1, 2)
    grid = [i / 100 for i in range(51)]
    for name, own in families_of(comparison):
        levels = [choice.proposal.levels for choice in own]
        values = [choice.acceptance_length for choice in own]
        ends = [choice.interval or (value, value) for choice, value in zip(own, values, strict=True)]
        # A percentile interval need not hold the measured value itself.
        bars = [[max(0, v - low) for v, (low, _) in zip(values, ends, strict=True)],
                [max(0, high - v) for v, (_, high) in zip(values, ends, strict=True)]]  # fmt: skip
        lengths.errorbar(levels, values, yerr=bars, marker="o", markersize=4, capsize=3, linewidth=1.5)
        speedups.plot(grid, [max(c.speedup(ratio) for c in own) for ratio in grid], label=name)
    speedups.axhline(1, color="#888", linewidth=1, linestyle=":")
    speedups.axvline(comparison.cost_ratio, color="#888", linewidth=1, linestyle=":")
    lengths.set(xlabel="levels of the draft", ylabel="acceptance length, 95 % interval")
    speedups.set(xlabel="time of a draft pass / time of a verifier pass", ylabel="modelled speed-up, best of each")
    speedups.legend(fontsize=8, frameon=False)
    for axes in (lengths, speedups):
        axes.spines[["top", "right"]].set_visible(False)
    with files.replacing(file) as partial:
        figure.savefig(partial, dpi=150, format="png")
