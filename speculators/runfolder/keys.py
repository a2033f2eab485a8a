"""Hashes that identify the weights and the result of a run by the settings that determine them. Torch-free."""

from contextlib import suppress
from typing import Any

from speculators.data.files import CHAT, content_of, files_of, sources_of
from speculators.settings.data import Place
from speculators.settings.run_config import RunConfig
from speculators.utils import digest

WEIGHTS = (
    "seed", "precision", "algorithm", "verifier", "verifier_states", "verifier_answers", "data", "optimizer", "schedule",
    "trainer",
)  # fmt: skip
RESULT = (*WEIGHTS, "proposal", "other_proposals", "evaluation", "export")
# Settings that affect only output, and where served states and answers come from. Device, threads, tracker, launch and cache do
# not affect the weights either.
WITHOUT_EFFECT = {
    "trainer": {"log_every", "save_every", "keep_last"},
    "export": {"hub_repo", "license", "base_model"},
    "verifier_states": {"url", "python", "folder", "concurrency", "prefetch_steps", "timeout"},
    "verifier_answers": {"url", "python", "model", "concurrency", "timeout"},
}
# Settings outside of WEIGHTS by which trainer.keep_best=decoded chooses the step.
DECODING = {"proposal": True, "evaluation": {"max_new_tokens", "temperature", "top_k", "top_p"}}


def weights_key(run: RunConfig) -> str:
    """A hash that is equal for runs that train the same weights."""
    return _hash(run, weights_settings(run))


def weights_settings(run: RunConfig) -> dict[str, Any]:
    """The settings that determine the weights, by group."""
    decoding = DECODING if run.trainer.keep_best == "decoded" else {}
    return run.model_dump(mode="json", include=dict.fromkeys(WEIGHTS, True) | decoding, exclude=WITHOUT_EFFECT)


def result_key(run: RunConfig) -> str:
    """A hash that is equal for runs with the same checkpoint and the same evaluation."""
    return _hash(run, run.model_dump(mode="json", include=set(RESULT), exclude=WITHOUT_EFFECT))


def processes(run: RunConfig) -> dict[str, Any]:
    """What `launch` says of the number of processes, if the sequences of a step scale with it."""
    if run.launch.mode != "torchrun" or run.trainer.sequences_per_step is not None:
        return {}
    nodes = {"nodes": run.launch.num_nodes} if run.launch.num_nodes > 1 else {}
    return {"processes": run.launch.num_processes, **nodes}


def _hash(run: RunConfig, settings: dict[str, Any]) -> str:
    """12 hexadecimal digits of a hash of settings of a run, and of the contents of its data files."""
    settings |= processes(run)
    read: list[tuple[str, Place]] = [("data", source) for source in sources_of(run.data)]
    if "data" in settings.get("evaluation", {}) and run.evaluation.data is not None:
        read.append(("evaluation", run.evaluation.data))
    for group, source in read:
        with suppress(ValueError):  # a missing file is reported elsewhere
            if source.path is not None and source.path != CHAT:
                settings[group].setdefault("sha256", []).append(content_of(files_of(source.path)))
    return digest.of_words(settings)[:12]
