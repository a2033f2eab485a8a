"""`speculators evaluate`: one published draft, or a comparison of drafts, proposals and numbers of tokens."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speculators.cli.paths import is_path

if TYPE_CHECKING:
    from speculators.evaluate.comparison import Candidate
    from speculators.proposals import TokenProposalConfig
    from speculators.settings.run_config import RunConfig

PROPOSALS, TOKENS, OUTPUT = "proposals=", "evaluation.speculative_tokens=", "output="


def evaluate(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="CHECKPOINT... [OVERRIDE]...", help="published folders; overrides as for train", show_default=False
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="folder for result.json; also output=FOLDER; the current one unless given")
    ] = None,
) -> None:
    """Decode with a published draft and measure its acceptance length.

    Verifier, proposal, data and seed default to the checkpoint's own. Without `data=...` the prompts are the held-out
    prompts of its training, or the packaged ones for a draft without run.yaml; with `data=chat` those held out under
    the seed; with any other `data=...` all of that data. 'evaluation.data={path: FILE}' decodes further prompts beside them.

    Several checkpoints, `proposals=[greedy,static_tree]` or `evaluation.speculative_tokens=[1,2,3,5,8]` give a table of
    every combination instead, with modelled speed-ups, and comparison.json and comparison.png. An item of `proposals` with
    settings of its own: `{proposal_type: dynamic_tree, depth: 4}`.
    """
    from speculators.utils.messages import WrongInput, stop

    paths = list(takewhile(is_path, arguments))
    given = arguments[len(paths) :]
    asked = {key: [o.removeprefix(key) for o in given if o.startswith(key)] for key in (PROPOSALS, TOKENS, OUTPUT)}
    given = [o for o in given if not o.startswith(tuple(asked))]
    if not paths:
        stop(["evaluate needs a published folder, such as RUN/checkpoint, before the overrides"])
    checkpoints, output = [Path(path) for path in paths], output or Path(asked[OUTPUT][-1] if asked[OUTPUT] else ".")
    try:
        if len(checkpoints) == 1 and not asked[PROPOSALS] and not asked[TOKENS]:
            _evaluate(checkpoints[0], given, output)
        else:
            _compare(checkpoints, given, asked[PROPOSALS], asked[TOKENS], output)
    except WrongInput as error:
        stop(error.messages)
    except ValueError as error:
        stop(str(error).splitlines())


def _evaluate(checkpoint: Path, given: list[str], output: Path) -> None:
    run, heldout = _composed(checkpoint, given)

    from speculators.evaluate.evaluate import evaluate_checkpoint
    from speculators.evaluate.printout import report

    report(evaluate_checkpoint(checkpoint, run, heldout), run, output)


def _compare(checkpoints: list[Path], given: list[str], proposals: list[str], tokens: list[str], output: Path) -> None:
    from speculators.composition.compose import listed

    named = [item for text in proposals for item in listed(PROPOSALS, text)]
    counts = [item for text in tokens for item in listed(TOKENS, text)]
    candidates = [_candidate(checkpoint, given, named, counts) for checkpoint in checkpoints]

    from speculators.evaluate.comparison import compare
    from speculators.evaluate.comparison_printout import report

    report(compare(candidates), output)


def _composed(checkpoint: Path, given: list[str]) -> "tuple[RunConfig, bool]":
    """The evaluation of a checkpoint, and whether it takes only the prompts that its training held out.

    Raises:
        WrongInput: the overrides or the checkpoint's own settings are invalid.
    """
    from speculators.composition.compose import compose
    from speculators.evaluate.checkpoint import is_trained, run_yaml_of_draft, with_its_own
    from speculators.execution.input_hashes import check_data
    from speculators.runfolder.run_yaml import load
    from speculators.utils.messages import WrongInput

    run = compose(*with_its_own(checkpoint, given))
    if not run.evaluation.num_prompts:
        raise WrongInput(["evaluation.num_prompts=0: there is nothing to evaluate; it must be at least 1"])
    trained = is_trained(checkpoint, given)
    if trained:
        file = run_yaml_of_draft(checkpoint)
        check_data(run, load(file), file)
    return run, trained or run.data.source == "chat"


def _candidate(checkpoint: Path, given: list[str], named: Sequence[object], counts: Sequence[object]) -> "Candidate":
    """A checkpoint with every combination of proposals and numbers of tokens that it can draft; says which it cannot.

    Raises:
        WrongInput: it can draft none of them, or something is invalid.
    """
    from speculators.evaluate.comparison import Candidate
    from speculators.execution.rules import drafts_what_it_can, proposal_is_sound
    from speculators.utils.messages import WrongInput

    run, heldout = _composed(checkpoint, given)
    proposals, problems = list["TokenProposalConfig"](), list[str]()
    for proposal in [_proposal(item, given) for item in named] or [run.proposal]:
        for each in [proposal.with_tokens(_count(item)) for item in counts] or [proposal]:
            chosen = run.model_copy(update={"proposal": each})
            if broken := [*drafts_what_it_can(chosen), *proposal_is_sound(chosen)]:
                problems += [f"{checkpoint}, proposal={each.proposal_type}: {problem}" for problem in broken]
            elif each not in proposals:
                proposals.append(each)
    if not proposals:
        raise WrongInput(problems)
    for problem in problems:
        typer.echo(f"left out: {problem}", err=True)
    return Candidate(checkpoint, run, heldout, proposals)


def _proposal(item: object, given: list[str]) -> "TokenProposalConfig":
    """A method as its YAML has it, with the settings that an item of `proposals` changes."""
    import json

    from speculators.composition.compose import compose
    from speculators.utils.messages import WrongInput

    settings = dict(item) if isinstance(item, dict) else {"proposal_type": item}
    if not isinstance(name := settings.pop("proposal_type", None), str):
        raise WrongInput(
            [f"proposals: {item!r} names no method; an item is a name, or {{proposal_type: NAME, KEY: VALUE}}"]
        )
    overrides = [o for o in given if o.startswith("evaluation.")]
    own = [f"proposal.{key}={json.dumps(value)}" for key, value in settings.items()]
    return compose([*overrides, f"proposal={name}", *own]).proposal


def _count(item: object) -> int:
    from speculators.utils.messages import WrongInput

    if type(item) is not int or item < 1:
        raise WrongInput(
            [f"evaluation.speculative_tokens: {item!r} is no number of tokens; they are whole and at least 1"]
        )
    return item
