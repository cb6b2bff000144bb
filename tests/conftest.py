"""For all tests: nothing is timed, so that a busy machine fails none of them.

Property tests try few examples in every run, always the same ones, so that what passed passes again; and many, drawn
anew, with HYPOTHESIS_PROFILE=full, as `make test-properties` runs them.
EDGEWARD_EXAMPLES=2000 looks harder still.
"""

import os

from hypothesis import HealthCheck, settings

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("few", untimed, derandomize=True, max_examples=int(os.environ.get("EDGEWARD_EXAMPLES", "20")))
settings.register_profile("full", untimed, max_examples=int(os.environ.get("EDGEWARD_EXAMPLES", "300")))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "few"))
