"""Compares published drafts and proposals by acceptance length and modelled speed-up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from speculators.evaluate.evaluate import NO_PROMPT, load_draft, modelled_speedup, own_prompts, prompts_of_run
from speculators.evaluate.interval import acceptance_interval
from speculators.evaluate.what_if import what_if
from speculators.export.preflight import chosen_engine, preflight
from speculators.format.strict import read_config
from speculators.proposals import TokenProposalConfig
from speculators.settings.run_config import RunConfig
from speculators.utils.device import resolve
from speculators.verifier.in_process import Verifier


@dataclass(frozen=True)
class Candidate:
    """A published draft and the proposals to compare.

    Attributes:
        checkpoint: its folder.
        run: verifier, data and evaluation; its proposal and its training settings are not read.
        heldout: take only the prompts that training with this seed holds out, unless the run has evaluation.data.
        proposals: at least one.
    """

    checkpoint: Path
    run: RunConfig
    heldout: bool
    proposals: list[TokenProposalConfig]


@dataclass(frozen=True)
class Choice:
    """One draft with one proposal, as measured.

    Attributes:
        checkpoint: its folder.
        algorithm: of the draft.
        proposal: the method with its settings.
        passes: of the draft model for each pass of the verifier.
        rounds: of each prompt, the drafted tokens that each draft had accepted.
        drafted: drafted tokens verified.
        categories: of each prompt; None where the data names none.
        lossy: why the text is not the verifier's own; None if it is.
        command: serves it; None if no engine does.
    """

    checkpoint: Path
    algorithm: str
    proposal: TokenProposalConfig
    passes: int
    rounds: list[list[int]]
    drafted: int
    categories: list[str | None]
    lossy: str | None
    command: str | None

    @property
    def drafts(self) -> int:
        """Verifier passes that verified a draft."""
        return sum(map(len, self.rounds))

    @property
    def acceptance_length(self) -> float:
        """Tokens that one pass of the verifier yields."""
        return length_of(self.rounds)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the acceptance length."""
        return acceptance_interval(self.rounds)

    @property
    def verified(self) -> float:
        """Mean number of drafted tokens that one pass of the verifier verifies."""
        return self.drafted / max(1, self.drafts)

    def speedup(self, cost_ratio: float) -> float:
        """Modelled, with the time of one pass of the draft model over that of the verifier."""
        return modelled_speedup(self.acceptance_length, self.passes, cost_ratio)

    def by_category(self) -> dict[str, list[list[int]]]:
        """The rounds of each category's prompts, by name; those without one are left out."""
        names = sorted({category for category in self.categories if category is not None})
        pairs = list(zip(self.categories, self.rounds, strict=True))
        return {name: [own for category, own in pairs if category == name] for name in names}


def length_of(rounds: Sequence[Sequence[int]]) -> float:
    """The acceptance length of some prompts' rounds."""
    return 1 + sum(map(sum, rounds)) / max(1, sum(map(len, rounds)))


@dataclass(frozen=True)
class Comparison:
    """All choices that were measured.

    Attributes:
        choices: in the order of the candidates and their proposals.
        cost_ratio: evaluation.cost_ratio, for which the best choice is named.
        same_prompts: whether all drafts were measured on the same prompts.
    """

    choices: list[Choice]
    cost_ratio: float
    same_prompts: bool

    def best(self, cost_ratio: float) -> Choice:
        """The choice with the highest modelled speed-up; of equal ones the first."""
        return max(self.choices, key=lambda choice: choice.speedup(cost_ratio))

    def label(self, choice: Choice) -> str:
        """Its method, with the settings in which choices of that method differ."""
        alike = [c.proposal.model_dump() for c in self.choices if type(c.proposal) is type(choice.proposal)]
        own = choice.proposal.model_dump()
        differing = [key for key in own if any(other[key] != own[key] for other in alike)]
        words = [str(own[key]) if key == "speculative_tokens" else f"{key}={own[key]}" for key in differing]
        return " ".join([choice.proposal.proposal_type, *words])

    def draft(self, choice: Choice) -> str:
        """Its algorithm and the folder of its run; empty if all choices are of one draft."""
        if len({c.checkpoint for c in self.choices}) == 1:
            return ""
        folder = choice.checkpoint.resolve()
        return f"{choice.algorithm} {folder.parent.name if folder.name == 'checkpoint' else folder.name}"


def compare(candidates: Sequence[Candidate]) -> Comparison:
    """Measure every candidate with every one of its proposals.

    Args:
        candidates: at least one; those with the same verifier beside each other, so that it is loaded once.

    Raises:
        ValueError: a checkpoint is no valid published folder, a verifier or data cannot be loaded, or there is no prompt.
    """
    choices, prompts, loaded = list[Choice](), list[list[list[int]]](), None
    for candidate in candidates:
        run = candidate.run
        if loaded is None or loaded[0] != (run.verifier, run.device):
            loaded = (run.verifier, run.device), Verifier.load(run.verifier, resolve(run.device))
        verifier = loaded[1]
        model = load_draft(candidate.checkpoint, verifier)
        own = own_prompts(run, candidate.heldout)
        chosen = own.prompts if own else prompts_of_run(run, candidate.heldout)[: run.evaluation.num_prompts]
        if not chosen:
            raise ValueError(NO_PROMPT)
        prompts.append([prompt.tokens for prompt in chosen])
        found = what_if(model, verifier, prompts[-1], candidate.proposals, run.evaluation, run.seed)
        for proposal, decoded in zip(candidate.proposals, found, strict=True):
            choices.append(
                Choice(
                    checkpoint=candidate.checkpoint,
                    algorithm=run.algorithm.name,
                    proposal=proposal,
                    passes=model.passes(proposal.levels),
                    rounds=decoded.rounds,
                    drafted=decoded.drafted,
                    categories=[prompt.category for prompt in chosen],
                    lossy=proposal.lossy(run.evaluation.temperature),
                    command=command_for(candidate.checkpoint, run, proposal),
                )
            )
    same = all(each == prompts[0] for each in prompts)
    return Comparison(choices, candidates[0].run.evaluation.cost_ratio, same)


def command_for(checkpoint: Path, run: RunConfig, proposal: TokenProposalConfig) -> str | None:
    """The command that serves a published draft with a proposal; None if no engine drafts like that.

    Args:
        checkpoint: its folder.
        run: its export settings name the engine.
        proposal: the method; it need not be a published one.
    """
    engine, config = chosen_engine(run.export, run.algorithm.name), read_config(checkpoint)
    if engine is None:
        return None
    usage = config["speculators_config"]
    published = TokenProposalConfig.model_validate(usage["proposal_methods"][0])
    methods = {"proposal_methods": [proposal.model_dump()], "default_proposal_method": proposal.proposal_type}
    if any(finding.bad for finding in preflight(engine, config | {"speculators_config": usage | methods}, None)):
        return None
    verifier = usage["verifier"]["name_or_path"]
    return engine.serve_command(
        config,
        str(checkpoint.resolve()),
        verifier,
        proposal.model_dump(),
        published=proposal.nodes == published.nodes,
        serving_options=run.export.serving_options(),
    )


def families_of(comparison: Comparison) -> Iterator[tuple[str, list[Choice]]]:
    """The choices of each draft and proposal method, by name, shortest drafts first."""
    groups: dict[str, list[Choice]] = {}
    for choice in comparison.choices:
        name = f"{comparison.draft(choice)} {choice.proposal.proposal_type}".strip()
        groups.setdefault(name, []).append(choice)
    for name, own in groups.items():
        yield name, sorted(own, key=lambda choice: (choice.proposal.levels, choice.proposal.nodes))
