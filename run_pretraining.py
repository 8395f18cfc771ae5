r"""Pre-trains BERT on text or on the original's TFRecords, and evaluates it on held-out text.

    python3 run_pretraining.py --config=configs/pretraining.py:bert-base-uncased \
        --config.train_files='/data/*.txt' --output_dir=OUT

Every knob is in configs/pretraining.py and can be set as --config.name=value. The same command
continues an interrupted run; --config.do_train=False --output_dir=OUT evaluates a finished one.
The result, OUT/model, is a HuggingFace folder and an init_checkpoint for run_classifier.py.
"""

if __name__ == "__main__":
  from support import stopping

  stopping.catch_signals()  # first: the imports below take seconds

from collections.abc import Callable, Collection, Mapping
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

import checkpoint_utils
from configs import pretraining as defaults
from configs import rules
import data
import experiment
import losses
import modeling
import optimization
from pretraining import batches, corpus, masking
from support import devices, hosts, report, reporting, run_folder, run_page
from support.command_line import run_script
from support.errors import UserError
from support.reporting import say
from tokenization import Tokenizer
import training

SCRIPT = "run_pretraining"
# Headings of the report's curves.
TITLES = {f"{name}_{figure}": f"{title} {figure}" for figure in ("loss", "accuracy")
          for name, title in (("masked_lm", "Masked LM"), ("next_sentence", "Next sentence"))}


@dataclasses.dataclass(frozen=True)
class Pretrainer:
  """The model and its parameters."""

  model: modeling.BertForPreTraining
  params: Mapping[str, Any]


class PhasePlan(NamedTuple):
  """An entry of config.phases, in steps."""

  first_step: int
  last_step: int  # the one after its last
  max_seq_length: int
  batch_size: int


class PretrainingExamples(NamedTuple):
  """The data of a run: each phase's training examples and its held-out ones."""

  train: list[batches.Phase]  # empty where do_train is off
  held_out: list[batches.ExampleSource]  # empty where nothing is to be evaluated
  digests: dict[str, str]  # of what train_files and eval_files hold


def main() -> None:
  asked = experiment.parsed_flags()
  hosts.start(asked.config)
  run = experiment.open_run(asked, SCRIPT, asked.config.size)
  config = run.config
  check_knobs(config, asked.overrides)
  experiment.check_push(run)
  devices.prepare_devices(config, SCRIPT)
  phases = plan_phases(run)
  checkpoint = experiment.find_weights(run)
  tokenizer = find_masking_tokenizer(run, checkpoint)
  pretrainer = build_pretrainer(config, checkpoint, phases, tokenizer)
  with hosts.first_before_others():
    examples = read_examples(config, phases, tokenizer)
  check_segments(pretrainer.model.config, examples)
  run_folder.check_same_data(run.folder, examples.digests)
  experiment.check_hosts(pretrainer.params, tokenizer, examples.digests)
  experiment.start_run(run, SCRIPT, pretrainer.model.config, pretrainer.params, tokenizer,
                       data=examples.digests)
  if run.trains:
    trained = experiment.run_training(run, plan_pretraining(config, examples, pretrainer))
    results = trained.results
    export_pretrainer(run, pretrainer.model.config, tokenizer, trained)
  elif examples.held_out:
    results = score_held_out(config, pretrainer.params, examples.held_out[-1],
                       make_eval_fn(pretrainer.model))
  if examples.held_out:
    hosts.only_first(reporting.write_results)(run.folder, "eval_results", results)
  if run.trains or examples.held_out:
    report_pretraining(run, phases)
  experiment.push(run)
  say(f"done: {run.folder}")


# --- Before anything is computed --------------------------------------------------------------


def check_knobs(config: ml_collections.ConfigDict, overrides: Collection[str]) -> None:
  """Checks each knob by its rule, then those that depend on each other.

  Args:
    config: all knobs.
    overrides: names of those on the command line.
  """
  rules.check_values(config)
  plain = [name for name in ("max_seq_length", "train_batch_size") if config[name] is not None]
  if plain and ("phases" in overrides or config.phases != defaults.get_config().phases):
    raise UserError(f"phases {config.phases} and {plain[0]} {config[plain[0]]} are both given; "
                    f"{plain[0]} is for a run of one phase: leave one of the two out")
  if config.do_train and not config.train_files:
    raise UserError("nothing to train on: give --config.train_files='/data/*.txt'")
  if warmup_steps(config) > config.num_train_steps:
    raise UserError(f"num_warmup_steps {warmup_steps(config)} is over num_train_steps "
                    f"{config.num_train_steps}; give --config.num_warmup_steps too")
  if config.mask_token_prob + config.random_token_prob > 1:
    raise UserError(f"mask_token_prob {config.mask_token_prob} + random_token_prob "
                    f"{config.random_token_prob} is over 1")
  predictions = config.max_predictions_per_seq
  if predictions is not None and predictions < 1:
    raise UserError(f"max_predictions_per_seq must be at least 1, not {predictions}")


