"""``transformers.Trainer`` for tiles: input made on the device in batches, one loss, curves kept as a table."""

from wsivit.trainer.arguments import make_arguments
from wsivit.trainer.tiles import Outcome, Recipe, TileTrainer, run_training

__all__ = ["Outcome", "Recipe", "TileTrainer", "make_arguments", "run_training"]
