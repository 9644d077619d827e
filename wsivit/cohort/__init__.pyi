from .cohort import Cohort as Cohort
from .cohort import CohortResult as CohortResult
from .cohort import status as status
from .cohort import summary as summary
from .cohort_layout import CohortLayout as CohortLayout
from .job_log import Record as Record
from .options import CohortOptions as CohortOptions
