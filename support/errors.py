"""Errors that the user can mend, and one line of another library's."""


class UserError(Exception):
  """Bad input; the message is one line that names it and says what would be right."""


def first_line(error: BaseException) -> str:
  """Returns the first line of another library's message, or its type if the message is blank."""
  return next(iter(str(error).strip().splitlines()), type(error).__name__)
