"""The script from its flags to its files, on a tiny BERT and text with something to learn."""

import dataclasses
import functools
import json
import re
import subprocess
import sys
import types

from conftest import GOLDEN, init_params, ROOT, run_script_in_process, WORDS
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

import checkpoint_utils
from configs.pretraining import get_config
import experiment
import losses
import modeling
import optimization
from pretraining import batches, corpus, masking, tfrecords
import run_classifier
import run_pretraining
from support.errors import UserError
import training

TINY = ("--config.model.hidden_size=32", "--config.model.num_hidden_layers=1",
        "--config.model.num_attention_heads=2", "--config.model.intermediate_size=64",
        "--config.model.max_position_embeddings=32", "--config.phases=((1.0, 24, 16),)",
        "--config.model.initializer_range=0.1", "--config.model.hidden_dropout_prob=0.0",
        "--config.eval_batch_size=16", "--config.log_every_steps=25", "--config.eval_steps=50",
        "--config.learning_rate=0.01", "--config.num_train_steps=200",
        "--config.num_warmup_steps=6", "--config.eval_fraction=0.1")

run = functools.partial(run_script_in_process, run_pretraining, "pretraining")


def write_text(file, documents=120, seed=0):
  """Sentences "w x y z": each word but the first follows from the one before it."""
  rng = np.random.default_rng(seed)
  words = WORDS[5:29]
  lines = []
  for _ in range(documents):
    for _ in range(rng.integers(2, 7)):
      start = rng.integers(len(words))
      lines.append(" ".join(words[(start + i) % len(words)] for i in range(rng.integers(3, 9))))
    lines.append("")
  file.write_text("\n".join(lines) + "\n")
  return file


def unigram_entropy(file):
  """Nats a word."""
  _, counts = np.unique(file.read_text().split(), return_counts=True)
  shares = counts / counts.sum()
  return -(shares * np.log(shares)).sum()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, vocab_dir):
  """A finished run: (its folder, its flags, its text)."""
  base = tmp_path_factory.mktemp("pretraining")
  text = write_text(base / "text.txt")
  arguments = (*TINY, f"--config.tokenizer={vocab_dir}", f"--config.train_files={base}/*.txt",
               f"--output_dir={base / 'out'}")
  run(*arguments)
  return base / "out", arguments, text


def read_json(file):
  return json.loads(file.read_text())


# --- A run ------------------------------------------------------------------------------------


def test_a_run_leaves_everything_behind(finished):
  folder, _, _ = finished
  names = {path.name for path in folder.iterdir()}
  assert names >= {"config.json", "metrics.jsonl", "curves.png", "checkpoints", "model",
                   "eval_results.txt", "eval_results.json", "summary.json", "tokenizer",
                   "report.html"}
  results = read_json(folder / "eval_results.json")
  assert set(results) == {f"eval_{name}" for name in (  # the original's five
      "loss", "masked_lm_loss", "masked_lm_accuracy", "next_sentence_loss",
      "next_sentence_accuracy")}
  assert results["eval_loss"] == results["eval_masked_lm_loss"] + results["eval_next_sentence_loss"]
  assert f"eval_masked_lm_loss = {results['eval_masked_lm_loss']:.6f}\n" in (
      folder / "eval_results.txt").read_text()
  summary = read_json(folder / "summary.json")
  assert summary["steps"] == 200
  assert summary["dev_scores"] == results
  records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  scored = [r for r in records if "eval_masked_lm_loss" in r]
  assert [r["step"] for r in scored] == [50, 100, 150, 200]
  assert summary["best_step"] == min(scored, key=lambda r: r["eval_masked_lm_loss"])["step"]
  assert scored[-1] == results | {"step": 200}  # one name for a figure, wherever it stands
  assert [r["step"] for r in records if "masked_lm_loss" in r] == [1, *range(25, 201, 25)]
  assert not list(folder.rglob("*.tmp"))


