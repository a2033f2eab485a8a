"""Output of an evaluation: a table, a plot and result.json."""

import json
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

# Of the held-out prompts, and of those of evaluation.data.
COLOURS = ("#3b6ea5", "#c77b30")


def report(result: EvaluationResult, run: RunConfig, folder: Path) -> None:
    """Print a result and write it into a folder.

    Args:
        result: of an evaluation.
        run: what was evaluated.
        folder: gets result.json, acceptance.png and generations.jsonl: each prompt and its generated text, also as token ids,
            and how many drafted tokens each draft had accepted; another such file for the prompts of evaluation.data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own, tokenizer = RunFolder(folder), load_tokenizer(run.verifier)
    files.write(own.result, json.dumps(result.as_json(), indent=2) + "\n")
    for measured, file in zip(result.each, (own.generations, own.data_generations), strict=False):
        texts = zip(measured.prompts, measured.tokens, measured.rounds, strict=True)
        lines = [
            json.dumps(
                {
                    "prompt": p,
                    "tokens": t,
                    "accepted": n,
                    "prompt_text": _text(tokenizer, p),
                    "text": _text(tokenizer, t),
                }
            )
            for p, t, n in texts
        ]
        files.write(file, "".join(line + "\n" for line in lines))
    plot(result, run, own.acceptance_plot)
    console().print(table(result))
    for measured in result.each:
        shares = " ".join(f"{k:.3f}" for k in measured.acceptance_per_position)
        prompts = f" on {measured.source}" if measured.source else ""
        printed.info(
            "evaluation%s: acceptance length %.3f, by position %s", prompts, measured.acceptance_length, shares
        )


def _text(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    """Tokens as text, special ones included."""
    return str(tokenizer.decode(tokens))


def table(result: EvaluationResult) -> Table:
    """A result as a table, with a second column for the prompts of evaluation.data."""
    several = len(result.each) > 1
    shown = Table(title="Evaluation by decoding", show_header=several, title_justify="left")
    shown.add_column(style="bold")
    for measured in result.each:
        shown.add_column(prompts_named(measured) if several else "", overflow="fold")
    columns = [_cells(measured) for measured in result.each]
    for name in columns[-1]:
        shown.add_row(name, *(cells.get(name, "") for cells in columns))
    return shown


def prompts_named(result: EvaluationResult) -> str:
    """Which prompts a result was measured on."""
    return f"prompts of {result.source}" if result.source else "held-out prompts"


def _cells(result: EvaluationResult) -> dict[str, str]:
    """The rows of a column of `table`, by name."""
    sampled = "not compared: sampled" if result.lossy is None else f"not compared, lossy: {result.lossy}"
    same = {True: "yes", False: "no", None: sampled}[result.matches_plain_decoding]
    ties = f", with {result.ties} tied tokens" if result.ties else ""
    ratio = result.tokens_per_second / result.plain_tokens_per_second
    cells = {
        "acceptance length": f"{result.acceptance_length:.2f} of at most {len(result.acceptance_per_position) + 1}"
        f"{between(result.acceptance_length_interval)}",
        "accepted at position": "  ".join(f"{k:.2f}" for k in result.acceptance_per_position),
        "same text as plain decoding": f"{same}{ties}",
        "tokens/s": f"{result.tokens_per_second:.0f}, plain {result.plain_tokens_per_second:.0f} (ratio {ratio:.2f}, "
        "in this unoptimised loop)",
        "measured on": f"{result.num_prompts} prompts, {result.generated:,} tokens",
    }
    if result.trained_on is not None:
        cells["also trained on"] = f"{len(result.trained_on)} prompts"
    return cells


def plot(result: EvaluationResult, run: RunConfig, file: Path) -> None:
    """Write a bar chart of acceptance by drafted position, as PNG."""
    figure = bars_of(result, run)
    with files.replacing(file) as partial:
        figure.savefig(partial, dpi=150, format="png")


def bars_of(result: EvaluationResult, run: RunConfig) -> Figure:
    """The bar chart, with the algorithm, the verifier and the prompts in its title."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    positions = range(1, len(result.acceptance_per_position) + 1)
    width = 0.8 / len(result.each)
    for number, (measured, color) in enumerate(zip(result.each, COLOURS, strict=False)):
        left = [position + (number - (len(result.each) - 1) / 2) * width for position in positions]
        label = f"{prompts_named(measured)}: {measured.acceptance_length:.2f}"
        bars = axes.bar(left, measured.acceptance_per_position, width, color=color, label=label)
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    if len(result.each) > 1:
        axes.legend(fontsize=7)
    axes.set(
        xlabel="position",
        ylabel="share of drafts accepted\nup to this position",
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
    return figure
