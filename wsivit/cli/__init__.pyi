from .app import main as main
from .signals import answered as answered
