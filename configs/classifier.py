"""Fine-tuning on GLUE or on your own labelled text: every knob, with its default.

    python3 run_classifier.py --config=configs/classifier.py:bert-base-uncased \
        --config.dataset_name=mrpc --output_dir=OUT

The argument after the colon names a published BERT on the HuggingFace hub; without one, give
--config.init_checkpoint. The recipe is the paper's for GLUE: batch 32, learning rate 5e-5,
3 epochs, length 128. Scores and wall times stand in README.md.
"""

import ml_collections
from ml_collections import config_dict

HUB_MODELS = {
    "bert-base-uncased": "google-bert/bert-base-uncased",
    "bert-large-uncased": "google-bert/bert-large-uncased",
    "bert-base-cased": "google-bert/bert-base-cased",
    "bert-large-cased": "google-bert/bert-large-cased",
    "bert-base-multilingual-cased": "google-bert/bert-base-multilingual-cased",
    "bert-base-chinese": "google-bert/bert-base-chinese",
    "bert-large-uncased-whole-word-masking": "google-bert/bert-large-uncased-whole-word-masking",
    "bert-tiny": "google/bert_uncased_L-2_H-128_A-2",  # for a laptop: 4.4 M parameters
    "bert-mini": "google/bert_uncased_L-4_H-256_A-4",
    "bert-small": "google/bert_uncased_L-4_H-512_A-8",
    "bert-medium": "google/bert_uncased_L-8_H-512_A-8",
}


def get_config(model: str = "") -> ml_collections.ConfigDict:
  """The configuration; `model` is a key of HUB_MODELS or empty."""
  if model and model not in HUB_MODELS:
    raise ValueError(f"configs/classifier.py:{model} names no published BERT; known: "
                     f"{', '.join(HUB_MODELS)}; for a local model use --config.init_checkpoint")
  config = ml_collections.ConfigDict()

  # Where the weights come from: a hub name, a HuggingFace folder, a Google TF1 folder or .ckpt
  # prefix, a run directory or checkpoint of this project; blank: random, sized by config.model.
  config.init_checkpoint = HUB_MODELS.get(model, "")
  # Folder or hub name of the tokenizer; blank: init_checkpoint's own.
  config.tokenizer = ""
  # Lower-case and strip accents; None: what the tokenizer's files say.
  config.do_lower_case = config_dict.placeholder(bool)

  # A GLUE task: cola, mrpc, qqp, sst2, stsb, mnli, qnli, rte; blank: your own files at
  # dataset_path (or cola, where dataset_path is the hub's GLUE).
  config.dataset_name = ""
  # The hub's GLUE ("nyu-mll/glue" or "glue"), another hub dataset, a folder in GLUE's TSV
  # layout, a save_to_disk folder, or a folder with your train/validation/test files in csv,
  # tsv, jsonl or parquet.
  config.dataset_path = "nyu-mll/glue"
  # One or two comma-separated column names; blank: recognized by usual names.
  config.text_columns = ""
  config.label_column = ""
  # For your own files: "class", "float" (regression), or "auto": floats mean regression.
  config.label_type = "auto"
  # Comma-separated classes in the order of the model's outputs; blank: the checkpoint's, or
  # else the task's. Needed to evaluate a checkpoint that only numbers its classes.
  config.label_names = ""
  # Leave out csv and tsv rows with a wrong number of fields instead of stopping at the first.
  config.skip_bad_rows = False
  # Tokens an example, with [CLS] and [SEP]; longer ones are truncated.
  config.max_seq_length = 128
  # Several examples a row: the same numbers, far less padding.
  config.pack_sequences = True
  # Tokenized text is kept in this folder, up to cache_gigabytes; blank:
  # ~/.cache/bert_in_flax/tokenized.
  config.cache_dir = ""
  config.cache_gigabytes = 10.0

  config.do_train = True
  config.do_eval = True
  config.do_predict = False

  # Examples a step, over all devices and accumulation steps together.
  config.train_batch_size = 32
  config.eval_batch_size = 64
  config.predict_batch_size = 64
  # Micro-batches a step: less memory, the same update.
  config.gradient_accumulation_steps = 1
  config.num_train_epochs = 3.0

  config.learning_rate = 5e-5
  # Share of the steps over which the rate rises from 0.
  config.warmup_proportion = 0.1
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
  # Makes initialization, data order and dropout.
  config.seed = 42
  # The same seed gives the same bits on a GPU too (a CPU's always are), at a few percent of
  # its speed.
  config.deterministic = True

  config.log_every_steps = 50
  # Score the dev set every so many epochs while training; 0: only at the end.
  config.eval_every_epochs = 1.0
  # 0: only at the end.
  config.save_checkpoints_steps = 1000
  # Keep the last so many checkpoints, and every one at a multiple of keep_checkpoint_every
  # steps (0: none of those).
  config.keep_checkpoints = 1
  config.keep_checkpoint_every = 0

  # The architecture: None is init_checkpoint's value or, without one, bert-base-uncased's (and
  # the tokenizer's vocabulary size). Dropout rates and hidden_act can be changed freely.
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
