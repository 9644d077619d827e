from .demo import Demo as Demo
from .demo import demo as demo
from .sample import SamplePaths as SamplePaths
from .sample import write_sample_slide as write_sample_slide
