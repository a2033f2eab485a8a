"""Training and export of speculative-decoding draft models. Every public name is imported at its first use."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speculators.utils.checkout import use_own_conf
from speculators.utils.lazy import lazy_names

if TYPE_CHECKING:
    from speculators.cli.python import run as run
    from speculators.composition.compose import compose as compose
    from speculators.config import SpeculatorModelConfig as SpeculatorModelConfig
    from speculators.config import SpeculatorsConfig as SpeculatorsConfig
    from speculators.config import VerifierConfig as VerifierConfig
    from speculators.config import reload_schemas as reload_schemas
    from speculators.model import SpeculatorModel as SpeculatorModel
    from speculators.proposals import GreedyTokenProposalConfig as GreedyTokenProposalConfig
    from speculators.proposals import TokenProposalConfig as TokenProposalConfig
    from speculators.runfolder.result import EvaluationResult as EvaluationResult
    from speculators.runfolder.result import load_result as load_result
    from speculators.settings.run_config import RunConfig as RunConfig
    from speculators.utils import ClassRegistryMixin as ClassRegistryMixin
    from speculators.utils import PydanticClassRegistryMixin as PydanticClassRegistryMixin
    from speculators.utils import ReloadableBaseModel as ReloadableBaseModel
    from speculators.utils.messages import RunFailed as RunFailed
    from speculators.utils.messages import WrongInput as WrongInput
    from speculators.utils.version import __version__ as __version__

use_own_conf(Path(__file__).parent)

_MODULES = {
    "__version__": "speculators.utils.version",
    "compose": "speculators.composition.compose",
    "run": "speculators.cli.python",
    "load_result": "speculators.runfolder.result",
    "EvaluationResult": "speculators.runfolder.result",
    "RunConfig": "speculators.settings.run_config",
    "RunFailed": "speculators.utils.messages",
    "WrongInput": "speculators.utils.messages",
    "SpeculatorModelConfig": "speculators.config",
    "SpeculatorsConfig": "speculators.config",
    "VerifierConfig": "speculators.config",
    "reload_schemas": "speculators.config",
    "SpeculatorModel": "speculators.model",
    "GreedyTokenProposalConfig": "speculators.proposals",
    "TokenProposalConfig": "speculators.proposals",
    "ClassRegistryMixin": "speculators.utils",
    "PydanticClassRegistryMixin": "speculators.utils",
    "ReloadableBaseModel": "speculators.utils",
}

__all__ = list(_MODULES)

_load = lazy_names(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return _load(name)
    # Classes of algorithms are found in their packages, so that no algorithm is named here.
    if name[:1].isupper():
        return getattr(import_module("speculators.models"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
