r"""Pre-training from text or from the original's TFRecords: every knob, with its default.

    python3 run_pretraining.py --config=configs/pretraining.py:bert-base-uncased \
        --config.train_files='/data/*.txt' --output_dir=OUT

The argument after the colon names a size and its published vocabulary (train_tokenizer.py makes
one from your own text); no weights are loaded without init_checkpoint. The defaults are the
paper's (appendix A.2): a million steps of 256 sequences, 90% of them at length 128 and the rest
at 512, learning rate 1e-4. README.md shows the result of one hour on two CPU cores. A comment
explains the knobs below it, here and in --help.
"""

import ml_collections
from ml_collections import config_dict

MODELS = {  # name: (key of modeling.SIZES, hub name of its vocabulary)
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
  """Returns the configuration; `model` is a key of MODELS."""
  if model not in MODELS:
    raise ValueError(f"configs/pretraining.py:{model} names no size of BERT; known: "
                     f"{', '.join(MODELS)}")
  config = ml_collections.ConfigDict()

  # Initial weights: a hub name, a HuggingFace folder, a Google TF1 folder or .ckpt prefix, or a
  # run folder or checkpoint of this project. Blank: random weights.
  config.init_checkpoint = ""
  # Architecture without init_checkpoint: bert-tiny, bert-mini, bert-small, bert-medium, bert-base
  # or bert-large. config.model changes single values of it.
  config.size = MODELS[model][0]
  # Folder with tokenizer.json or vocab.txt, or a hub name. Blank: init_checkpoint's tokenizer.
  config.tokenizer = ""
  # Give tokens of the tokenizer that init_checkpoint lacks (added ones, at the end of its
  # vocabulary) freshly initialized embeddings. False: stop.
  config.resize_embeddings = False
  # Hub name of the tokenizer if neither tokenizer nor init_checkpoint is given.
  config.hub_tokenizer = MODELS[model][1]
  # Lower-case the text and strip accents. None: as the tokenizer's files say.
  config.do_lower_case = config_dict.placeholder(bool)

  # Comma-separated files or globs: text (.gz too), jsonl, csv, tsv, parquet, WikiExtractor's
  # output, the folder of a saved dataset or a hub dataset (wikimedia/wikipedia:20231101.en); or
  # TFRecords of create_pretraining_data.py or of the original, whose pairs and masks are used.
  # URLs of such (s3://BUCKET/*.txt, gs://...) are copied into cache_dir or ~/.cache/bert_in_flax.
  config.train_files = ""
  # The same for evaluation. Blank: hold out a share of the documents of train_files, the same
  # ones in every run on these files.
  config.eval_files = ""
  # Share of the documents to hold out if eval_files is blank. TFRecords do not tell documents
  # apart: give eval_files, or 0 here.
  config.eval_fraction = 0.01
  # "auto", "lines" (one sentence a line), "paragraphs" (running text), "jsonl", "wikiextractor",
  # "csv", "tsv", "parquet" or "dataset".
  config.input_format = "auto"
  # Field of jsonl, or column of a table or dataset, that holds the text.
  config.text_field = "text"
  # Language whose rules split running text into sentences.
  config.language = "en"
  # Invalid UTF-8: "strict" stops and names the line, "replace" reads U+FFFD, "ignore" skips it.
  config.errors = "strict"
  # Folder that keeps tokenized text and decoded TFRecords for later runs. Blank: .bert_cache/
  # beside the first input, or ~/.cache/bert_in_flax for a hub dataset.
  config.cache_dir = ""

  # "mlm_nsp" (the original's), "mlm_sop" (ALBERT's sentence order) or "mlm" alone. TFRecords
  # bring their own pairs and masks: the knobs from here to short_seq_prob do not change them.
  config.objective = "mlm_nsp"
  # Share of the tokens to predict.
  config.masked_lm_prob = 0.15
  # Most predicted tokens of an example. None: masked_lm_prob of a full row, rounded up (20 of
  # 128, 77 of 512).
  config.max_predictions_per_seq = config_dict.placeholder(int)
  # Shares of the predicted tokens that become [MASK] and a random token. The others stay.
  config.mask_token_prob = 0.8
  config.random_token_prob = 0.1
  # Mask all pieces of a word together.
  config.do_whole_word_mask = False
  # Share of the examples that are cut to a random shorter length.
  config.short_seq_prob = 0.1
  # Put several examples into one row: the same numbers but for the draws of dropout, less padding.
  config.pack_sequences = True

  # Train, until the run is finished.
  config.do_train = True
  # Evaluate, while training and at the end.
  config.do_eval = True

  # Training steps of all phases together.
  config.num_train_steps = 1_000_000
  # Steps that are warm-up or, if below 1, their share of num_train_steps, rounded down.
  config.num_warmup_steps = 10_000.0
  # Phases of the run under one schedule, each (share of the steps, tokens per row, rows per step
  # over all devices and micro-batches together).
  config.phases = ((0.9, 128, 256), (0.1, 512, 256))
  # One phase instead of phases: its tokens per row (None: 128) and its rows per step over all
  # devices and micro-batches together (None: 256). None for both: as phases says.
  config.max_seq_length = config_dict.placeholder(int)
  config.train_batch_size = config_dict.placeholder(int)
  # Examples per batch of an evaluation, over all devices.
  config.eval_batch_size = 256
  # Micro-batches per step: less memory, the same update but for the draws of dropout.
  config.gradient_accumulation_steps = 1

  # Peak learning rate.
  config.learning_rate = 1e-4
  # Linear warm-up from 0, linear decay to 0. "joined" reaches learning_rate where warm-up ends;
  # "original" is google-research/bert's, which decays from step 0 and drops where warm-up ends.
  config.learning_rate_schedule = "joined"
  # "adamw", or "lamb" (You et al., 2019, Algorithm 2) for batches of thousands.
  config.optimizer = "adamw"
  # Correct the bias of the moments. False: like the original's Adam and ALBERT's LAMB.
  config.adam_bias_correction = True
  # Decay rates of the first and the second moment.
  config.adam_b1 = 0.9
  config.adam_b2 = 0.999
  # Added to the denominator, outside the square root.
  config.adam_eps = 1e-6
  # Applied to all parameters but LayerNorm and biases.
  config.weight_decay = 0.01
  # Larger gradients are scaled down to this global norm. 0: never.
  config.max_grad_norm = 1.0
  # Updates in a row that may be left out because the loss or the gradient is not finite; each is
  # counted and named. The next one stops the run. 0: the first one does.
  config.skip_nonfinite_steps = 0

  # Type of the matrix products: "float32" or "bfloat16". Parameters, LayerNorm, softmax and loss
  # stay float32.
  config.dtype = "float32"
  # Precision of float32 products: "float32" is exact; "tensorfloat32" and "bfloat16" are faster
  # on a GPU or TPU.
  config.matmul_precision = "float32"
  # Compute activations again in the backward pass: less memory, a third more arithmetic.
  config.remat = False
  # Decides initialization, data order, dropout and, in pre-training, pairs and masks.
  config.seed = 42
  # Give the same bits for the same seed on a GPU too, a few percent slower. A CPU always does.
  config.deterministic = True

  # Steps between two log lines. 0: 50, or fewer in a short run, which then has 20 lines.
  config.log_every_steps = 0
  # Steps between two evaluations while training, at the current phase's length; none shortly
  # before the end. 0: evaluate only at the end.
  config.eval_steps = 10_000
  # Examples of an evaluation, always the same ones. 0: all.
  config.max_eval_examples = 25_600
  # Repository OWNER/NAME on the HuggingFace hub that model/ is uploaded to at the end, also of a
  # finished run, with the token of `hf auth login` or HF_TOKEN. It is made if it is not there.
  # Blank: nowhere.
  config.push_to_hub = ""
  # Hours after which the run saves its last step and ends with status 143, as after SIGTERM: a
  # little less than a queue grants. 0: no limit.
  config.max_hours = 0.0
  # Project of Weights & Biases that gets the metrics too; needs `pip install wandb` and a login.
  # Blank: none.
  config.wandb_project = ""
  # Steps between two checkpoints; there is one at the end too. 0: 1000, or fewer in a short run,
  # which then has 4, but not more often than every 50 steps.
  config.save_checkpoints_steps = 0
  # Keep this many of the latest checkpoints: if the newest is damaged, the one before it is used.
  config.keep_checkpoints = 2
  # Also keep each checkpoint whose step is a multiple of this number. 0: none of them.
  config.keep_checkpoint_every = 0
  # Go back once to the checkpoint of this step; later ones are moved aside. A run that exploded
  # can then be given another learning_rate, learning_rate_schedule, max_grad_norm, adam_b1,
  # adam_b2, adam_eps, weight_decay, skip_nonfinite_steps, seed or dropout and, in fine-tuning,
  # label_smoothing or class_weights. 0: continue from the newest checkpoint.
  config.restore_step = 0

  # Several hosts, one process each: run the same command on all. JAX finds them by itself under
  # Slurm, Open MPI and Kubernetes and on TPU pods; elsewhere give the three knobs below too.
  config.distributed = False
  # HOST:PORT of process 0, a free port that all hosts reach.
  config.coordinator_address = ""
  # Number of processes, and this one's number, from 0: the only knob that differs between hosts.
  config.num_processes = config_dict.placeholder(int)
  config.process_id = config_dict.placeholder(int)

  # The architecture. None, here and below: init_checkpoint's value or, without one, that of
  # size (and of the tokenizer for vocab_size).
  config.model = ml_collections.ConfigDict()
  config.model.vocab_size = config_dict.placeholder(int)
  config.model.hidden_size = config_dict.placeholder(int)
  config.model.num_hidden_layers = config_dict.placeholder(int)
  config.model.num_attention_heads = config_dict.placeholder(int)
  config.model.intermediate_size = config_dict.placeholder(int)
  # Activation: gelu (erf), gelu_new (tanh), gelu_pytorch_tanh, relu, tanh or linear. Pre-trained
  # weights fit any of them, and any dropout rate.
  config.model.hidden_act = config_dict.placeholder(str)
  # Dropout rates of the layers' outputs and of the attention probabilities.
  config.model.hidden_dropout_prob = config_dict.placeholder(float)
  config.model.attention_probs_dropout_prob = config_dict.placeholder(float)
  # Dropout rate before the classifier. None: init_checkpoint's or, where it has none,
  # hidden_dropout_prob.
  config.model.classifier_dropout = config_dict.placeholder(float)
  # Number of position embeddings (the longest row) and of token type embeddings.
  config.model.max_position_embeddings = config_dict.placeholder(int)
  config.model.type_vocab_size = config_dict.placeholder(int)
  # Standard deviation of random weights, which are cut at twice that.
  config.model.initializer_range = config_dict.placeholder(float)
  # Added to the variance in LayerNorm.
  config.model.layer_norm_eps = config_dict.placeholder(float)
  return config
