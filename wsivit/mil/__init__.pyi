from .bags import read_slide as read_slide
from .options import TrainSlidesOptions as TrainSlidesOptions
from .patients import LabelColumns as LabelColumns
from .train_slides import SlideRunResult as SlideRunResult
from .train_slides import train_slides as train_slides
