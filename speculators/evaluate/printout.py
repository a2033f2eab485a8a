"""Output of an evaluation: a table, a plot and result.json."""

import json
from dataclasses import asdict
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table
from transformers import PreTrainedTokenizerBase

from speculators.runfolder.folder import RunFolder
from speculators.runfolder.result import EvaluationResult, between
from speculators.settings.run_config import RunConfig
from speculators.utils import files
from speculators.utils.process import printed
from speculators.utils.terminal import console
from speculators.verifier.tokenizer import load_tokenizer


def report(result: EvaluationResult, run: RunConfig, folder: Path) -> None:
    """Print a result and write it into a folder.

    Args:
        result: of an evaluation.
        run: what was evaluated.
        folder: gets result.json, acceptance.png and generations.jsonl: each prompt and its generated text, also as token ids,
            and how many drafted tokens each draft had accepted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own, tokenizer = RunFolder(folder), load_tokenizer(run.verifier)
    values = asdict(result)
    texts = zip(values.pop("prompts"), values.pop("tokens"), values.pop("rounds"), strict=True)
    files.write(own.result, json.dumps(values, indent=2) + "\n")
    lines = [
        json.dumps(
            {"prompt": p, "tokens": t, "accepted": n, "prompt_text": _text(tokenizer, p), "text": _text(tokenizer, t)}
        )
        for p, t, n in texts
    ]
    files.write(own.generations, "".join(line + "\n" for line in lines))
    plot(result, run, own.acceptance_plot)
    console().print(table(result))
    printed.info("evaluation: acceptance length %.3f, by position %s", result.acceptance_length,
                 " ".join(f"{k:.3f}" for k in result.acceptance_per_position))  # fmt: skip


def _text(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    """Tokens as text, special ones included."""
    return str(tokenizer.decode(tokens))


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


def plot(result: EvaluationResult, run: RunConfig, file: Path) -> None:
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
    )
    verifier = Path(run.verifier.name_or_path).name
    axes.set_title(
        f"acceptance length {result.acceptance_length:.2f}{between(result.acceptance_length_interval)}\n"
        f"{run.algorithm.name} for {verifier}, {result.num_prompts} prompts of data={run.data.source}",
        fontsize=9,
    )
    axes.set_xticks(list(positions))
    axes.spines[["top", "right"]].set_visible(False)
    with files.replacing(file) as partial:
        figure.savefig(partial, dpi=150, format="png")
