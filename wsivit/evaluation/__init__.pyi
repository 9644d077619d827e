from .compare import compare as compare
from .evaluate import EvaluateOptions as EvaluateOptions
from .evaluate import evaluate as evaluate
from .figures import draw_augmented as draw_augmented
from .figures import draw_curves as draw_curves
from .metrics import fit_temperature as fit_temperature
