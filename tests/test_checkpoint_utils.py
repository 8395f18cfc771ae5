"""Weights in and out: every format, every way a file can be wrong, and the round trip."""

import dataclasses
import json
import shutil

from conftest import GOLDEN, init_params, random_batch
import flax.traverse_util
import jax
import numpy as np
import pytest
import safetensors.numpy

import checkpoint_utils
import checkpointing
import experiment
import modeling
import optimization
from support.errors import UserError
import training


def flat(params):
  return flax.traverse_util.flatten_dict(params, sep="/")


@pytest.fixture(scope="module")
def tiny(tiny_config):
  """(model, params, batch) of a tiny three-way classifier."""
  model = modeling.BertForSequenceClassification(tiny_config, 3)
  batch = random_batch(tiny_config, num_labels=3)
  return model, init_params(model, batch), batch


@pytest.fixture
def folder(tiny, tokenizer, tmp_path):
  """That classifier as an exported HuggingFace folder."""
  names = ("entailment", "neutral", "contradiction")
  checkpoint_utils.export_huggingface(
      tmp_path / "model", tiny[0].config, tiny[1], tokenizer, "# a card\n",
      architectures=["BertForSequenceClassification"], id2label=dict(enumerate(names)),
      label2id={name: i for i, name in enumerate(names)})
  return tmp_path / "model"


def load(name, model, batch, **arguments):
  shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
  fresh = jax.tree.map(lambda x: np.full(x.shape, 7.0, np.float32), shapes)
  return checkpoint_utils.load_params(checkpoint_utils.find_checkpoint(str(name)), fresh,
                                      **arguments)


def assert_same(params, expected):
  params, expected = flat(params), flat(expected)
  assert set(params) == set(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(params[name], value, err_msg=name)


def rewrite(folder, change):
  """Passes the folder's tensors through `change`."""
  file = folder / "model.safetensors"
  safetensors.numpy.save_file(change(safetensors.numpy.load_file(file)), file)


# --- HuggingFace ------------------------------------------------------------------------------


def test_round_trip(tiny, folder, tiny_config):
  model, params, batch = tiny
  loaded, report = load(folder, model, batch)
  assert_same(loaded, params)
  assert str(report) == "41 tensors loaded, 0 freshly initialized, 0 ignored"
  checkpoint = checkpoint_utils.find_checkpoint(str(folder))
  assert checkpoint.config == tiny_config
  assert checkpoint.label_names == ("entailment", "neutral", "contradiction")
  assert checkpoint.tokenizer == str(folder)
  assert not checkpoint.regression
  assert not list(folder.parent.glob("*.tmp"))
  assert len({file.stat().st_mode for file in folder.iterdir()}) == 1  # the umask's, for all


def test_transformers_loads_the_export_with_the_same_logits(tiny, folder):
  torch = pytest.importorskip("torch", reason="needs torch to run transformers' BERT")
  import transformers

  model, params, batch = tiny
  twin = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
  assert twin.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
  with torch.no_grad():
    expected = twin(input_ids=torch.from_numpy(batch["input_ids"]).long(),
                    token_type_ids=torch.from_numpy(batch["token_type_ids"]).long(),
                    attention_mask=torch.from_numpy((batch["sequence_ids"] > 0).astype(int))).logits
  np.testing.assert_allclose(model.apply({"params": params}, batch), expected.numpy(), atol=1e-5)
  assert len(transformers.AutoTokenizer.from_pretrained(folder)) == model.config.vocab_size


@pytest.mark.parametrize("rename", [
    lambda name: name.removeprefix("bert."),
    lambda name: f"module.{name}",
    lambda name: f"_orig_mod.module.{name.removeprefix('bert.')}",
    lambda name: name.replace("bert.", "module.bert._orig_mod."),
    lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
        "LayerNorm.bias", "LayerNorm.beta")],
    ids=["no prefix", "DataParallel", "compiled, no prefix", "compiled inside", "gamma and beta"])
def test_other_spellings(tiny, folder, rename):
  rewrite(folder, lambda tensors: {rename(name): value for name, value in tensors.items()})
  assert_same(load(folder, *tiny[::2])[0], tiny[1])


