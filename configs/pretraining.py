"""Pre-training from text or from the original's TFRecords: every knob, with its default.

    python3 run_pretraining.py --config=configs/pretraining.py:bert-base-uncased \
        --config.train_files='/data/*.txt' --output_dir=OUT

The argument after the colon names a size and its published vocabulary; no weights are loaded
unless init_checkpoint asks for them. The recipe is the paper's (appendix A.2): a million steps
of 256 sequences, 90% of them at length 128 and the rest at 512, learning rate 1e-4. What one
hour on two CPU cores gives stands in README.md.
"""

import ml_collections
from ml_collections import config_dict

MODELS = {  # name: (key of modeling.SIZES, where its vocabulary is on the HuggingFace hub)
    "bert-tiny": ("bert-tiny", "google-bert/bert-base-uncased"),
    "bert-mini": ("bert-mini", "google-bert/bert-base-uncased"),
    "bert-small": ("bert-small", "google-bert/bert-base-uncased"),
    "bert-medium": ("bert-medium", "google-bert/bert-base-uncased"),
    "bert-base-uncased": ("bert-base", "google-bert/bert-base-uncased"),
    "bert-base-cased": ("bert-base", "google-bert/bert-base-cased"),
    "bert-large-uncased": ("bert-large", "google-bert/bert-large-uncased"),
    "bert-large-cased": ("bert-large", "google-bert/bert-large-cased"),
}


