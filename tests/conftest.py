"""What holds for every test."""

from hypothesis import settings

# A busy machine is no error: no test asserts a time.
settings.register_profile("genrec", deadline=None)
settings.load_profile("genrec")
