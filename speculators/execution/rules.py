"""Rules between the settings of a run, and between settings and the verifier, reported by config key. Torch-free."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from speculators.data.files import EMBEDDED, PROMPTS
from speculators.export import push
from speculators.export.preflight import CannotServe, chosen_engine, plan
from speculators.format import strict
from speculators.format.layout import Layout
from speculators.format.published import speculator_dict
from speculators.settings.answers import ServedAnswers
from speculators.settings.data import ChatData
from speculators.settings.run_config import RunConfig
from speculators.settings.states import ServedStates
from speculators.utils.dotted import flat
from speculators.utils.secrets import NO_SECRETS, exposed
from speculators.verifier.facts import VerifierFacts


@dataclass(frozen=True)
class Broken:
    """A rule that a run breaks.

    Attributes:
        key: dotted config key.
        value: its value.
        reason: the rule and the remedy.
    """

    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.key}={self.value!r}: {self.reason}"


def broken(run: RunConfig) -> list[Broken]:
    """All rules that a run with valid values breaks.

    Args:
        run: each of its values is valid by itself.

    Raises:
        ValueError: the verifier's config.json cannot be read.
    """
    facts = VerifierFacts.read(run.verifier.name_or_path, run.verifier.revision)
    return [
        *drafts_for_the_verifier(run, facts),
        *drafts_what_it_can(run),
        *proposal_is_sound(run),
        *others_can_be_drafted(run),
        *sampling_is_read(run),
        *best_step_is_measured(run),
        *a_step_has_one_size(run),
        *processes_find_each_other(run),
        *sharding_is_possible(run),
        *several_processes_need_torchrun(run),
        *each_process_has_its_device(run),
        *processes_share_a_server(run),
        *samples_differ(run),
        *answers_are_served(run),
        *secrets_stay_out(run),
        *follows_the_groups(run),
        *data_fits_verifier(run, facts),
        *token_ids_exist(run, facts),
        *answers_are_the_verifiers(run, facts),
        *serving_options_have_effect(run),
        *can_be_pushed(run),
        *published_is_sound(run, facts),
    ]


def notes(run: RunConfig) -> list[str]:
    """Notes on settings that are valid but have consequences to know."""
    levels, slots, found = run.proposal.levels, run.algorithm.slots, []
    if run.algorithm.recurrent and levels > slots:
        found.append(
            f"proposal.{run.proposal.levels_key}={levels}: the draft is trained {slots} tokens ahead; "
            "the tokens after those come from more steps of the same draft"
        )
    if lossy := run.proposal.lossy(run.evaluation.temperature):
        found.append(f"proposal={run.proposal.proposal_type} is lossy: {lossy}")
    return found


def drafts_for_the_verifier(run: RunConfig, facts: VerifierFacts) -> Iterator[Broken]:
    """Some algorithms draft for verifiers of certain classes alone."""
    classes = type(run.algorithm).verifier_architectures
    if classes and not set(classes) & set(facts.architectures):
        reason = (
            f"drafts for verifiers of the class {' or '.join(classes)}, and {facts.name_or_path} is a "
            f"{', '.join(facts.architectures) or 'model of no named class'}; set verifier.name_or_path to such a verifier, or "
            "choose another algorithm"
        )
        yield Broken("algorithm.name", run.algorithm.name, reason)


def drafts_what_it_can(run: RunConfig) -> Iterator[Broken]:
    """A non-recurrent draft drafts at most as many tokens as it has slots, and not every draft can draft a tree."""
    proposal, slots = run.proposal, run.algorithm.slots
    if not run.algorithm.recurrent and proposal.levels > slots:
        reason = f"a {run.algorithm.name} draft with these settings drafts at most {slots} tokens"
        yield Broken(f"proposal.{proposal.levels_key}", proposal.levels, reason)
    if proposal.is_tree and not run.algorithm.drafts_trees:
        reason = f"a {run.algorithm.name} draft cannot draft trees; choose a chain, such as proposal=greedy"
        yield Broken("proposal.proposal_type", proposal.proposal_type, reason)


def proposal_is_sound(run: RunConfig) -> Iterator[Broken]:
    """The problems that the proposal method reports about its own settings."""
    for key, value, reason in run.proposal.problems(run.evaluation.temperature):
        yield Broken(f"proposal.{key}", value, reason)


def others_can_be_drafted(run: RunConfig) -> Iterator[Broken]:
    """Every published proposal method is one that the draft can draft, and each method is published once."""
    names = [run.proposal.proposal_type]
    for i, proposal in enumerate(run.other_proposals):
        if proposal.proposal_type in names:
            reason = "is published already; a method is found by its name, so each can be published once"
            yield Broken(f"other_proposals.{i}.proposal_type", proposal.proposal_type, reason)
        names.append(proposal.proposal_type)
        for problem in drafts_what_it_can(run.model_copy(update={"proposal": proposal})):
            yield Broken(problem.key.replace("proposal.", f"other_proposals.{i}.", 1), problem.value, problem.reason)


def sampling_is_read(run: RunConfig) -> Iterator[Broken]:
    """top_k and top_p have no effect with greedy decoding (temperature 0)."""
    settings = run.evaluation
    for key, value, default in (("top_k", settings.top_k, None), ("top_p", settings.top_p, 1.0)):
        if settings.temperature == 0 and value != default:
            reason = "has no effect with evaluation.temperature=0; raise the temperature, or keep the default"
            yield Broken(f"evaluation.{key}", value, reason)


def best_step_is_measured(run: RunConfig) -> Iterator[Broken]:
    """trainer.keep_best needs more than one measured step."""
    if run.trainer.keep_best and run.trainer.eval_every is None:
        reason = "has no effect if only the last step is evaluated; set trainer.eval_every"
        yield Broken("trainer.keep_best", run.trainer.keep_best, reason)


def a_step_has_one_size(run: RunConfig) -> Iterator[Broken]:
    """trainer.sequences_per_step replaces trainer.gradient_accumulation_steps, and the processes share it evenly."""
    accumulated, size = run.trainer.gradient_accumulation_steps, run.trainer.sequences_per_step
    if size is None:
        return
    if accumulated != 1:
        reason = f"follows from trainer.sequences_per_step={size}; leave out one of the two"
        yield Broken("trainer.gradient_accumulation_steps", accumulated, reason)
    if run.launch.mode == "torchrun" and size % (processes := run.launch.num_nodes * (run.launch.num_processes or 1)):
        yield Broken("trainer.sequences_per_step", size, f"cannot be shared evenly by {processes} processes")


def processes_find_each_other(run: RunConfig) -> Iterator[Broken]:
    """Several machines need torchrun and an endpoint."""
    launch = run.launch
    if launch.num_nodes > 1 and launch.rdzv_endpoint is None:
        reason = "the machines need launch.rdzv_endpoint=HOST:PORT, where HOST is one of them"
        yield Broken("launch.num_nodes", launch.num_nodes, reason)
    if launch.num_nodes == 1 and launch.rdzv_endpoint is not None:
        yield Broken("launch.rdzv_endpoint", launch.rdzv_endpoint, "has no effect with launch.num_nodes=1")


def sharding_is_possible(run: RunConfig) -> Iterator[Broken]:
    """A sharded draft cannot decode."""
    if run.launch.sharding == "fsdp2" and run.trainer.keep_best == "decoded":
        reason = "does not decode during the training; set trainer.keep_best=true, or launch.sharding=ddp"
        yield Broken("launch.sharding", run.launch.sharding, reason)


def several_processes_need_torchrun(run: RunConfig) -> Iterator[Broken]:
    """Settings of several processes without torchrun."""
    launch = run.launch
    for key, value, alone in (("num_nodes", launch.num_nodes, 1), ("sharding", launch.sharding, "ddp")):
        if launch.mode != "torchrun" and value != alone:
            yield Broken(f"launch.{key}", value, "has no effect without launch=torchrun")


def each_process_has_its_device(run: RunConfig) -> Iterator[Broken]:
    """A numbered device cannot be shared by the processes of torchrun."""
    if run.launch.mode == "torchrun" and ":" in run.device:
        reason = f"the processes of launch=torchrun would share it; set device={run.device.split(':')[0]} to give each its own"
        yield Broken("device", run.device, reason)


def processes_share_a_server(run: RunConfig) -> Iterator[Broken]:
    """The processes of torchrun do not start a server of states each."""
    states = run.verifier_states
    if run.launch.mode == "torchrun" and isinstance(states, ServedStates) and states.url is None:
        reason = (
            "the processes of launch=torchrun would start a server each; start one, and give its address and folder"
        )
        yield Broken("verifier_states.url", None, reason)


def samples_differ(run: RunConfig) -> Iterator[Broken]:
    """Several answers to a prompt are sampled: greedy ones would all be the same."""
    if run.data.regenerate_samples > 1 and not (run.data.regenerate and run.data.regenerate_temperature):
        reason = (
            "needs data.regenerate=true and a data.regenerate_temperature above 0; greedy answers would be the same"
        )
        yield Broken("data.regenerate_samples", run.data.regenerate_samples, reason)


def answers_are_served(run: RunConfig) -> Iterator[Broken]:
    """A server of answers needs data.regenerate."""
    if isinstance(run.verifier_answers, ServedAnswers) and not run.data.regenerate:
        yield Broken("verifier_answers.source", "served", "has no effect without data.regenerate=true")


def secrets_stay_out(run: RunConfig) -> Iterator[Broken]:
    """No value is a password or token: run.yaml, logs, trackers and the published draft show all values."""
    for key, hidden in exposed(flat(run.model_dump(mode="json", exclude={"speculator"}))).items():
        yield Broken(key, hidden, NO_SECRETS)


def serving_options_have_effect(run: RunConfig) -> Iterator[Broken]:
    """Options for the engine need an engine, and what they say must be possible there."""
    engine = chosen_engine(run.export, run.algorithm.name)
    draft = engine.draft(run.algorithm.name) if engine else None
    for key, value in run.export.serving_options().items():
        if draft is None or draft.refusal is not None:
            yield Broken(f"export.{key}", value, "no engine serves this draft; leave it at its default")
    if draft is not None and run.export.enable_adaptive_verification and not draft.confident:
        reason = f"{engine} does it for drafts that say how confident they are, and {run.algorithm.name} drafts do not"
        yield Broken("export.enable_adaptive_verification", True, f"{reason}; leave it at false")
    if run.export.stitched_verifier and not Layout.named(run.algorithm.name).in_verifier:
        reason = f"{run.algorithm.name} drafts have no tensors of the verifier's; leave it at false"
        yield Broken("export.stitched_verifier", True, reason)
    ranges = run.export.num_speculative_tokens_per_batch_size or []
    if (most := max((tokens for *_, tokens in ranges), default=0)) > run.proposal.nodes:
        reason = f"{most} tokens are more than the proposal's {run.proposal.nodes}, which are the most that are drafted"
        yield Broken("export.num_speculative_tokens_per_batch_size", ranges, f"{reason}; raise that, or lower these")


def follows_the_groups(run: RunConfig) -> Iterator[Broken]:
    """The `speculator` node must equal what conf/train.yaml derives from the groups; overrides may break this."""
    derived = {
        "speculators_model_type": run.algorithm.name,
        "speculators_config": {
            "algorithm": run.algorithm.name,
            "default_proposal_method": run.proposal.proposal_type,
            "proposal_methods": [run.proposal.model_dump()],
            "verifier": {"name_or_path": run.verifier.name_or_path},
        },
    }
    chosen, derived = flat(run.speculator.model_dump()), flat(derived)
    for key in dict.fromkeys([*chosen, *derived]):
        value, due = chosen.get(key), derived.get(key)
        if value != due:
            reason = (
                f"it is derived from algorithm, proposal and verifier, and must be {due!r}; set those groups instead"
            )
            yield Broken(f"speculator.{key}", value, reason)


def data_fits_verifier(run: RunConfig, facts: VerifierFacts) -> Iterator[Broken]:
    """data.max_length, the longest possible document, must not exceed the verifier's max_position_embeddings."""
    if run.data.max_length > facts.max_position_embeddings:
        reason = f"the verifier supports at most {facts.max_position_embeddings} tokens (max_position_embeddings)"
        yield Broken("data.max_length", run.data.max_length, reason)