def warmup_steps(config: ml_collections.ConfigDict) -> int:
  """Returns config.num_warmup_steps, or the steps of this share if it is one."""
  share = config.num_warmup_steps
  return int(share if share >= 1 else config.num_train_steps * share)


def phases_of(config: ml_collections.ConfigDict) -> tuple[Any, ...]:
  """Returns config.phases, or the one phase of config.max_seq_length and train_batch_size."""
  length, batch_size = config.max_seq_length, config.train_batch_size
  if length is None and batch_size is None:
    return config.phases
  _, usual_length, usual_batch_size = defaults.get_config().phases[0]
  return ((1.0, length or usual_length, batch_size or usual_batch_size),)


def plan_phases(run: experiment.Run) -> list[PhasePlan]:
  """Converts the phases to steps; the shares are rounded at the borders of phases.

  Raises:
    UserError: not three numbers each, shares that do not add up to 1, or a bad batch size.
  """
  right = ("phases must be (share of the steps, max_seq_length, train_batch_size) each, the shares "
           "adding up to 1, such as ((0.9, 128, 256), (0.1, 512, 256)) or ((1.0, 128, 256),)")
  config, phases, done = run.config, [], 0.0
  for phase in phases_of(config):
    if not (isinstance(phase, tuple) and len(phase) == 3 and type(phase[0]) in (int, float)
            and 0 < phase[0] <= 1 and all(type(value) is int for value in phase[1:])):
      raise UserError(f"{right}; not {phase}")
    share, max_seq_length, batch_size = phase
    if not 5 <= max_seq_length <= 1 << 20:
      raise UserError(f"phases: max_seq_length must be at least 5, not {max_seq_length}")
    if run.trains:
      experiment.check_batch_size("phases: train_batch_size", batch_size,
                                  config.gradient_accumulation_steps)
    first, done = round(done * config.num_train_steps), done + share
    phases.append(PhasePlan(first, round(done * config.num_train_steps), max_seq_length,
                            batch_size))
  if not math.isclose(done, 1.0, abs_tol=1e-6):
    raise UserError(f"{right}; not {config.phases}, whose shares make {done:g}")
  experiment.check_batch_size("eval_batch_size", config.eval_batch_size)
  phases[-1] = phases[-1]._replace(last_step=config.num_train_steps)
  return [phase for phase in phases if phase.last_step > phase.first_step]


def find_masking_tokenizer(run: experiment.Run,
                           checkpoint: checkpoint_utils.Checkpoint | None) -> Tokenizer:
  """Loads the run's tokenizer (`experiment.find_tokenizer`), which must have [MASK]."""
  tokenizer = experiment.find_tokenizer(run, checkpoint, usual=run.config.hub_tokenizer)
  if tokenizer.mask_token_id is None:
    source = run.config.tokenizer or (checkpoint.tokenizer if checkpoint else
                                      run.config.hub_tokenizer)
    raise UserError(f"the tokenizer at {source!r} lacks mask_token")
  return tokenizer


# --- Data -------------------------------------------------------------------------------------


