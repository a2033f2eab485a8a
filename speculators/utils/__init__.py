"""The registry and its pydantic form, which the published API names."""

from speculators.utils.pydantic_utils import PydanticClassRegistryMixin, ReloadableBaseModel
from speculators.utils.registry import ClassRegistryMixin

__all__ = ["ClassRegistryMixin", "PydanticClassRegistryMixin", "ReloadableBaseModel"]
