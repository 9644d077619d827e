from .compare import compare as compare
from .evaluate import evaluate as evaluate
from .figures import draw_augmented as draw_augmented
from .figures import draw_curves as draw_curves
from .metrics import Measurement as Measurement
from .metrics import fit_temperature as fit_temperature
from .options import CompareOptions as CompareOptions
from .options import EvaluateOptions as EvaluateOptions