def read_examples(config: ml_collections.ConfigDict, phases: list[PhasePlan],
                  tokenizer: Tokenizer) -> PretrainingExamples:
  """Opens train_files and eval_files, or holds out a share of the training documents.

  Raises:
    UserError: anything wrong in the files, or fewer examples than a batch.
  """
  reading = corpus.Reading(
      input_format=config.input_format, text_field=config.text_field, language=config.language,
      errors=config.errors, cache_dir=config.cache_dir)
  wanted = {"train_files": config.do_train or not config.eval_files, "eval_files": True}
  corpora = {what: corpus.open_corpus(config[what], what, tokenizer, reading)
             for what, is_wanted in wanted.items() if config[what] and is_wanted}
  train_corpus, eval_corpus = corpora.get("train_files"), corpora.get("eval_files")
  check_corpora(config, train_corpus, eval_corpus)
  # Held out whether or not this command evaluates: do_eval changes nothing in the training.
  fraction = 0.0 if config.eval_files or train_corpus is None else config.eval_fraction
  evaluates = config.do_eval and bool(eval_corpus or fraction)
  if not (evaluates or config.do_train):
    raise UserError("nothing to evaluate on: give --config.eval_files=FILES, or "
                    "--config.train_files=FILES with --config.eval_fraction")
  make = functools.partial(make_examples, config, masking.vocabulary_of(tokenizer))
  train, held_out = [], []
  for plan in phases:
    if config.do_train:
      examples = make(train_corpus, False, fraction, plan.max_seq_length)
      if len(examples) < plan.batch_size:
        raise UserError(f"train_files make {len(examples)} examples of length "
                        f"{plan.max_seq_length} and not one batch of {plan.batch_size}; give more "
                        "text, or a smaller batch in --config.phases")
      train.append(batches.Phase(plan.first_step, plan.last_step, plan.batch_size,
                                             examples))
    if evaluates:
      held_out.append(make(eval_corpus or train_corpus, not eval_corpus, fraction,
                           plan.max_seq_length))
  return PretrainingExamples(train, held_out, {what: c.digest for what, c in corpora.items()})


def check_corpora(config: ml_collections.ConfigDict, train_corpus: corpus.Corpus | None,
                  eval_corpus: corpus.Corpus | None) -> None:
  """Raises UserError for evaluation on training files, or records that do not fit the config."""
  if train_corpus and eval_corpus:
    both = sorted(set(train_corpus.sources) & set(eval_corpus.sources))
    if both:
      raise UserError(f"{both[0]} is among both train_files and eval_files")
  for what, found in (("train_files", train_corpus), ("eval_files", eval_corpus)):
    if isinstance(found, corpus.Records) and config.objective == "mlm_sop":
      raise UserError(f"{what} are TFRecords, whose pairs are next-sentence pairs; the objective "
                      "must be mlm_nsp or mlm, not mlm_sop")
  if (isinstance(train_corpus, corpus.Records) and not config.eval_files
      and config.eval_fraction):
    raise UserError("train_files are TFRecords, which do not say what documents they are from: "
                    "nothing can be held out; give --config.eval_files=FILES, or "
                    "--config.eval_fraction=0 to train without evaluation")


def make_examples(config: ml_collections.ConfigDict, vocabulary: masking.Vocabulary,
                  source: corpus.Corpus, held_out: bool, eval_fraction: float,
                  max_seq_length: int) -> batches.ExampleSource:
  """Makes the examples of one length from a corpus or one of its two parts."""
  if isinstance(source, corpus.Records):
    check_records(source, vocabulary, max_seq_length)
    if config.objective == "mlm_nsp" and source.features["next_sentence_labels"].all():
      say("  warning: all next_sentence_labels are 1, so that there is nothing to learn from them; "
          "--config.objective=mlm leaves them out")
    return batches.RecordExamples(source, config.objective)
  if config.do_whole_word_mask and not vocabulary.continues.any():
    raise UserError("do_whole_word_mask needs a WordPiece vocabulary, where ## begins the later "
                    "pieces of a word")
  specials = 2 if config.objective == "mlm" else 3
  part = corpus.part_of(source, held_out, eval_fraction, max_seq_length - specials)
  if config.objective == "mlm_nsp":
    warn_of_pairs(part, "held-out" if held_out else "training")
  most = config.max_predictions_per_seq or math.ceil(max_seq_length * config.masked_lm_prob)
  rates = masking.Masking(config.masked_lm_prob, most, config.mask_token_prob,
                          config.random_token_prob, config.do_whole_word_mask)
  return batches.TextExamples(part, vocabulary, rates, max_seq_length,
                                          config.objective, config.short_seq_prob)


def warn_of_pairs(part: corpus.Part, name: str) -> None:
  """Warns of text whose pairs teach and measure nothing about the next sentence."""
  remedy = "leave a blank line between documents, or give --config.objective=mlm_sop or mlm"
  if len(part.documents) == 1:
    say(f"  warning: the {name} text is one document, which the random next sentences come from "
        f"too; {remedy}")
  elif (part.spans[:, 1] - part.spans[:, 0] == 1).all():
    say(f"  warning: each {name} example is one sentence, so that all next sentences are random "
        f"ones; leave blank lines between documents only, or give --config.objective=mlm")


