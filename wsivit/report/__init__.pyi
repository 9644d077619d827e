from .options import ReportOptions as ReportOptions
from .report import report as report
