"""What a run needs of this machine: device, proposal method, the tracker's package, vLLM, a token, disk space, the first draft.

No weights are read.
"""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from shutil import disk_usage

from speculators.cache.store import Store, gb
from speculators.config import SpeculatorModelConfig
from speculators.data import saved
from speculators.data.prepare import Prepared
from speculators.export.push import check_token
from speculators.format.published import speculator_dict
from speculators.format.strict import read_config
from speculators.model import SpeculatorModel
from speculators.proposals.method import ProposalMethod
from speculators.settings.run_config import RunConfig
from speculators.settings.states import CachedStates, ServedStates
from speculators.settings.vllm import VllmSettings
from speculators.train.build import on_meta, unfit
from speculators.utils.device import bfloat16_slowdown, resolve
from speculators.utils.dtypes import dtype_of
from speculators.utils.messages import WrongInput
from speculators.verifier.facts import VerifierFacts
from speculators.verifier.in_process import run_dtype
from speculators.verifier.loader import VerifierLoader

# float32 bytes of a trained number in a resumable checkpoint: itself, and at least one moment of its optimizer.
SAVED_BYTES = 8
# Times that a product takes longer in bfloat16 than in float32 on a CPU that emulates it; one that has it takes less than 1.
EMULATED = 5


def lacking(run: RunConfig, folder: Path) -> list[str]:
    """What a run lacks on this machine, each as a message that begins with the key to change.

    Args:
        run: valid, with data that can be used. With verifier_states=cached the data is tokenised, and kept for the run.
        folder: in which the run will write; it need not exist.
    """
    found = [*proposal_can_be_decoded(run), *tracker_is_installed(run), *device_is_there(run)]
    found += [*servers_can_start(run), *hub_knows_who_pushes(run)]
    return found if found else [*first_weights_fit(run), *folder_has_room(run, folder), *states_have_room(run)]


def proposal_can_be_decoded(run: RunConfig) -> Iterator[str]:
    """The proposal method, which may be another package's, must have a decoding rule."""
    try:
        ProposalMethod.named(run.proposal.proposal_type)
    except ValueError as error:
        yield str(error)


def tracker_is_installed(run: RunConfig) -> Iterator[str]:
    """The package of a tracker has the tracker's name."""
    name = run.tracker.name
    if name != "none" and ((found := find_spec(name)) is None or found.origin is None):
        yield f"tracker.name={name}: its package is not installed; run `pip install {name}`, or set tracker=none"


def device_is_there(run: RunConfig) -> Iterator[str]:
    """The device that is named must be one of this machine."""
    try:
        resolve(run.device)
    except ValueError as error:
        yield str(error)


def servers_can_start(run: RunConfig) -> Iterator[str]:
    """Served states and answers need an environment with vLLM, or a server that is given, whose folder is there."""
    states = run.verifier_states
    if isinstance(states, ServedStates) and states.folder is not None and not Path(states.folder).is_dir():
        yield f"verifier_states.folder={states.folder}: there is no such folder; make it, or mount the server's"
    for group, server in (("verifier_states", states), ("verifier_answers", run.verifier_answers)):
        if not isinstance(server, VllmSettings) or server.url is not None:
            continue
        if server.python is None and find_spec("vllm") is None:
            yield (
                f"{group}.source=served: there is no vLLM in this environment; set {group}.python to the Python of "
                f"one that has it, or {group}.url to the address of a server"
            )
        if server.python is not None and not os.access(server.python, os.X_OK):
            yield f"{group}.python={server.python}: there is no such program; give the path of a Python"


def emulated(run: RunConfig, facts: VerifierFacts) -> str | None:
    """A warning about bfloat16 on a CPU that emulates it; None where the run does not use it, or the CPU has it."""
    used = {
        "precision=bf16": run.precision == "bf16",
        "verifier.dtype=bfloat16": running_dtype(run, facts) == "bfloat16",
    }
    if device_kind(run) != "cpu" or not any(used.values()) or (slowdown := bfloat16_slowdown()) < EMULATED:
        return None
    settings = ", ".join(setting for setting, there in used.items() if there)
    return (
        f"{settings}: this CPU has no bfloat16 products; a small one takes {slowdown:.0f} times as long as in float32, a large "
        "one longer. Set precision=fp32 verifier.dtype=float32"
    )