def test_it_learns_more_than_how_frequent_words_are(finished):
  """The masked-LM loss on held-out text falls below the unigram entropy of the text."""
  folder, _, text = finished
  results = read_json(folder / "eval_results.json")
  assert results["eval_masked_lm_loss"] < 0.8 * unigram_entropy(text)


def test_weights_are_random_unless_asked_for(finished):
  """The first loss is that of knowing nothing: ln(vocabulary) + ln 2."""
  folder, _, _ = finished
  first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
  np.testing.assert_allclose(first["loss"], np.log(len(WORDS)) + np.log(2), atol=0.5)
  assert read_json(folder / "config.json")["config"]["init_checkpoint"] == ""


def test_resumed_equals_uninterrupted_bit_for_bit(finished, tmp_path, monkeypatch, capsys):
  folder, arguments, _ = finished
  arguments = (*arguments[:-1], f"--output_dir={tmp_path / 'out'}",
               "--config.save_checkpoints_steps=50")
  step, calls = batches.train_rows, []

  def die(phases, seed, number):
    calls.append(number)
    if number == 120:
      raise KeyboardInterrupt
    return step(phases, seed, number)

  monkeypatch.setattr(batches, "train_rows", die)
  with pytest.raises(KeyboardInterrupt):
    run(*arguments)
  calls.clear()
  monkeypatch.setattr(batches, "train_rows",
                      lambda *a: calls.append(a[2]) or step(*a))
  run(*arguments)
  assert calls == list(range(100, 200))  # nothing is skipped through
  assert "continuing after step 100" in capsys.readouterr().out
  for name in ("model/model.safetensors", "eval_results.json"):
    assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_finished_run_is_evaluated_again_without_its_flags(finished, capsys):
  folder, arguments, _ = finished
  before = (folder / "eval_results.json").read_bytes()
  (folder / "eval_results.json").unlink()
  run("--config.do_train=False", f"--output_dir={folder}")
  assert (folder / "eval_results.json").read_bytes() == before
  run(*arguments)
  assert "this run is finished: nothing to train" in capsys.readouterr().out
  with pytest.raises(UserError, match="masked_lm_prob is 0.15 there and 0.2 here"):
    run(*arguments, "--config.masked_lm_prob=0.2")


