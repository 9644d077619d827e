"""From whole-slide image to fine-tuned ViT or ResNet to heatmap, at exact physical scale."""

__version__ = "0.1.0"