def test_shards(tiny, folder):
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  (folder / "model.safetensors").unlink()
  shards = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(tensors)}
  for shard in set(shards.values()):
    safetensors.numpy.save_file({n: tensors[n] for n, s in shards.items() if s == shard},
                                folder / shard)
  (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
  assert_same(load(folder, *tiny[::2])[0], tiny[1])
  with pytest.raises(UserError, match="is there twice, under two names or in two files"):
    first = next(name for name, shard in shards.items() if shard == "model-0.safetensors")
    both = safetensors.numpy.load_file(folder / "model-1.safetensors") | {first: tensors[first]}
    safetensors.numpy.save_file(both, folder / "model-1.safetensors")
    load(folder, *tiny[::2])
  (folder / "model-1.safetensors").unlink()
  with pytest.raises(UserError, match="model-1.safetensors is missing; model.safetensors.index"):
    load(folder, *tiny[::2])


def test_bin_is_read_with_weights_only(tiny, folder):
  torch = pytest.importorskip("torch", reason="a .bin needs torch")
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  (folder / "model.safetensors").unlink()
  torch.save({name: torch.tensor(value) for name, value in tensors.items()},
             folder / "pytorch_model.bin")
  assert_same(load(folder, *tiny[::2])[0], tiny[1])
  big = {"big": torch.zeros(10_000)}  # the file's size is looked at first
  for content, message in (
      ([big], "holds a list, not tensors by their names"),
      ({"epoch": 3, **big}, "holds 'epoch', which is no tensor"),
      ({name: torch.tensor(value).to(torch.int32) for name, value in tensors.items()},
       "holds int32 and not floating-point numbers"),
      ({name: torch.tensor(value).to(torch.complex64) for name, value in tensors.items()},
       "holds complex64 and not floating-point numbers")):
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=message):
      load(folder, *tiny[::2])
  torch.save({"evil": shutil.rmtree}, folder / "pytorch_model.bin")
  with pytest.raises(UserError, match="pytorch_model.bin cannot be read"):
    load(folder, *tiny[::2])


@pytest.mark.parametrize("weight_map", [
    5, [], {}, {"a": 5}, {"a": None}, {"a": "../model.safetensors"}, {"a": "/etc/x.safetensors"},
    {"a": "x/y.safetensors"}, {"a": ".."}, {"a": ""}, {"a": "pytorch_model.bin"}])
