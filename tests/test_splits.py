"""A run's splits: which ones are read, what the classes are called, and in which order."""

import dataclasses

import datasets
import numpy as np
import pytest

import checkpoint_utils
from classification import sources, splits, tables, tasks
import configs.classifier
import data
import modeling
from support.errors import UserError


def config_of(**knobs):
  config = configs.classifier.get_config()
  config.update(knobs)
  return config


def model(*names):
  config = modeling.BertConfig(vocab_size=9)
  return checkpoint_utils.Checkpoint("MODEL", "huggingface", config, False, names, ("text",), "",
                                     dict)


def own_source(*there, one_file=False):
  return sources.LabelledSource("HERE", None, None, there, one_file)


# --- Splits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("knobs,there,wanted", [
    ({}, ("train", "validation"), {"train": True, "validation": True}),
    ({"do_predict": True}, ("train", "validation", "test"),
     {"train": True, "validation": True, "test": False}),
    ({"do_train": False, "eval_split": "test"}, ("test",), {"test": True}),
    ({"do_train": False, "eval_split": "test", "do_predict": True}, ("test",), {"test": True}),
    ({"train_split": "full", "eval_split": "DEV", "test_split": "extra", "do_predict": True},
     ("validation", "full", "extra"), {"full": True, "validation": True, "extra": False})])
def test_wanted_splits(knobs, there, wanted):
  """And whether their labels are used."""
  found = splits.wanted_splits(config_of(**knobs), own_source(*there))
  assert list(found.items()) == list(wanted.items())  # the columns are those of the first one


@pytest.mark.parametrize("knobs,there,message", [
    ({}, ("train", "test"), "HERE has no validation split; it has train, test "
                            r"\(--config.do_eval=False needs none, --config.eval_split=NAME takes"),
    ({"do_predict": True}, ("train", "validation"),
     "no test split; .*--config.do_predict=False needs none, --config.test_split=NAME takes anoth"),
    ({"train_split": "full"}, ("train", "validation"), "no full split; it has train, validation "
     ".*--config.do_train=False needs none, --config.train_split=NAME takes another"),
    ({"do_train": False, "do_eval": False}, ("test",), "nothing to do: ")])
def test_splits_that_are_not_there(knobs, there, message):
  with pytest.raises(UserError, match=message):
    splits.wanted_splits(config_of(**knobs), own_source(*there))


@pytest.mark.parametrize("knob,value,reason", [
    ("train_split", "full", "rte is trained on train"),
    ("eval_split", "test", "rte is evaluated on validation"),
    ("test_split", "validation", "rte has the test splits test"),
    ("text_delimiter", " ", "rte has the texts sentence1, sentence2")])
def test_glue_has_its_own_splits_and_texts(knob, value, reason):
  source = dataclasses.replace(own_source("train", "validation", "test"),
                               glue_task=tasks.glue_task("rte"))
  with pytest.raises(UserError, match=f"^{knob} is for your own data; {reason}$"):
    splits.wanted_splits(config_of(**{knob: value}), source)


@pytest.mark.parametrize("flags,cells,message", [
    ({}, [["a"], ["b"]], "column 'label' of it holds lists of classes, but a text of rte has one"),
    ({"label_type": "multi"}, ["a", "b"], "label_type is multi, but a text of rte has one label")])
def test_a_glue_task_has_one_label_a_text(flags, cells, message):
  source = dataclasses.replace(own_source("train"), glue_task=tasks.glue_task("rte"))
  table = tables.Table("it", datasets.Dataset.from_dict({"text": ["x", "y"], "label": cells}))
  with pytest.raises(UserError, match=message):
    splits.is_multi_label(config_of(**flags), source, tables.Layout(("text",), "label"),
                          {"train": table}, None)


def test_one_file_is_not_two_splits():
  """It is not trained on and scored."""
  source = own_source("train", "validation", "test", one_file=True)
  with pytest.raises(UserError, match="HERE is one file: it can be trained on alone .*do_eval"):
    splits.wanted_splits(config_of(), source)
  assert list(splits.wanted_splits(config_of(do_eval=False), source)) == ["train"]
  assert list(splits.wanted_splits(config_of(do_train=False, do_predict=True), source)) == [
      "validation", "test"]
  assert list(splits.wanted_splits(config_of(do_eval=False, train_split="all"), source)) == ["all"]


def test_digests():
  """Of what is trained on and scored: any other row, label or class name shows."""
  numbers = np.arange(4, dtype=np.int32)
  split = data.TokenizedSplit(numbers, numbers[:3], numbers[:2], numbers[:2], 0)

  def digests(names=("a", "b"), labelled=True, **changes):
    changed = splits.LabelledSplit(dataclasses.replace(split, **changes), labelled, [])
    task = tasks.own_task(("text",), names)
    return splits.RunData(task, names, {"test": changed}).digests()

  assert digests() == digests()
  assert list(digests()) == ["the rows of test"]
  assert not digests(labelled=False)
  different = [digests(), digests(("a", "c")), digests(labels=numbers[1:3]),
               digests(tokens=numbers + 1), digests(offsets=numbers[1:]),
               digests(first_lengths=numbers[1:3])]
  assert len({digest["the rows of test"] for digest in different}) == 6


