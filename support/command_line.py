"""Flags in, one line of error out: runs a script's main(), shows --help, names mistyped flags."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import difflib
import errno
import io
import itertools
import os
import pathlib
import re
import runpy
import shutil
import sys
import textwrap
import traceback
from typing import NoReturn, Self

from absl import app, flags
import ml_collections
from ml_collections import config_flags

from support import files, hosts, mirror, stopping
from support.errors import first_line, one_line, shown, UserError

# Of the machine, not of one file.
_EXHAUSTED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# Python's words for a flag that is no number, and ours.
_OF_PYTHON = {"invalid literal for int() with base 10:": "must be an integer, not",
              "could not convert string to float:": "must be a number, not"}
_HELP = ("--help", "-help", "-?", "--helpshort", "-helpshort")


def run_script(main: Callable[..., None],
               interrupted: str = "nothing is saved; the same command begins again",
               takes_texts: bool = False) -> NoReturn:
  """Parses the flags and runs a script; ends it with one line on stderr after a user's error.

  Args:
    main: the script.
    interrupted: what follows "interrupted; " after Ctrl-C, until main() has better advice
      (`stopping.advise`).
    takes_texts: what follows the flags are arguments of main(); otherwise nothing may.
  """

  def checked_main(argv: list[str]) -> None:
    try:
      if len(argv) > 1 and not takes_texts:
        raise UserError(f"unexpected argument {argv[1]!r}; flags start with --")
      with mirror.finished():
        main(*argv[1:])
      hosts.finish()
    except UserError as error:
      _fail(str(error))
    except OSError as error:  # such as a file without permission, or a full disk
      if error.filename is None and error.errno not in _EXHAUSTED:
        raise
      advice = f"; {stopping.advice()}" if error.errno in _EXHAUSTED else ""
      _fail(f"{error.filename or 'a file could not be written'}: {error.strerror}{advice}")
    except MemoryError:
      _fail(f"not enough memory; {stopping.advice()}")
    except RuntimeError as error:  # XLA raises several subclasses
      hosts.await_verdict()
      if not memory_line(error):
        raise
      _fail(memory_line(error))
    except KeyboardInterrupt:
      _end(stopping.last_line(), stopping.exit_status())

  def told_main(argv: list[str]) -> None:
    try:
      checked_main(argv)
    except Exception as error:
      if hosts.several():  # or they would wait for this one
        traceback.print_exc()
        hosts.stop(first_line(error), 1)
      raise

  for stream in (sys.stdout, sys.stderr):  # a class may be named in letters the terminal lacks
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")
  stopping.advise(lambda: interrupted)
  stopping.raise_stopped()
  app.run(told_main, flags_parser=_parse_flags)
  raise AssertionError("app.run does not return")


def memory_line(error: RuntimeError) -> str:
  """Returns the line for a device without enough memory; "" for any other error."""
  if "RESOURCE_EXHAUSTED" not in str(error):
    return ""
  return (f"the device has not enough memory ({first_line(error)}); a smaller batch, "
          "--config.gradient_accumulation_steps or a shorter length needs less")


class FlagSettings:
  """A base of a command's dataclass of settings: a field for each flag, of the same name."""

  @classmethod
  def from_flags(cls, values: flags.FlagValues) -> Self:
    """Returns the settings of parsed flags."""
    return cls(**{field.name: values[field.name].value for field in dataclasses.fields(cls)})


def given_command() -> list[str]:
  """Returns this process's command line, for files; passwords in URLs are masked."""
  return without_passwords(sys.argv)


def without_passwords(command: Sequence[str]) -> list[str]:
  """Returns a command's words with the passwords of URLs masked."""
  return [re.sub(r"(?<=://)([^:/@\s]*):[^/@\s]*@", r"\1:***@", word) for word in command]


