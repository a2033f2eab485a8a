"""The dict for `SpeculatorModelConfig.from_dict`: chosen settings, and values set by the verifier. Torch-free."""

from typing import Any

from speculators.settings.run_config import RunConfig
from speculators.verifier.facts import VerifierFacts


def speculator_dict(run: RunConfig, facts: VerifierFacts) -> dict[str, Any]:
    """A run's published config as a plain dict.

    Args:
        run: its `speculator` node names type, proposal and verifier.
        facts: the verifier's sizes and class.
    """
    chosen = run.speculator.model_dump()
    usage = chosen["speculators_config"]
    usage["verifier"]["architectures"] = list(facts.architectures)
    usage["proposal_methods"] += [proposal.model_dump() for proposal in run.other_proposals]
    return chosen | run.algorithm.published(facts)
