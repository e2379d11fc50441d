"""The one exception a user is meant to read."""


class UserError(Exception):
    """A mistake in the user's input, told in one line: the thing, the value and the way out.

    `main` prints the message without a stack trace and exits with code 1. Raise it for what a
    user can mend (a file, a config value, a workdir), never for a defect of this program.
    """


def check(condition: bool, message: str) -> None:
    """Raises `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)
