from .cohort import Cohort as Cohort
from .cohort import status as status
from .cohort_layout import CohortLayout as CohortLayout
from .job_log import Record as Record
from .options import CohortOptions as CohortOptions
from .result import CohortResult as CohortResult
from .result import summary as summary
