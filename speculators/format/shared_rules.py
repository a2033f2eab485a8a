"""Rules shared by the published configs of several algorithms; each algorithm calls those that apply. Torch-free."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from speculators.format.finding import Finding
from speculators.format.tensors import Tensors
from speculators.verifier.facts import VerifierFacts

LAYER = "transformer_layer_config"


def reduced_vocabulary(config: Mapping[str, Any]) -> Iterator[Finding]:
    """A draft whose vocabulary is `draft_vocab_size` tokens of the verifier's."""
    draft, layer = config.get("draft_vocab_size"), config.get(LAYER)
    vocab = layer.get("vocab_size") if isinstance(layer, Mapping) else None
    if isinstance(draft, int) and isinstance(vocab, int) and draft > vocab:
        yield Finding("invalid", "draft_vocab_size", draft, f"must be at most the verifier's vocabulary, {vocab}")
    if isinstance(draft, int) and draft < 1:
        yield Finding("invalid", "draft_vocab_size", draft, "must be at least 1")


def verifier_layer_ids(config: Mapping[str, Any], key: str, facts: VerifierFacts | None) -> Iterator[Finding]:
    """A draft that reads states of several of the verifier's layers.

    Args:
        config: the published config, of any types.
        key: of the list of layers.
        facts: the verifier's; None leaves out what depends on them.
    """
    ids = config.get(key)
    if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
        return  # reported by the check of the field's type
    if ids != sorted(set(ids)):
        yield Finding("invalid", key, ids, f"must be ascending, without duplicates; write {sorted(set(ids))}")
    if not ids or min(ids) < 0:
        yield Finding("invalid", key, ids, "must name at least one layer, and no id below 0, the embeddings")
    if ids and facts is not None and max(ids) > facts.num_hidden_layers:
        reason = f"must not exceed the verifier's last layer, {facts.num_hidden_layers}"
        yield Finding("invalid", key, ids, reason)


def state_width(config: Mapping[str, Any], facts: VerifierFacts | None) -> Iterator[Finding]:
    """A draft that may be narrower or wider than the verifier: `target_hidden_size`, else its own width, is the verifier's."""
    width, layer = config.get("target_hidden_size"), config.get(LAYER)
    read = layer.get("hidden_size") if width is None and isinstance(layer, Mapping) else width
    if facts is not None and read != facts.hidden_size:
        reason = f"must be the width of the verifier's states, {facts.hidden_size}"
        yield Finding("invalid", "target_hidden_size", width, reason)


def vocabulary_map(tensors: Tensors, vocab_size: int) -> Iterator[Finding]:
    """The tables of a reduced vocabulary: draft token i is the verifier's token i + d2t[i], and t2d marks those.

    Args:
        tensors: of the published folder, with the shapes and dtypes that its config describes.
        vocab_size: the verifier's.
    """
    if "d2t" not in tensors:
        return  # of a whole vocabulary
    offset_D = tensors["d2t"].values()
    target_D = offset_D + np.arange(len(offset_D))
    if not _distinct_tokens(target_D, vocab_size):
        reason = f"i + d2t[i] must be a different token of 0 ... {vocab_size - 1} for each i: d2t holds offsets"
        yield Finding("wrong", "d2t", offset_D[:4].tolist(), reason)
        return
    marked = np.flatnonzero(tensors["t2d"].values()) if "t2d" in tensors else np.sort(target_D)
    if not np.array_equal(marked, np.sort(target_D)):
        yield Finding("wrong", "t2d", None, "does not mark the same tokens as d2t")


def token_ids(tensors: Tensors, name: str, vocab_size: int) -> Iterator[Finding]:
    """A table of the verifier's tokens: in range, and none twice.

    Args:
        tensors: as for `vocabulary_map`.
        name: of the table.
        vocab_size: the verifier's.
    """
    if name in tensors:
        token_D = tensors[name].values()
        if not _distinct_tokens(token_D, vocab_size):
            reason = f"must hold different tokens of 0 ... {vocab_size - 1}"
            yield Finding("wrong", name, token_D[:4].tolist(), reason)


def _distinct_tokens(token_D: np.ndarray, vocab_size: int) -> bool:
    inside = ((token_D >= 0) & (token_D < vocab_size)).all()
    return bool(inside) and len(np.unique(token_D)) == len(token_D)
