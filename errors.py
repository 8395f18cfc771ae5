"""Errors that are the user's to mend: one line, no traceback."""

from collections.abc import Callable
import sys


class UserError(Exception):
  """Bad input, named in one line with what would be right."""


def exit_on_user_error(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
  """Wraps a script's main: a UserError ends it with its one line and exit status 1."""

  def wrapped(argv: list[str]) -> None:
    try:
      main(argv)
    except UserError as error:
      print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
      sys.exit(1)
    except KeyboardInterrupt:
      print("interrupted", file=sys.stderr)
      sys.exit(130)

  return wrapped
