r"""Fine-tuning on GLUE or on your own labelled text: every knob, with its default.

    python3 run_classifier.py --config=configs/classifier.py:bert-base-uncased \
        --config.dataset_name=mrpc --output_dir=OUT

The argument after the colon names a published BERT on the HuggingFace hub; without it, give
--config.init_checkpoint. The defaults are the paper's for GLUE: batch 32, learning rate 5e-5, 3
epochs, length 128. README.md lists the scores and wall times that they give. A comment explains
the knobs below it, here and in --help.
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
  """Returns the configuration; `model` is a key of HUB_MODELS or blank."""
  if model and model not in HUB_MODELS:
    raise ValueError(f"configs/classifier.py:{model} names no published BERT; known: "
                     f"{', '.join(HUB_MODELS)}; for a local model use --config.init_checkpoint")
  config = ml_collections.ConfigDict()

  # Initial weights: a hub name, a HuggingFace folder, a Google TF1 folder or .ckpt prefix, or a
  # run folder or checkpoint of this project. Blank: random weights.
  config.init_checkpoint = HUB_MODELS.get(model, "")
  # Folder with tokenizer.json or vocab.txt, or a hub name. Blank: init_checkpoint's tokenizer.
  config.tokenizer = ""
  # Give tokens of the tokenizer that init_checkpoint lacks (added ones, at the end of its
  # vocabulary) freshly initialized embeddings. False: stop.
  config.resize_embeddings = False
  # Lower-case the text and strip accents. None: as the tokenizer's files say.
  config.do_lower_case = config_dict.placeholder(bool)

  # GLUE task: cola, mrpc, qqp, sst2, stsb, mnli, qnli or rte. Blank: your own data at
  # dataset_path, or cola if dataset_path is the hub's GLUE.
  config.dataset_name = ""
  # The hub's GLUE ("nyu-mll/glue" or "glue"), another hub dataset (owner/name, or
  # owner/name:configuration), a folder in GLUE's TSV layout, a folder of datasets.save_to_disk, or
  # a folder with your train, validation and test files in csv, tsv, json, jsonl or parquet, also
  # by the hub's names (train-00000-of-00001.parquet, in the folder or its data/). One such file can
  # be trained on with do_eval=False, and scored or predicted with do_train=False. Or the URL of
  # such (s3://BUCKET/FOLDER, gs://...), of which cache_dir or ~/.cache/bert_in_flax keeps a copy.
  config.dataset_path = "nyu-mll/glue"
  # One or two columns of text, comma-separated, or more with text_delimiter. Blank: those with
  # usual names.
  config.text_columns = ""
  # Joins text_columns into one text, such as " " or " | ". Blank: each is a text of its own.
  config.text_delimiter = ""
  # Column of the labels. Several, comma-separated: each is a class and holds 0 or 1. Blank: the one
  # with a usual name.
  config.label_column = ""
  # Labels of your own data: "class", "float" (regression), "multi" (any number of classes a text:
  # a list of them, or several label columns), or "auto" (what the column holds: regression if
  # floats, multi if lists).
  config.label_type = "auto"
  # Class names in the order of the model's outputs, comma-separated. Blank: the checkpoint's or,
  # without any, the task's. Needed to evaluate a checkpoint that only numbers its classes, or
  # that calls them otherwise.
  config.label_names = ""
  # The class whose F1 is computed where there are two. Blank: the second one.
  config.positive_class = ""
  # The split of your own data that is trained on.
  config.train_split = "train"
  # The split of your own data that is evaluated, such as test where there is no validation.
  config.eval_split = "validation"
  # The split of your own data that is predicted.
  config.test_split = "test"
  # Leave out rows with a wrong number of fields, without text or without label (also one of -1 in
  # a hub dataset), and count them. False: stop at the first one.
  config.skip_bad_rows = False
  # A label of your own data that means that the row has none, such as -1. Blank: no such label.
  config.missing_label = ""
  # Use only the first rows of the training split, of each dev split and of each test split: so
  # many. The classes are still those of all rows. 0: all.
  config.max_train_samples = 0
  config.max_eval_samples = 0
  config.max_predict_samples = 0
  # Most tokens of an example, with [CLS] and [SEP]. Longer ones are truncated.
  config.max_seq_length = 128
  # Put several examples into one row: the same numbers but for the draws of dropout, less padding.
  config.pack_sequences = True
  # Folder that keeps tokenized text for later runs. Blank: ~/.cache/bert_in_flax/tokenized.
  config.cache_dir = ""
  # Size from which on the least recently used files of cache_dir are deleted.
  config.cache_gigabytes = 10.0

  # Train, until the run is finished.
  config.do_train = True
  # Evaluate, while training and at the end.
  config.do_eval = True
  # Write predictions for the test split.
  config.do_predict = False

  # Examples per step, over all devices and micro-batches together.
  config.train_batch_size = 32
  # Examples per batch of an evaluation, over all devices.
  config.eval_batch_size = 64
  # Examples per batch of a prediction, over all devices.
  config.predict_batch_size = 64
  # Micro-batches per step: less memory, the same update but for the draws of dropout.
  config.gradient_accumulation_steps = 1
  # Passes over the training examples; a fraction is fine.
  config.num_train_epochs = 3.0
  # Steps of the training, whatever num_train_epochs says. 0: as num_train_epochs says.
  config.max_steps = 0

  # Peak learning rate.
  config.learning_rate = 5e-5
  # Share of the steps that are warm-up.
  config.warmup_proportion = 0.1
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

  # Learning rates by depth (Howard and Ruder, 2018; Clark et al., 2020, ELECTRA's decay of 0.8 or
  # 0.9): the pooler and the classifier have learning_rate, layer l of L (from 0) this number to the
  # power L - l times it, and the embeddings to the power L + 1. 1: all have the same.
  config.layerwise_lr_decay = 1.0
  # Share of the target that is spread over all classes alike (Szegedy et al., 2016, section 7). In
  # the training loss only: eval_loss is the plain one.
  config.label_smoothing = 0.0
  # Weight of each class in the training loss, a mean weighted by it (PyTorch's CrossEntropyLoss):
  # "balanced" (examples / (classes * examples of the class), of the training split; King and Zeng,
  # 2001), a=1,b=2.5, or 1,2.5 in the order of the classes. eval_loss is the plain one. Blank: 1.
  config.class_weights = ""
  # Draw this many of the top layers, and the pooler, afresh instead of taking init_checkpoint's
  # (Zhang et al., 2021, "Revisiting Few-sample BERT Fine-tuning").
  config.reinit_layers = 0
  # Keep the embeddings, or this many of the lower layers and the embeddings, as they are (Howard
  # and Ruder, 2018; Lee et al., 2019): no gradient, moments or decay. Only the others' gradients
  # count in max_grad_norm. Dropout stays on in them.
  config.freeze_embeddings = False
  config.freeze_layers = 0

  # Type of the matrix products: "float32" or "bfloat16". Parameters, LayerNorm, softmax and loss
  # stay float32.
  config.dtype = "float32"
  # Precision of float32 products: "float32" is exact; "tensorfloat32" and "bfloat16" are faster
  # on a GPU or TPU.
  config.matmul_precision = "float32"
  # Decides initialization, data order, dropout and, in pre-training, pairs and masks.
  config.seed = 42
  # Give the same bits for the same seed on a GPU too, a few percent slower. A CPU always does.
  config.deterministic = True

  # Steps between two log lines. 0: 50, or fewer in a short run, which then has 20 lines.
  config.log_every_steps = 0
  # Epochs between two evaluations while training. 0: evaluate only at the end.
  config.eval_every_epochs = 1.0
  # End the training after so many evaluations in a row without a new best one by the task's first
  # metric (MNLI: of the matched dev set); equal is no new best (Prechelt, 1998, "Early Stopping -
  # But When?"). The learning rate still falls as for the whole training. 0: never.
  config.early_stopping_patience = 0
  # Score and export the parameters of the best evaluation, the first of equal ones, instead of the
  # last. Its checkpoint is kept beside those of keep_checkpoints.
  config.keep_best = False
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
  # bert-base-uncased (and of the tokenizer for vocab_size).
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
