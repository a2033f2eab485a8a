"""Output of an evaluation: a table, a plot and result.json."""

import json
from dataclasses import asdict
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from speculators.runfolder.folder import RunFolder
from speculators.runfolder.result import EvaluationResult, between
from speculators.utils import files
from speculators.utils.terminal import console


def report(result: EvaluationResult, folder: Path) -> None:
    """Print a result and write it into a folder.

    Args:
        result: of an evaluation.
        folder: gets result.json, acceptance.png and generations.jsonl: token ids of each prompt and its text, and how many
            drafted tokens each of its drafts had accepted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = RunFolder(folder)
    values = asdict(result)
    texts = zip(values.pop("prompts"), values.pop("tokens"), values.pop("rounds"), strict=True)
    files.write(own.result, json.dumps(values, indent=2) + "\n")
    lines = [json.dumps({"prompt": p, "tokens": t, "accepted": accepted}) + "\n" for p, t, accepted in texts]
    files.write(own.generations, "".join(lines))
    plot(result, own.acceptance_plot)
    console().print(table(result))


def table(result: EvaluationResult) -> Table:
    """A result as a table."""
    sampled = "not compared: sampled" if result.lossy is None else f"not compared, lossy: {result.lossy}"
    same = {True: "yes", False: "no", None: sampled}[result.matches_plain_decoding]
    ties = f", with {result.ties} tied tokens" if result.ties else ""
    ratio = result.tokens_per_second / result.plain_tokens_per_second
    shown = Table(title="Evaluation by decoding", show_header=False, title_justify="left")
    shown.add_column(style="bold")
    shown.add_column()
    shown.add_row(
        "acceptance length",
        f"{result.acceptance_length:.2f} of at most {len(result.acceptance_per_position) + 1}"
        f"{between(result.acceptance_length_interval)}",
    )
    shown.add_row("accepted at position", "  ".join(f"{k:.2f}" for k in result.acceptance_per_position))
    shown.add_row("same text as plain decoding", f"{same}{ties}")
    shown.add_row(
        "tokens/s",
        f"{result.tokens_per_second:.0f}, plain {result.plain_tokens_per_second:.0f} (ratio {ratio:.2f}, "
        "in this unoptimised loop)",
    )
    shown.add_row("measured on", f"{result.num_prompts} prompts, {result.generated:,} tokens")
    return shown


def plot(result: EvaluationResult, file: Path) -> None:
    """Write a bar chart of acceptance by drafted position, as PNG."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    positions = range(1, len(result.acceptance_per_position) + 1)
    bars = axes.bar(positions, result.acceptance_per_position, color="#3b6ea5")
    axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.set(
        xlabel="position",
        ylabel="share of drafts accepted up to this position",
        ylim=(0, 1.08),
        title=f"acceptance length {result.acceptance_length:.2f}{between(result.acceptance_length_interval)}",
    )
    axes.set_xticks(list(positions))
    axes.spines[["top", "right"]].set_visible(False)
    with files.replacing(file) as partial:
        figure.savefig(partial, dpi=150, format="png")