def check_records(records: corpus.Records,
                  vocabulary: masking.Vocabulary, max_seq_length: int) -> None:
  """Raises UserError for records of another length or another vocabulary."""
  if records.max_seq_length != max_seq_length:
    raise UserError(
        f"{records.sources[0]} holds records of length {records.max_seq_length} and config.phases "
        f"ask for {max_seq_length}; for one phase of that length give "
        f"--config.max_seq_length={records.max_seq_length} and no phases")
  first = int(records.features["input_ids"][0, 0])
  if first != vocabulary.cls:
    raise UserError(f"{records.sources[0]} was made with another vocabulary: its first record "
                    f"begins with {first}, and [CLS] of the tokenizer is {vocabulary.cls}")


def check_segments(bert_config: modeling.BertConfig, examples: PretrainingExamples) -> None:
  """Raises UserError for records, which have two segments, and a model that knows one."""
  sources = (*examples.held_out, *(phase.examples for phase in examples.train))
  if bert_config.type_vocab_size < 2 and any(
      isinstance(source, batches.RecordExamples) for source in sources):
    raise UserError("TFRecords have two segments, and the model's type_vocab_size is 1; give text, "
                    "or a model of 2")


# --- Model ------------------------------------------------------------------------------------


def build_pretrainer(config: ml_collections.ConfigDict,
                     checkpoint: checkpoint_utils.Checkpoint | None, phases: list[PhasePlan],
                     tokenizer: Tokenizer) -> Pretrainer:
  """Builds the model with random weights, or the checkpoint's and fresh heads if it lacks them."""
  base = (checkpoint.config if checkpoint else
          dataclasses.replace(modeling.SIZES[config.size], vocab_size=tokenizer.vocab_size))
  bert_config = experiment.model_config(config, base, tokenizer.vocab_size,
                                        max(phase.max_seq_length for phase in phases),
                                        segments=1 if config.objective == "mlm" else 2)
  model = modeling.BertForPreTraining(bert_config, jnp.dtype(config.dtype), config.remat)
  if checkpoint is None:
    return Pretrainer(model, experiment.random_params(model, config.seed))
  params, report = checkpoint_utils.load_params(
      checkpoint, modeling.parameter_shapes(model), resize_embeddings=config.resize_embeddings,
      draw=functools.partial(experiment.draw_params, model, config.seed))
  say(f"  {report}")
  return Pretrainer(model, params)


# --- Training ---------------------------------------------------------------------------------


def plan_pretraining(config: ml_collections.ConfigDict, examples: PretrainingExamples,
                     pretrainer: Pretrainer) -> experiment.TrainingPlan:
  """Plans the training: one schedule over all phases."""
  schedule = optimization.create_schedule(config.learning_rate_schedule, config.learning_rate,
                                          config.num_train_steps, warmup_steps(config))
  optimizer = experiment.optimizer_from_config(config)
  if config.objective == "mlm":  # no gradient reaches these; decay would wear them away
    optimizer = optimization.freeze(optimizer, (("bert", "pooler"), ("next_sentence",)))
  phases, held_out = examples.train, examples.held_out
  eval_fn = make_eval_fn(pretrainer.model)
  return experiment.TrainingPlan(
      description=experiment.model_description(pretrainer.model.config),
      params=pretrainer.params, optimizer=optimizer, schedule=schedule,
      loop=training.Loop(config.num_train_steps, config.log_every_steps,
                         config.eval_steps if held_out else 0, config.save_checkpoints_steps,
                         config.skip_nonfinite_steps),
      num_warmup_steps=warmup_steps(config), batch_description=phases_in_words(phases),
      step_fn=losses.make_pretraining_step(pretrainer.model, optimizer,
                                           skip_nonfinite=config.skip_nonfinite_steps > 0),
      batches_from=lambda first_step: batches.phase_batches(
          phases, seed=config.seed, first_step=first_step, devices=jax.device_count(),
          micro_batches=config.gradient_accumulation_steps, pack=config.pack_sequences,
          mine=hosts.own_devices()),
      evaluate=(lambda params, step: score_held_out(
          config, params, held_out[phase_of(phases, step)], eval_fn)) if held_out else None,
      curve="eval_masked_lm_loss",
      steps_left=functools.partial(steps_left, phases))


def phase_of(phases: list[batches.Phase], step: int) -> int:
  """Returns the index of the phase whose step was the `step`-th, from 1 (0: the first phase)."""
  return next(i for i, phase in enumerate(phases) if step <= phase.last_step)


