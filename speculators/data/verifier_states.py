"""Selects the source of verifier states."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from speculators.cache.store import Store
from speculators.data.cached_states import Served, cached_states
from speculators.data.pack import Packed
from speculators.data.served_states import served_states
from speculators.protocols.hidden_states import HiddenStates
from speculators.settings.run_config import RunConfig
from speculators.settings.states import CachedStates, InProcessStates, ServedStates
from speculators.verifier.loader import VerifierLoader


def open_states(
    run: RunConfig, store: Store, verifier: VerifierLoader, sequences: Sequence[Packed], layer_ids: Sequence[int]
) -> AbstractContextManager[HiddenStates]:
    """The source that a run's `verifier_states` names.

    Args:
        run: the run's config.
        store: cache of the states.
        verifier: loaded whole by the sources that need its layers, and released once they no longer do.
        sequences: every sequence that will be requested.
        layer_ids: every layer that will be requested, ascending.

    Raises:
        ValueError: states that are to be cached on disk do not fit there.
        ServerUnavailable: a server of states does not start or answer, or serves something else.
    """
    match run.verifier_states:
        case InProcessStates():
            return nullcontext(verifier.whole())
        case CachedStates():
            return cached_states(store, verifier, sequences, layer_ids)
        case ServedStates() as settings:
            served = served_states(settings, verifier, sequences, layer_ids, run.data.max_length)
            if settings.keep:
                return cached_states(store, verifier, sequences, layer_ids, Served(served, settings.args))
            return served
