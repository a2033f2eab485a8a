"""Estimates a run's peak memory and FLOP by running its code under FakeTensorMode, which loads and allocates nothing.

The verifier, the draft, the loss, the optimizers and the drafter are those of the run, so the allocations and the matrix
products of any algorithm are counted without a formula per algorithm.
"""

import gc
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import Cache

from speculators.config import SpeculatorModelConfig
from speculators.data.cached_states import SHARD
from speculators.losses import chunked
from speculators.model import SpeculatorModel
from speculators.proposals.method import ProposalMethod
from speculators.proposals.sampler import Sampler
from speculators.protocols.batch import Batch
from speculators.protocols.drafter import Context, Drafter
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import HiddenStates, VerifierStates
from speculators.settings.run_config import RunConfig
from speculators.train import optimizer
from speculators.train.build import on_meta
from speculators.train.step import Student
from speculators.utils.dtypes import dtype_of
from speculators.verifier.in_process import Verifier
from speculators.verifier.structure import without_weights

# Parts of memory, in the order in which they are shown.
VERIFIER, DRAFT, STATE, GRADIENTS = "verifier's weights", "draft's weights", "optimizer state", "gradients"
VERIFIER_PASS, DRAFT_PASS, LOSS = "verifier's pass", "draft's pass", "loss and backward pass"
UPDATE, DECODING, COPY = "update", "decoding: caches and logits", "copy of weights"
# The phase in which states are computed outside of the training's steps.
EXTRACTION = "extraction"
WORKING = (VERIFIER_PASS, DRAFT_PASS, LOSS, UPDATE, DECODING)
# glibc returns blocks of this size and more to the system when they are freed (DEFAULT_MMAP_THRESHOLD_MAX).
LARGE = 32 * 2**20
# FLOP of an operation by the shapes of its arguments; torch has them for an accelerator's attention, not for a CPU's.
FLOP = flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        torch.ops.aten._scaled_dot_product_flash_attention
    ],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        torch.ops.aten._scaled_dot_product_flash_attention_backward
    ],
}


@dataclass(frozen=True)
class Moment:
    """Memory at the peak of one phase of a run.

    Attributes:
        phase: name of the phase.
        parts: live bytes, by part.
        small: bytes of `WORKING` parts in blocks under 32 MiB, which glibc keeps in its heap after they are freed.
    """

    phase: str
    parts: dict[str, int]
    small: int = 0

    @property
    def total(self) -> int:
        """Live bytes."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Simulation:
    """What running a run's code under FakeTensorMode shows.

    Attributes:
        moments: the peak of each phase, in the order of the phases.
        training_flop: FLOP of a training step for a token of its batch; 2 for each multiplication with its addition.
        states_flop: FLOP for a token whose states are computed once and cached, or by a server; 0 if a step computes them.
        verifier: bytes of the whole verifier's weights.
    """

    moments: list[Moment]
    training_flop: float
    states_flop: float
    verifier: int


class Ledger(TorchDispatchMode):
    """Dispatch mode that counts FLOP, and the bytes of every storage that an operation allocates, until it is freed.

    Attributes:
        part: the part to which new storages are assigned.
        phase: the phase whose peak and FLOP are recorded; None records none.
        moments: the peak of each phase.
        flop: of the matrix products and the attention of each phase and part.
    """

    def __init__(self) -> None:
        super().__init__()
        self.part, self.phase = VERIFIER, None
        self.moments: dict[str, Moment] = {}
        self.flop: Counter[tuple[str, str]] = Counter()
        self._booked: dict[int, tuple[int, str]] = {}
        self._parts: dict[str, int] = {}
        self._small = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def] # torch's signature
        made = func(*args, **(kwargs or {}))
        if self.phase and func.overloadpacket in FLOP:
            self.flop[self.phase, self.part] += FLOP[func.overloadpacket](*args, **(kwargs or {}), out_val=made)
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._enter(leaf.untyped_storage())
        return made

    def parts(self) -> dict[str, int]:
        """Bytes that are live now, by part."""
        return {part: size for part, size in self._parts.items() if size}

    def rebook(self, tensor: Tensor, part: str) -> None:
        """Assign a tensor's storage to another part."""
        key = tensor.untyped_storage()._cdata
        size, before = self._booked[key]
        self._add(size, before, -1)
        self._booked[key] = size, part
        self._add(size, part, 1)

    @contextmanager
    def during(self, phase: str | None, part: str) -> Iterator[None]:
        """Record the peak of `phase` inside the block, with new storages initially assigned to `part`."""
        before = self.phase, self.part
        self.phase, self.part = phase, part
        yield
        self.phase, self.part = before

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._booked:
            return
        self._booked[key] = size, self.part
        weakref.finalize(storage, self._leave, key)
        self._add(size, self.part, 1)
        if self.phase and sum(self._parts.values()) > (m.total if (m := self.moments.get(self.phase)) else 0):
            self.moments[self.phase] = Moment(self.phase, self.parts(), self._small)

    def _leave(self, key: int) -> None:
        self._add(*self._booked.pop(key), -1)

    def _add(self, size: int, part: str, sign: int) -> None:
        self._parts[part] = self._parts.get(part, 0) + sign * size
        if size < LARGE and part in WORKING:
            self._small += sign * size


