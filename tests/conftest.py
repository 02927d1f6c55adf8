"""What holds for every test."""

import os

from hypothesis import settings

from serve.tuning import tune

# Before anything imports Ray: a thread of Ray Data that outlives its Ray (it tidies up after a finished dataset) would
# otherwise start another Ray, with defaults of its own, under the feet of the test that comes next.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
tune()  # as `python -m serve` does

# A busy machine is no error: no test asserts a time.
settings.register_profile("genrec", deadline=None)
settings.load_profile("genrec")