def hub_knows_who_pushes(run: RunConfig) -> Iterator[str]:
    """A run whose draft is pushed needs a token for the Hub."""
    if run.export.hub_repo is not None:
        try:
            check_token()
        except WrongInput as error:
            yield f"export.hub_repo={run.export.hub_repo}: {error}"


def first_weights_fit(run: RunConfig) -> Iterator[str]:
    """The published draft that training starts from must be of the same algorithm and shapes."""
    if run.trainer.init_from is None:
        return
    checkpoint, key = Path(run.trainer.init_from), f"trainer.init_from={run.trainer.init_from}"
    try:
        algorithm = read_config(checkpoint)["speculators_model_type"]
    except ValueError as error:
        yield f"{key}: {error}"
        return
    if algorithm != run.algorithm.name:
        yield f"{key}: it is a draft of algorithm={algorithm}; choose that, or another draft"
    elif reason := unfit(draft(run), checkpoint):
        yield f"{key}: {reason}; set the algorithm's sizes as those of the draft, or start anew"


def folder_has_room(run: RunConfig, folder: Path) -> Iterator[str]:
    """One resumable checkpoint and the published draft, the least that a run writes, must fit on the disk."""
    need = folder_bytes(run, draft(run))
    if need > (free := disk_usage(_existing(folder)).free):
        yield (
            f"hydra.run.dir={folder}: a checkpoint and the published draft take {gb(need)}, and the disk has {gb(free)} free; "
            "choose a folder on a larger disk"
        )


def folder_bytes(run: RunConfig, model: SpeculatorModel) -> int:
    """Bytes of one resumable checkpoint and the published draft, the least that a run writes."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained * (SAVED_BYTES + dtype_of(run.export.dtype).itemsize)


def states_have_room(run: RunConfig) -> Iterator[str]:
    """Cached states must fit into the cache, whatever is removed from it."""
    # The lengths of regenerated answers are unknown before the verifier is loaded.
    states = run.verifier_states
    kept = isinstance(states, CachedStates) or isinstance(states, ServedStates) and states.keep
    if not kept or run.data.regenerate:
        return
    facts = VerifierFacts.read(run.verifier.name_or_path, run.verifier.revision)
    store = Store.of(run.cache)
    data = saved.prepared(run, store, VerifierLoader(run.verifier, resolve(run.device)), facts.vocab_size)
    need = states_bytes(run, facts, data, len(draft(run).layer_ids) + 1)
    if need > store.capacity:
        yield (
            f"verifier_states.source={states.source}: the states take {gb(need)}, and {store.folder} can hold "
            f"{gb(store.capacity)}; raise cache.limit_gb, set cache.dir to a larger disk, or compute the states in every "
            "step with verifier_states=in_process"
        )


def draft(run: RunConfig) -> SpeculatorModel:
    """The run's draft without memory for its weights."""
    facts = VerifierFacts.read(run.verifier.name_or_path, run.verifier.revision)
    return on_meta(SpeculatorModelConfig.from_dict(speculator_dict(run, facts)))


def states_bytes(run: RunConfig, facts: VerifierFacts, prepared: Prepared, layers: int) -> int:
    """Bytes of the verifier's states of all training and held-out tokens.

    Args:
        run: gives dtype and device.
        facts: gives the hidden size.
        prepared: the data.
        layers: states per token: those that the draft reads, and the last, which the loss reads.
    """
    return prepared.tokens * layers * facts.hidden_size * dtype_of(running_dtype(run, facts)).itemsize


def running_dtype(run: RunConfig, facts: VerifierFacts) -> str:
    """The dtype in which the verifier runs on the run's device."""
    named = run_dtype(run.verifier, device_kind(run) == "cpu")
    return (facts.dtype or "float32") if named == "auto" else named


def device_kind(run: RunConfig) -> str:
    """`cpu`, or the kind of accelerator of the run's `device`, whether this machine has it or not."""
    return resolve("auto").type if run.device == "auto" else run.device.split(":")[0]


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
