from .find import find_slides as find_slides
from .find import is_one_file as is_one_file
from .find import read_slides as read_slides
from .folders import LEDGER as LEDGER
from .folders import slides_below as slides_below
from .table import SlideRow as SlideRow
from .table import read_patient_table as read_patient_table
from .table import read_table as read_table