def simulated(
    run: RunConfig,
    config: SpeculatorModelConfig,
    running: str,
    stored: str | None,
    batch: Batch,
    prompt: int,
    on_cpu: bool,
) -> Simulation:
    """Run each phase of a run under FakeTensorMode.

    Args:
        run: the validated run.
        config: the published config.
        running: dtype in which the verifier runs.
        stored: dtype of its checkpoint; None if its config does not give one.
        batch: of the size of the largest micro-batch; only its shapes are used.
        prompt: tokens of the longest prompt that is decoded.
        on_cpu: False estimates for an accelerator, whose loss uses larger chunks.
    """
    # accelerate keeps one global state per process and refuses another precision or device.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=True, mixed_precision="bf16" if run.precision == "bf16" else "no", device_placement=False
    )
    # trainer.keep_best=decoded needs the whole verifier during the training, whatever the source of its states.
    source = run.verifier_states.source
    in_process = source == "in_process"
    stays = in_process or run.trainer.keep_best == "decoded"
    with _chunks(on_cpu), FakeTensorMode() as fake, Ledger() as ledger:
        verifier: Verifier | None = _without_values(run, running)
        whole = ledger.parts()[VERIFIER]
        batch = batch.map(fake.from_tensor)
        states: HiddenStates = verifier
        if not in_process:
            _extract(verifier, on_meta(config).layer_ids, batch, ledger)
            if source == "served":
                del ledger.moments[EXTRACTION]  # it is no part of this process
            states = _alone(verifier, ledger)
            verifier = verifier if stays else None
            gc.collect()  # modules form reference cycles
        ledger.part = DRAFT
        draft = SpeculatorModel.for_config(config)(config)
        _training(run, states, draft, batch, accelerator, ledger)
        weights = ledger.parts() if stays else {DRAFT: ledger.parts()[DRAFT]}
        if run.evaluation.num_prompts:
            del states
            ledger.part = VERIFIER
            _decoding(run, verifier or _without_values(run, running), draft, prompt, ledger)
    moments = list(ledger.moments.values())
    if on_cpu:
        # Loading the verifier; without its layers in training it is loaded, or loaded again, after the draft is trained.
        loading = _loading(whole, running, stored, {} if in_process else {DRAFT: weights[DRAFT]})
        loaded = source != "served" or stays or run.evaluation.num_prompts
        moments = [*([loading] if loaded else []), *moments, *_export(run, draft, weights)]
    return Simulation(moments, _training_flop(run, batch, ledger), _states_flop(batch, ledger), whole)


def _training_flop(run: RunConfig, batch: Batch, ledger: Ledger) -> float:
    """FLOP for each token of a whole step, of which more than the simulated micro-batches share an update."""
    parts = Counter({part: flop for (phase, part), flop in ledger.flop.items() if phase == "training"})
    update = parts.pop(UPDATE, 0)
    return (parts.total() / _micro_batches(run) + update / run.trainer.passes()) / batch.token_BT.numel()


