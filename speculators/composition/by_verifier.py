"""OmegaConf resolvers for values that depend on the verifier's size, `${inverse_width:...}` and `${if_above:...}`, or on
what the algorithm trains, `${at_most_trained:...}`.

They are resolved with the rest of the config: run.yaml holds the value, and the rule as its provenance.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

# A value that consists of one of these rules only.
RULE = re.compile(r"\$\{(?:inverse_width|if_above|at_most_trained):[^{}]*\}")
SIZES = ("hidden_size", "vocab_size")
_known: ContextVar[Mapping[str, int]] = ContextVar("sizes of the verifier whose run is being resolved")


@contextmanager
def verifier_known(config: DictConfig) -> Iterator[None]:
    """Read a config's verifier once for all rules that are resolved inside the block.

    If its config.json cannot be read, the rules use a size of 0, and validation reports the error.
    """
    token = _known.set(_sizes(config))
    try:
        yield
    finally:
        _known.reset(token)


def inverse_width(peak: float, width: int, *, _root_: DictConfig) -> float:
    """`peak` up to a hidden size of `width`; above it `peak * width / hidden_size`, to two significant digits."""
    size = _size("hidden_size", _root_)
    return peak if size <= width else float(f"{peak * width / size:.2g}")


def if_above(size: str, limit: int, above: Any, otherwise: Any, *, _root_: DictConfig) -> Any:
    """`above` if a size of the verifier, one of `SIZES`, is larger than `limit`; else `otherwise`."""
    return above if _size(size, _root_) > limit else otherwise


def at_most_trained(tokens: int, *, _root_: DictConfig) -> int:
    """`tokens`, or as many as the draft is trained to predict if those are fewer and it cannot draft further."""
    from speculators.settings.algorithm import AlgorithmSettings

    try:
        chosen: Any = OmegaConf.to_container(_root_.algorithm, resolve=True)
        settings = AlgorithmSettings.named(chosen["name"]).model_validate(chosen)
    except (OmegaConfBaseException, KeyError, TypeError, ValueError):
        return tokens  # validation reports the error
    return tokens if settings.recurrent else min(tokens, settings.slots)


def _size(name: str, config: DictConfig) -> int:
    if name not in SIZES:
        raise ValueError(f"{name} is not a size that a rule can use; use one of {', '.join(SIZES)}")
    return (_known.get(None) or _sizes(config))[name]


def _sizes(config: DictConfig) -> dict[str, int]:
    from speculators.verifier.facts import VerifierFacts

    name, revision = config.verifier.name_or_path, config.verifier.revision
    if not isinstance(name, str) or not isinstance(revision, str | None):
        return dict.fromkeys(SIZES, 0)
    try:
        facts = VerifierFacts.read(name, revision)
    except ValueError:
        return dict.fromkeys(SIZES, 0)
    return {"hidden_size": facts.hidden_size, "vocab_size": facts.vocab_size}


OmegaConf.register_new_resolver("inverse_width", inverse_width)
OmegaConf.register_new_resolver("if_above", if_above)
OmegaConf.register_new_resolver("at_most_trained", at_most_trained)
