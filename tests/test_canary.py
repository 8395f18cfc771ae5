"""No file that is read can run code: each tries to make a canary file, and none is made.

A --config file is the user's own Python and may do what it likes.
"""

import json
import os
import pickle
import shutil
import sys

from conftest import GOLDEN, init_params, random_batch, ROOT
import pytest

import checkpoint_utils
from classification import sources
import modeling
from support.errors import UserError
import tokenization


class Evil:
  """Makes the canary when it is unpickled."""

  def __init__(self, canary):
    self._canary = canary

  def __reduce__(self):
    return os.system, (f"touch '{self._canary}'",)


@pytest.fixture
def canary(tmp_path, monkeypatch):
  """A path where nothing may lie after the test; questions to the user are answered with y."""
  monkeypatch.setattr("builtins.input", lambda *_: "y")
  path = tmp_path / "canary"
  yield path
  assert not path.exists()


@pytest.fixture
def folder(tiny_config, tokenizer, tmp_path):
  """An exported model whose folder also holds code that makes the canary on import."""
  model = modeling.BertForSequenceClassification(tiny_config, 2)
  checkpoint_utils.export_huggingface(
      tmp_path / "model", tiny_config, init_params(model, random_batch(tiny_config)), tokenizer,
      "# a card\n")
  for name in ("evil.py", "tokenization_evil.py", "modeling_evil.py", "model.py"):
    (tmp_path / "model" / name).write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
  return tmp_path / "model"


def test_the_canary_is_seen(canary):
  """The pickle that the tests below read does make it, in a reader that trusts it."""
  pickle.loads(pickle.dumps(Evil(canary)))
  assert canary.exists()
  canary.unlink()


@pytest.mark.parametrize("old_format", [False, True])
def test_a_pickled_model(canary, folder, old_format):
  torch = pytest.importorskip("torch", reason="a .bin needs torch")
  (folder / "model.safetensors").unlink()
  torch.save({"state_dict": {"a": torch.zeros(9999), "b": Evil(canary)}},
             folder / "pytorch_model.bin", _use_new_zipfile_serialization=not old_format)
  with pytest.raises(UserError, match="pytorch_model.bin cannot be read"):
    checkpoint_utils.find_checkpoint(str(folder)).read()
  (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(canary)) + bytes(99_999))
  with pytest.raises(UserError, match="pytorch_model.bin cannot be read"):
    checkpoint_utils.find_checkpoint(str(folder)).read()


def test_a_pickle_under_another_name(canary, folder):
  (folder / "model.safetensors").write_bytes(pickle.dumps(Evil(canary)) + bytes(99_999))
  with pytest.raises(UserError, match="model.safetensors cannot be read"):
    checkpoint_utils.find_checkpoint(str(folder)).read()


REMOTE = {"auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "modeling_evil.Evil",
                       "AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]},
          "tokenizer_class": "Evil", "custom_pipelines": {"a": {"impl": "evil.Evil"}},
          "trust_remote_code": True}


def test_a_folder_that_asks_for_its_own_code(canary, folder, tmp_path):
  for name in ("config.json", "tokenizer_config.json"):
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | REMOTE))
  checkpoint = checkpoint_utils.find_checkpoint(str(folder))
  own = tokenization.load_tokenizer(checkpoint.tokenizer, None)
  assert own.encode(["a film"]) and checkpoint.read()
  checkpoint_utils.export_huggingface(
      tmp_path / "again", checkpoint.config,
      {"classifier": {"bias": checkpoint.read()["classifier.bias"]}}, own, "# a card\n")
  for name in ("config.json", "tokenizer_config.json"):
    assert "evil" not in (tmp_path / "again" / name).read_text()


def test_a_tensorflow_graph(canary, tmp_path):
  """A SavedModel's graph could write files; only variables of its kind of checkpoint are read."""
  tf = pytest.importorskip("tensorflow")

  class Writer(tf.Module):
    @tf.function(input_signature=[])
    def __call__(self):
      tf.io.write_file(str(canary), "x")

  tf.saved_model.save(Writer(), str(tmp_path / "graph"))
  shutil.copy(GOLDEN / "bert_config.json", tmp_path / "graph")
  for suffix in (".index", ".data-00000-of-00001"):
    (tmp_path / "graph" / "variables" / f"variables{suffix}").rename(
        tmp_path / "graph" / f"bert_model.ckpt{suffix}")
  with pytest.raises(UserError, match="bert_model.ckpt cannot be read"):
    checkpoint_utils.find_checkpoint(str(tmp_path / "graph")).read()


def test_a_dataset_with_a_script(canary, tmp_path):
  data = tmp_path / "data"
  data.mkdir()
  for name in ("data.py", "train.py", "dataset.py", "__init__.py"):
    (data / name).write_text(f"open({str(canary)!r}, 'w')\n")
  (data / "train.csv").write_text("text,label\na,b\nc,d\n")
  source = sources.find_source("", str(data), False, tmp_path / "cache")
  assert len(source.read("train")) == 2
  assert str(data) not in sys.path


def test_nothing_here_asks_for_code_from_afar():
  """The libraries' own default is no; nobody says yes."""
  for file in (*ROOT.glob("*.py"), *ROOT.glob("*/*.py")):
    if file.parent.name != "tests":
      text = file.read_text("utf-8")
      assert "trust_remote_code=True" not in text, file
      assert "weights_only=False" not in text, file
      assert "allow_pickle=True" not in text, file