def test_the_result_is_a_huggingface_model_with_the_same_logits(finished):
  torch = pytest.importorskip("torch", reason="parity with PyTorch needs torch")
  import transformers
  folder, _, _ = finished
  twin, loading = transformers.BertForPreTraining.from_pretrained(
      folder / "model", output_loading_info=True)
  assert not loading["missing_keys"]
  assert not loading["unexpected_keys"]
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
  text = tokenizer("the film is [MASK] .", "it was bad", return_tensors="pt")
  with torch.no_grad():
    expected = twin.eval()(**text)
  checkpoint = checkpoint_utils.find_checkpoint(str(folder))
  model = modeling.BertForPreTraining(checkpoint.config)
  ids = text["input_ids"].numpy().astype(np.int32)
  batch = {"input_ids": ids, "token_type_ids": text["token_type_ids"].numpy(),
           "position_ids": np.arange(ids.shape[1])[None], "sequence_ids": np.ones_like(ids),
           "cls_positions": np.zeros(1, np.int32), "masked_lm_positions": np.arange(ids.shape[1])}
  fresh = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
  params, report = checkpoint_utils.load_params(checkpoint, fresh)
  assert not report.initialized
  masked_lm, next_sentence = model.apply({"params": params}, batch)
  np.testing.assert_allclose(masked_lm, expected.prediction_logits[0], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(next_sentence, expected.seq_relationship_logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("where", ["", "checkpoints/200"])
def test_the_result_is_fine_tuned(finished, tmp_path, capsys, where):
  folder, _, _ = finished
  for split in ("train", "dev"):
    (tmp_path / f"{split}.tsv").write_text(
        "text\tlabel\n" + "the film is good\tyes\nthe plot is bad\tno\n" * 8)
  run_script_in_process(
      run_classifier, "classifier", f"--config.init_checkpoint={folder / where}",
      f"--config.dataset_path={tmp_path}", "--config.max_seq_length=16",
      "--config.train_batch_size=8", "--config.eval_batch_size=8", f"--output_dir={tmp_path / 'o'}")
  out = capsys.readouterr().out
  assert "freshly initialized (classifier/bias, classifier/kernel)" in out
  assert "7 ignored (masked_lm/bias" in out


# --- Recipes ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Sharding info not provided")  # how the test reads them back
def test_phases_are_one_run_under_one_schedule(finished, tmp_path):
  """The second phase starts with the first one's optimizer, and only its rows differ."""
  _, arguments, _ = finished
  changes = ("--config.phases=((0.5, 24, 16), (0.5, 32, 8))", "--config.num_train_steps=8",
             "--config.num_warmup_steps=2", "--config.log_every_steps=1",
             "--config.save_checkpoints_steps=1", "--config.keep_checkpoints=8",
             "--config.eval_steps=4", f"--output_dir={tmp_path / 'out'}")
  run(*arguments[:-1], *changes)
  records = [json.loads(line) for line in
             (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
  rates = [r["learning_rate"] for r in records if "learning_rate" in r]
  schedule = optimization.create_schedule("joined", 0.01, 8, 2)
  np.testing.assert_allclose(rates, [float(schedule(t)) for t in range(8)], rtol=1e-6)
  assert [r["examples_per_step"] for r in records if "examples_per_step" in r] == [16] * 4 + [8] * 4
  before, after = (optimizer_leaves(tmp_path / "out", step) for step in (4, 5))
  counts = [name for name in after if "count" in name]
  assert counts
  assert all(int(after[name]) == 5 for name in counts)  # bias correction and schedule count on
  moments = [name for name in after if "mu" in name]
  # Of the first moment, nine tenths stay and a tenth of a gradient of norm 1 at most is new.
  assert norm([0.9 * before[name] for name in moments]) > 0.15
  assert norm([after[name] - 0.9 * before[name] for name in moments]) < 0.1001
  report = (tmp_path / "out" / "report.html").read_text()
  for title in ("Masked LM loss", "Masked LM accuracy", "Next sentence loss",
                "Next sentence accuracy", "Learning rate", "Gradient norm"):
    figure = report[report.index(f"<figcaption>{title}"):]
    assert ">phase 1</text>" in figure[:figure.index("</figure>")], title
    assert ">phase 2</text>" in figure[:figure.index("</figure>")], title
  assert re.search(r">5 to 8</td><td[^>]*>32</td><td[^>]*>8</td>", report)


def optimizer_leaves(folder, step):
  import orbax.checkpoint as ocp
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.restore(folder / "checkpoints" / str(step) / "optimizer")["opt_state"]
  return {jax.tree_util.keystr(path): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def norm(leaves):
  return np.sqrt(sum(np.sum(np.square(leaf)) for leaf in leaves))


def test_the_time_left_counts_the_tokens_of_each_phase():
  phases = [batches.Phase(0, 10, 4, types.SimpleNamespace(max_seq_length=16)),
            batches.Phase(10, 30, 2, types.SimpleNamespace(max_seq_length=64))]
  # A step of the second phase has twice the tokens of one of the first.
  for step, left in ((1, 9 + 2 * 20), (10, 2 * 20), (11, 19), (30, 0)):
    assert run_pretraining.steps_left(phases, step) == left


def test_rounding_leaves_no_step_out(tmp_path):
  import configs.pretraining
  config = configs.pretraining.get_config("bert-tiny")
  config.phases = ((0.3333333, 24, 16),) * 3
  config.num_train_steps = 10_000_000
  phases = run_pretraining.plan_phases(experiment.Run(tmp_path, config, False))
  assert [p.first_step for p in phases] == [0, *(p.last_step for p in phases[:-1])]
  assert phases[-1].last_step == 10_000_000


def test_one_phase_is_two_plain_knobs_and_a_warm_up_may_be_a_share(tmp_path):
  import configs.pretraining
  config = configs.pretraining.get_config("bert-tiny")
  config.num_train_steps, config.num_warmup_steps, config.train_files = 1009, 0.1, "x"
  assert run_pretraining.warmup_steps(config) == 100
  config.num_warmup_steps = 7.0
  assert run_pretraining.warmup_steps(config) == 7
  for plain, length, batch_size in (({"max_seq_length": 64}, 64, 256),
                                    ({"train_batch_size": 32}, 128, 32),
                                    ({"max_seq_length": 16, "train_batch_size": 8}, 16, 8)):
    config.update({"max_seq_length": None, "train_batch_size": None} | plain)
    run_pretraining.check_knobs(config, plain)
    assert run_pretraining.plan_phases(experiment.Run(tmp_path, config, False)) == [
        (0, 1009, length, batch_size)]
  for given, phases in (({"phases"}, config.phases), (set(), ((1.0, 16, 8),))):
    config.phases = phases
    with pytest.raises(UserError, match="phases .* and max_seq_length 16 are both given; max_"):
      run_pretraining.check_knobs(config, given)


def test_a_finished_run_fits_any_number_of_devices(tmp_path):
  import configs.pretraining
  config = configs.pretraining.get_config("bert-tiny")
  config.phases = ((1.0, 24, 6),)  # there are 4
  with pytest.raises(UserError, match="6 is not a positive multiple of 4 devices"):
    run_pretraining.plan_phases(experiment.Run(tmp_path, config, finished=False))
  assert run_pretraining.plan_phases(experiment.Run(tmp_path, config, finished=True))


def test_the_heads_that_have_no_task_stay_as_they_are(finished, tmp_path):
  """Without a next-sentence task weight decay would wear the pooler away."""
  _, arguments, _ = finished
  run(*arguments[:-1], "--config.objective=mlm", "--config.optimizer=lamb",
      "--config.num_train_steps=4", "--config.num_warmup_steps=1", "--config.eval_steps=0",
      "--config.save_checkpoints_steps=1", "--config.keep_checkpoints=4",
      f"--output_dir={tmp_path / 'out'}")
  first, last = (checkpoint_utils.find_checkpoint(str(tmp_path / "out" / "checkpoints" / step)
                                                  ).read() for step in "14")
  same = {name for name in first if np.array_equal(first[name], last[name])}
  assert same == {"bert/pooler/dense/kernel", "bert/pooler/dense/bias", "next_sentence/kernel",
                  "next_sentence/bias"}


@pytest.mark.parametrize("changes", [
    ("--config.objective=mlm_sop", "--config.do_whole_word_mask=True"),
    ("--config.objective=mlm", "--config.optimizer=lamb", "--config.remat=True"),
    ("--config.adam_bias_correction=False", "--config.learning_rate_schedule=original",
     "--config.gradient_accumulation_steps=2", "--config.dtype=bfloat16"),
])
def test_recipes(finished, tmp_path, changes):
  _, arguments, _ = finished
  run(*arguments[:-1], *changes, "--config.num_train_steps=10", "--config.num_warmup_steps=2",
      "--config.eval_steps=0", f"--output_dir={tmp_path / 'out'}")
  results = read_json(tmp_path / "out" / "eval_results.json")
  assert results["eval_masked_lm_loss"] < np.log(len(WORDS)) + 0.5
  if "--config.objective=mlm" in changes:
    assert set(results) == {"eval_loss", "eval_masked_lm_loss", "eval_masked_lm_accuracy"}
    assert results["eval_loss"] == results["eval_masked_lm_loss"]


def test_metrics_are_sums_over_what_has_weight():
  """`metric_fn` of the original: weighted losses, and how often the argmax is the label."""
  rng = np.random.default_rng(0)
  logits, pairs = rng.normal(size=(50, 9)), rng.normal(size=(20, 2))
  batch = {"masked_lm_ids": np.where(rng.random(50) < 0.5, logits.argmax(-1),
                                     rng.integers(0, 9, 50)),
           "masked_lm_weights": (rng.random(50) < 0.7).astype(np.float32),
           "next_sentence_labels": rng.integers(0, 2, 20),
           "next_sentence_weights": (rng.random(20) < 0.7).astype(np.float32)}
  sums = losses.metric_sums(jnp.asarray(logits), jnp.asarray(pairs),
                                {name: jnp.asarray(value) for name, value in batch.items()})
  for name, values, labels in (("masked_lm", logits, "ids"), ("next_sentence", pairs, "labels")):
    labels, weights = batch[f"{name}_{labels}"], batch[f"{name}_weights"]
    nll = -scipy.special.log_softmax(values, axis=-1)[np.arange(len(labels)), labels]
    np.testing.assert_allclose(sums[f"{name}_loss"], (nll @ weights, weights.sum()), rtol=1e-5)
    np.testing.assert_allclose(sums[f"{name}_accuracy"],
                               ((values.argmax(-1) == labels) @ weights, weights.sum()))


def test_the_loss_is_the_global_mean_with_unequal_masks_per_device():
  """Devices and micro-batches with 1, 2, 3 and 6 predictions give the gradient of one batch."""
  config = modeling.BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,
                               num_attention_heads=2, intermediate_size=32,
                               max_position_embeddings=16, hidden_dropout_prob=0.0,
                               attention_probs_dropout_prob=0.0)
  model = modeling.BertForPreTraining(config)
  rng = np.random.default_rng(0)
  counts = np.array([1, 2, 3, 6])
  rows = {"input_ids": rng.integers(5, 40, (4, 12)).astype(np.int32),
          "token_type_ids": np.zeros((4, 12), np.int32),
          "sequence_ids": np.ones((4, 12), np.int32),
          "masked_lm_positions": np.tile(np.arange(1, 7, dtype=np.int32), (4, 1)),
          "masked_lm_ids": rng.integers(5, 40, (4, 6)).astype(np.int32),
          "masked_lm_weights": (np.arange(6) < counts[:, None]).astype(np.float32),
          "next_sentence_labels": np.array([0, 1, 1, 0], np.int32),
          "next_sentence_weights": np.array([1, 1, 0, 1], np.float32)}
  params = init_params(model, jax.tree.map(lambda x: x[0, 0],
                                           batches.pack_rows(rows, 1, 1,
                                                                          pack=False)))
  results = []
  for devices, micro_batches in ((1, 1), (4, 1), (2, 2)):
    step = jax.pmap(functools.partial(
        training.train_step, optimizer=optax.sgd(1.0), weigh=losses.pretraining_weights,
        loss_fn=functools.partial(losses.pretraining_loss, model=model)),
        axis_name=training.DEVICES, in_axes=(None, 0, None), out_axes=(None, None),
        devices=jax.local_devices()[:devices])
    state = training.create_state(params, optax.sgd(1.0), seed=0)
    state, sums = step(state, batches.pack_rows(rows, devices, micro_batches, pack=False), 1.0)
    results.append(jax.device_get((state.params, sums)))
  for result in results[1:]:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
                 result, results[0])
  sums = results[0][1]
  assert sums["masked_lm_loss"][1] == 12
  assert sums["next_sentence_loss"][1] == 3
  np.testing.assert_allclose(
      sums["loss"][0], sums["masked_lm_loss"][0] / (12 + 1e-5) + sums["next_sentence_loss"][0] / 3,
      rtol=1e-6)


def test_training_goes_on_from_given_weights(finished, tmp_path, capsys):
  folder, arguments, _ = finished
  start = read_json(folder / "eval_results.json")["eval_masked_lm_loss"]
  run(*arguments[:-1], f"--config.init_checkpoint={folder}", "--config.num_train_steps=2",
      "--config.num_warmup_steps=2", "--config.learning_rate=0.0",
      f"--output_dir={tmp_path / 'out'}")
  assert "freshly initialized, 0 ignored" in capsys.readouterr().out.replace("0 freshly", "freshly")
  after = read_json(tmp_path / "out" / "eval_results.json")["eval_masked_lm_loss"]
  np.testing.assert_allclose(after, start, rtol=1e-5)


# --- TFRecords --------------------------------------------------------------------------------


def write_records(file, count, length=24, predictions=4, largest=35):  # WORDS
  rng = np.random.default_rng(count)
  examples = []
  for _ in range(count):
    ids = [2, *rng.integers(5, largest, length - 2).tolist(), 3]
    examples.append(tfrecords.encode_example({
        "input_ids": ids, "input_mask": [1] * length, "segment_ids": [0] * length,
        "masked_lm_positions": list(range(1, 1 + predictions)),
        "masked_lm_ids": ids[1:1 + predictions], "masked_lm_weights": [1.0] * predictions,
        "next_sentence_labels": [int(rng.integers(2))]}))
  tfrecords.write_records(file, examples)
  return file


def test_records_train_and_are_evaluated_on_others(finished, tmp_path):
  _, arguments, _ = finished
  write_records(tmp_path / "train.tfrecord", 40)
  write_records(tmp_path / "dev.tfrecord", 20)
  run(*arguments[:-2], f"--config.train_files={tmp_path}/train.tfrecord",
      f"--config.eval_files={tmp_path}/dev.tfrecord", "--config.num_train_steps=20",
      f"--output_dir={tmp_path / 'out'}")
  results = read_json(tmp_path / "out" / "eval_results.json")
  assert results["eval_masked_lm_loss"] < np.log(len(WORDS))  # the answer stands in the input


def test_a_run_without_evaluation(finished, tmp_path, capsys):
  file = write_records(tmp_path / "train.tfrecord", 40)
  arguments = (*finished[1][:-2], f"--config.train_files={file}", "--config.eval_fraction=0.0",
               "--config.num_train_steps=10", f"--output_dir={tmp_path / 'out'}")
  for _ in range(2):  # the second finds it finished
    run(*arguments)
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()
    assert not (tmp_path / "out" / "eval_results.txt").exists()
  assert "this run is finished" in capsys.readouterr().out


def test_the_originals_records_train(shared, tmp_path):
  """Written by google-research/bert's own script."""
  (tmp_path / "vocab").mkdir()
  (tmp_path / "vocab" / "vocab.txt").write_bytes((shared / "golden" / "vocab.txt").read_bytes())
  for name in ("bert", "bert_wwm"):
    (tmp_path / f"{name}.tfrecord").write_bytes(
        (shared / "golden" / "pretraining_data" / f"{name}.tfrecord").read_bytes())
  run(*TINY, "--config.model.max_position_embeddings=128", "--config.phases=((1.0, 128, 8),)",
      "--config.num_train_steps=6", "--config.num_warmup_steps=2", "--config.max_eval_examples=16",
      "--config.eval_steps=0", f"--config.tokenizer={tmp_path}/vocab",
      f"--config.train_files={tmp_path}/bert.tfrecord",
      f"--config.eval_files={tmp_path}/bert_wwm.tfrecord", f"--output_dir={tmp_path / 'out'}")
  results = read_json(tmp_path / "out" / "eval_results.json")
  assert results["eval_masked_lm_loss"] < np.log(30522) + 0.1


# --- Bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("changes,message", [
    (["--config.train_files="], "nothing to train on: give --config.train_files="),
    (["--config.train_files=/no/*.txt"], "train_files.*no file matches '/no/\\*.txt'"),
    (["--config.phases=((1.0, 24, 6),)"], "phases: train_batch_size 6 is not a positive multiple"),
    (["--config.phases=((1.0, 24, 4096),)"], "train_files make .* examples of length 24 and not "
                                             "one batch of 4096"),
    (["--config.phases=((0.5, 24, 16),)"], "whose shares make 0.5"),
    (["--config.phases=(1.0, 24, 16)"], "phases must be .share of the steps, max_seq_l"),
    (["--config.phases=((1.0, 64, 16),)"], "max_seq_length 64 is over the model"),
    (["--config.phases=(('1.0', 24, 16),)"], "phases must be .share of the steps"),
    (["--config.phases=((1.0, 3, 16),)"], "phases: max_seq_length must be at least 5, not 3"),
    (["--config.objective=nsp"], "objective 'nsp' is not one of mlm_nsp, mlm_sop, mlm"),
    (["--config.optimizer=sgd"], "optimizer 'sgd' is not one of adamw, lamb"),
    (["--config.size=huge"], "size 'huge' is not one of bert-tiny,"),
    (["--config.train_batch_size=16"], "phases ..1.0, 24, 16.,. and train_batch_size 16 are both"),
    (["--config.num_warmup_steps=1.5"], "num_warmup_steps must be a whole number from 0, or a sha"),
    (["--config.num_warmup_steps=270"], "num_warmup_steps 270 is over num_train_steps 200"),
    (["--config.random_token_prob=0.3"], "mask_token_prob 0.8 . random_token_prob 0.3 is over 1"),
    (["--config.masked_lm_prob=0.0"], "masked_lm_prob must be a share above 0, up to 1, not 0.0"),
    (["--config.max_predictions_per_seq=0"], "max_predictions_per_seq must be at least 1, not 0"),
    (["--config.eval_batch_size=6"], "eval_batch_size 6 is not a positive multiple of 4 devices"),
    (["--config.input_format=pdf"], "input_format 'pdf' is not one of auto"),
    (["--config.model.vocab_size=30"], "the tokenizer has 35 entries and the model's voc.* 30;"),
    (["--config.tokenizer=/no/tokenizer"], "tokenizer"),
])
def test_bad_input_leaves_nothing_behind(finished, tmp_path, changes, message):
  with pytest.raises(UserError, match=message) as error:
    run(*finished[1][:-1], *changes, f"--output_dir={tmp_path / 'out'}")
  assert "\n" not in str(error.value)
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("records,changes,message", [
    ({}, [], "nothing can be held out; give --config.eval_files=FILES, or --config.eval_frac"),
    ({"length": 20}, ["--config.eval_fraction=0"],
     "a.tfrecord holds records of length 20 and config.phases ask for 24; .*max_seq_length=20 and"),
    ({"largest": 99}, ["--config.eval_fraction=0"],
     "a.tfrecord: record 1 has .* in .*; it must be from 0 to 34, .*; was it another one?"),
    ({}, ["--config.eval_fraction=0", "--config.objective=mlm_sop"],
     "objective must be mlm_nsp or mlm, not mlm_sop"),
    ({}, ["--config.eval_files=SAME"], "a.tfrecord is among both train_files and eval_files"),
])
def test_unfitting_records(finished, tmp_path, records, changes, message):
  file = write_records(tmp_path / "a.tfrecord", 30, **records)
  changes = [change.replace("SAME", str(file)) for change in changes]
  with pytest.raises(UserError, match=message):
    run(*finished[1][:-1], f"--config.train_files={file}", *changes,
        f"--output_dir={tmp_path / 'out'}")
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("lines", "message"), [
    ("the film is good\n" * 40, "the training text is one document"),
    ("the film is good\n\n" * 40, "each training example is one sentence"),
    ("the film is good\nit was bad\n\n" * 40, None)])
