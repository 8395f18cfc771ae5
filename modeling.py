"""BERT in Flax Linen: Devlin et al., 2018 (https://arxiv.org/abs/1810.04805).

Names and arithmetic follow `modeling.py` of google-research/bert. Three things differ in form
but not in numbers:

* Several examples may share a row (see `data.py`): `sequence_ids` numbers the examples of a row,
  and attention stays inside an example.
* Heads read tokens by flat index (`cls_positions`, `masked_lm_positions`); the last layer drops
  all other tokens after its attention.
* Parameters are float32; `dtype` is the type of the matrix products. LayerNorm, softmax and the
  logits stay float32.

The modules know no loss, no data and no checkpoint format. They stand in the order in which a
batch passes them; dropout, with masks made for speed, stands last.

Letters in shapes:
  b  rows                            n  attention heads
  s  tokens of a row                 d  size of a head, h / n
  q, k  the same, as queries, keys   i  intermediate size
  t  all tokens, b * s               v  vocabulary
  h  hidden size                     e  examples
  p  tokens that are read            m  masked tokens
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """Architecture of a BERT; the defaults are bert-base-uncased's.

  Raises:
    ValueError: an unknown activation, a size that is no integer from 1, a rate outside [0, 1),
      or heads that do not divide the hidden size.
  """

  vocab_size: int = 30522
  hidden_size: int = 768
  num_hidden_layers: int = 12
  num_attention_heads: int = 12
  intermediate_size: int = 3072
  hidden_act: str = "gelu"  # a key of ACTIVATIONS
  hidden_dropout_prob: float = 0.1
  attention_probs_dropout_prob: float = 0.1
  classifier_dropout: float | None = None  # None: hidden_dropout_prob
  max_position_embeddings: int = 512
  type_vocab_size: int = 2
  initializer_range: float = 0.02  # standard deviation, cut at twice that
  layer_norm_eps: float = 1e-12

  def __post_init__(self):
    if self.hidden_act not in tuple(ACTIVATIONS):
      raise ValueError(f"hidden_act {self.hidden_act!r} is unknown; known: "
                       f"{', '.join(sorted(ACTIVATIONS))}")
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type is int and not (type(value) is int and value >= 1):
        raise ValueError(f"{field.name} must be an integer of at least 1, not {value!r}")
      rate = field.type is float or (field.type == float | None and value is not None)
      if rate and not (type(value) in (int, float) and 0 <= value < 1):
        raise ValueError(f"{field.name} must be a number in [0, 1), not {value!r}")
    if self.hidden_size % self.num_attention_heads:
      raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of "
                       f"num_attention_heads {self.num_attention_heads}")


# HuggingFace's names. The last version of google-research/bert computes "gelu" as the tanh
# approximation, its first release and HuggingFace as erf: `checkpoint_utils` translates.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_new": functools.partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(nn.gelu, approximate=True),
    "relu": nn.relu,
    "tanh": nn.tanh,
    "linear": lambda x: x,
}

# The published sizes (Devlin et al., 2018, and Turc et al., 2019, for the four smaller ones).
SIZES: dict[str, BertConfig] = {
    "bert-tiny": BertConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
                            intermediate_size=512),
    "bert-mini": BertConfig(hidden_size=256, num_hidden_layers=4, num_attention_heads=4,
                            intermediate_size=1024),
    "bert-small": BertConfig(hidden_size=512, num_hidden_layers=4, num_attention_heads=8,
                             intermediate_size=2048),
    "bert-medium": BertConfig(hidden_size=512, num_hidden_layers=8, num_attention_heads=8,
                              intermediate_size=2048),
    "bert-base": BertConfig(),
    "bert-large": BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
                             intermediate_size=4096),
}


def _kernel_init(config: BertConfig) -> nn.initializers.Initializer:
  """Truncated normal without variance correction (`create_initializer` of the original)."""
  return nn.initializers.truncated_normal(config.initializer_range)


def _dense(features: int, config: BertConfig, dtype: Any, name: str) -> nn.Dense:
  return nn.Dense(features, dtype=dtype, kernel_init=_kernel_init(config), name=name)


def _layer_norm(x: Array, config: BertConfig, dtype: Any) -> Array:
  """Normalizes [..., h] in float32 with a two-pass variance; returns it in `dtype`."""
  layer_norm = nn.LayerNorm(epsilon=config.layer_norm_eps, use_fast_variance=False,
                            dtype=jnp.float32, name="layer_norm")
  return layer_norm(x).astype(dtype)


class BertEmbeddings(nn.Module):
  """Word + token type + position embeddings, then LayerNorm, then dropout."""

  config: BertConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, input_ids: Array, token_type_ids: Array, position_ids: Array,
               deterministic: bool) -> tuple[Array, Array]:
    """Takes int32 [b, s] each; returns the tokens [b, s, h] and the word table [v, h]."""
    config = self.config

    def embed(size: int, name: str) -> nn.Embed:
      return nn.Embed(size, config.hidden_size, embedding_init=_kernel_init(config), name=name)

    words = embed(config.vocab_size, "word_embeddings")
    x = words(input_ids)  # [b, s, h]
    x += embed(config.type_vocab_size, "token_type_embeddings")(token_type_ids)
    x += embed(config.max_position_embeddings, "position_embeddings")(position_ids)
    x = _layer_norm(x, config, self.dtype)
    x = Dropout(config.hidden_dropout_prob)(x, deterministic=deterministic)
    return x, words.embedding


def attention_bias_from(sequence_ids: Array) -> Array:
  """Returns 0 where query and key share a non-zero sequence id and -10,000 elsewhere.

  Args:
    sequence_ids: [b, s] int32, from 1; 0 is padding.

  Returns:
    [b, 1, q, k] float32. -10,000 is the original's; it is added in float32, where exp(-10,000)
    is exactly 0 beside any real score.
  """
  query = sequence_ids[:, None, :, None]  # [b, 1, q, 1]
  key = sequence_ids[:, None, None, :]  # [b, 1, 1, k]
  return jnp.where((query == key) & (key != 0), 0.0, -10_000.0)


class BertSelfAttention(nn.Module):
  """Multi-head self-attention, its output projection, and the residual LayerNorm."""

  config: BertConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, attention_bias: Array, deterministic: bool,
               token_positions: Array | None = None) -> Array:
    """Takes the arguments of `BertLayer`; returns [p, h], or [t, h] without token_positions."""
    config = self.config
    rows, length, hidden = x.shape
    head_dim = hidden // config.num_attention_heads
    # Dense layers get [t, h]: XLA's CPU backend multiplies 2-D operands fastest.
    tokens = x.reshape(-1, hidden)  # [t, h]

    def heads(name: str) -> Array:
      y = _dense(hidden, config, self.dtype, name)(tokens)
      return y.reshape(rows, length, config.num_attention_heads, head_dim)  # [b, s, n, d]

    query, key, value = heads("query"), heads("key"), heads("value")
    scores = jnp.einsum("bqnd,bknd->bnqk", query, key,
                        preferred_element_type=jnp.float32)  # [b, n, q, k]
    scores = scores / head_dim**0.5 + attention_bias
    probs = nn.softmax(scores).astype(self.dtype)
    # One mask element for every (example, head, query, key), as in the original.
    probs = Dropout(config.attention_probs_dropout_prob)(probs, deterministic=deterministic)
    context = jnp.einsum("bnqk,bknd->bqnd", probs, value).reshape(-1, hidden)  # [t, h]
    if token_positions is not None:
      tokens, context = tokens[token_positions], context[token_positions]  # [p, h]
    y = _dense(hidden, config, self.dtype, "output")(context)
    y = Dropout(config.hidden_dropout_prob)(y, deterministic=deterministic)
    return _layer_norm(tokens + y, config, self.dtype)


class BertLayer(nn.Module):
  """A post-LN Transformer layer: attention, then the feed-forward block."""

  config: BertConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, attention_bias: Array, deterministic: bool,
               token_positions: Array | None = None) -> Array:
    """Takes packed rows through the layer.

    Args:
      x: [b, s, h].
      attention_bias: [b, 1, q, k].
      deterministic: True turns dropout off.
      token_positions: [p] int32, flat indices of the tokens to return; None: all.

    Returns:
      [b, s, h], or [p, h] of the `token_positions`.
    """
    config = self.config
    tokens = BertSelfAttention(config, self.dtype, name="attention")(
        x, attention_bias, deterministic, token_positions)
    y = _dense(config.intermediate_size, config, self.dtype, "intermediate")(tokens)  # [.., i]
    y = ACTIVATIONS[config.hidden_act](y)
    y = _dense(config.hidden_size, config, self.dtype, "output")(y)  # [.., h]
    y = Dropout(config.hidden_dropout_prob)(y, deterministic=deterministic)
    y = _layer_norm(tokens + y, config, self.dtype)
    return y if token_positions is not None else y.reshape(x.shape)  # [p, h] or [b, s, h]


class BertPooler(nn.Module):
  """Dense + tanh on the last layer's [CLS]."""

  config: BertConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, cls: Array) -> Array:
    """Takes and returns [e, h]."""
    return nn.tanh(_dense(self.config.hidden_size, self.config, self.dtype, "dense")(cls))