def token_ids_exist(run: RunConfig, facts: VerifierFacts) -> Iterator[Broken]:
    """A setting called `..._token_id` must be a token of the verifier's vocabulary."""
    for key, value in run.algorithm.model_dump().items():
        if key.endswith("_token_id") and value is not None and value >= facts.vocab_size:
            yield Broken(
                f"algorithm.{key}", value, f"the verifier's tokens are 0 to {facts.vocab_size - 1}; choose one"
            )


def answers_are_the_verifiers(run: RunConfig, facts: VerifierFacts) -> Iterator[Broken]:
    """The embedded conversations fit only the embedded verifier, whose answers they are."""
    if not isinstance(run.data, ChatData) or run.data.regenerate:
        return
    if facts.model_copy(update={"name_or_path": EMBEDDED}) != VerifierFacts.read(EMBEDDED):
        reason = (
            f"these are answers of the embedded verifier, not of {facts.name_or_path}; regenerate the answers: "
            f"data=jsonl data.path={PROMPTS} data.regenerate=true"
        )
        yield Broken("data.source", run.data.source, reason)


def can_be_pushed(run: RunConfig) -> Iterator[Broken]:
    """A draft is pushed with its result, its licence and its verifier's name on the Hub."""
    if run.export.hub_repo is None:
        return
    if not run.evaluation.num_prompts:
        reason = "a draft is pushed with its measured result; set it to at least 1, or export.hub_repo=null"
        yield Broken("evaluation.num_prompts", 0, reason)
    for key, reason in push.lacking(run, run.verifier.name_or_path):
        yield Broken(key, None, reason)