def define_config(default: str) -> str:
  """Defines --config, after it has checked that every --config.NAME of sys.argv is a knob.

  ml_collections reads sys.argv too, as early as here, and its own errors are tracebacks.

  Args:
    default: a config file, with an optional :ARGUMENT for its get_config().

  Returns:
    The config file of sys.argv, or the default.
  """
  try:
    argv = flags.FLAGS.read_flags_from_files(sys.argv[1:], force_gnu=False)
    file = _config_file(argv, default)
    knobs = _knobs(load_config(file))
  except (UserError, flags.Error) as error:
    _fail(str(error))
  _check_names(argv, "config", knobs, file)
  config_flags.DEFINE_config_file("config", default, "Configuration file, with :MODEL.")
  flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS["config"])  # for --help
  return file


def define_value_lists(flag: str, file: str) -> None:
  """Defines --FLAG.KNOB=a,b for every knob of the config file that `define_config` returned."""
  argv = flags.FLAGS.read_flags_from_files(sys.argv[1:], force_gnu=False)
  config = load_config(file)
  _check_names(argv, flag, _knobs(config), file)
  config_flags.DEFINE_config_dict(flag, _blank(config), "Comma-separated values of a knob.")


def _blank(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns a config of the same names, each a blank text."""
  return ml_collections.ConfigDict({
      name: _blank(value) if isinstance(value, ml_collections.ConfigDict) else ""
      for name, value in config.items()})


def _check_names(argv: Sequence[str], flag: str, knobs: Sequence[str], file: str) -> None:
  """Ends the program at a --FLAG.NAME that is none of the knobs."""
  for argument in argv:
    override = re.match(rf"--?(?:no)?{flag}\.([^=]+)", argument)
    if override and override[1] not in knobs:
      _fail(f"unknown knob --{flag}.{override[1]}{_suggest(override[1], knobs, flag)} All knobs: "
            f"{file}, or --help")


def load_config(file: str) -> ml_collections.ConfigDict:
  """Returns get_config(ARGUMENT) of "FILE:ARGUMENT", or get_config() of "FILE".

  Raises:
    UserError: the file cannot be run, or its get_config() refuses the argument.
  """
  path, *argument = file.split(":", 1)
  if not os.path.exists(path):
    raise UserError(f"config file {shown(path)} does not exist{_found_elsewhere(path, argument)}")
  try:
    get_config = runpy.run_path(path).get("get_config")
  except Exception as error:  # the file may hold any program
    raise UserError(f"the config file cannot be loaded: {_place(path, error)}"
                    f"{first_line(error)}") from error
  if not callable(get_config):
    raise UserError(f"the config file cannot be loaded: {path} defines no get_config()")
  try:
    config = get_config(*argument)
  except ValueError as error:  # such as an unknown model
    raise UserError(first_line(error)) from error
  except Exception as error:
    raise UserError(f"{_place(path, error)}{type(error).__name__}: {first_line(error)}") from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise UserError(f"{path}: get_config() must return a ConfigDict, not {shown(config)}")
  return config


def _found_elsewhere(path: str, argument: Sequence[str]) -> str:
  """Returns where a config file may lie that is not found at its path."""
  own = pathlib.Path(__file__).parents[1] / path
  if path.startswith("~"):
    return f"; a shell leaves ~ as it is here: give {os.path.expanduser(path)}"
  here = "" if os.path.isabs(path) else f" in {os.getcwd()}"
  if own.is_file():
    return f"{here}; the project's is --config={':'.join([str(own), *argument])}"
  return here + files.similar(path)


def _place(path: str, error: Exception) -> str:
  """Returns "FILE:LINE: " of the last line of a file that an error came through, or ""."""
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
           if frame.filename == path]
  return f"{path}:{lines[-1]}: " if lines else ""


def describe_knobs(file: str, width: int) -> str:
  """Returns every knob of a config file with its default, above the comment that explains it.

  Args:
    file: "FILE" or "FILE:ARGUMENT".
    width: of the lines, in characters.
  """
  config = load_config(file)
  indent = " " * 6
  lines: list[str] = []
  for names, comment in explained_knobs(file.split(":", 1)[0]):
    lines += [f"  --config.{name}={config[name]}" for name in names
              if not isinstance(config[name], ml_collections.ConfigDict)]
    lines += textwrap.wrap(comment, width, initial_indent=indent, subsequent_indent=indent,
                           break_on_hyphens=False)
  return "\n".join(lines)


def explained_knobs(path: str | os.PathLike) -> Iterator[tuple[list[str], str]]:
  """Yields the dotted names of some knobs and the comment above them, through a config file.

  A comment belongs to all knobs that follow it without a blank line or another comment between.
  """
  names: list[str] = []
  comment: list[str] = []
  text = pathlib.Path(path).read_text("utf-8")
  for line in (*map(str.strip, text.splitlines()), ""):
    if names and (not line or line.startswith("#")):
      yield names, " ".join(comment)
      names, comment = [], []
    if line.startswith("#"):
      comment.append(line.removeprefix("#").strip())
    elif knob := re.match(r"config\.([\w.]+) = ", line):
      names.append(knob[1])


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses the flags, or ends the program with help or with one line of error."""
  try:
    rest = flags.FLAGS([argument for argument in argv if argument not in _HELP])
  except flags.UnrecognizedFlagError as error:
    knobs = _knobs(flags.FLAGS["config"].value) if "config" in flags.FLAGS else []
    _fail(f"unknown flag --{error.flagname}{_suggest(error.flagname, knobs)} All flags: --help")
  except (flags.Error, TypeError, ValueError) as error:
    line = str(error)
    for words, ours in _OF_PYTHON.items():
      line = line.replace(words, ours)
    _fail(line)
  if any(argument in _HELP for argument in argv):
    _print_help()
    sys.exit(1)  # as absl's own --help
  return rest


def _print_help() -> None:
  """Prints the script's docstring, its flags and every knob of the config file."""
  app.usage(shorthelp=True, writeto_stdout=True)
  if "config" in flags.FLAGS:
    file = flags.FLAGS["config"].config_filename
    width = min(shutil.get_terminal_size().columns, 100)
    print(f"\nknobs of {file}, with their defaults:\n\n{describe_knobs(file, width)}")
  print("\nTry --helpfull to get a list of all flags.")


def _config_file(argv: Sequence[str], default: str) -> str:
  """Returns the value of the last --config of argv."""
  file = default
  for argument, following in itertools.zip_longest(argv, argv[1:], fillvalue=default):
    if argument in ("--config", "-config"):
      file = following
    elif argument.startswith(("--config=", "-config=")):
      file = argument.split("=", 1)[1]
  return file


def _knobs(config: ml_collections.ConfigDict) -> list[str]:
  """Returns the dotted names of a config's values, nested ones included."""

  def walk(node: ml_collections.ConfigDict, prefix: str) -> Iterator[str]:
    for name, value in node.items():
      yield prefix + name
      if isinstance(value, ml_collections.ConfigDict):
        yield from walk(value, f"{prefix}{name}.")

  return list(walk(config, ""))


def _suggest(name: str, knobs: Sequence[str], flag: str = "config") -> str:
  """Returns "; did you mean --FLAG?", or "." if no flag or knob is near to `name`."""
  known = {flag.name: flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])}
  for knob in reversed(knobs):  # a nested one is also found by its last part alone
    known |= {knob: f"{flag}.{knob}", knob.split(".")[-1]: f"{flag}.{knob}"}
  for part in (name.split(".", 1)[-1], name):  # confg.seed is near to seed
    near = difflib.get_close_matches(part, known, n=1) or [
        flag for flag in known if len(part) > 3 and part in flag]
    if near:
      return f"; did you mean --{known[near[0]]}?"
  return "."


def _fail(message: str) -> NoReturn:
  print(f"error: {one_line(message)}", file=sys.stderr)
  hosts.stop(message, 1)
  sys.exit(1)


def _end(line: str, status: int) -> NoReturn:
  """Ends the process as it stands: Python's own end may crash while a step is under way.

  Threads of XLA would go on with their step among libraries that are being unloaded.
  """
  print(line, file=sys.stderr)
  hosts.stop(line, status)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)
