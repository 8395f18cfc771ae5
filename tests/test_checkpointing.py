"""Checkpoints are what they were, or are named and passed over."""

import concurrent.futures
import resource
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checkpointing
import optimization
from support.errors import MachineError, UserError
import training


def state_at(step):
  params = {"kernel": jnp.arange(600.0).reshape(30, 20) + step, "bias": jnp.full(3, 0.5 * step)}
  optimizer = optimization.create_optimizer(
      "adamw", b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.0, max_grad_norm=1.0,
      bias_correction=True)
  state = training.create_state(params, optimizer, seed=0)
  return state.replace(step=jnp.asarray(step, jnp.int32))


def opened(folder, **options):
  return checkpointing.Checkpointer(folder, {"config": {"hidden_size": 20}}, **options)


def save(folder, *steps, **options):
  checkpointer = opened(folder, **options)
  for step in steps:
    checkpointer.save(state_at(step))
  checkpointer.close()


def restored(folder):
  """The restored state; it is that of its step, bit for bit."""
  checkpointer = opened(folder)
  try:
    state = checkpointer.restore(state_at(0))
  finally:
    checkpointer.close()
  right = state_at(int(state.step))
  jax.tree.map(np.testing.assert_array_equal, (state.params, state.opt_state),
               (right.params, right.opt_state))
  return int(state.step)


def test_the_best_checkpoint_is_kept_for_each_that_may_need_it(tmp_path):
  """Step 2 is the best until step 4's evaluation, which nobody may lose with step 4's files."""
  best = {1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 4}
  checkpointer = opened(tmp_path, keep=2, needed_at=best.get)
  left = {1: [1], 2: [1, 2], 3: [2, 3], 4: [2, 3, 4], 5: [4, 5], 6: [4, 5, 6], 7: [4, 6, 7]}
  for step in best:
    checkpointer.save(state_at(step))
    checkpointer.wait()
    assert checkpointer.steps() == left[step]
  params = checkpointer.read_params(4, state_at(0))
  jax.tree.map(np.testing.assert_array_equal, params, state_at(4).params)
  shutil.rmtree(tmp_path / "4")
  with pytest.raises(UserError, match="4 is damaged"):
    checkpointer.read_params(4, state_at(0))
  checkpointer.close()


def test_a_checkpoint_without_the_best_before_it_is_passed_over(tmp_path, capsys):
  """As where the upload of the older one was cut short: its steps are repeated."""
  save(tmp_path, 2, 3, 7, keep=3)
  checkpointer = opened(tmp_path, needed_at={2: 2, 3: 2, 7: 5}.get)
  assert int(checkpointer.restore(state_at(0)).step) == 3
  checkpointer.close()
  assert capsys.readouterr().out == (
      f"warning: checkpoint 7 is of no use without the best before it: {tmp_path}/5 is missing; it "
      "is kept as 7.damaged, and steps 4 to 7 are repeated\n")


def turn_bit(file, at):
  content = bytearray(file.read_bytes())
  content[int(at * len(content))] ^= 4
  file.write_bytes(content)


def largest(folder):
  """The file of the arrays: their bytes are its first, those of old indices its last."""
  return max(folder.rglob("d/*"), key=lambda file: file.stat().st_size)


def test_a_damaged_best_is_trained_again(tmp_path, capsys):
  """Whenever it is found, a run can end, with what it would have had."""
  save(tmp_path, 1, 2, 3, keep=3)
  turn_bit(largest(tmp_path / "2" / "params"), 0.1)
  checkpointer = opened(tmp_path, needed_at={1: 1, 2: 2, 3: 2}.get)
  with pytest.raises(UserError, match="2 is damaged: .*; the same command goes back before step 2"):
    checkpointer.read_params(2, state_at(0))  # at the end of the run
  shutil.copytree(tmp_path / "1", tmp_path / "aside")
  shutil.rmtree(tmp_path / "1")
  with pytest.raises(UserError, match="checkpoint 3 is of no use without the best before it: .*/2"
                     " is damaged: .* before it can be used; bring back a copy, or"):
    checkpointer.restore(state_at(0))
  (tmp_path / "aside").rename(tmp_path / "1")
  assert int(checkpointer.restore(state_at(0)).step) == 1
  checkpointer.close()
  assert [line.split("; ")[1] for line in capsys.readouterr().out.splitlines()] == [
      "it is kept as 3.damaged, and steps 2 to 3 are repeated",
      "it is kept as 2.damaged, and steps 2 to 2 are repeated"]


