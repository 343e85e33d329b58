"""For all tests: nothing reports to its maker while they run."""

import os

from hansa.core.quiet import stay_offline

stay_offline(os.environ)
