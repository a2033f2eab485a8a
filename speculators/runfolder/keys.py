"""Hashes that identify the weights and the result of a run by the settings that determine them. Torch-free."""

from contextlib import suppress
from typing import Any

from speculators.data.files import CHAT, content_of, files_of, sources_of
from speculators.settings.run_config import RunConfig
from speculators.utils import digest

WEIGHTS = ("seed", "precision", "algorithm", "verifier", "verifier_states", "data", "optimizer", "schedule", "trainer")
RESULT = (*WEIGHTS, "proposal", "evaluation", "export")
# Settings of `trainer` that affect only output. Device, threads, tracker, launch and cache do not affect the weights either.
WRITTEN = {"trainer": {"log_every", "save_every", "keep_last"}}


def weights_key(run: RunConfig) -> str:
    """A hash that is equal for runs that train the same weights."""
    return _hash(run, WEIGHTS)


def result_key(run: RunConfig) -> str:
    """A hash that is equal for runs with the same checkpoint and the same evaluation."""
    return _hash(run, RESULT)


def _hash(run: RunConfig, groups: tuple[str, ...]) -> str:
    """12 hexadecimal digits of a hash of the groups' settings, and of the contents of data files."""
    settings: dict[str, Any] = run.model_dump(mode="json", include=set(groups), exclude=WRITTEN)
    if run.launch.mode == "torchrun":
        settings["processes"] = run.launch.num_processes  # the sequences of a step scale with the processes
    for source in sources_of(run.data):
        with suppress(ValueError):  # a missing file is reported elsewhere
            if source.path is not None and source.path != CHAT:
                settings["data"].setdefault("sha256", []).append(content_of(files_of(source.path)))
    return digest.of_words(settings)[:12]
