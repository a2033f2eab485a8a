"""The version of this package. It loads email and socket, which `import speculators` alone does not."""

from importlib.metadata import version

__version__ = version("speculators-hydra")
