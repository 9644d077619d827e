from .options import TrainOptions as TrainOptions
from .train import train as train
from .trainer import TileTrainer as TileTrainer
