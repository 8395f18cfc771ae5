"""Whatever bytes a checkpoint or a tokenizer's folder holds: data, or one line."""

import json
import shutil

from conftest import GOLDEN, init_params, random_batch, WORDS
from hypothesis import given
import numpy as np
import pytest
import safetensors.numpy

import checkpoint_utils
from fuzz.harness import damaged, read
import modeling
import tokenization


@pytest.fixture(scope="module")
def model(tiny_config, tokenizer, tmp_path_factory):
  """(the folder of a valid tiny classifier with a tokenizer, its parameters)."""
  folder = tmp_path_factory.mktemp("model") / "model"
  params = init_params(modeling.BertForSequenceClassification(tiny_config, 2),
                       random_batch(tiny_config))
  checkpoint_utils.export_huggingface(
      folder, tiny_config, params, tokenizer, "# a card\n", id2label={0: "no", 1: "yes"},
      text_columns=("text",), problem_type="single_label_classification")
  return folder, params


def load(model):
  """Returns a reader of a whole checkpoint: every value is a finite float32 of its right shape."""
  params = model[1]

  def reader(folder):
    checkpoint = checkpoint_utils.find_checkpoint(str(folder))
    loaded, _ = checkpoint_utils.load_params(checkpoint, params)
    for value in checkpoint_utils.to_huggingface(loaded, 2).values():
      assert np.isfinite(value).all()
    assert all(isinstance(name, str) for name in (*checkpoint.label_names,
                                                  *checkpoint.text_columns))
    return checkpoint

  return reader


def check(reader, folder, name, contents):
  """Reads the folder with each content of a file in turn."""
  whole = (folder / name).read_bytes()

  @given(damaged(whole, *contents))
  def every(content):
    (folder / name).write_bytes(content)
    read(reader, folder)

  try:
    every()
  finally:
    (folder / name).write_bytes(whole)
  assert read(reader, folder) is not None


def test_a_configuration(model):
  check(load(model), model[0], "config.json", [
      b'{"hidden_size": 16, "id2label": {"0": "a"}}', b'{"hidden_size": 1e9, "model_type": null}'])


def test_safetensors(model):
  check(load(model), model[0], "model.safetensors", [])


def test_the_index_of_shards(model, tmp_path):
  shutil.copytree(model[0], tmp_path, dirs_exist_ok=True)
  (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
  names = safetensors.numpy.load_file(tmp_path / "model-1.safetensors")
  (tmp_path / "model.safetensors.index.json").write_text(
      json.dumps({"weight_map": dict.fromkeys(names, "model-1.safetensors")}))
  check(load(model), tmp_path, "model.safetensors.index.json", [
      b'{"weight_map": {"a": "model-1.safetensors", "b": "../config.json"}}'])


def test_a_pickle(model, tmp_path):
  torch = pytest.importorskip("torch", reason="a .bin needs torch")
  shutil.copytree(model[0], tmp_path, dirs_exist_ok=True)
  tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
  (tmp_path / "model.safetensors").unlink()
  state = {name: torch.tensor(value) for name, value in tensors.items()}
  torch.save(state, tmp_path / "old", _use_new_zipfile_serialization=False)
  torch.save({"state_dict": state}, tmp_path / "pytorch_model.bin")
  check(load(model), tmp_path, "pytorch_model.bin", [(tmp_path / "old").read_bytes()])


@pytest.mark.parametrize("name", ["bert_config.json", "bert_model.ckpt.index",
                                  "bert_model.ckpt.data-00000-of-00001"])
def test_a_tf1_checkpoint(tmp_path, name):
  for file in GOLDEN.glob("bert_*"):
    shutil.copy(file, tmp_path)
  check(lambda folder: checkpoint_utils.find_checkpoint(str(folder)).read(), tmp_path, name, [])


TEXTS = ["a film, [SEP] very Good", ""]


def tokenize(folder):
  own = tokenization.load_tokenizer(str(folder), None)
  size = own.vocab_size
  assert all(0 <= i < size for ids in own.encode(TEXTS) for i in ids)
  return own


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer(model, name):
  check(tokenize, model[0], name, [])


@pytest.mark.parametrize("name,content", [
    ("vocab.txt", "\n".join(WORDS)), ("added_tokens.json", json.dumps({"[E1]": len(WORDS)})),
    ("tokenizer_config.json", json.dumps({"added_tokens_decoder": {
        str(len(WORDS)): {"content": "[E1]", "special": True}}, "do_lower_case": None})),
    ("special_tokens_map.json", json.dumps({"additional_special_tokens": ["[E1]"],
                                            "cls_token": {"content": "[CLS]", "lstrip": False}}))])
def test_a_vocabulary_and_its_neighbours(tmp_path, name, content):
  (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
  (tmp_path / name).write_text(content)
  check(tokenize, tmp_path, name, [])
