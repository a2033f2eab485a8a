"""The model card: README.md of a published folder. Torch-free."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import yaml

from speculators.data.files import sources_of
from speculators.export.preflight import ExportPlan
from speculators.format.layout import Layout
from speculators.runfolder.folder import RunFolder
from speculators.runfolder.result import EvaluationResult, between
from speculators.settings.run_config import RunConfig
from speculators.utils import files
from speculators.verifier.location import public_name

CARD_NAME = "README.md"
# Unique in the card: names in the card have no line breaks.
NOT_MEASURED = "## Result\n\nNot evaluated."
CARD = Template("""---
$front
---

# A draft for $base

This [$title]($paper) draft model proposes several tokens, which $base
verifies in one pass. Greedy text stays the same.

$result

## Serve it

$serve

## How it was trained

$training

`run.yaml` beside this file holds every setting.
""")


def model_card(
    run: RunConfig,
    config: Mapping[str, Any],
    verifier: str,
    export: ExportPlan,
    result: EvaluationResult | None = None,
    repo: str | None = None,
) -> str:
    """README.md of a draft, with the front matter that the Hub reads.

    Args:
        run: the run's config.
        config: the published config.
        verifier: its name as it is published: a hub id, or the last part of a folder's path.
        export: what the checkpoint is for.
        result: the measurements; None if there are none yet.
        repo: the repository of the Hub to which the draft is pushed; None if it is not.
    """
    layout = Layout.named(run.algorithm.name)
    names = [source.name for source in sources_of(run.data) if source.name is not None]
    front = {
        **({} if run.export.license is None else {"license": run.export.license}),
        "base_model": verifier,
        **({"datasets": names} if names else {}),
        "library_name": "speculators",
        "pipeline_tag": "text-generation",
        "tags": ["speculators", "speculative-decoding", run.algorithm.name],
    }
    return CARD.substitute(
        front=yaml.safe_dump(front, sort_keys=False).strip(),
        base=_text(verifier),
        title=layout.title,
        paper=layout.paper,
        result=NOT_MEASURED if result is None else _result(result, run),
        serve=_serve(config, verifier, run, export, repo),
        training=_training(run),
    )


def add_result(folder: Path, result: EvaluationResult, run: RunConfig) -> None:
    """Add an evaluation to a draft that was published without one: to its model card, and result.json and the plot.

    Args:
        folder: of the run; the published folder is in it.
        result: the evaluation, as the folder has it.
        run: the run's config.
    """
    own = RunFolder(folder)
    for file in (own.result, own.acceptance_plot):
        files.write(own.checkpoint / file.name, file.read_bytes())
    card = own.checkpoint / CARD_NAME
    files.write(card, card.read_text(encoding="utf-8").replace(NOT_MEASURED, _result(result, run), 1))


def _result(result: EvaluationResult, run: RunConfig) -> str:
    evaluation, own = run.evaluation, result.evaluation_data
    sampling = f"temperature {evaluation.temperature:g}"
    sampling += "" if evaluation.top_k is None else f", top-k {evaluation.top_k}"
    sampling += "" if evaluation.top_p == 1 else f", top-p {evaluation.top_p:g}"
    columns = [_measured(measured) for measured in result.each]
    heads = ["held-out prompts", *([f"prompts of {_code(own.source or '')}"] if own else [])]
    rows = "\n".join(f"| {name} | {' | '.join(column[name] for column in columns)} |" for name in columns[0])
    others = "" if own is None else f" {_others(own)}"
    return f"""## Result

| | {" | ".join(heads)} |
|{"---|" * (len(heads) + 1)}
{rows}

Acceptance length is the mean number of tokens that one pass of the verifier yields: 1 + accepted / drafts; in brackets a
bootstrap interval over prompts.
Measured on {result.num_prompts} prompts held out of the training, up to {evaluation.max_new_tokens} tokens each at {sampling},
with {result.speculative_tokens} tokens drafted a pass.{others}