def test_text_without_pairs(tmp_path, tokenizer, capsys, lines, message):
  (tmp_path / "a.txt").write_text(lines)
  config = get_config()
  config.phases, config.eval_fraction = ((1.0, 8, 4),), 0.0
  config.train_files = str(tmp_path / "a.txt")
  plan = run_pretraining.PhasePlan(0, 10, 8, 4)
  for objective in ("mlm_nsp", "mlm"):
    config.objective = objective
    run_pretraining.read_examples(config, [plan], tokenizer)
    warned = "warning:" in (out := capsys.readouterr().out)
    assert warned == (message is not None and objective == "mlm_nsp")
    assert not warned or message in out


def test_records_whose_labels_are_all_1_and_one_segment(tmp_path, tokenizer, capsys):
  write_records(tmp_path / "a.tfrecord", 30)
  config = get_config()
  config.train_files, config.eval_fraction = str(tmp_path / "a.tfrecord"), 0.0
  plan = run_pretraining.PhasePlan(0, 10, 24, 4)
  examples = run_pretraining.read_examples(config, [plan], tokenizer)
  assert "warning:" not in capsys.readouterr().out
  one = modeling.BertConfig(vocab_size=35, hidden_size=8, num_hidden_layers=1,
                            num_attention_heads=1, intermediate_size=8, type_vocab_size=1)
  with pytest.raises(UserError, match="TFRecords have two segments, and the model's type_vocab"):
    run_pretraining.check_segments(one, examples)
  records = examples.train[0].examples._features
  lone = corpus.Records(("a",), "", {**records, "next_sentence_labels": np.ones(30, np.int32)})
  run_pretraining.make_examples(config, masking.vocabulary_of(tokenizer), lone, False, 0.0, 24)
  assert "warning: all next_sentence_labels are 1" in capsys.readouterr().out


