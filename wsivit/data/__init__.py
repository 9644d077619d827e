"""Labelled tiles as a model learns from them: sources, splits, leakage, dataset, augmentation, index."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
