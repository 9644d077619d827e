"""From whole-slide image to fine-tuned ViT or ResNet to heatmap, at exact physical scale.

The verbs are the same here and on the command line; each name below is loaded when it is first used, so that
``import wsivit`` stays quick and does not load torch.
"""

from wsivit._face import attach

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach(__name__, __file__)