class BertModel(nn.Module):
  """The encoder and the pooler.

  With `remat` the backward pass computes each layer's activations again instead of keeping
  them: the same numbers for about a third more arithmetic, and memory for one layer at a time.
  """

  config: BertConfig
  dtype: Any = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, input_ids: Array, token_type_ids: Array, position_ids: Array,
               sequence_ids: Array, cls_positions: Array, token_positions: Array | None = None,
               *, deterministic: bool = True) -> tuple[Array, Array, Array]:
    """Encodes packed rows (the batch format of `data.py`).

    Args:
      input_ids: [b, s] int32, as the next three.
      token_type_ids: 0 for the first segment, 1 for the second.
      position_ids: from 0 in every sequence.
      sequence_ids: number of a token's sequence in its row, from 1; 0 is padding.
      cls_positions: [e] int32, index of each example's [CLS] among the t flattened tokens.
      token_positions: [p] int32, likewise, the tokens that are read beside [CLS]; None: all.
      deterministic: True turns dropout off; otherwise the "dropout" key is used.

    Returns:
      sequence_output [b, s, h] (or [p, h] of `token_positions`), pooled_output [e, h], and the
      word embedding table [v, h] that the MLM head is tied to.
    """
    config = self.config
    x, word_embeddings = BertEmbeddings(config, self.dtype, name="embeddings")(
        input_ids, token_type_ids, position_ids, deterministic)
    attention_bias = attention_bias_from(sequence_ids)
    layer = nn.remat(BertLayer, static_argnums=(3,)) if self.remat else BertLayer
    last_positions = None  # what the last layer returns
    if token_positions is not None:
      last_positions = jnp.concatenate([cls_positions, token_positions])  # [e + p]
    for i in range(config.num_hidden_layers):
      last = i == config.num_hidden_layers - 1
      x = layer(config, self.dtype, name=f"layer_{i}")(
          x, attention_bias, deterministic, last_positions if last else None)
    if token_positions is None:
      cls = x.reshape(-1, config.hidden_size)[cls_positions]  # [t, h], then [e, h]
    else:
      cls, x = jnp.split(x, [len(cls_positions)])  # [e, h] and [p, h]
    pooled = BertPooler(config, self.dtype, name="pooler")(cls)
    return x, pooled, word_embeddings


