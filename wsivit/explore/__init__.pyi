from .explore import Exploration as Exploration
from .explore import ExploreOptions as ExploreOptions
from .explore import explore as explore