def test_another_vocabulary_than_the_checkpoints(finished, tmp_path):
  (tmp_path / "vocab.txt").write_text("\n".join((*WORDS[:-1], "them")) + "\n")
  with pytest.raises(UserError, match="has another vocabulary than init_checkpoint"):
    run(*finished[1][:-1], f"--config.init_checkpoint={finished[0]}",
        f"--config.tokenizer={tmp_path}", f"--output_dir={tmp_path / 'out'}")


def test_a_checkpoint_without_a_tokenizer(tmp_path, finished):
  with pytest.raises(UserError, match="golden/bert_model.ckpt has no tokenizer; give --config.tok"):
    run(*finished[1][:-1], f"--config.init_checkpoint={GOLDEN}", "--config.tokenizer=",
        f"--output_dir={tmp_path / 'out'}")


def test_a_run_goes_on_only_with_what_it_began_with(finished, tmp_path):
  """Other text would hold out other documents, which may have been trained on."""
  text = write_text(tmp_path / "a.txt")
  arguments = (*finished[1][:-2], f"--config.train_files={text}", "--config.num_train_steps=6",
               f"--output_dir={tmp_path / 'out'}")
  run(*arguments)
  before = text.read_text()
  text.write_text("\n" + before)  # touched, but the same documents
  run(*arguments)
  text.write_text(before + "\none more\n")
  with pytest.raises(UserError, match="train_files hold something else than when the run"):
    run(*arguments)


