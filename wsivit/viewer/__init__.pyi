from .view import View as View
from .view import ViewOptions as ViewOptions
from .view import view as view
