"""Many slides: what there is, what was done with each, and how the work is shared out."""

from wsivit.cohort.cohort import Cohort, status
from wsivit.cohort.ledger import Record
from wsivit.cohort.options import CohortOptions
from wsivit.cohort.result import CohortResult

__all__ = ["Cohort", "CohortOptions", "CohortResult", "Record", "status"]
