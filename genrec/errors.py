"""The errors that a user of genrec can cause and mend.

A user's mistake raises a subclass of :class:`GenrecError` whose text names the field or file, the
value found and what it may be. Our own mistakes are plain ``assert``.
"""


class GenrecError(ValueError):
    """A mistake in settings, input files or artifacts that the user can mend."""


class SettingsError(GenrecError):
    """A key or value in the settings is unknown, of the wrong kind, or impossible in combination."""


class DataError(GenrecError):
    """A raw input file cannot be read as what it claims to be; the text names file and line."""


class ArtifactError(GenrecError):
    """An artifact or bundle is incomplete, altered, or does not fit what it is used with."""


class VersionMismatchError(ArtifactError):
    """Two artifacts were made with different semantic-ID tables (contract 1)."""
