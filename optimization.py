"""Learning-rate schedules and optimizers, as `optimization.py` of google-research/bert has them.

AdamW with and without bias correction, LAMB, clipping, weight decay by path, freezing.
"""

from collections.abc import Callable, Mapping
import functools
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Modules = tuple[tuple[str, ...], ...]  # paths in a tree of parameters: ("bert", "pooler")
Params = Mapping[str, Any]


def training_steps(num_examples: int, batch_size: int, epochs: float, warmup_proportion: float,
                   max_steps: int = 0) -> tuple[int, int]:
  """Returns fine-tuning's steps and warm-up steps, both rounded down as in the original.

  `max_steps`, unless it is 0, takes the place of the epochs.
  """
  num_train_steps = max_steps or int(num_examples / batch_size * epochs)
  return num_train_steps, int(num_train_steps * warmup_proportion)


def create_schedule(kind: str, learning_rate: float, num_train_steps: int,
                    num_warmup_steps: int) -> optax.Schedule:
  """Returns a schedule of linear warm-up from 0 and linear decay to 0.

  Args:
    kind: "joined" peaks at `learning_rate` when warm-up ends and decays from there;
      "original" (`create_optimizer` of google-research/bert) decays over *all* steps and
      replaces the first `num_warmup_steps` by the warm-up, so it drops where they meet.
    learning_rate: the peak.
    num_train_steps: the step at which the rate reaches 0.
    num_warmup_steps: length of the warm-up.

  Returns:
    A function from step to learning rate; with a warm-up, the rate of step 0 is 0.
  """
  if kind not in ("joined", "original"):
    raise ValueError(f"learning_rate_schedule must be 'joined' or 'original', not {kind!r}")
  warmup = max(num_warmup_steps, 1)
  decay_start = num_warmup_steps if kind == "joined" else 0
  decay_steps = max(num_train_steps - decay_start, 1)

  def schedule(step: Any) -> Any:
    # numpy for the host's log: optax's schedules compute on a device, behind the steps in flight.
    xp = jnp if isinstance(step, jax.Array) else np
    rising = learning_rate * step / warmup
    falling = learning_rate * xp.clip(1 - (step - decay_start) / decay_steps, 0.0, 1.0)
    return xp.where(step < num_warmup_steps, rising, falling)

  return schedule


def _map_paths(params: Params, function: Callable[[tuple[str, ...]], Any]) -> Params:
  """Returns a tree like `params` of `function(path)` for each parameter."""
  return jax.tree_util.tree_map_with_path(
      lambda path, _: function(tuple(entry.key for entry in path)), params)


def decay_mask(params: Params) -> Params:
  """Returns True for all parameters but biases and LayerNorm's (`_do_use_weight_decay`)."""
  return _map_paths(params, lambda path: path[-1] != "bias" and "layer_norm" not in path)


def parameters_of(modules: Modules, params: Params) -> Params:
  """Returns True for the parameters of some modules, such as ("bert", "pooler"), else False."""
  return _map_paths(params, lambda path: any(
      path[:len(module)] == module for module in modules))


def stop_gradients(params: Params, modules: Modules) -> Params:
  """Returns parameters that are equal, but constants to JAX in some modules.

  Their gradients are zero, and nothing is computed for them: where the embeddings and the lower
  layers are constants, the backward pass ends above them.
  """
  return jax.tree.map(
      lambda leaf, is_constant: jax.lax.stop_gradient(leaf) if is_constant else leaf,
      params, parameters_of(modules, params))


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
  """Scales all gradients down together to the norm `max_norm` (`tf.clip_by_global_norm`).

  The multiplication fuses with Adam's moments. optax divides in a pass of its own over all
  gradients, 5% of a small step on a CPU (benchmarks/NOTES.md).
  """

  def update(grads: Any, state: optax.EmptyState, params: Params | None = None
             ) -> tuple[Any, optax.EmptyState]:
    del params
    scale = max_norm / jnp.maximum(optax.tree.norm(grads), max_norm)
    return jax.tree.map(lambda g: g * scale, grads), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class _Moments(NamedTuple):
  mu: Any
  nu: Any


def scale_by_bert_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
  """Adam without bias correction: m / (sqrt(v) + eps) (`AdamWeightDecayOptimizer`)."""

  def init(params: Params) -> _Moments:
    return _Moments(jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params))

  def update(grads: Any, state: _Moments, params: Params | None = None) -> tuple[Any, _Moments]:
    del params
    mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
    nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(g), state.nu, grads)
    updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
    return updates, _Moments(mu, nu)

  return optax.GradientTransformation(init, update)