def _states_flop(batch: Batch, ledger: Ledger) -> float:
    """FLOP for each token of a shard, of which two sequences are simulated."""
    return ledger.flop[EXTRACTION, VERIFIER_PASS] / (2 * batch.token_BT.shape[1])


def _micro_batches(run: RunConfig) -> int:
    """Micro-batches of the simulated step; from the second on, gradients are accumulated."""
    return min(run.trainer.passes(), 2)


def _without_values(run: RunConfig, running: str) -> Verifier:
    verifier = Verifier(without_weights(run.verifier, running))
    verifier.packs = True  # measuring it would need values
    return verifier


class StatesOfSizes:
    """Fake states of the size of cached or served ones; implements `HiddenStates`.

    Args:
        head: embedding and head, the only tensors of the verifier in memory.
        ledger: states are assigned to the verifier's pass.
    """

    prefetch_steps = 0

    def __init__(self, head: VerifierHead, ledger: Ledger) -> None:
        self.head, self._ledger = head, ledger

    @property
    def device(self) -> torch.device:
        """The device of head and states."""
        return self.head.embed_VH.device

    def announce(self, batch: Batch, layer_ids: Sequence[int]) -> None:
        """Does nothing."""

    def stop_waiting(self) -> None:
        """Does nothing: it waits for no server."""

    def __call__(self, batch: Batch, layer_ids: Sequence[int]) -> VerifierStates:
        """States of a batch."""
        (B, T), H = batch.token_BT.shape, self.head.embed_VH.shape[1]
        with self._ledger.during(self._ledger.phase, VERIFIER_PASS):
            last_BTH = self.head.embed_VH.new_empty(B, T, H)
            return VerifierStates(last_BTH, last_BTH.new_empty(B, T, len(layer_ids) * H) if layer_ids else None)


def _extract(verifier: Verifier, layer_ids: Sequence[int], batch: Batch, ledger: Ledger) -> None:
    """Compute the states of the first and the last sequence of a shard; those between them only take up memory."""
    token_1T, position_1T = batch.token_BT[:1], batch.position_BT[:1]
    with ledger.during(EXTRACTION, VERIFIER_PASS):
        first = verifier.states(token_1T, position_1T, layer_ids)
        states = [first, *(_like(first) for _ in range(SHARD - 2)), verifier.states(token_1T, position_1T, layer_ids)]
        # The bytes of one file of the shard.
        torch.stack([found.last_BTH for found in states])


def _like(states: VerifierStates) -> VerifierStates:
    """States of the same size."""
    aux_BTA = states.aux_BTA
    return VerifierStates(torch.empty_like(states.last_BTH), None if aux_BTA is None else torch.empty_like(aux_BTA))


def _alone(verifier: Verifier, ledger: Ledger) -> StatesOfSizes:
    """A source that keeps the verifier's embedding and head in memory, and nothing else of it."""
    head = verifier.head
    embed_VH = head.embed_VH.clone()
    tied = head.head_VH.untyped_storage()._cdata == head.embed_VH.untyped_storage()._cdata
    return StatesOfSizes(replace(head, embed_VH=embed_VH, head_VH=embed_VH if tied else head.head_VH.clone()), ledger)