def published_is_sound(run: RunConfig, facts: VerifierFacts) -> Iterator[Broken]:
    """The published config must be valid in its format, fit the verifier, and be servable by the chosen engine."""
    published = speculator_dict(run, facts)
    found = [(p.key, p.value, p.reason) for p in strict.problems(published, facts)]
    try:
        plan(run, published, facts)
    except CannotServe as error:
        engine = f"{run.export.target} {run.export.engine_version}"
        bad = [f for f in error.findings if f.bad and f.key not in {key for key, *_ in found}]
        found += [(f.key, f.value, f"{engine} cannot serve this: {f.reason}") for f in bad]
    for key, value, reason in found:
        yield Broken(*_typed(key, value, run), reason)


def _typed(key: str, value: Any, run: RunConfig) -> tuple[str, Any]:
    """Map a key of the published config, and its value, to the config key that sets it."""
    settings = run.algorithm.model_dump()
    head, _, rest = key.partition(".")
    last = key.rpartition(".")[2]
    if key.startswith("speculators_config.proposal_methods[0]."):
        return f"proposal.{last}", value
    if key in ("speculators_model_type", "speculators_config.algorithm"):
        return "algorithm.name", value
    if head in settings:
        return f"algorithm.{head}" + (f".{rest}" if rest else ""), value
    if head == "transformer_layer_config" and last in settings:
        return f"algorithm.{last}", value
    return "verifier.name_or_path", run.verifier.name_or_path
