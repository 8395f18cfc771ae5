"""The knobs of both configs: one word for one thing, a rule for every number."""

import dataclasses
import math
import re
import typing

from conftest import ROOT
import ml_collections
import pytest

from configs import classifier, pretraining, rules
import modeling
from support import command_line
from support.errors import UserError

CLASSIFIER, PRETRAINING = classifier.get_config(), pretraining.get_config()
SHARED = sorted(set(CLASSIFIER.keys()) & set(PRETRAINING.keys()) - {"model"})
# Shared knobs whose defaults differ, and why.
OTHER_DEFAULTS = {
    "learning_rate": "the paper's for each of the two",
    "eval_batch_size": "a pre-training batch is far larger",
    **dict.fromkeys(("max_seq_length", "train_batch_size"), "pre-training has them by phase")}
# Shared knobs whose comments differ, and why.
OTHER_COMMENTS = {
    "cache_dir": "a corpus is kept beside its files, a labelled table in the user's cache",
    **dict.fromkeys(("max_seq_length", "train_batch_size"), "pre-training has them by phase"),
    **{f"model.{name}": "size, and not bert-base-uncased, is what None falls back to"
       for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                    "intermediate_size")}}
# Numbers and tuples that rules.py leaves to somebody else, who needs more than the config.
OTHER_RULES = {"phases": "run_pretraining.plan_phases"}


def comments(name):
  """{knob: the comment above it} of a config file."""
  return {knob: comment for names, comment in
          command_line.explained_knobs(ROOT / "configs" / f"{name}.py") for knob in names}


def test_shared_knobs_are_the_same_knob():
  ours, theirs = comments("classifier"), comments("pretraining")
  assert len(SHARED) > 20
  for name in (*SHARED, *(f"model.{name}" for name in CLASSIFIER.model)):
    if name not in OTHER_COMMENTS:
      assert ours[name] == theirs[name], name
  for name in SHARED:
    assert CLASSIFIER.get_type(name) is PRETRAINING.get_type(name), name
    assert (CLASSIFIER[name] == PRETRAINING[name]) == (name not in OTHER_DEFAULTS), name
  assert set(OTHER_DEFAULTS) <= set(SHARED)
  for name in OTHER_COMMENTS:
    assert ours[name] != theirs[name], name


@pytest.mark.parametrize("name,config", [("classifier", CLASSIFIER), ("pretraining", PRETRAINING)])
def test_every_knob_has_a_comment(name, config):
  for knob in (*config.keys(), *(f"model.{knob}" for knob in config.model)):
    assert comments(name)[knob], knob


@pytest.mark.parametrize("config", [CLASSIFIER, PRETRAINING])
def test_the_architectures_knobs_are_bert_configs(config):
  fields = {field.name: (typing.get_args(field.type) or (field.type,))[0]
            for field in dataclasses.fields(modeling.BertConfig)}
  assert {name: config.model.get_type(name) for name in config.model} == fields
  assert all(value is None for value in config.model.values())


def test_every_number_has_a_rule_and_every_rule_a_knob():
  for config in (CLASSIFIER, PRETRAINING):
    for name in config:
      if config.get_type(name) in (int, float, tuple) and name not in OTHER_RULES:
        assert rules.RULES[name].meaning, name
    rules.check_values(config)
  knobs = set(CLASSIFIER.keys()) | set(PRETRAINING.keys())
  assert set(rules.RULES) <= knobs
  assert set(OTHER_RULES) <= knobs
  assert rules.FREE_KEYS
  assert set(rules.FREE_KEYS) <= knobs
  for name in rules.FREE_KEYS:  # what the weights depend on is no such thing
    assert not re.search("train_batch|seed|rate|adam|decay|dropout|model|files", name), name


def test_choices_are_those_of_the_model():
  assert rules.RULES["size"].choices == tuple(modeling.SIZES)
  for name in ("classifier", "pretraining"):
    named = re.sub(r"\(.*?\)", "", comments(name)["model.hidden_act"].split(".")[0])
    assert set(re.findall(r"\w+", named)) - {"Activation", "or"} == set(modeling.ACTIVATIONS)
  sizes = comments("pretraining")["size"].split(".")[0]
  assert re.findall(r"bert-\w+", sizes) == list(modeling.SIZES)


@pytest.mark.parametrize("name,good,bad,message", [
    ("log_every_steps", [0, 10**12], [-1], "must be at least 0, not -1"),
    ("learning_rate", [0.0, 5e-5, 1e6], [-1e-9, math.nan, math.inf],
     "must be a finite number from 0, not -1e-09"),
    ("warmup_proportion", [0.0, 1.0], [-0.1, 1.1, math.nan, -math.inf],
     "must be a share from 0 to 1, not -0.1"),
    ("adam_b1", [0.0, 0.999999], [1.0, 0.999999999, -0.1, math.nan],
     "must be a share from 0, below 1, not 1.0"),
    ("num_warmup_steps", [0.0, 0.1, 1.0, 10_000.0], [1.5, -1.0, math.nan, math.inf],
     "must be a whole number from 0, or a share below 1, not 1.5"),
    ("adam_eps", [1e-30, 1.0], [0.0, 1e-60, math.inf, math.nan],
     "must be a finite number above 0 in float32, not 0.0"),
    ("masked_lm_prob", [1e-6, 1.0], [0.0, 1.01, math.nan],
     "must be a share above 0, up to 1, not 0.0"),
    ("max_predictions_per_seq", [None, 1], [0], "must be at least 1, not 0"),
    ("seed", [0, (1 << 32) - 1], [1 << 32, -1], "must be from 0 to 4294967295, not 4294967296"),
    ("optimizer", ["adamw", "lamb"], ["sgd", ""], "'sgd' is not one of adamw, lamb")])
def test_values(name, good, bad, message):
  for value in good:
    rules.check_values(ml_collections.ConfigDict({name: value}))
  for value in bad:
    with pytest.raises(UserError, match=f"^{name} ") as error:
      rules.check_values(ml_collections.ConfigDict({name: value}))
    assert value is not bad[0] or str(error.value) == f"{name} {message}"
