from .explain_slide import AnyMethod as AnyMethod
from .explain_slide import explain as explain