def test_a_shard_is_a_plain_name_of_its_kind(folder, weight_map):
  (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
  (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
  with pytest.raises(UserError, match="model.safetensors.index.json: weight_map must "):
    checkpoint_utils.find_checkpoint(str(folder))


@pytest.mark.parametrize("wrap", [
    lambda state: {"epoch": 3, "state_dict": state}, lambda state: {"model": state},
    lambda state: {"model_state_dict": {f"module.{n}": v for n, v in state.items()}}])
def test_a_state_beside_other_things(tiny, folder, wrap):
  torch = pytest.importorskip("torch", reason="a .bin needs torch")
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  (folder / "model.safetensors").unlink()
  torch.save(wrap({name: torch.tensor(value) for name, value in tensors.items()}),
             folder / "pytorch_model.bin")
  assert_same(load(folder, *tiny[::2])[0], tiny[1])


def test_an_expanded_tensor_is_no_bomb(tiny, folder):
  torch = pytest.importorskip("torch", reason="a .bin needs torch")
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  (folder / "model.safetensors").unlink()
  bomb = torch.zeros(1, dtype=torch.bfloat16).expand(1 << 44)
  torch.save({n: torch.tensor(v) for n, v in tensors.items()} | {"classifier.bias": bomb},
             folder / "pytorch_model.bin")
  with pytest.raises(UserError, match="pytorch_model.bin .*tensors have .* values, which .* bytes"):
    load(folder, *tiny[::2])


def test_bin_without_torch(tiny, folder, monkeypatch):
  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
  monkeypatch.setitem(__import__("sys").modules, "torch", None)
  with pytest.raises(UserError, match="pytorch_model.bin needs torch to be read: pip install"):
    load(folder, *tiny[::2])


def test_half_precision_is_widened(tiny, folder):
  rewrite(folder, lambda tensors: {n: v.astype(np.float16) for n, v in tensors.items()})
  loaded, _ = load(folder, *tiny[::2])
  assert {value.dtype for value in flat(loaded).values()} == {np.dtype("float32")}


def test_heads_may_be_missing_and_extra(tiny, folder):
  words = "bert.embeddings.word_embeddings.weight"

  def change(tensors):
    kept = {n: v for n, v in tensors.items() if not n.startswith(("classifier", "bert.pooler"))}
    return kept | {"cls.predictions.bias": np.zeros(len(kept[words]), np.float32),
                   "cls.predictions.decoder.weight": kept[words],
                   "bert.embeddings.position_ids": np.arange(32)[None]}

  rewrite(folder, change)
  _, report = load(folder, *tiny[::2])
  assert report.initialized == ("bert/pooler/dense/bias", "bert/pooler/dense/kernel",
                                "classifier/bias", "classifier/kernel")
  assert report.ignored == ("masked_lm/bias",)
  rewrite(folder, lambda t: t | {"cls.predictions.decoder.weight": 1 + t[words]})
  load(folder, *tiny[::2])  # a classifier has no use for it
  pretraining = modeling.BertForPreTraining(tiny[0].config)
  with pytest.raises(UserError, match="decoder.weight differs from the word embeddings"):
    load(folder, pretraining, {**tiny[2], "masked_lm_positions": np.zeros(1, np.int32)})


def test_half_a_head_is_a_broken_file(tiny, folder):
  rewrite(folder, lambda t: {n: v for n, v in t.items() if n != "classifier.bias"})
  with pytest.raises(UserError, match="has classifier/kernel but not classifier/bias"):
    load(folder, *tiny[::2])


@pytest.mark.parametrize("changes,message", [
    ({"id2label": {"a": "b"}}, "id2label must map 0, 1, ... to names"),
    ({"id2label": {"0": "a", "2": "b"}}, "id2label must map 0, 1, ... to names"),
    ({"id2label": ["a", "b"]}, "id2label must map 0, 1, ... to names"),
    ({"id2label": {"0": "a", "1": ["b"]}}, "id2label must map 0, 1, ... to names"),
    ({"id2label": {"0": "a", "1": "a"}}, "id2label gives two classes the same name"),
    ({"text_columns": 5}, "text_columns must be a list of names, not 5"),
    ({"text_columns": "text"}, "text_columns must be a list of names, not 'text'"),
    ({"text_columns": [["a"]]}, "text_columns must be a list of names"),
    ({"text_delimiter": 5}, "text_delimiter must be a str, not 5"),
    ({"problem_type": "multi_label_classification", "id2label": {"0": "a"}},
     "problem_type 'multi_label_.*' with 1 names .*delete both entries to start from the encoder"),
    ({"problem_type": "regression"}, "problem_type 'regression' with 3 names"),
    ({"problem_type": ["regression"]}, "problem_type .'regression'. with 3 names"),
    ({"problem_type": "single_label_classification", "id2label": {"0": "a"}},
     "problem_type 'single_label_classification' with 1 names"),
    ({"model_type": ["bert"]}, "model_type is .'bert'.; only 'bert' can be loaded"),
    ({"hidden_act": ["gelu"]}, "hidden_act .'gelu'. is unknown"),
    ({"hidden_size": True}, "hidden_size must be an integer of at least 1, not True"),
    ({"vocab_size": -5}, "vocab_size must be an integer of at least 1, not -5"),
    ({"vocab_size": 33.0}, "vocab_size must be an integer of at least 1, not 33.0"),
    ({"classifier_dropout": "0.1"}, r"classifier_dropout must be a number in \[0, 1\), not '0.1'"),
    ({"layer_norm_eps": float("nan")}, r"layer_norm_eps must be a number in \[0, 1\), not nan"),
    ({"num_hidden_layers": 10**9}, "model.safetensors cannot be read .truncated.*: config.json "
     "describes .* parameters and more, which .* bytes cannot hold"),
    ({"hidden_size": 10**9, "num_attention_heads": 1}, "describes .* parameters and more"),
    ({"vocab_size": 10**12}, "describes .* parameters and more"),
    ({"intermediate_size": 10**4000}, "describes an integer of .* bits parameters and more"),
    ({"hidden_size": "16"}, "hidden_size must be an integer of at least 1, not '16'"),
    ({"hidden_dropout_prob": None}, "hidden_dropout_prob must be a number in")])
def test_broken_configurations(folder, changes, message):
  edit_config(folder, **changes)
  with pytest.raises(UserError, match=message):
    checkpoint_utils.find_checkpoint(str(folder))
  (folder / "config.json").write_text("[]")
  with pytest.raises(UserError, match="config.json must hold a JSON object"):
    checkpoint_utils.find_checkpoint(str(folder))


@pytest.mark.parametrize("changes", [
    {"id2label": {"0": "score"}}, {"id2label": {"0": "LABEL_0"}, "problem_type": "regression"},
    {"id2label": None, "num_labels": 1}])
def test_one_output_is_a_regression(folder, changes):
  edit_config(folder, **changes)
  checkpoint = checkpoint_utils.find_checkpoint(str(folder))
  assert checkpoint.regression
  assert checkpoint.label_names == ()


def test_google_s_configuration_beside_huggingface_s_weights(tiny, folder):
  (folder / "bert_config.json").write_text("{}")
  assert_same(load(folder, *tiny[::2])[0], tiny[1])


def test_reinitialize_keeps_the_encoder(tiny, folder):
  loaded, report = load(folder, *tiny[::2], reinitialize=("classifier/",))
  assert report.initialized == report.ignored == ("classifier/bias", "classifier/kernel")
  assert (loaded["classifier"]["kernel"] == 7.0).all()
  assert_same(loaded["bert"], tiny[1]["bert"])


def test_the_dropout_of_a_classifier_is_kept(tiny, folder, tokenizer, tmp_path):
  assert checkpoint_utils.find_checkpoint(str(folder)).config.classifier_dropout is None
  edit_config(folder, classifier_dropout=0.3)
  config = checkpoint_utils.find_checkpoint(str(folder)).config
  assert config.classifier_dropout == 0.3
  checkpoint_utils.export_huggingface(tmp_path / "again", config, tiny[1], tokenizer, "# a card\n")
  assert checkpoint_utils.find_checkpoint(str(tmp_path / "again")).config == config


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_named(tiny, folder, value):
  def change(tensors):
    tensors["bert.pooler.dense.weight"][0, :3] = value
    return tensors

  rewrite(folder, change)
  with pytest.raises(UserError, match=f"{folder}: bert/pooler/dense/kernel is broken: 3 of its 256 "
                                      "values are NaN or infinite"):
    load(folder, *tiny[::2])
  pooler = "bert/pooler/dense/kernel"
  assert pooler in load(folder, *tiny[::2], reinitialize=("bert/pooler/",))[1].ignored


def test_quantized_weights_are_refused(tiny, folder):
  rewrite(folder, lambda t: t | {"classifier.weight": t["classifier.weight"].astype(np.int8)})
  with pytest.raises(UserError, match="classifier/kernel holds int8 and not floating-point"):
    load(folder, *tiny[::2])


def test_rows_for_added_tokens(tiny, folder):
  model, params, batch = tiny
  larger = modeling.BertForSequenceClassification(
      dataclasses.replace(model.config, vocab_size=model.config.vocab_size + 2), 3)
  with pytest.raises(UserError, match="word_embeddings/embedding has shape .* in the checkpoint"):
    load(folder, larger, batch)
  loaded, report = load(folder, larger, batch, resize_embeddings=True)
  words = loaded["bert"]["embeddings"]["word_embeddings"]["embedding"]
  np.testing.assert_array_equal(words[:-2],
                                params["bert"]["embeddings"]["word_embeddings"]["embedding"])
  assert (words[-2:] == 7.0).all()  # the fresh ones'
  assert str(report).endswith(
      "ignored; 2 freshly initialized rows of word embeddings for added tokens")
  with pytest.raises(UserError, match="word_embeddings/embedding has shape"):  # never fewer rows
    smaller = dataclasses.replace(model.config, vocab_size=model.config.vocab_size - 1)
    load(folder, modeling.BertForSequenceClassification(smaller, 3), batch, resize_embeddings=True)


def test_the_masked_lm_head_grows_too(tiny, tokenizer, tmp_path):
  config = tiny[0].config
  batch = tiny[2] | {"masked_lm_positions": np.zeros(1, np.int32)}
  params = init_params(modeling.BertForPreTraining(config), batch)
  checkpoint_utils.export_huggingface(tmp_path / "model", config, params, tokenizer, "# a card\n")
  larger = modeling.BertForPreTraining(
      dataclasses.replace(config, vocab_size=config.vocab_size + 2))
  loaded, report = load(tmp_path / "model", larger, batch, resize_embeddings=True)
  assert report.new_rows == 2
  np.testing.assert_array_equal(loaded["masked_lm"]["bias"],
                                [*params["masked_lm"]["bias"], 7.0, 7.0])


@pytest.mark.parametrize("change,message", [
    (lambda t: t | {"bert.encoder.layer.2.output.dense.bias": np.zeros(16, np.float32)},
     r"a tensor that no BERT has: bert.encoder.layer.2.output.dense.bias \[16\]; .* 2 layers"),
    (lambda t: t | {"lstm.weight": np.zeros((2, 3), np.float32)},
     r"no BERT has: lstm.weight \[2, 3\]"),
    (lambda t: t | {"classifier.bias": np.zeros(4, np.float32)},
     r"classifier/bias has shape \[4\] in the checkpoint and \[3\] in the model"),
    (lambda t: {n: v for n, v in t.items() if "layer.1.intermediate.dense.w" not in n},
     r"has no tensor for bert/layer_1/intermediate/kernel \[16, 32\]")])
def test_wrong_tensors(tiny, folder, change, message):
  rewrite(folder, change)
  with pytest.raises(UserError, match=message):
    load(folder, *tiny[::2])


def edit_config(folder, **changes):
  file = folder / "config.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("changes,message", [
    ({"model_type": "roberta"}, "model_type is 'roberta'; only 'bert' can be loaded"),
    ({"position_embedding_type": "relative_key"}, "is 'relative_key', must be 'absolute'"),
    ({"is_decoder": True}, "is_decoder is True, must be False"),
    ({"hidden_act": "silu"}, "hidden_act 'silu' is unknown; known: gelu,"),
    ({"num_hidden_layers": 3}, "no tensor for bert/layer_2/attention/key/bias")])
