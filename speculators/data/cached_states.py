"""The verifier's hidden states, computed once and read from disk by every run that trains on the same sequences.

An entry holds a set of shards for the state after the final norm and one for each layer, so a draft that reads
other layers adds only those. The verifier runs on one sequence at a time: stored states do not depend on batching.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from hashlib import sha256
from importlib.metadata import version
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speculators.cache.entry import Entry, NoRoom
from speculators.cache.store import Store, gb
from speculators.data.collate import collate
from speculators.data.pack import Packed
from speculators.protocols.batch import Batch
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import HiddenStates, VerifierStates
from speculators.verifier import identity
from speculators.verifier.loader import VerifierLoader

log = logging.getLogger(__name__)
# Sequences of a shard: 2048 tokens of 4096 numbers in bfloat16 make 268 MB.
SHARD = 16
# Shards that a run keeps open at a time; a process may have about 65,000 memory mappings.
OPEN = 4096
LAST = "last"
# Increased when the states of some verifier change: since 2, documents are isolated in every class of model.
VERSION = 2
# Seconds between two progress lines.
EVERY = 10.0


@dataclass(frozen=True)
class Served:
    """A server that computes states.

    Attributes:
        states: opened if any are missing, and closed once there are none.
        args: of the server, which may decide its states, as quantisation does.
    """

    states: AbstractContextManager[HiddenStates]
    args: str | None


class CachedStates:
    """States read from an entry of the cache; implements `HiddenStates`.

    Args:
        entry: holds the shards of every part for all sequences.
        places: index of each sequence in the entry, by its `fingerprint`.
        head: the verifier's embedding and head, on the device that states are read to.

    Attributes:
        prefetch_steps: 0, since states are read when they are requested.
    """

    prefetch_steps = 0

    def __init__(self, entry: Entry, places: dict[bytes, int], head: VerifierHead) -> None:
        self.head = head
        self._entry, self._places = entry, places
        self._open = lru_cache(OPEN)(self._checked)

    @property
    def device(self) -> torch.device:
        """Device of the head and the states."""
        return self.head.embed_VH.device

    def announce(self, batch: Batch, layer_ids: Sequence[int]) -> None:
        """Does nothing: there is nothing to fetch."""

    def stop_waiting(self) -> None:
        """Does nothing: it waits for no server."""

    def __call__(self, batch: Batch, layer_ids: Sequence[int]) -> VerifierStates:
        """States of a batch that is on the host and consists of the entry's sequences; zero at padding."""
        states = self._read(batch, layer_ids)
        aux_BTA = None if states.aux_BTA is None else states.aux_BTA.to(self.device, non_blocking=True)
        return VerifierStates(states.last_BTH.to(self.device, non_blocking=True), aux_BTA)

    def _read(self, batch: Batch, layer_ids: Sequence[int]) -> VerifierStates:
        """States on the host, in pinned memory if they go to another device."""
        try:
            places = [self._places[key] for key in fingerprints(batch)]
        except KeyError:
            raise ValueError(f"a sequence of the batch is not in {self._entry.folder}") from None
        return VerifierStates(
            last_BTH=self._padded([LAST], places),
            aux_BTA=self._padded([part_of(i) for i in layer_ids], places) if layer_ids else None,
        )

    def _padded(self, parts: Sequence[str], places: Sequence[int]) -> Tensor:
        rows = [torch.cat([self._state(part, place) for part in parts], dim=-1) for place in places]
        states = pad_sequence(rows, batch_first=True)
        return states.pin_memory() if self.device.type == "cuda" else states

    def _state(self, part: str, place: int) -> Tensor:
        """[T, H] of one sequence, mapped from the file."""
        return self._open(shard_of(part, place)).get_tensor(str(place))

    def _checked(self, shard: str) -> Any:
        """A memory-mapped shard whose checksum has been verified."""
        if not self._entry.sound(shard):
            raise ValueError(
                f"{self._entry.path(shard)}: it is damaged; `speculators cache verify --remove` removes it, "
                "and repeating the command computes it again"
            )
        return safe_open(self._entry.path(shard), framework="pt")