class BertForSequenceClassification(nn.Module):
  """BERT with dropout and one dense layer on the pooled [CLS]."""

  config: BertConfig
  num_labels: int  # 1 for regression
  dtype: Any = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, batch: dict[str, Array], *, deterministic: bool = True) -> Array:
    """Takes a batch of `data.py`; returns logits [e, num_labels] float32."""
    only_cls = jnp.zeros(0, jnp.int32)  # no token beside [CLS] is read
    _, pooled, _ = BertModel(self.config, self.dtype, self.remat, name="bert")(
        batch["input_ids"], batch["token_type_ids"], batch["position_ids"],
        batch["sequence_ids"], batch["cls_positions"], only_cls, deterministic=deterministic)
    dropout = self.config.classifier_dropout
    if dropout is None:
      dropout = self.config.hidden_dropout_prob
    pooled = Dropout(dropout)(pooled, deterministic=deterministic)
    return _dense(self.num_labels, self.config, jnp.float32, "classifier")(pooled)


class BertForPreTraining(nn.Module):
  """BERT with the masked-LM head and the next-sentence head."""

  config: BertConfig
  dtype: Any = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, batch: dict[str, Array], *,
               deterministic: bool = True) -> tuple[Array, Array]:
    """Takes a batch with `masked_lm_positions` [m], flat indices over the whole batch.

    Returns:
      Masked-LM logits [m, v] and next-sentence logits [e, 2], both float32.
    """
    config = self.config
    bert = BertModel(config, self.dtype, self.remat, name="bert")
    masked, pooled, word_embeddings = bert(
        batch["input_ids"], batch["token_type_ids"], batch["position_ids"],
        batch["sequence_ids"], batch["cls_positions"], batch["masked_lm_positions"],
        deterministic=deterministic)
    masked_lm_logits = MaskedLmHead(config, self.dtype, name="masked_lm")(
        masked, word_embeddings)
    next_sentence_logits = _dense(2, config, jnp.float32, "next_sentence")(pooled)
    return masked_lm_logits, next_sentence_logits