def test_another_architecture(tiny, tiny_config, folder, changes, message):
  edit_config(folder, **changes)
  with pytest.raises(UserError, match=message):
    checkpoint = checkpoint_utils.find_checkpoint(str(folder))
    load(folder, modeling.BertForSequenceClassification(checkpoint.config, 3), tiny[2])


def test_broken_files(tiny, folder, tmp_path):
  weights = folder / "model.safetensors"
  weights.write_bytes(weights.read_bytes()[:3000])
  with pytest.raises(UserError, match=r"model.safetensors cannot be read \(truncated\?\)"):
    load(folder, *tiny[::2])
  weights.unlink()
  with pytest.raises(UserError, match="has a config.json but no model.safetensors or pytorch"):
    checkpoint_utils.find_checkpoint(str(folder))
  (folder / "config.json").write_text("{")
  with pytest.raises(UserError, match="config.json cannot be read as JSON"):
    checkpoint_utils.find_checkpoint(str(folder))
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match="empty holds no checkpoint: expected config.json with"):
    checkpoint_utils.find_checkpoint(str(tmp_path / "empty"))


@pytest.mark.parametrize("name,message", [
    ("/no/such/place", "init_checkpoint /no/such/place does not exist"),
    ("./here", "init_checkpoint ./here does not exist"),
    ("google-bert/bert-base-uncased",
     "could not be fetched from the HuggingFace hub .*for a local model use --config.init_check")])
