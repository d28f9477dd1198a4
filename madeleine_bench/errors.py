"""The exception tree: what a user did wrong, and what a check found wrong."""


class MbenchError(Exception):
    """Base of every error this package raises on purpose; the message is written for the user."""

    exit_code: int = 1


class InputError(MbenchError):
    """Something the user gave (file, row, option, data) cannot be used. The CLI exits with 2."""

    exit_code = 2


class UnreadableFile(InputError):
    """The system refuses to read a file or folder; nothing is known of its content."""


class Interrupted(MbenchError):
    """The user stopped the work; what was finished is kept. The CLI exits with 130."""

    exit_code = 130


class CheckFailed(MbenchError):
    """A check ran to its end and the answer is no. The CLI exits with 1."""

    exit_code = 1