def test_a_classifiers_folder_is_left_alone(finished, tmp_path):
  (tmp_path / "config.json").write_text('{"config": {"do_train": true}}')
  with pytest.raises(UserError, match="holds a run of run_classifier; choose another"):
    run(*finished[1][:-1], f"--output_dir={tmp_path}")


def test_nothing_to_evaluate_on(finished, tmp_path):
  with pytest.raises(UserError, match="nothing to evaluate on: give --config.eval_files"):
    run("--config.do_train=False", f"--config.init_checkpoint={finished[0]}",
        "--config.phases=((1.0, 24, 16),)", "--config.eval_fraction=0.0",
        f"--output_dir={tmp_path / 'out'}")


def test_from_the_shell(finished, tmp_path):
  """The documented command, with the name of a size; a mistake is one line on stderr."""
  command = (ROOT / "run_pretraining.py", f"--config={ROOT}/configs/pretraining.py:bert-2")
  done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
  assert done.returncode == 1
  assert done.stderr == (
      "error: configs/pretraining.py:bert-2 names no size of BERT; known: bert-tiny, bert-mini, "
      "bert-small, bert-medium, bert-base-uncased, bert-base-cased, bert-large-uncased, "
      "bert-large-cased\n")


def test_every_size_can_be_named():
  import configs.pretraining
  for name, (size, _) in configs.pretraining.MODELS.items():
    assert configs.pretraining.get_config(name).size == size
    assert size in modeling.SIZES
  assert dataclasses.asdict(checkpoint_utils.find_checkpoint(str(GOLDEN)).config)