def test_nothing_there(name, message):
  with pytest.raises(UserError, match=message):
    checkpoint_utils.find_checkpoint(name)


def test_a_file_is_no_checkpoint(tmp_path):
  (tmp_path / "weights.h5").write_text("")
  with pytest.raises(UserError, match="weights.h5 is a file; give the model's folder"):
    checkpoint_utils.find_checkpoint(str(tmp_path / "weights.h5"))


# --- Google's TF1 checkpoints (test_golden.py checks their numbers) -----------------------------


def test_google_folder_prefix_and_index_are_the_same():
  found = [checkpoint_utils.find_checkpoint(str(GOLDEN / name)) for name in (
      "", "bert_model.ckpt", "bert_model.ckpt.index")]
  assert len({checkpoint.path for checkpoint in found}) == 1
  assert found[0].config.hidden_act == "gelu_new"  # the original's "gelu" is the tanh one


@pytest.fixture
def google(tmp_path):
  for file in GOLDEN.glob("bert_*"):
    shutil.copy(file, tmp_path)
  return tmp_path


def test_google_errors(google, vocab_dir):
  shutil.copy(vocab_dir / "vocab.txt", google)
  assert checkpoint_utils.find_checkpoint(str(google)).tokenizer == str(google)
  data_file = google / "bert_model.ckpt.data-00000-of-00001"
  data_file.write_bytes(data_file.read_bytes()[:5000])
  with pytest.raises(UserError, match=r"bert_model.ckpt cannot be read \(truncated\?\)"):
    checkpoint_utils.find_checkpoint(str(google)).read()
  for step in (1, 2):
    shutil.copy(google / "bert_model.ckpt.index", google / f"model.ckpt-{step}.index")
  (google / "bert_model.ckpt.index").unlink()
  with pytest.raises(UserError, match="several checkpoints; name one: .*ckpt-1, .*ckpt-2"):
    checkpoint_utils.find_checkpoint(str(google))
  (google / "bert_config.json").unlink()
  with pytest.raises(UserError, match="needs its bert_config.json; .*/bert_config.json does not"):
    checkpoint_utils.find_checkpoint(str(google / "model.ckpt-1"))