@contextmanager
def cached_states(
    store: Store,
    verifier: VerifierLoader,
    sequences: Sequence[Packed],
    layer_ids: Sequence[int],
    served: Served | None = None,
) -> Iterator[CachedStates]:
    """Cached states of sequences; missing states are computed first, and the verifier's layers are released.

    Args:
        store: the cache.
        verifier: loaded whole only if something is to be computed here.
        sequences: every sequence that will be requested.
        layer_ids: every layer that will be requested.
        served: computes what is missing in place of `verifier`.

    Raises:
        ValueError: they do not fit on the disk or in the cache's limit.
        ServerUnavailable: `served` does not deliver them.
    """
    settings = verifier.settings
    keys = [fingerprints(collate([sequence], 1))[0] for sequence in sequences]
    made_of = {
        "version": VERSION,
        "verifier": identity.whole(settings.name_or_path, settings.revision),
        "dtype": verifier.dtype,
        "sequences": sha256(b"".join(keys)).hexdigest(),
        **({"transformers": version("transformers")} if served is None else {"vllm": served.args}),
    }
    about = f"{sum(map(_length, sequences)):,} tokens of {settings.name_or_path}"
    head = verifier.head()
    with store.use("states", made_of, about) as entry:
        try:
            with ExitStack() as stack:
                source = verifier.whole if served is None else cache(partial(stack.enter_context, served.states))
                extract(store, entry, source, head, sequences, layer_ids)
        except NoRoom as error:
            key, other = ("verifier_states=cached", "verifier_states=in_process")
            if served is not None:
                key, other = ("verifier_states.keep=true", "verifier_states.keep=false")
            raise ValueError(f"{key}: {error}; or set {other} to compute the states in every step") from error
        verifier.release()
        yield CachedStates(entry, {key: place for place, key in enumerate(keys)}, head)


def extract(
    store: Store,
    entry: Entry,
    source: Callable[[], HiddenStates],
    head: VerifierHead,
    sequences: Sequence[Packed],
    layer_ids: Sequence[int],
) -> None:
    """Compute the states of the sequences of every missing shard, by a source that is asked for only if one is missing.

    Raises:
        NoRoom: before anything is computed, or when the disk fills up meanwhile; finished shards stay.
    """
    layers = {LAST: None} | {part_of(i): i for i in layer_ids}
    starts = range(0, len(sequences), SHARD)
    names = [shard_of(part, start) for start in starts for part in layers]
    # If no shard is missing, return without waiting for the write lock of a process that adds other layers.
    if not entry.missing(names):
        return
    with entry.writing():
        missing = set(entry.missing(names))
        if not missing:
            return
        lacking = {start: [p for p in layers if shard_of(p, start) in missing] for start in starts}
        width = head.head_VH.shape[1] * head.head_VH.dtype.itemsize
        sizes = {s: width * len(lacking[s]) * sum(map(_length, sequences[s : s + SHARD])) for s in starts}
        need, done, said = sum(sizes.values()), 0, time.monotonic()
        log.info("hidden states: %s to write, %s free in %s", gb(need), gb(store.free), store.folder)
        store.make_room(need)
        entry.begin(sorted(missing))
        for start in (s for s in starts if lacking[s]):
            entry.add(_computed(source(), sequences, start, {p: layers[p] for p in lacking[start]}))
            done += sizes[start]
            if time.monotonic() - said > EVERY:
                said = time.monotonic()
                log.info("hidden states: %s of %s written", gb(done), gb(need))


def _computed(
    source: HiddenStates, sequences: Sequence[Packed], start: int, layers: dict[str, int | None]
) -> dict[str, bytes]:
    """The shards of some parts for the sequences from `start`."""
    layer_ids = [i for i in layers.values() if i is not None]
    states: dict[str, dict[str, Tensor]] = {part: {} for part in layers}
    batches = [collate([sequence], 1) for sequence in sequences[start : start + SHARD]]
    for batch in batches:
        source.announce(batch, layer_ids)
    for place, batch in enumerate(batches, start=start):
        found = source(batch, layer_ids)
        aux = [] if found.aux_BTA is None else found.aux_BTA[0].chunk(len(layer_ids), dim=-1)
        by_layer = {None: found.last_BTH[0]} | dict(zip(layer_ids, aux, strict=True))
        for part, layer_id in layers.items():
            states[part][str(place)] = by_layer[layer_id].contiguous().cpu()
    return {shard_of(part, start): save(tensors) for part, tensors in states.items()}


def fingerprints(batch: Batch) -> list[bytes]:
    """A hash of each sequence of a batch on the host, over its tokens and the starts of its documents."""
    lengths = (batch.document_BT >= 0).sum(1).tolist()
    return [
        sha256(batch.token_BT[b, :n].numpy().tobytes() + batch.position_BT[b, :n].numpy().tobytes()).digest()
        for b, n in enumerate(lengths)
    ]


def part_of(layer_id: int) -> str:
    """Name of the states entering a layer."""
    return f"layer_{layer_id:03d}"


def shard_of(part: str, place: int) -> str:
    """Name of the file of a part that holds the sequence at an index."""
    return f"{part}-{place // SHARD:06d}.safetensors"


def _length(sequence: Packed) -> int:
    return sum(len(document.tokens) for document in sequence)