def scale_by_depth(decay: float) -> optax.GradientTransformation:
  """Multiplies the updates of lower modules by powers of `decay` (Howard and Ruder, 2018).

  Of L layers, layer_l (from 0) has decay ** (L - l), the embeddings have decay ** (L + 1); the
  pooler, the heads and all else have 1. As a factor of the whole update, decay and trust ratio
  included, it is one of the learning rate.
  """

  def height(path: tuple[str, ...]) -> float:
    """Returns 0 for the embeddings, l + 1 for layer_l, infinity for what is above them."""
    layer = re.fullmatch("bert/(embeddings|layer_([0-9]+))", "/".join(path[:2]))
    return math.inf if not layer else int(layer[2]) + 1 if layer[2] else 0

  def update(updates: Any, state: optax.EmptyState, params: Params | None = None
             ) -> tuple[Any, optax.EmptyState]:
    del params
    heights = _map_paths(updates, height)
    # The lower ones may be frozen, and then are not here; the highest layer is, if any.
    top = max((h for h in jax.tree.leaves(heights) if h < math.inf), default=0) + 1
    return jax.tree.map(lambda u, h: u * decay ** max(top - h, 0), updates, heights), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_given_rate() -> optax.GradientTransformationExtraArgs:
  """Multiplies by minus the `learning_rate` that each call of `update` is given.

  The rate is an input, so that a step compiles once for all schedules. The count is not used:
  `optax.scale_by_learning_rate` has it in its state, and checkpoints keep that form.
  """

  def init(params: Params) -> optax.ScaleByScheduleState:
    del params
    return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

  def update(updates: Any, state: optax.ScaleByScheduleState, params: Params | None = None, *,
             learning_rate: Any, **unused: Any) -> tuple[Any, optax.ScaleByScheduleState]:
    del params, unused
    updates = jax.tree.map(lambda u: -learning_rate * u, updates)
    return updates, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(init, update)


@functools.lru_cache(maxsize=32)  # equal settings: one optimizer, so that a step compiles once
def create_optimizer(kind: str, *, b1: float, b2: float, eps: float, weight_decay: float,
                     max_grad_norm: float, bias_correction: bool, layerwise_lr_decay: float = 1.0
                     ) -> optax.GradientTransformationExtraArgs:
  """Chains clipping by the global norm, Adam's direction, decoupled decay and learning rate.

  Its `update` takes the step's `learning_rate` by that name.

  Args:
    kind: "adamw" is BERT's; "lamb" is Algorithm 2 of You et al., 2019
      (https://arxiv.org/abs/1904.00962, phi the identity): each tensor's step, decay included,
      is scaled to the norm of the tensor, except biases and LayerNorm (as in the authors'
      code). For batches of thousands.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added outside the square root.
    weight_decay: added to the update where `decay_mask` allows, before the learning rate.
    max_grad_norm: bound on the root of the sum of all squared gradients; 0 turns it off.
    bias_correction: True is Adam (and LAMB) as published; False is the original BERT's (and
      the LAMB that ALBERT was trained with).
    layerwise_lr_decay: see `scale_by_depth`; 1 turns it off.
  """
  if kind not in ("adamw", "lamb"):
    raise ValueError(f"optimizer must be 'adamw' or 'lamb', not {kind!r}")
  scale = optax.scale_by_adam if bias_correction else scale_by_bert_adam
  trust = (optax.masked(optax.scale_by_trust_ratio(), decay_mask),) if kind == "lamb" else ()
  by_depth = (scale_by_depth(layerwise_lr_decay),) if layerwise_lr_decay != 1 else ()
  return optax.chain(
      clip_by_global_norm(max_grad_norm) if max_grad_norm else optax.identity(),
      scale(b1=b1, b2=b2, eps=eps),
      optax.add_decayed_weights(weight_decay, decay_mask),
      *trust,
      *by_depth,
      scale_by_given_rate())


@functools.lru_cache(maxsize=32)
def freeze(optimizer: optax.GradientTransformationExtraArgs,
           modules: Modules) -> optax.GradientTransformationExtraArgs:
  """Keeps the parameters of some modules as they are: no update and no decay (`optax.masked`).

  Their gradients still count in the global norm. For modules that no loss reaches, such as the
  pooler in pre-training on masked words alone: decay alone would shrink them.

  Args:
    optimizer: updates all other parameters.
    modules: paths in the tree of parameters, such as ("bert", "pooler").
  """
  return optax.chain(optimizer, optax.masked(optax.set_to_zero(),
                                             lambda p: parameters_of(modules, p)))


@functools.lru_cache(maxsize=32)
def train_all_but(optimizer: optax.GradientTransformationExtraArgs,
                  modules: Modules) -> optax.GradientTransformationExtraArgs:
  """Keeps the parameters of some modules as they are, without moments for them in the state.

  Nothing of them counts in the global norm. `stop_gradients` spares their gradients too.

  Args:
    optimizer: updates all other parameters.
    modules: those to keep; none of them: returns `optimizer` itself.
  """
  if not modules:
    return optimizer

  def trained(params: Params) -> Params:
    return jax.tree.map(lambda frozen: not frozen, parameters_of(modules, params))

  return optax.chain(optax.masked(optimizer, trained),
                     optax.masked(optax.set_to_zero(), lambda p: parameters_of(modules, p)))