def test_google_s_sizes_are_compared_with_the_files(google):
  content = json.loads((google / "bert_config.json").read_text())
  (google / "bert_config.json").write_text(json.dumps(content | {"num_hidden_layers": 10**9}))
  with pytest.raises(UserError, match="bert_config.json describes .* parameters and more, which"):
    checkpoint_utils.find_checkpoint(str(google))


@pytest.mark.parametrize("name", ["a[1]", "a\\b", "a*b"])
def test_a_google_checkpoint_in_any_folder(google, name):
  expected = checkpoint_utils.find_checkpoint(str(google)).read()
  folder = google.rename(google.with_name(name))
  read = checkpoint_utils.find_checkpoint(str(folder / "bert_model.ckpt")).read()
  assert set(read) == set(expected)


# --- This project's own -------------------------------------------------------------------------


def save_steps(folder, tiny, *steps):
  """Saves a run's checkpoints of these steps; returns its state at step 0."""
  model, params, _ = tiny
  optimizer = optimization.create_optimizer(
      "adamw", b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.0, max_grad_norm=1.0,
      bias_correction=True)
  checkpointer = checkpointing.Checkpointer(
      folder / "checkpoints", keep=2, description={
          "config": dataclasses.asdict(model.config), "label_names": ["a", "b", "c"],
          "regression": False, "text_columns": ["text"]})
  (folder / "tokenizer").mkdir(exist_ok=True)
  state = training.replicate(training.create_state(params, optimizer, seed=0))
  for step in steps:
    checkpointer.save(state.replace(step=state.step + step))
  checkpointer.close()
  return state


@pytest.mark.parametrize("name", ["a[1]", "a\\b", "**", "link"])
def test_a_run_in_any_folder(tiny, tmp_path, name):
  """Orbax takes [ and * for a pattern, also at the end of a symbolic link."""
  folder = tmp_path / name
  if name == "link":
    (tmp_path / "[x]").mkdir()
    folder.symlink_to(tmp_path / "[x]")
  folder.mkdir(exist_ok=True)
  state = save_steps(folder, tiny, 3)
  assert_same(load(folder, *tiny[::2])[0], tiny[1])
  checkpointer = checkpointing.Checkpointer(folder / "checkpoints", {})
  assert int(checkpointer.restore(state).step) == 3
  checkpointer.close()
  shutil.rmtree(folder.resolve() / "checkpoints" / "3" / "optimizer")
  checkpointer = checkpointing.Checkpointer(folder / "checkpoints", {})
  with pytest.raises(UserError) as error:
    checkpointer.restore(state)
  assert str(error.value).startswith(f"{folder}/checkpoints/3 is damaged: ")
  checkpointer.close()


