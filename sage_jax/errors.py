"""The base class of errors that a user can mend."""


class UserError(ValueError):
    """A fault of the input: its message names the file, line or field, and the way out."""


class ConfigError(UserError):
    """A config that cannot run; the message names the field."""
