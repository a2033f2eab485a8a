"""Validation of a composed config: values, rules, the published config, and whether the chosen engine can serve it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from speculators.composition.by_verifier import RULE, verifier_known
from speculators.composition.provenance import Blame
from speculators.utils.messages import WrongInput
from speculators.utils.secrets import NO_SECRETS, masked

if TYPE_CHECKING:
    from speculators.settings.run_config import RunConfig

# Exceptions of composing; Hydra raises ValueError if a group's override is not the name of an option.
COMPOSING = (HydraException, OmegaConfBaseException, ValueError)


def validate(config: DictConfig, places: Mapping[str, str] = {}) -> "RunConfig":
    """Validate a composed config: values, rules, published config, and whether the chosen engine can serve it.

    Args:
        config: as Hydra composed it.
        places: provenance by key, of values that were set afterwards.

    Raises:
        WrongInput: with every problem, each with the provenance of the value.
    """
    from pydantic import ValidationError

    from speculators.execution.rules import broken
    from speculators.settings.run_config import RunConfig
    from speculators.utils.messages import complaints, key_of, set_by

    # Inside a job the `hydra` node is in HydraConfig, not in the config.
    composed_by = Blame(config.hydra if "hydra" in config else HydraConfig.get())

    def blame(key: str) -> str | None:
        return places.get(key) or composed_by(key)

    typed = (*composed_by.overrides, *composed_by.hydra_overrides)
    if shown := [hidden for override in typed if (hidden := masked(override)) != override]:
        raise WrongInput([f"the override {override}: {NO_SECRETS}" for override in shown])
    own = without_hydra(config)
    unresolved = [f"{m}{set_by(blame(key))}" for key, m in _unresolved(own)]
    if unresolved:
        raise WrongInput(unresolved)
    try:
        with verifier_known(own):
            composed: Any = OmegaConf.to_container(own, resolve=True)
        run = RunConfig.model_validate(composed)
        problems = broken(run)
    except ValidationError as error:
        raise WrongInput(complaints(error, composed, blame)) from error
    except OmegaConfBaseException as error:
        key, reason = str(error.full_key), str(error).splitlines()[0]
        raise WrongInput([f"{key}: {reason}{set_by(blame(key))}"]) from error
    except ValueError as error:
        raise WrongInput([str(error) + set_by(blame(key_of(error)))]) from error
    if problems:
        raise WrongInput([f"{p}{set_by(blame(p.key))}" for p in problems])
    return run


def check_data(config: DictConfig, run: "RunConfig") -> list[str]:
    """Check that the data of a validated run can be read and used.

    Returns:
        On a dry run, a message about a data set of the Hub that could not be reached.

    Raises:
        WrongInput: it cannot; with the provenance of the setting.
    """
    from speculators.data.check import check_run
    from speculators.utils.messages import key_of, set_by

    def told(error: ValueError) -> list[str]:
        blame = Blame(config.hydra if "hydra" in config else HydraConfig.get())
        return [str(error) + set_by(blame(key_of(error)))]

    try:
        unreached = check_run(run)
    except ValueError as error:
        raise WrongInput(told(error)) from error
    return told(unreached) if unreached else []


def check_machine(config: DictConfig, run: "RunConfig", folder: Path) -> None:
    """Check that this machine has what a validated run with usable data needs: device, tracker's package, disk space.

    Args:
        config: as Hydra composed it.
        run: the validated run.
        folder: in which it will write.

    Raises:
        WrongInput: it lacks something; with the provenance of each setting.
    """
    from speculators.execution.machine import lacking
    from speculators.utils.messages import key_of, set_by

    if messages := lacking(run, folder):
        blame = Blame(config.hydra if "hydra" in config else HydraConfig.get())
        raise WrongInput([message + set_by(blame(key_of(message))) for message in messages])


def without_hydra(config: DictConfig) -> DictConfig:
    """A composed config without its `hydra` node."""
    tree: Any = OmegaConf.to_container(config, resolve=False)
    tree.pop("hydra", None)
    return cast(DictConfig, OmegaConf.create(tree))


def _unresolved(config: DictConfig) -> list[tuple[str, str]]:
    """Keys without a value, with a message each: mandatory keys that are not set, and unresolvable interpolations."""
    found: list[tuple[str, str]] = []

    def walk(node: Any, prefix: str) -> None:
        written: Any = OmegaConf.to_container(node, resolve=False)
        for name in list(node) if isinstance(node, DictConfig) else range(len(node)):
            key = f"{prefix}{name}"
            if OmegaConf.is_missing(node, name):
                found.append((key, f"{key} must be given, e.g. {key}=..."))
                continue
            typed = written[name]
            if isinstance(typed, str) and RULE.fullmatch(typed):
                continue  # resolved later, from the verifier's config.json
            try:
                value = node[name]
            except InterpolationToMissingValueError:
                continue  # the missing key itself has a message
            except OmegaConfBaseException as error:
                reason = str(error).splitlines()[0]
                found.append((key, f"{key}={typed}: {reason[:1].lower()}{reason[1:]}"))
                continue
            if OmegaConf.is_config(value) and not OmegaConf.is_interpolation(node, name):
                walk(value, f"{key}.")

    walk(config, "")
    return found
