"""Slide-level models: patients, folds, bags, aggregators, training, ensembles."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