DAMAGE = {"deleted": lambda file: file.unlink(), "emptied": lambda file: file.write_bytes(b""),
          "cut": lambda file: file.write_bytes(file.read_bytes()[:file.stat().st_size // 2]),
          "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
          **{f"bit {at}": (lambda file, at=at: turn_bit(file, at)) for at in (0.1, 0.5, 0.9)}}


@pytest.mark.filterwarnings(  # of tensorstore's threads, where they come too late to be caught
    "ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_damage_is_silent(tmp_path, capsys):
  """Each file of the newest checkpoint, in each way: the right bits, or those before, named."""
  save(tmp_path / "whole", 4, 7)
  newest = tmp_path / "whole" / "7"
  found = {4: 0, 7: 0}
  for file in sorted(newest.rglob("*")):
    for way, damage in DAMAGE.items():
      if file.is_file() and (file.stat().st_size or way == "deleted"):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "run")
        damage(tmp_path / "run" / "7" / file.relative_to(newest))
        step = restored(tmp_path / "run")
        found[step] += 1
        lines = capsys.readouterr().out.splitlines()
        if step == 4:
          assert len(lines) == 1
          assert lines[0].startswith(f"warning: {tmp_path}/run/7 is damaged: "), (file, way)
          assert lines[0].endswith(
              "; it is kept as 7.damaged, and steps 5 to 7 are repeated"), (file, way)
  assert found[4] > 40
  assert found[7]  # such as commit_success.txt, which says nothing


def test_a_turned_bit_is_named_by_its_array(tmp_path, capsys):
  save(tmp_path, 1, 2)
  turn_bit(largest(tmp_path / "2" / "params"), 0.1)
  assert restored(tmp_path) == 1
  assert "params/kernel" in capsys.readouterr().out


def test_a_damaged_step_is_saved_again(tmp_path):
  save(tmp_path, 1, 2)
  for number in (1, 2):
    turn_bit(largest(tmp_path / "2" / "params"), 0.1)
    assert restored(tmp_path) == 1
    save(tmp_path, 2)
    assert restored(tmp_path) == 2
    assert len(list(tmp_path.iterdir())) == 2 + number
  assert {path.name for path in tmp_path.iterdir()} == {"1", "2", "2.damaged", "2.damaged-2"}


def test_where_all_are_damaged_nothing_is_repeated_unasked(tmp_path):
  save(tmp_path, 1, 2)
  for step in ("1", "2"):
    turn_bit(largest(tmp_path / step / "params"), 0.1)
  for _ in range(2):
    with pytest.raises(UserError, match="2 is damaged: .*none before it can be used; bring back"):
      restored(tmp_path)
  assert {path.name for path in tmp_path.iterdir()} == {"1", "2"}


def test_another_shape_or_step_does_not_fit(tmp_path):
  save(tmp_path, 2)
  checkpointer = opened(tmp_path)
  other = state_at(0)
  other = other.replace(params={**other.params, "bias": jnp.zeros(4)})
  with pytest.raises(UserError, match=r"params/bias is float32\[3\] there and float32\[4\] here"):
    checkpointer.restore(other)
  checkpointer.close()
  (tmp_path / "2").rename(tmp_path / "3")
  with pytest.raises(UserError, match="3 is damaged: it holds step 2"):
    restored(tmp_path)


def test_a_checkpoint_without_checksums_says_so(tmp_path, capsys):
  save(tmp_path, 2)
  shutil.rmtree(tmp_path / "2" / "checksums")
  assert restored(tmp_path) == 2
  assert "2 has no checksums" in capsys.readouterr().out


def test_what_is_saved_is_what_was_given(tmp_path):
  """The next step takes over the buffers while the file is still to be written."""
  checkpointer, begin = opened(tmp_path), threading.Event()
  checkpointer._thread.submit(begin.wait)
  state = state_at(5)
  checkpointer.save(state)
  jax.block_until_ready(jax.jit(
      lambda tree: jax.tree.map(lambda x: 0 * x - 1, tree), donate_argnums=0)(state.params))
  begin.set()
  checkpointer.close()
  assert restored(tmp_path) == 5


def test_a_failed_save_is_noticed_before_the_next(tmp_path):
  """A limit of the files' sizes stands for a disk that is full."""
  checkpointer = opened(tmp_path)
  checkpointer.save(state_at(1))
  checkpointer.wait()
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
  try:
    checkpointer.save(state_at(2))
    concurrent.futures.wait([checkpointer._saving[1]])
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  with pytest.raises(MachineError, match="2 cannot be written: File too large; step 1 is saved; "
                                         "the same command continues from it"):
    checkpointer.check()
  assert [path.name for path in tmp_path.iterdir()] == ["1"]
  checkpointer.save(state_at(2))
  checkpointer.close()
  assert restored(tmp_path) == 2


def test_what_a_killed_save_left_is_deleted(tmp_path):
  for name in (".3.tmp", ".3.tmp.orbax-checkpoint-tmp", "3.orbax-checkpoint-tmp-12"):
    (tmp_path / name).mkdir()
  save(tmp_path, 3)
  assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_the_newest_and_every_kth_are_kept(tmp_path):
  save(tmp_path, *range(1, 8), keep=2, keep_every=3)
  assert checkpointing.complete_steps(tmp_path) == [3, 6, 7]


def test_going_back(tmp_path, capsys):
  save(tmp_path, 2, 4, 6, keep=3)
  checkpointer = opened(tmp_path)
  with pytest.raises(UserError, match="restore_step 3 has no checkpoint in .*steps 2, 4, 6$"):
    checkpointer.go_back(3)
  checkpointer.go_back(2)
  checkpointer.close()
  assert "later checkpoints are kept as 4.undone, 6.undone" in capsys.readouterr().out
  assert restored(tmp_path) == 2