def steps_left(phases: list[batches.Phase], step: int) -> float:
  """Returns the work left after `step` steps, in steps of the current phase's size."""

  def tokens(phase: batches.Phase) -> int:
    return phase.batch_size * phase.examples.max_seq_length

  now = phase_of(phases, step)
  left = sum((phase.last_step - max(phase.first_step, step)) * tokens(phase)
             for phase in phases[now:])
  return left / tokens(phases[now])


def phases_in_words(phases: list[batches.Phase]) -> str:
  """Returns such as "256 x 128 tokens, from step 900000 on 256 x 512 tokens"."""
  return ", ".join(
      (f"from step {phase.first_step} on " if phase.first_step else "")
      + f"{phase.batch_size} x {phase.examples.max_seq_length} tokens" for phase in phases)


# --- Evaluating, saving -----------------------------------------------------------------------


def make_eval_fn(model: modeling.BertForPreTraining) -> Callable[..., Any]:
  """Makes (params, batch [devices, ...]) -> sums and counts [devices]."""

  def sums(params: training.Params, batch: training.Batch) -> training.Sums:
    return losses.metric_sums(*model.apply({"params": params}, batch), batch)

  return training.pmap_eval_step(sums)


def score_held_out(config: ml_collections.ConfigDict, params: training.Params,
                   examples: batches.ExampleSource, eval_fn: Callable[..., Any]
                   ) -> dict[str, float]:
  """Computes the original's five figures, if the examples have masks and pairs to score.

  Their names begin with eval_ wherever they stand, because `loss` is the training's.
  """
  made = batches.held_out_batches(
      examples, batch_size=config.eval_batch_size, max_examples=config.max_eval_examples,
      devices=jax.device_count(), pack=config.pack_sequences, mine=hosts.own_devices())
  sums = training.sum_over(eval_fn, training.replicate(params), data.prefetch(made))
  results = {f"eval_{name}": total / count for name, (total, count) in sums.items() if count}
  parts = [results[name] for name in ("eval_masked_lm_loss", "eval_next_sentence_loss")
           if name in results]
  return {"eval_loss": sum(parts), **results}


@hosts.only_first
def report_pretraining(run: experiment.Run, phases: list[PhasePlan]) -> None:
  """Writes report.html: the curves with the phases marked, and the last dev scores of each."""
  records = reporting.read_metrics(run.folder / "metrics.jsonl")
  names = [f"eval_{name}" for name in TITLES if any(f"eval_{name}" in each for each in records)]
  bands = [report.Band(phase.first_step, phase.last_step, f"phase {i}")
           for i, phase in enumerate(phases, 1)] if records and len(phases) > 1 else []
  rows = []
  for i, phase in enumerate(phases, 1):
    scores = {key: value for record in records for key, value in record.items()
              if phase.first_step < record["step"] <= phase.last_step}
    rows.append((str(i), f"{phase.first_step + 1:,} to {phase.last_step:,}",
                 str(phase.max_seq_length), str(phase.batch_size),
                 *(f"{scores[name]:.4f}" if name in scores else "-" for name in names)))
  header = ("phase", "steps", "length", "batch",
            *(f"{TITLES[name.removeprefix('eval_')]}, dev" for name in names))
  run_page.write_run_report(
      run.folder, f"{run.config.size}: pre-training",
      [report.section("Phases", report.table(header, rows))] if records else [],
      more_facts=(("Objective", run.config.objective),), bands=bands, titles=TITLES,
      note=experiment.scored_again(run))
  say(f"report: {run.folder / 'report.html'}")


def export_pretrainer(run: experiment.Run, bert_config: modeling.BertConfig,
                      tokenizer: Tokenizer, trained: experiment.Trained) -> None:
  """Writes model/, a HuggingFace BertForPreTraining that run_classifier.py starts from."""
  config = run.config
  card = experiment.model_card(
      f"BERT pre-trained on {config.train_files}", "fill-mask",
      f"Pre-trained from `{config.init_checkpoint or 'random weights'}` with BERT in Flax: "
      f"{config.num_train_steps} steps,\n(share, length, batch) {phases_of(config)}, objective "
      f"{config.objective}, {config.optimizer}, learning rate {config.learning_rate},\n"
      f"seed {config.seed}, {config.dtype}.", "held-out text", trained.results)
  experiment.export(run, bert_config, trained.params, tokenizer, card, trained.origin,
                    architectures=["BertForPreTraining"])


if __name__ == "__main__":
  experiment.define_flags("configs/pretraining.py")
  run_script(main)