def _training(
    run: RunConfig,
    verifier: HiddenStates,
    draft: SpeculatorModel,
    batch: Batch,
    accelerator: Accelerator,
    ledger: Ledger,
) -> None:
    """Run a training step, and then the check that every parameter has changed."""

    trainable = [p for p in draft.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.register_post_accumulate_grad_hook(lambda p: ledger.rebook(p.grad, GRADIENTS))  # type: ignore[arg-type]
    draft.train()
    student = Student(draft, verifier, run.algorithm, accelerator)
    optimizers = optimizer.build(draft, run.optimizer)
    # A first update allocates the optimizers' state, so that the step that follows is the run's largest.
    for parameter in trainable:
        parameter.grad = torch.zeros_like(parameter)
    student.update(optimizers, run.trainer.max_grad_norm)
    for state in (s for o in optimizers for p in o.state.values() for s in p.values() if isinstance(s, Tensor)):
        ledger.rebook(state, STATE)
    with (
        ledger.during("training", VERIFIER_PASS),
        _booked(verifier.decoder, ledger, VERIFIER_PASS, DRAFT_PASS)
        if isinstance(verifier, Verifier)
        else nullcontext(),
        _booked(draft, ledger, DRAFT_PASS, LOSS),
    ):
        student.learn([batch] * _micro_batches(run), progress=0.0)
        ledger.part = UPDATE
        student.update(optimizers, run.trainer.max_grad_norm)
    with ledger.during("checking", COPY):
        # As in train/moved.py: a tensor and its squares in float64.
        largest = max(trainable, key=Tensor.numel)
        wide = largest.detach().double()
        wide.square()


@contextmanager
def _booked(module: nn.Module, ledger: Ledger, inside: str, behind: str) -> Iterator[None]:
    """Assign new storages to `inside` during a module's forward pass, and to `behind` after it."""
    hooks = (
        module.register_forward_pre_hook(lambda *_: setattr(ledger, "part", inside)),
        module.register_forward_hook(lambda *_: setattr(ledger, "part", behind)),
    )
    yield
    for hook in hooks:
        hook.remove()


def _decoding(run: RunConfig, verifier: Verifier, draft: SpeculatorModel, prompt: int, ledger: Ledger) -> None:
    """Run the prefill of the prompts, and a last decoding round with every text at its maximum length."""
    settings = run.evaluation
    method = ProposalMethod.of(
        run.proposal, Sampler(settings.temperature, torch.Generator(), settings.top_k, settings.top_p)
    )
    B = min(settings.num_prompts, settings.batch_size)
    draft.eval()

    def read(width: int, past: int, cache: Cache, drafter: Drafter) -> None:
        token_BT = torch.zeros(B, width, dtype=torch.int64)
        valid_BL = torch.ones(B, past + width, dtype=torch.bool)
        states = verifier.states(token_BT, token_BT, draft.layer_ids, valid_BL, cache)
        # Prefill computes logits of the last state only, a round those of all states; float32, for the comparison of ties.
        logits_BPV = verifier.head.logits(states.last_BTH if past else states.last_BTH[:, -1:]).float()
        context = Context(token_BT, token_BT, states, token_BT, valid_BL[:, past:])
        method.draft(drafter, context)
        del logits_BPV

    with torch.no_grad():
        with ledger.during("evaluation", DECODING):
            read(prompt, 0, verifier.new_cache(), draft.drafter(verifier.head, B))
        cache, drafter = verifier.new_cache(), draft.drafter(verifier.head, B)
        with ledger.during(None, DECODING):
            read(prompt + settings.max_new_tokens, 0, cache, drafter)
        with ledger.during("evaluation", DECODING):
            read(run.proposal.nodes + 1, prompt + settings.max_new_tokens, cache, drafter)


def _loading(verifier: int, running: str, stored: str | None, beside: dict[str, int]) -> Moment:
    """Peak of loading: the verifier's weights, and its memory-mapped file."""
    file = verifier * dtype_of(stored or running).itemsize // dtype_of(running).itemsize
    return Moment("loading", {VERIFIER: verifier, COPY: file, **beside})


def _export(run: RunConfig, draft: SpeculatorModel, weights: dict[str, int]) -> list[Moment]:
    """Peak of the export: a complete copy of the weights in another dtype exists before the file is written."""
    if run.export.dtype == "float32":
        return []
    half = 2 * sum(t.numel() for t in draft.state_dict().values() if t.is_floating_point())
    return [Moment("export", {**{part: weights[part] for part in (VERIFIER, DRAFT) if part in weights}, COPY: half})]


@contextmanager
def _chunks(on_cpu: bool) -> Iterator[None]:
    """Use an accelerator's chunk size for fake tensors, which are on the CPU, where the loss uses smaller chunks."""
    before = chunked.CPU_CHUNK_ELEMENTS
    if not on_cpu:
        chunked.CPU_CHUNK_ELEMENTS = chunked.ACCELERATOR_CHUNK_ELEMENTS
    try:
        yield
    finally:
        chunked.CPU_CHUNK_ELEMENTS = before
