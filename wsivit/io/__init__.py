"""Local files and URLs: atomic writes, locks, credentials, caches, progress, threads."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
