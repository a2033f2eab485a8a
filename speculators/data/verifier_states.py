"""The choice between the sources of verifier states."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from speculators.cache.store import Store
from speculators.data.cached_states import cached_states
from speculators.data.pack import Packed
from speculators.protocols.hidden_states import HiddenStates
from speculators.settings.run_config import CachedStates, InProcessStates, RunConfig
from speculators.verifier.loader import VerifierLoader


def open_states(
    run: RunConfig, store: Store, verifier: VerifierLoader, sequences: Sequence[Packed], layer_ids: Sequence[int]
) -> AbstractContextManager[HiddenStates]:
    """The source that a run's `verifier_states` names.

    Args:
        run: what it was told.
        store: where cached states are.
        verifier: loaded whole by the sources that need its layers, and released by those that need them no longer.
        sequences: every sequence that will be asked for.
        layer_ids: every layer that will be asked for, ascending.

    Raises:
        ValueError: states that are to be kept on disk do not fit there.
    """
    match run.verifier_states:
        case InProcessStates():
            return nullcontext(verifier.whole())
        case CachedStates():
            return cached_states(store, verifier, sequences, layer_ids)
