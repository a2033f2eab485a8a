"""The points of a Hydra multirun, checked before the first of them starts."""

import itertools
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

# Of a sweep with more points than this, only the first ones are checked.
CAP = 1000


def drop_overridden(config: DictConfig) -> None:
    """Remove keys overridden on the command line from the sweeper config's `params`: Hydra would sweep both.

    Args:
        config: composed for a multirun, with its `hydra` node.
    """
    own = config.hydra.sweeper.get("params") or {}
    typed: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    with read_write(config), open_dict(config.hydra.sweeper):
        for override in OverridesParser.create().parse_overrides(typed):
            own.pop(override.get_key_element(), None)


def points(config: DictConfig) -> tuple[list[list[str]], bool]:
    """The overrides of each trial, in the order in which Hydra's own sweeper starts them.

    For a continuous interval of another sweeper, its two ends are returned.

    Args:
        config: composed for a multirun, with its `hydra` node.

    Returns:
        The overrides of at most `CAP` trials, and whether there are more.
    """
    own = OmegaConf.to_container(config.hydra.sweeper).get("params") or {}  # type: ignore[union-attr]
    typed: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    lines = [f"{key}={value}" for key, value in own.items()] + typed
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    choices = [_choices(override) for override in parser.parse_overrides(lines)]
    found = [list(point) for point in itertools.islice(itertools.product(*choices), CAP + 1)]
    return found[:CAP], len(found) > CAP


def _choices(override: Override) -> list[str]:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    value: Any = override.value()
    if isinstance(value, IntervalSweep):
        return [f"{key}={value.start}", f"{key}={value.end}"]
    if isinstance(value, RangeSweep) and None in (value.start, value.stop):
        raise ValueError(f"{override.input_line}: a range needs a start and a stop")
    return [f"{key}={choice}" for choice in override.sweep_string_iterator()]
