"""The errors that a user meets: each is one sentence that names the cause and says what to do.

Only `Unavailable` is worth another try; everything else fails the same way however often it is asked.
"""


class TaxiError(Exception):
    """A failure with a cause the user can act on. The command line prints it and exits with `exit_code`."""

    exit_code = 1


class UsageError(TaxiError):
    """The command, a setting or a parameter is wrong; nothing was started."""

    exit_code = 2


class Unavailable(TaxiError):
    """A server did not answer or is busy: the same call may go through later."""


class Stopped(TaxiError):
    """The run was told to stop."""


class SourceError(TaxiError):
    """The source cannot be had: it does not exist, or may not be read."""


class NotPublished(SourceError):
    """The month's file is not there, and the month is so recent that it may still come."""


class FileRefused(TaxiError):
    """The file is not a month of yellow-taxi trips that can be trusted; nothing of it is published."""


class WarehouseError(TaxiError):
    """The warehouse refused, or did not keep, what was sent to it."""


class LoadTaken(WarehouseError):
    """Another run does this load now: what it does must be left alone."""


class TransformError(TaxiError):
    """dbt could not build or tests found what must not be published."""


class ReportError(TaxiError):
    """The report could not be written; what is published stays published."""