class MaskedLmHead(nn.Module):
  """Dense, activation and LayerNorm, then the transposed word embeddings and a bias."""

  config: BertConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, masked: Array, word_embeddings: Array) -> Array:
    """Takes tokens [m, h] and the word table [v, h]; returns logits [m, v] float32."""
    config = self.config
    y = _dense(config.hidden_size, config, self.dtype, "transform")(masked)
    y = _layer_norm(ACTIVATIONS[config.hidden_act](y), config, self.dtype)
    logits = jnp.einsum("mh,vh->mv", y, word_embeddings.astype(self.dtype),
                        preferred_element_type=jnp.float32)  # [m, v]
    bias = self.param("bias", nn.initializers.zeros, (config.vocab_size,))
    return logits + bias[None]


def one_token() -> dict[str, np.ndarray]:
  """Returns the smallest batch, to initialize parameters with."""
  one = np.ones((1, 1), np.int32)
  zero = np.zeros(1, np.int32)
  return {"input_ids": 0 * one, "token_type_ids": 0 * one, "position_ids": 0 * one,
          "sequence_ids": one, "cls_positions": zero, "masked_lm_positions": zero}


def parameter_shapes(model: nn.Module) -> dict[str, Any]:
  """Returns the parameters of a model with a head as `jax.ShapeDtypeStruct`.

  One layer is traced for all: with twelve it takes a second, before anything else can begin.
  """
  config = model.config
  single = model.clone(config=dataclasses.replace(config, num_hidden_layers=1))
  key = jax.eval_shape(jax.random.key, 0)  # making one compiles
  shapes = jax.eval_shape(single.init, key, one_token())["params"]
  bert = shapes["bert"] | {f"layer_{i}": shapes["bert"]["layer_0"]
                           for i in range(config.num_hidden_layers)}
  return shapes | {"bert": dict(sorted(bert.items()))}  # in the order of `init`


# --- Dropout ------------------------------------------------------------------------------------


class Dropout(nn.Module):
  """Zeroes elements with probability `rate` and divides the others by 1 - rate.

  Written here for its masks: with `flax.linen.Dropout` a MiniLM step of [3, 128] tokens on a CPU
  takes 8% longer with Threefry keys and 24% with rbg keys (benchmarks/NOTES.md).
  """

  rate: float

  @nn.compact
  def __call__(self, x: Array, *, deterministic: bool) -> Array:
    """Takes and returns [...]; every element has its own mask element, of the "dropout" key."""
    if deterministic or not self.rate:
      return x
    keep = keep_mask(self.make_rng("dropout"), x.shape, self.rate)
    return jnp.where(keep, x / (1 - self.rate), jnp.zeros((), x.dtype))


def keep_mask(key: Array, shape: tuple[int, ...], rate: float) -> Array:
  """Draws True with probability 1 - rate, by hashing each element's index with the key.

  Two rounds of a 32-bit finalizer (lowbias32 of C. Wellons, "hash prospector") replace Threefry's
  twenty. The statistics are those of independent draws, and XLA fuses the arithmetic with the
  mask's use. Not for cryptography.

  Args:
    key: typed; equal keys give equal masks.
    shape: of the mask, at most 2**32 elements.
    rate: probability of False, exact to 2**-32.

  Returns:
    bool array of `shape`.
  """
  if math.prod(shape) > 1 << 32:
    raise ValueError(f"a dropout mask of shape {shape} has more than 2**32 elements")
  words = jax.random.key_data(key)  # of a folded key: Threefry's own output
  first, second = words[0], words[-1]
  index = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)  # flat index of each element
  draw = _lowbias32(_lowbias32(index + first) ^ second)
  return draw >= jnp.uint32(round(rate * 2**32))


def _lowbias32(x: Array) -> Array:
  """Maps uint32 to uint32, one to one; each bit of x changes half the bits of the result."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)