def test_the_weights_of_another_run_are_checked(tiny, tmp_path):
  """One bit of a checkpoint that init_checkpoint names; the one before it is not taken unasked."""
  save_steps(tmp_path, tiny, 3, 6)
  for file in (tmp_path / "checkpoints" / "6" / "params").rglob("d/*"):
    content = bytearray(file.read_bytes())
    content[len(content) // 10] ^= 1  # of an array; the ends have indices that are read no longer
    file.write_bytes(content)
  with pytest.raises(UserError, match="6 is damaged: .*; the one before it is .*checkpoints/3$"):
    load(tmp_path, *tiny[::2])
  assert_same(load(tmp_path / "checkpoints" / "3", *tiny[::2])[0], tiny[1])
  checksums = tmp_path / "checkpoints" / "3" / "checksums" / "metadata"
  right = json.loads(checksums.read_text())
  name = next(name for name in right["arrays"] if name.startswith("params/"))
  right["arrays"][name][-1] = "00000000"
  checksums.write_text(json.dumps(right))
  with pytest.raises(UserError, match=f"3 is damaged: the checksum of {name} differs"):
    load(tmp_path / "checkpoints" / "3", *tiny[::2])


def test_the_description_of_a_checkpoint_is_checked(tiny, tmp_path):
  save_steps(tmp_path, tiny, 3)
  file = tmp_path / "checkpoints" / "3" / "model" / "metadata"
  right = json.loads(file.read_text())
  for changes, message in (({"config": []}, "config must be a dict"),
                           ({"label_names": "ab"}, "label_names must be a list of names"),
                           ({"regression": 1}, "regression must be a bool"),
                           ({"config": right["config"] | {"vocab_size": 10**12}}, "bytes cannot")):
    file.write_text(json.dumps(right | changes))
    with pytest.raises(UserError, match=message):
      checkpoint_utils.find_checkpoint(str(tmp_path))


def test_a_run_can_be_continued_from(tiny, tmp_path, capsys):
  """An unfinished run's latest checkpoint, and one of its steps."""
  model, params, batch = tiny
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(UserError, match="holds a run that has saved no checkpoint yet"):
    checkpoint_utils.find_checkpoint(str(tmp_path))
  save_steps(tmp_path, tiny, 9, 10)
  for name in (tmp_path, tmp_path / "checkpoints" / "9"):
    loaded, report = load(name, model, batch)
    assert_same(loaded, params)
    assert not report.initialized
    checkpoint = checkpoint_utils.find_checkpoint(str(name))
    assert checkpoint.label_names == ("a", "b", "c")
    assert checkpoint.tokenizer == str(tmp_path / "tokenizer")
  capsys.readouterr()
  assert checkpoint_utils.find_checkpoint(str(tmp_path)).path.endswith("10")
  assert capsys.readouterr().out == (f"warning: the run in {tmp_path} is not finished; its newest "
                                     "checkpoint is taken, of step 10\n")


def test_only_the_fresh_parameters_are_drawn(tiny, folder):
  """They are those that the whole initializer draws, to the last bit."""
  model, _, batch = tiny
  fresh = jax.jit(model.init)(jax.random.key(5), batch)["params"]
  asked = []

  def draw(names):
    asked.extend(names)
    return experiment.draw_params(model, 5, names)

  checkpoint = checkpoint_utils.find_checkpoint(str(folder))
  some, report = checkpoint_utils.load_params(
      checkpoint, modeling.parameter_shapes(model), reinitialize=("classifier/",), draw=draw)
  assert sorted(asked) == ["classifier/bias", "classifier/kernel"]
  whole, same_report = checkpoint_utils.load_params(checkpoint, fresh,
                                                    reinitialize=("classifier/",))
  assert report == same_report
  assert_same(some, whole)
  assert_same(experiment.random_params(model, 5), fresh)
