"""Class registries, which are public API, and torch-free helper modules that every layer uses."""

from typing import TYPE_CHECKING

from speculators.utils.lazy import lazy_names

if TYPE_CHECKING:
    from speculators.utils.auto_importer import AutoImporterMixin as AutoImporterMixin
    from speculators.utils.pydantic_utils import PydanticClassRegistryMixin as PydanticClassRegistryMixin
    from speculators.utils.pydantic_utils import ReloadableBaseModel as ReloadableBaseModel
    from speculators.utils.registry import ClassRegistryMixin as ClassRegistryMixin

# Loaded at first use: most modules here need no pydantic.
_MODULES = {
    "AutoImporterMixin": f"{__name__}.auto_importer",
    "ClassRegistryMixin": f"{__name__}.registry",
    "PydanticClassRegistryMixin": f"{__name__}.pydantic_utils",
    "ReloadableBaseModel": f"{__name__}.pydantic_utils",
}

__all__ = list(_MODULES)

__getattr__ = lazy_names(__name__, _MODULES)
