"""The exception that a user sees as one sentence instead of a stack trace."""


class UserError(Exception):
    """Something that the user can mend; the message says what, where and how."""
