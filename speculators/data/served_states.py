"""The verifier's hidden states from a vLLM server, requested ahead of the steps that need them.

Each document is a request of its own, so its states depend on it alone. The server delivers the residual stream; the verifier's
final norm, which comes before its head, is applied here.
"""

import logging
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from speculators.data.pack import Packed
from speculators.data.states_client import Expected, First, StatesClient
from speculators.data.states_server import arguments, delivered, name_of
from speculators.data.vllm_server import ServerUnavailable, VllmServer, command
from speculators.protocols.batch import Batch, Span
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.settings.states import ServedStates as Settings
from speculators.verifier.facts import VerifierFacts
from speculators.verifier.loader import VerifierLoader

log = logging.getLogger(__name__)
# Tokens of the first document that is asked for.
FIRST_TOKENS = 64
# Largest difference of a token's log-probability between the server and the head here, in nats; rounding of bfloat16 is below it.
TOLERANCE = 0.5
# Where the files of a started server go, if it is there: they are read at once and need no disk.
MEMORY = Path("/dev/shm")


class Requested(NamedTuple):
    """A batch whose states are being fetched.

    Attributes:
        batch: kept, so that its identity stays its own.
        states_BTLH: on the host; filled by the requests.
        requests: one for each document.
    """

    batch: Batch
    states_BTLH: Tensor
    requests: list[Future[None]]


class ServedStates:
    """States from a server; implements `HiddenStates`.

    Args:
        client: of the server.
        layer_ids: of the states that it delivers, ascending; the last is the number of layers.
        head: the verifier's embedding and head, on the device that states go to.
        norm: the verifier's final norm, on the same device.
        settings: how much is requested at a time.
    """

    def __init__(
        self, client: StatesClient, layer_ids: Sequence[int], head: VerifierHead, norm: nn.Module, settings: Settings
    ) -> None:
        self.head = head
        self.prefetch_steps = settings.prefetch_steps
        self._client, self._layer_ids, self._norm = client, list(layer_ids), norm
        self._requested: dict[int, Requested] = {}
        self._threads = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="states")

    @property
    def device(self) -> torch.device:
        """Device of the head and the states."""
        return self.head.embed_VH.device

    def announce(self, batch: Batch, layer_ids: Sequence[int]) -> None:
        """Request a batch's states; the requests are served in the order of these calls."""
        self._requested[id(batch)] = self._request(batch)

    def stop_waiting(self) -> None:
        """Give up a server that does not answer; requests that it is answering are completed."""
        self._client.stop_waiting()

    @torch.no_grad()
    def __call__(self, batch: Batch, layer_ids: Sequence[int]) -> VerifierStates:
        """States of a batch that is on the host; those of padding are what the final norm makes of zeros."""
        unknown = sorted(set(layer_ids) - set(self._layer_ids))
        if unknown:
            raise ValueError(f"the source was opened for layers {self._layer_ids}, not for {unknown}")
        asked = self._requested.pop(id(batch), None) or self._request(batch)
        for request in asked.requests:
            request.result()
        states_BTLH = asked.states_BTLH.to(self.device, non_blocking=True)
        columns = [self._layer_ids.index(i) for i in layer_ids]
        return VerifierStates(
            self._norm(states_BTLH[:, :, -1]), states_BTLH[:, :, columns].flatten(2) if columns else None
        )

    def check(self, tokens: Sequence[int]) -> None:
        """Wait for the server, and compare what it delivers for some tokens with the head.

        Raises:
            ServerUnavailable: it does not answer, or serves another model or other layers.
        """
        first = self._client.first_states(tokens)
        ours = self._log_probability(first)
        if not abs(ours - first.log_probability) <= TOLERANCE:
            raise ServerUnavailable(
                f"verifier_states: the server at {self._client.url} serves another model than this run's verifier: {first.root}. "
                f"It gives token {first.token} the log-probability {first.log_probability:.2f}, and from the states that it "
                f"delivers the verifier's final norm and head give it {ours:.2f}"
            )
        log.info("states of %s from %s", first.root, self._client.url)

    def close(self) -> None:
        """End all requests."""
        self._client.close()
        self._threads.shutdown(cancel_futures=True)

    @torch.no_grad()
    def _log_probability(self, first: First) -> float:
        last_1H = self._norm(first.states_TLH[-1:, -1].to(self.device))
        logits_V = self.head.logits(last_1H)[0].float()
        return logits_V.log_softmax(-1)[first.token].item() if first.token < len(logits_V) else -torch.inf

    def _request(self, batch: Batch) -> Requested:
        (B, T), H = batch.token_BT.shape, self.head.embed_VH.shape[1]
        states_BTLH = torch.zeros(
            B, T, len(self._layer_ids), H, dtype=self.head.embed_VH.dtype, pin_memory=self.device.type == "cuda"
        )
        documents = [s for s in batch.spans if batch.document_BT[s.b, s.start] >= 0]
        return Requested(
            batch, states_BTLH, [self._threads.submit(self._fetch, batch, span, states_BTLH) for span in documents]
        )

    def _fetch(self, batch: Batch, span: Span, states_BTLH: Tensor) -> None:
        """Put a document's states where they belong."""
        b, start, end = span
        states_BTLH[b, start:end] = self._client.states(batch.token_BT[b, start:end].tolist())


@contextmanager
def served_states(
    settings: Settings, verifier: VerifierLoader, sequences: Sequence[Packed], layer_ids: Sequence[int], max_length: int
) -> Iterator[ServedStates]:
    """States of sequences from a server, which is started and stopped here unless it is given by its address.

    Args:
        settings: of the server.
        verifier: gives embedding, final norm and head; released if it is loaded whole.
        sequences: every sequence that will be requested; without any, the server is not needed.
        layer_ids: every layer that will be requested.
        max_length: tokens of the longest document that the server must take.

    Raises:
        ServerUnavailable: the server does not start or answer, or serves something else.
    """
    head, norm = verifier.head(), verifier.final_norm()
    verifier.release()
    facts = VerifierFacts.read(verifier.settings.name_or_path, verifier.settings.revision)
    ids, on_cpu = delivered(layer_ids, facts.num_hidden_layers), verifier.device.type == "cpu"
    dtype = head.embed_VH.dtype
    with ExitStack() as stack:
        folder = (
            Path(settings.folder) if settings.url and settings.folder else stack.enter_context(_own_folder(settings))
        )
        given = arguments(verifier.settings, str(dtype).removeprefix("torch."), ids, max_length, folder, on_cpu)
        expected = Expected(
            model=name_of(ids), layers=len(ids), hidden_size=head.embed_VH.shape[1], dtype=dtype,
            longest=max_length, command=command(given),
        )  # fmt: skip
        if settings.url:
            client = StatesClient(settings.url, folder, expected, settings.timeout)
        else:
            more = shlex.split(settings.args or "")
            server = VllmServer(
                settings.python or sys.executable, [*given, *more], folder / "vllm.log", on_cpu, "verifier_states"
            )
            stack.callback(server.stop)
            client = StatesClient(server.url, folder, expected, settings.timeout, server)
        states = ServedStates(client, ids, head, norm, settings)
        stack.callback(states.close)
        if sequences:
            states.check(list(sequences[0][0].tokens[:FIRST_TOKENS]))
        yield states


@contextmanager
def _own_folder(settings: Settings) -> Iterator[Path]:
    """A new folder for the files of a started server, removed afterwards."""
    place = settings.folder or (MEMORY if MEMORY.is_dir() else None)
    with tempfile.TemporaryDirectory(prefix="speculators-states-", dir=place, ignore_cleanup_errors=True) as folder:
        yield Path(folder)
