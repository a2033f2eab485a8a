"""Which settings decide what: a name for the weights that training gives, and one for all that a run gives. Torch-free."""

from contextlib import suppress
from typing import Any

from speculators.data.files import CHAT, content_of, files_of, sources_of
from speculators.settings.run_config import RunConfig
from speculators.utils import digest

WEIGHTS = ("seed", "precision", "algorithm", "verifier", "verifier_states", "data", "optimizer", "schedule", "trainer")
RESULT = (*WEIGHTS, "proposal", "evaluation", "export")
# Of `trainer`, what is only written more or less often. Device, threads, tracker, launch and cache decide nothing either.
WRITTEN = {"trainer": {"log_every", "save_every", "keep_last"}}


def weights_key(run: RunConfig) -> str:
    """The same for runs that train the same weights."""
    return _hash(run, WEIGHTS)


def result_key(run: RunConfig) -> str:
    """The same for runs that end with the same checkpoint and the same evaluation."""
    return _hash(run, RESULT)


def _hash(run: RunConfig, groups: tuple[str, ...]) -> str:
    """12 hexadecimal digits of the groups' settings, and of the data where those are files."""
    settings: dict[str, Any] = run.model_dump(mode="json", include=set(groups), exclude=WRITTEN)
    if run.launch.mode == "torchrun":
        settings["processes"] = run.launch.num_processes  # each adds its sequences to a step
    for source in sources_of(run.data):
        with suppress(ValueError):  # what is missing is another's to say
            if source.path is not None and source.path != CHAT:
                settings["data"].setdefault("sha256", []).append(content_of(files_of(source.path)))
    return digest.of_words(settings)[:12]