![Share of drafts that are accepted up to each position](acceptance.png)"""


def _measured(result: EvaluationResult) -> dict[str, str]:
    """The cells of a column of the table, by the name of their row."""
    sampled = "not compared" if result.lossy is None else f"not compared: lossy, for {_text(result.lossy)}"
    text = {True: "the same", False: "**not** the same", None: sampled}[result.matches_plain_decoding]
    text += f", with {result.ties} tied tokens" if result.ties else ""
    return {
        "acceptance length": f"**{result.acceptance_length:.2f}**{between(result.acceptance_length_interval)}",
        "accepted at position 1, 2, ...": ", ".join(f"{share:.2f}" for share in result.acceptance_per_position),
        "text, compared with plain decoding": text,
        "tokens per second": f"{result.tokens_per_second:.0f}; without the draft {result.plain_tokens_per_second:.0f}",
    }


def _others(own: EvaluationResult) -> str:
    """A sentence about the prompts of evaluation.data."""
    trained = "" if own.trained_on is None else f", of which {len(own.trained_on)} are also trained on"
    return f"The others are {own.num_prompts} prompts of another source{trained}."


def _serve(config: Mapping[str, Any], verifier: str, run: RunConfig, export: ExportPlan, repo: str | None) -> str:
    engine = export.engine
    draft = engine.draft(run.algorithm.name) if engine else None
    if engine is None or draft is None:
        reason = _text(export.summary.splitlines()[0])
        return f"It was exported for no engine ({reason}). `SpeculatorModel.from_pretrained` loads it."
    # Engines find no folders inside a repository.
    download = repo is not None and draft.native
    place = "." if repo is None else f"./{repo.rpartition('/')[2]}" if download else repo
    words = (config, place, verifier, run.speculator.speculators_config["proposal_methods"][0])
    options = run.export.serving_options()
    forms = [engine.serve_command(*words, serving_options=options, beside=beside) for beside in (False, True)]
    commands = [shlex.join(["hf", "download", repo or "", "--local-dir", place])] * download + list(
        dict.fromkeys(forms)
    )
    fence = _longer_than_any("`", "\n".join(commands), least=3)
    text = "" if repo else "In this folder:\n\n"
    text += "\n".join([f"{fence}bash", *commands, fence])
    if len(set(forms)) > 1:
        text += "\n\nBoth commands start the same; the second one names verifier, method and number of tokens itself."
    return f"{text}\n\nChecked against {engine}."


def _training(run: RunConfig) -> str:
    data, trainer, optimizer = run.data.model_dump(), run.trainer, run.optimizer
    places = [p.get("path") or p.get("name") or data["source"] for p in data.get("sources") or [data]]
    sources = ", ".join(_code(public_name(place)) for place in places)
    answers = ", answers regenerated by the verifier" if run.data.regenerate else ""
    length = f"{trainer.epochs} epochs" if trainer.max_steps is None else f"at most {trainer.max_steps} steps"
    batch = (
        f"{trainer.batch_size * trainer.gradient_accumulation_steps} sequences a step and device"
        if trainer.sequences_per_step is None
        else f"{trainer.sequences_per_step} sequences a step"
    )
    loss = ", ".join(f"{weight:g} {name}" for name, weight in run.algorithm.loss if weight)
    return f"""- **Data:** {sources}{answers}; sequences of {run.data.max_length} tokens.
- **Objective:** the verifier's next-token distributions, up to {run.algorithm.slots} tokens ahead; loss {loss}.
- **Optimization:** {length}, {batch}, {optimizer.name} with learning rate {optimizer.lr:g},
  {run.schedule.name} schedule, {run.precision}, seed {run.seed}."""


def _text(value: str) -> str:
    """A value as one line of Markdown text, with all markup escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|&~$!])", r"\\\1", " ".join(value.split()))


def _code(value: str) -> str:
    """A value as a code span."""
    value = " ".join(value.split())
    ticks = _longer_than_any("`", value, least=1)
    return f"{ticks}{value}{ticks}" if "`" not in value else f"{ticks} {value} {ticks}"


def _longer_than_any(character: str, text: str, least: int) -> str:
    """A run of a character, longer than any run of it in the text and at least `least` long."""
    runs = (len(run) for run in re.findall(f"{re.escape(character)}+", text))
    return character * max(least, 1 + max(runs, default=0))
