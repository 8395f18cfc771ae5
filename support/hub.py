"""The HuggingFace hub: models and data sets from it or its cache, a finished model to it.

Fails fast when it is out of reach.
"""

from collections.abc import Sequence
import pathlib
import re
from typing import Any

from support import files
from support.errors import first_line, shown, UserError
from support.reporting import say

# How `datasets` begins where a data set has several configurations and none of them is named.
_NO_CONFIGURATION = ("Config name is missing", "BuilderConfig ")


def snapshot(name: str, patterns: Sequence[str]) -> pathlib.Path:
  """Returns a local folder with the top-level files of a model, fetched if they are not cached.

  Args:
    name: of the model's repository.
    patterns: globs of the files to fetch.

  Raises:
    UserError: the hub has no such model, or is out of reach and the cache has none; one line.
  """
  import huggingface_hub.utils  # here: a local run needs no hub client

  huggingface_hub.utils.logging.set_verbosity_error()  # hides its messages about retries
  huggingface_hub.utils.disable_progress_bars()
  say(f"fetching {name} from the HuggingFace hub or its local cache ...")
  try:
    return pathlib.Path(huggingface_hub.snapshot_download(
        name, allow_patterns=list(patterns), ignore_patterns=["*/*"]))
  except Exception as error:  # the client raises many unrelated types; all mean "not fetched"
    raise _not_fetched(name, error) from error


def load_dataset(name: str, *configuration: str) -> Any:
  """Returns a data set as a `datasets.DatasetDict`.

  Args:
    name: of the data set's repository.
    configuration: the name of one of its configurations; omitted: its only one.

  Raises:
    UserError: like `snapshot`.
  """
  import datasets  # here: it takes a second, and local files do not need it
  import huggingface_hub.utils

  datasets.disable_progress_bars()
  huggingface_hub.utils.logging.set_verbosity_error()
  full_name = " ".join((name, *configuration))
  say(f"fetching {full_name} from the HuggingFace hub or its local cache ...")
  try:
    # Asks first, because datasets.load_dataset retries for half a minute before it looks into
    # its cache.
    huggingface_hub.HfApi().dataset_info(name, timeout=10)
    return datasets.load_dataset(name, *configuration)
  except Exception as error:  # like in `snapshot`
    if first_line(error).startswith(_NO_CONFIGURATION):  # the cache would give another one
      raise _not_fetched(full_name, error) from error
    try:
      return _load_cached_dataset(name, *configuration)
    except Exception:
      raise _not_fetched(full_name, error) from error


def check_upload(name: str) -> None:
  """Checks what can be checked of an upload without the network.

  Raises:
    UserError: the name is not OWNER/NAME, or there is no token.
  """
  import huggingface_hub

  if not re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII):
    raise UserError(f"push_to_hub must be OWNER/NAME, such as me/bert-mrpc, not {shown(name)}")
  if huggingface_hub.get_token() is None:
    raise UserError(f"push_to_hub {name}: this machine has no token of the HuggingFace hub; get one"
                    " at https://huggingface.co/settings/tokens and run: hf auth login")


def upload(folder: pathlib.Path, name: str) -> None:
  """Uploads a folder as a model's repository, in one commit; makes the repository if it is new.

  Raises:
    UserError: no access, no network, or whatever else the hub answers; one line.
  """
  import huggingface_hub.utils

  huggingface_hub.utils.logging.set_verbosity_error()
  huggingface_hub.utils.disable_progress_bars()
  say(f"uploading {folder} to {name} on the HuggingFace hub ...")
  api = huggingface_hub.HfApi()
  try:
    api.create_repo(name, exist_ok=True)
    api.upload_folder(repo_id=name, folder_path=folder, commit_message="Trained with BERT in Flax")
  except Exception as error:  # like in `snapshot`
    status = getattr(getattr(error, "response", None), "status_code", None)
    advice = ("; the token may not write there: hf auth login" if status in (401, 403) else
              "; the model is whole in its folder: the same command uploads it later")
    raise UserError(f"{folder} could not be uploaded to {name} ({type(error).__name__}: "
                    f"{first_line(error)}){advice}") from error
  say(f"uploaded: {api.endpoint}/{name}")


def _load_cached_dataset(name: str, *configuration: str) -> Any:
  """Returns the copy that `datasets` keeps of a data set once loaded from the hub."""
  from datasets.packaged_modules.cache import cache

  return cache.Cache(repo_id=name, dataset_name=name.split("/")[-1], version="auto", hash="auto",
                     config_name=next(iter(configuration), None)).as_dataset()


def _not_fetched(name: str, error: Exception) -> UserError:
  reason = first_line(error)
  if reason.startswith(_NO_CONFIGURATION):  # those that there are may follow in other lines
    reason = str(error).partition("Example of usage")[0]
  return UserError(f"{name!r} is no local path{files.similar(name)} and could not be fetched from "
                   f"the HuggingFace hub ({type(error).__name__}: {reason.strip()})")
