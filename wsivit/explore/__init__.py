"""What a slide shows without labels and without a trained model: stain, nuclei, clusters of texture."""

from wsivit._face import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