# --- Classes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value,names", [
    ("", ()), (" a , b", ("a", "b")), ('"yes, always",no', ("yes, always", "no"))])
def test_names_in(value, names):
  assert splits.names_in("label_names", value) == names


@pytest.mark.parametrize("value,message", [
    ("a,b,a", "label_names 'a,b,a' names something twice"), ('"a', "must be names such as a,b"),
    (("a", "b"), "must be names such as a,b"), (5, "must be names such as a,b")])
def test_names_that_are_none(value, message):
  with pytest.raises(UserError, match=message):
    splits.names_in("label_names", value)


def inferred(values, config, checkpoint=None, class_names=()):
  feature = (datasets.ClassLabel(names=list(class_names)) if class_names else
             datasets.Value("string"))
  rows = datasets.Dataset.from_dict(
      {"text": ["a"] * len(values), "label": values},
      features=datasets.Features({"text": datasets.Value("string"), "label": feature}))
  table, split = tables.Table("it", rows), "train" if config.do_train else "validation"
  layout = tables.Layout(("text",), "label")
  return splits.infer_task(config, layout, {split: table}, {split: table.column("label")},
                           checkpoint).label_names


def test_a_class_label_names_all_classes_in_its_order():
  """Also one that no row has; to score, where they are the model's."""
  names = ("real", "fake", "never")
  assert inferred([0, 1, 0], config_of(), class_names=names) == names
  assert inferred([0, 1, 0], config_of(label_names="x,y"), class_names=names) == ("x", "y")
  scoring = config_of(do_train=False)
  assert inferred([0], scoring, model("fake", "never", "real"), names) == names
  assert inferred([0], scoring, model("spam", "ham"), names) == ("spam", "ham")


def test_inferred_classes():
  """Training's are in the model's order where they are the same, so that F1 stays the same one."""
  assert inferred(["b", "a"], config_of()) == ("a", "b")
  assert inferred(["b", "a"], config_of(), model("b", "a")) == ("b", "a")
  assert inferred(["b", "a"], config_of(), model("B", "A")) == ("b", "a")
  assert inferred(["b", "a"], config_of(), model("b", "c")) == ("a", "b")
  assert inferred(["a"], config_of(do_train=False), model("b", "a")) == ("b", "a")
  with pytest.raises(UserError, match="the only class is ' a'; there is nothing to tell apart"):
    inferred([" a"], config_of())
  with pytest.raises(UserError, match="MODEL does not say what its classes are called"):
    inferred(["a"], config_of(do_train=False), model())


@pytest.mark.parametrize("known,configured,order", [
    ((), "", ("negative", "positive")), ((), "positive,negative", ("positive", "negative")),
    (("positive", "negative"), "", ("positive", "negative")),
    (("POSITIVE", "Negative"), "", ("positive", "negative")),
    (("good", "bad"), "positive,negative", ("positive", "negative")),
    (("negative", "positive", "neutral"), "", ("negative", "positive"))])
def test_order_of_classes(known, configured, order):
  config = config_of(label_names=configured)
  assert splits.order_labels(config, tasks.glue_task("sst2"), model(*known)) == order


def test_order_of_classes_that_contradicts_the_model():
  with pytest.raises(UserError, match="label_names has another order than MODEL, whose outputs are "
                                      "'positive', 'negative'; leave the flag out"):
    splits.order_labels(config_of(label_names="negative,positive"), tasks.glue_task("sst2"),
                        model("positive", "negative"))


def test_capitals_that_tell_classes_apart():
  task = tasks.own_task(("text",), ("us", "US"))
  assert splits.order_labels(config_of(), task, model("US", "us")) == ("US", "us")
  assert splits.order_labels(config_of(), task, model("Us", "uS")) == ("us", "US")
  assert splits.same_names(("US", "us"), ("US", "us"))
  assert not splits.same_names(("US", "us"), ("us", "US"))
  assert splits.same_names(("NEG", "pos"), ("neg", "POS"))


@pytest.mark.parametrize("configured", ["", "negative,positive", "NEGATIVE,positive"])
def test_names_in_other_capitals_are_the_task_s(configured):
  """GLUE's SST-2 by a checkpoint with NEGATIVE and POSITIVE, whichever way they are written."""
  order = splits.order_labels(config_of(label_names=configured), tasks.glue_task("sst2"),
                              model("NEGATIVE", "POSITIVE"))
  assert order == ("negative", "positive")