def get_config(model: str = "bert-base-uncased") -> ml_collections.ConfigDict:
  """The configuration; `model` is a key of MODELS."""
  if model not in MODELS:
    raise ValueError(f"configs/pretraining.py:{model} names no size of BERT; known: "
                     f"{', '.join(MODELS)}")
  config = ml_collections.ConfigDict()

  # Blank: random weights. A HuggingFace folder or hub name, a Google TF1 folder or .ckpt
  # prefix, or a run of this project: go on from these weights (and their architecture).
  config.init_checkpoint = ""
  # The architecture without init_checkpoint: bert-tiny, bert-mini, bert-small, bert-medium,
  # bert-base or bert-large; single values can be changed in config.model below.
  config.size = MODELS[model][0]
  # Folder (tokenizer.json or vocab.txt; train_tokenizer.py makes one from your text) or hub
  # name; blank: init_checkpoint's own, or else hub_tokenizer.
  config.tokenizer = ""
  config.hub_tokenizer = MODELS[model][1]
  # Lower-case and strip accents; None: what the tokenizer's files say.
  config.do_lower_case = config_dict.placeholder(bool)

  # Comma-separated files or globs: text (.gz too), jsonl, WikiExtractor's output, a saved
  # dataset's folder or a hub dataset (wikimedia/wikipedia:20231101.en); or TFRecords of
  # create_pretraining_data.py or of the original, whose pairs and masks are used as they are.
  config.train_files = ""
  # The same for evaluation; blank: a share of train_files' documents is held out, the same ones
  # in every run on these files. TFRecords do not say what documents they are from: give
  # eval_files, or 0.
  config.eval_files = ""
  config.eval_fraction = 0.01
  # "auto", "lines" (a sentence a line), "paragraphs" (running text), "jsonl", "wikiextractor",
  # "dataset".
  config.input_format = "auto"
  # The field or column that holds the text, in jsonl and datasets.
  config.text_field = "text"
  # Of the rules by which running text is split into sentences.
  config.language = "en"
  # Invalid UTF-8: "strict" stops with its line, "replace" goes on with U+FFFD, "ignore" without.
  config.errors = "strict"
  # Text is tokenized and TFRecords are decoded once, into this folder; blank: .bert_cache/ beside
  # the first input, or for a hub dataset ~/.cache/bert_in_flax.
  config.cache_dir = ""

  # "mlm_nsp" (the original), "mlm_sop" (sentence order, ALBERT's) or "mlm" alone.
  config.objective = "mlm_nsp"
  # Share of the tokens that are predicted, and at most how many a row; None: the share of a full
  # row (20 of 128, 77 of 512). From TFRecords pairs and masks come as they are: these five and
  # short_seq_prob then change nothing.
  config.masked_lm_prob = 0.15
  config.max_predictions_per_seq = config_dict.placeholder(int)
  # Of those, how many become [MASK] and how many a random token; the rest stay.
  config.mask_token_prob = 0.8
  config.random_token_prob = 0.1
  config.do_whole_word_mask = False
  # Share of the examples that are cut to a random shorter length.
  config.short_seq_prob = 0.1
  # Several short examples a row: the same numbers, less padding.
  config.pack_sequences = True

  config.do_train = True
  config.do_eval = True

  config.num_train_steps = 1_000_000
  config.num_warmup_steps = 10_000
  # Stretches of the run, one after the other under one schedule: (share of the steps, tokens
  # a row, rows a step over all devices and accumulation steps together).
  config.phases = ((0.9, 128, 256), (0.1, 512, 256))
  config.eval_batch_size = 256
  # Micro-batches a step: less memory, the same update.
  config.gradient_accumulation_steps = 1

  config.learning_rate = 1e-4
  # "joined" peaks at learning_rate; "original" is google-research/bert's, which drops where
  # warm-up ends.
  config.learning_rate_schedule = "joined"
  # "adamw", or "lamb" (You et al., 2019, Algorithm 2) for batches of thousands.
  config.optimizer = "adamw"
  # False is the original's Adam (and ALBERT's LAMB) without bias correction.
  config.adam_bias_correction = True
  config.adam_b1 = 0.9
  config.adam_b2 = 0.999
  # Added outside the square root.
  config.adam_eps = 1e-6
  # On everything but LayerNorm and biases.
  config.weight_decay = 0.01
  # Bound on the global norm of the gradients; 0: none.
  config.max_grad_norm = 1.0

  # Compute in "float32" or "bfloat16"; parameters, LayerNorm, softmax and loss stay float32.
  config.dtype = "float32"
  # How float32 products are computed where the hardware has shortcuts: "float32" is exact,
  # "tensorfloat32" or "bfloat16" are faster on a GPU or TPU.
  config.matmul_precision = "float32"
  # Compute activations again in the backward pass: less memory, a third more arithmetic.
  config.remat = False
  # Makes initialization, data order, pairs, masks and dropout.
  config.seed = 42
  # The same seed gives the same bits on a GPU too (a CPU's always are), at a few percent of
  # its speed.
  config.deterministic = True

  config.log_every_steps = 100
  # Evaluate every so many steps (but not shortly before the end), at the current phase's length;
  # 0: only at the end.
  config.eval_steps = 10_000
  # Examples an evaluation, the same ones each time; 0: all.
  config.max_eval_examples = 25_600
  # 0: only at the end.
  config.save_checkpoints_steps = 1000
  # Keep the last so many checkpoints, and every one at a multiple of keep_checkpoint_every
  # steps (0: none of those).
  config.keep_checkpoints = 1
  config.keep_checkpoint_every = 0

  # The architecture: None is init_checkpoint's value or, without one, size's (and the
  # tokenizer's vocabulary size). Dropout rates and hidden_act can be changed freely.
  config.model = ml_collections.ConfigDict()
  config.model.vocab_size = config_dict.placeholder(int)
  config.model.hidden_size = config_dict.placeholder(int)
  config.model.num_hidden_layers = config_dict.placeholder(int)
  config.model.num_attention_heads = config_dict.placeholder(int)
  config.model.intermediate_size = config_dict.placeholder(int)
  # gelu (erf), gelu_new (tanh), gelu_pytorch_tanh, relu, tanh, linear
  config.model.hidden_act = config_dict.placeholder(str)
  config.model.hidden_dropout_prob = config_dict.placeholder(float)
  config.model.attention_probs_dropout_prob = config_dict.placeholder(float)
  config.model.max_position_embeddings = config_dict.placeholder(int)
  config.model.type_vocab_size = config_dict.placeholder(int)
  config.model.initializer_range = config_dict.placeholder(float)
  config.model.layer_norm_eps = config_dict.placeholder(float)
  return config
