"""The HuggingFace hub: what a name stands for, from the hub or its local cache, or a quick no."""

from collections.abc import Sequence
import pathlib
from typing import Any

from support.errors import first_line, UserError
from support.reporting import say


def snapshot(name: str, patterns: Sequence[str]) -> pathlib.Path:
  """The local folder of a model's top-level files that match, fetched where not cached.

  Raises:
    UserError: no hub in reach and nothing cached, or no such model; one line without advice.
  """
  import huggingface_hub.utils  # here: a local run needs no hub client

  huggingface_hub.utils.logging.set_verbosity_error()  # its retries are not the user's
  say(f"fetching {name} from the HuggingFace hub or its local cache ...")
  try:
    return pathlib.Path(huggingface_hub.snapshot_download(
        name, allow_patterns=list(patterns), ignore_patterns=["*/*"]))
  except Exception as error:  # the client raises many unrelated types; all mean "not fetched"
    raise _unfetched(name, error) from error


def load_dataset(name: str, *arguments: str) -> Any:
  """A `datasets.DatasetDict` by name.

  Raises:
    UserError: as `snapshot`.
  """
  import datasets  # here: a second to import, and a local TSV needs it not
  import huggingface_hub.utils

  datasets.disable_progress_bars()
  huggingface_hub.utils.logging.set_verbosity_error()
  say(f"fetching {' '.join((name, *arguments))} from the HuggingFace hub or its local cache ...")
  try:
    huggingface_hub.HfApi().dataset_info(name, timeout=10)
  except Exception:  # out of reach: the cache may have it, and half a minute of retries will not
    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
  try:
    return datasets.load_dataset(name, *arguments)
  except Exception as error:  # as above
    raise _unfetched(" ".join((name, *arguments)), error) from error


def _unfetched(name: str, error: Exception) -> UserError:
  return UserError(f"{name!r} is no local path and could not be fetched from the HuggingFace hub "
                   f"({type(error).__name__}: {first_line(error)})")
