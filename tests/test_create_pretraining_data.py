"""The original's records where there are goldens, its rules on a made-up corpus, and the shards.

Every word of the made-up corpus tells its document and sentence, so that a record shows where
its tokens come from.
"""

import collections
import dataclasses
import functools
import glob
import hashlib
import itertools
import operator
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

from absl import flags
from conftest import ROOT
import numpy as np
import pytest
from scipy import stats

import create_pretraining_data
from pretraining import text, tfrecords
from support.errors import UserError

DOCUMENTS = 8
SENTENCES = 12
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*SPECIAL, *(f"d{d}s{s}" for d in range(DOCUMENTS) for s in range(SENTENCES)), "##xa",
         "##xb")
CLS, SEP, MASK = 2, 3, 4
PIECES = {WORDS.index("##xa"), WORDS.index("##xb")}


def place(token):
  """(document, sentence) that a word stands in."""
  match = re.fullmatch(r"d(\d+)s(\d+)", WORDS[token])
  return int(match[1]), int(match[2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """vocab.txt and text.txt: sentences of 1 to 8 words, some of them of two or three pieces."""
  folder = tmp_path_factory.mktemp("made_up")
  (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
  rng = random.Random(0)
  lines = []
  for d in range(DOCUMENTS):
    for s in range(SENTENCES):
      lines.append(" ".join(f"d{d}s{s}" + rng.choice(("", "", "xa", "xaxb"))
                            for _ in range(rng.randint(1, 8))))
    lines.append("")
  (folder / "text.txt").write_text("\n".join(lines) + "\n")
  return folder


def run(*arguments):
  """Runs the script on flags, in this process."""
  values = flags.FlagValues()
  create_pretraining_data.define_flags(values)
  values(["create_pretraining_data.py", *map(str, arguments)])
  create_pretraining_data.create(create_pretraining_data.Settings.from_flags(values))


def made(folder, output, *arguments):
  """Runs the script on the made-up corpus. -> the records of its one file."""
  run(f"--input_file={folder}/text.txt", f"--vocab_file={folder}/vocab.txt",
      f"--output_file={output}", "--max_seq_length=32", "--max_predictions_per_seq=5", *arguments)
  return records(output) if output.exists() else None


def records(*files):
  batches = [batch for file in files for batch in tfrecords.read_records(file)]
  return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def complaint(*arguments):
  with pytest.raises(UserError) as raised:
    run(*arguments)
  assert "\n" not in str(raised.value)
  return str(raised.value)


def examples(arrays):
  """Yields (tokens before masking, first length, random_next, positions, masked tokens)."""
  for i, ids in enumerate(arrays["input_ids"]):
    length = arrays["input_mask"][i].sum()
    masked = int(arrays["masked_lm_weights"][i].sum())
    positions = arrays["masked_lm_positions"][i, :masked]
    tokens = ids[:length].copy()
    replaced = tokens[positions]
    tokens[positions] = arrays["masked_lm_ids"][i, :masked]
    first = length - int(arrays["segment_ids"][i].sum())
    yield (tokens.tolist(), first, bool(arrays["next_sentence_labels"][i]), positions.tolist(),
           replaced.tolist())


# --- Golden ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), [("bert", 279), ("bert_wwm", 281)])
def test_records_are_the_originals(shared, tmp_path, name, count):
  golden = shared / "golden" / "pretraining_data"
  run(f"--input_file={golden}/input.txt", f"--vocab_file={shared}/golden/vocab.txt",
      f"--output_file={tmp_path}/all", "--dupe_factor=2",
      f"--do_whole_word_mask={name == 'bert_wwm'}")
  ours, theirs = records(tmp_path / "all"), records(golden / f"{name}.tfrecord")
  assert len(theirs["input_ids"]) == count
  for feature in tfrecords.FEATURES:
    np.testing.assert_array_equal(ours[feature], theirs[feature], err_msg=feature)


@pytest.mark.parametrize(("wwm", "digest"), [(False, "523823913084bea0"),
                                             (True, "6fc4c80d764ca3b5")])
def test_records_stay_what_they_were_when_they_were_the_originals(folder, tmp_path, wwm, digest):
  made(folder, tmp_path / "out", f"--do_whole_word_mask={wwm}")
  assert hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest()[:16] == digest


# --- The original's rules -------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory):
  return made(folder, tmp_path_factory.mktemp("plain") / "out", "--dupe_factor=100")


@pytest.fixture(scope="module")
def whole_words(folder, tmp_path_factory):
  return made(folder, tmp_path_factory.mktemp("wwm") / "out", "--dupe_factor=100",
              "--do_whole_word_mask")


def test_shapes_and_padding(plain):
  n = len(plain["input_ids"])
  assert n > 1000
  assert plain["input_ids"].shape == (n, 32) and plain["masked_lm_ids"].shape == (n, 5)
  padding = plain["input_mask"] == 0
  assert (np.diff(plain["input_mask"], axis=1) <= 0).all()
  for name in ("input_ids", "segment_ids"):
    assert not plain[name][padding].any()
  free = plain["masked_lm_weights"] == 0
  assert set(np.unique(plain["masked_lm_weights"])) == {0, 1}
  for name in ("masked_lm_positions", "masked_lm_ids"):
    assert not plain[name][free].any()


def test_segments_come_from_the_right_documents(plain):
  followed = 0
  for tokens, first, random_next, _, _ in examples(plain):
    assert (tokens[0], tokens[first - 1], tokens[-1]) == (CLS, SEP, SEP)
    a, b = tokens[1:first - 1], tokens[first:-1]
    assert a and b and not {CLS, SEP, MASK, 0} & {*a, *b}
    for segment in (a, b):
      places = [place(token) for token in segment if token not in PIECES]
      assert len({document for document, _ in places}) <= 1
      sentences = [sentence for _, sentence in places]
      assert all(0 <= after - before <= 1 for before, after in itertools.pairwise(sentences))
    ends = [[place(token) for token in segment if token not in PIECES] for segment in (a, b)]
    if not all(ends):
      continue  # truncation has left nothing but the later pieces of a word
    (document_a, last), (document_b, start) = ends[0][-1], ends[1][0]
    assert random_next == (document_a != document_b)
    if not random_next:
      assert start > last
      followed += start == last + 1
  assert followed > 100


def test_both_labels_are_about_as_frequent_as_in_the_original(plain):
  share = plain["next_sentence_labels"].mean()
  assert 0.5 < share < 0.7  # a chunk of one sentence always gets a random next


def test_every_sentence_is_used_in_every_pass(folder, tmp_path):
  arrays = made(folder, tmp_path / "out", "--dupe_factor=1", "--short_seq_prob=0",
                "--max_seq_length=200", "--max_predictions_per_seq=40")
  seen = collections.Counter()
  for tokens, first, random_next, _, _ in examples(arrays):
    own = tokens[1:first - 1] if random_next else tokens[1:-1]
    seen.update({place(token) for token in own if token not in {CLS, SEP} | PIECES})
  assert seen == dict.fromkeys(seen, 1)
  assert len(seen) == DOCUMENTS * SENTENCES


def test_truncation_fills_the_example(plain):
  lengths = plain["input_mask"].sum(axis=1)
  assert lengths.max() == 32
  assert (lengths == 32).mean() > 0.5
  assert lengths.min() < 20  # short_seq_prob, and documents' ends


def test_short_examples_are_as_frequent_as_asked(folder, tmp_path):
  arrays = made(folder, tmp_path / "out", "--dupe_factor=20", "--short_seq_prob=1")
  assert arrays["input_mask"].sum(axis=1).mean() < 28


def test_truncate_pair_takes_from_the_longer_both_ends():
  taken = collections.Counter()
  for seed in range(200):
    a, b = list(range(20)), list(range(100, 106))
    a, b = create_pretraining_data.truncate_pair(a, b, 14, random.Random(seed))
    assert b == list(range(100, 106)) and len(a) == 8
    assert a == list(range(a[0], a[0] + 8))
    taken[a[0]] += 1
    tied = create_pretraining_data.truncate_pair([1, 2], [3, 4], 3, random.Random(seed))
    assert tied[0] == [1, 2]
  assert stats.chisquare([taken[i] for i in range(4, 9)],
                         [200 * p for p in _binomial(12, range(4, 9), taken)]).pvalue > 1e-3


def _binomial(n, values, taken):
  """Probabilities of `values` under Binomial(n, 1/2), scaled to what was seen of them."""
  p = stats.binom.pmf(list(values), n, 0.5)
  return p / p.sum() * sum(taken[i] for i in values) / 200


def test_masking_touches_what_it_says_and_no_special_token(plain, whole_words):
  for arrays in (plain, whole_words):
    for tokens, first, _, positions, _ in examples(arrays):
      assert positions == sorted(set(positions))
      assert not {0, first - 1, len(tokens) - 1} & set(positions)
      wanted = min(5, max(1, round(len(tokens) * 0.15)))
      assert len(positions) <= wanted
      assert len(positions) == wanted or arrays is whole_words


def test_rate_of_masking(folder, tmp_path):
  arrays = made(folder, tmp_path / "out", "--masked_lm_prob=0.4", "--max_predictions_per_seq=30",
                "--dupe_factor=2")
  for tokens, _, _, positions, _ in examples(arrays):
    assert len(positions) == max(1, round(len(tokens) * 0.4))


def test_eighty_ten_ten(plain):
  """[MASK], the token itself, or one of the whole vocabulary; at a fixed seed."""
  kept = masked = other = 0
  replacements = collections.Counter()
  for tokens, _, _, positions, replaced in examples(plain):
    for position, now in zip(positions, replaced, strict=True):
      masked += now == MASK
      kept += now == tokens[position]
      other += now not in (MASK, tokens[position])
      if now not in (MASK, tokens[position]):
        replacements[now] += 1
  total, size = masked + kept + other, len(WORDS)
  assert total > 5000
  expected = np.asarray([0.8 + 0.1 / size, 0.1 + 0.1 / size, 0.1 - 0.2 / size]) * total
  assert stats.chisquare([masked, kept, other], expected).pvalue > 1e-3
  assert set(replacements) >= {0, 1, CLS, SEP}  # special tokens are words of the vocabulary too
  counts = [replacements[i] for i in range(size) if i != MASK]
  assert stats.chisquare(counts).pvalue > 1e-3


def test_every_position_is_masked_as_often(plain):
  counts = np.zeros(32)
  for tokens, first, _, positions, _ in examples(plain):
    if len(tokens) == 32:
      rest = [p for p in range(1, 31) if p != first - 1]
      counts[[rest.index(p) for p in positions]] += 1
  assert stats.chisquare(counts[:29]).pvalue > 1e-3


def test_whole_words_are_masked_whole(whole_words):
  several = 0
  for tokens, first, _, positions, _ in examples(whole_words):
    masked = set(positions)
    word = []
    for position in (*(p for p in range(1, len(tokens) - 1) if p != first - 1), None):
      if word and (position is None or tokens[position] not in PIECES):
        assert len(masked & set(word)) in (0, len(word))
        several += len(word) > 1 and word[0] in masked
        word = []
      word.append(position)
  assert several > 100


def test_a_piece_joins_the_word_before_it_even_across_sep(folder):
  values = flags.FlagValues()
  create_pretraining_data.define_flags(values)
  values(["x", f"--vocab_file={folder}/vocab.txt", "--do_whole_word_mask"])
  maker = create_pretraining_data.load_maker(create_pretraining_data.Settings.from_flags(values))
  piece = min(PIECES)
  tokens = [CLS, piece, 5, piece, SEP, piece, 6, SEP]
  assert maker.candidates(tokens, 5) == [[1], [2, 3, 5], [6]]
  plain = dataclasses.replace(maker, settings=dataclasses.replace(
      maker.settings, do_whole_word_mask=False))
  assert [list(word) for word in plain.candidates(tokens, 5)] == [[1], [2], [3], [5], [6]]


def test_the_same_flags_give_the_same_bytes(folder, tmp_path):
  for name, seed in (("a", 1), ("b", 1), ("c", 2)):
    made(folder, tmp_path / name, f"--random_seed={seed}")
  a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
  assert a == b != c


def test_several_outputs_are_filled_in_turn(folder, tmp_path, capsys):
  names = [str(tmp_path / "new" / name) for name in "abc"]
  run(f"--input_file={folder}/text.txt", f"--vocab_file={folder}/vocab.txt",
      f"--output_file={','.join(names)}", "--max_seq_length=32", "--max_predictions_per_seq=5")
  assert re.search(r"wrote \d+ instances of 8 documents to " + ", ".join(names),
                   capsys.readouterr().out)
  together = made(folder, tmp_path / "one")
  parts = [records(name) for name in names]
  for i, part in enumerate(parts):
    for feature in tfrecords.FEATURES:
      np.testing.assert_array_equal(part[feature], together[feature][i::3])
  assert sorted(os.listdir(tmp_path / "new")) == ["a", "b", "c"]


def test_a_document_of_one_sentence_is_used(folder, tmp_path):
  file = tmp_path / "text"
  file.write_text("d0s0 d0s0\n\nd1s0 d1s0\nd1s1\n\n\u200b\n\n\u200b\nd2s0")
  run(f"--input_file={file}", f"--vocab_file={folder}/vocab.txt", f"--output_file={tmp_path}/out",
      "--dupe_factor=5")
  used = {place(tokens[1])[0] for tokens, *_ in examples(records(tmp_path / "out"))}
  assert used == {0, 1, 2}


def test_words_are_split_as_the_original_splits_them(folder, tmp_path):
  """A word of 122 characters is one of the original's words, and [UNK] for HuggingFace."""
  (tmp_path / "text").write_text(f"d0s0{'xa' * 59} d0s0\n\nd1s0\n")
  run(f"--input_file={tmp_path}/text", f"--vocab_file={folder}/vocab.txt",
      f"--output_file={tmp_path}/new/folder/out")
  pieces = {token for tokens, *_ in examples(records(tmp_path / "new" / "folder" / "out"))
            for token in tokens}
  assert WORDS.index("##xa") in pieces and WORDS.index("[UNK]") not in pieces


def test_a_folder_of_a_tokenizer(folder, tmp_path):
  """--tokenizer gives what --vocab_file does, and keeps the case that the folder says."""
  made(folder, tmp_path / "a")
  run(f"--input_file={folder}/text.txt", f"--tokenizer={folder}", f"--output_file={tmp_path}/b",
      "--max_seq_length=32", "--max_predictions_per_seq=5")
  assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
  cased = tmp_path / "cased"
  cased.mkdir()
  (cased / "vocab.txt").write_text("\n".join((*SPECIAL, "A", "a", "b")) + "\n")
  (tmp_path / "text").write_text("A\nA\nA\nA\n\nb\nb\n")
  common = (f"--input_file={tmp_path}/text", f"--output_file={tmp_path}/c")
  run(*common, f"--tokenizer={cased}")
  assert 5 in records(tmp_path / "c")["masked_lm_ids"]
  run(*common, f"--tokenizer={cased}", "--do_lower_case")
  assert 5 not in records(tmp_path / "c")["masked_lm_ids"]


def test_a_note_on_a_cased_vocabulary(folder, tmp_path, capsys):
  (tmp_path / "vocab.txt").write_text("\n".join((*SPECIAL, "A", "a")) + "\n")
  common = (f"--input_file={folder}/text.txt", f"--vocab_file={tmp_path}/vocab.txt",
            f"--output_file={tmp_path}/out")
  note = "note: the vocabulary has upper-case words; --do_lower_case=False keeps the text's case"
  run(*common)
  assert note in capsys.readouterr().out
  run(*common, "--do_lower_case=False")
  assert note not in capsys.readouterr().out


# --- Shards ---------------------------------------------------------------------------------

SMALL_SHARDS = ("--shard_megabytes=0.0007", "--dupe_factor=3")


def shards(folder, output, *arguments):
  output.parent.mkdir()
  made(folder, output, *SMALL_SHARDS, *arguments)
  return {file.name: file.read_bytes() for file in output.parent.iterdir()}


@pytest.fixture(scope="module")
def sharded(folder, tmp_path_factory):
  return shards(folder, tmp_path_factory.mktemp("sharded") / "one" / "out", "--num_workers=1")


def test_any_number_of_workers_gives_the_same_shards(folder, tmp_path, sharded, capsys):
  assert sharded == shards(folder, tmp_path / "three" / "out", "--num_workers=3")
  count = len(sharded)
  assert count >= 4
  assert set(sharded) == {f"out-{i:05d}-of-{count:05d}" for i in range(count)}
  last = f"out-{count - 1:05d}-of-{count:05d}"
  assert re.search(fr"wrote \d+ instances of 8 documents to \S+/out-00000-of-{count:05d} \.\.\. "
                   fr"\S+/{last}\n", capsys.readouterr().out)


def test_a_shard_is_made_of_its_own_documents(folder, sharded, tmp_path):
  """Shard k is what the same functions make of block k; all documents are in some shard."""
  sources = text.find_sources(str(folder / "text.txt"))
  blocks = list(text.blocks(text.read_documents(sources), 700))
  assert len(blocks) == len(sharded)
  for block, (_, content) in zip(blocks, sorted(sharded.items()), strict=True):
    (tmp_path / "shard").write_bytes(content)
    own = {int(re.match(r"d(\d+)", document[0])[1]) for document in block}
    seen = set()
    for tokens, _, _, _, _ in examples(records(tmp_path / "shard")):
      seen |= {place(t)[0] for t in tokens if t not in {CLS, SEP} | PIECES}
    assert seen == own


def test_shards_differ_though_their_text_is_the_same(folder, tmp_path):
  content = (folder / "text.txt").read_text()
  (tmp_path / "twice").write_text(content * 2)
  megabytes = sum(len(line) for line in content.splitlines()) / 1e6
  run(f"--input_file={tmp_path}/twice", f"--vocab_file={folder}/vocab.txt", "--num_workers=1",
      f"--output_file={tmp_path}/out", f"--shard_megabytes={megabytes}")
  first, second = sorted(tmp_path.glob("out-*"))
  assert first.read_bytes() != second.read_bytes()


def test_blocks_without_a_token_make_no_shard(folder, tmp_path):
  (tmp_path / "text").write_text("d0s0\nd0s1\n\n\u200b\n\nd1s0 d1s1\n")
  run(f"--input_file={tmp_path}/text", f"--vocab_file={folder}/vocab.txt", "--num_workers=1",
      f"--output_file={tmp_path}/out", "--shard_megabytes=0.000001")
  assert sorted(file.name for file in tmp_path.glob("out*")) == [
      f"out-0000{i}-of-00003" for i in range(3)]  # d0s0 and d0s1 are cut apart, as they must


@pytest.mark.parametrize(("pieces", "error", "message"), [
    # The worker becomes a process that ends without a word.
    (functools.partial(os.execv, "/bin/false"), UserError, "a worker process died, perhaps for"),
    (operator.attrgetter("ids"), AttributeError, "'list' object has no attribute 'ids'")])
def test_a_workers_end_and_a_workers_error_arrive(folder, tmp_path, monkeypatch, pieces, error,
                                                  message):
  load = create_pretraining_data.load_maker
  monkeypatch.setattr(create_pretraining_data, "load_maker", lambda settings: dataclasses.replace(
      load(settings), pieces=pieces))
  with pytest.raises(error, match=message):
    made(folder, tmp_path / "new" / "out", "--num_workers=2")
  assert os.listdir(tmp_path / "new") == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failure_leaves_nothing_behind(folder, tmp_path, monkeypatch, workers):
  def fail(path, examples):
    path.write_bytes(b"half")
    if len(os.listdir(tmp_path)) == 2:
      raise OSError(28, "No space left on device", str(path))

  monkeypatch.setattr(tfrecords, "write_records", fail)
  names = f"{tmp_path}/a" if workers else f"{tmp_path}/a,{tmp_path}/b"
  with pytest.raises(OSError, match="No space left"):
    run(f"--input_file={folder}/text.txt", f"--vocab_file={folder}/vocab.txt",
        f"--output_file={names}", f"--num_workers={workers}", *SMALL_SHARDS)
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_killed_run_leaves_matches_no_pattern_and_goes(folder, tmp_path, monkeypatch,
                                                              workers):
  begun = []

  def interrupted(path, examples):
    path.touch()
    begun.append(path)
    assert glob.glob(f"{tmp_path}/*") == []
    raise KeyboardInterrupt

  arguments = (f"--input_file={folder}/text.txt", f"--vocab_file={folder}/vocab.txt",
               f"--output_file={tmp_path}/out[1]", f"--num_workers={workers}", *SMALL_SHARDS)
  with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
    patched.setattr(tfrecords, "write_records", interrupted)
    run(*arguments)
  begun[0].touch()  # SIGKILL leaves it
  left = begun[0].with_name(begun[0].name.replace("00000", "00099"))
  left.touch()
  (tmp_path / ".other-00000.tmp").touch()  # another output's
  run(*arguments)
  assert [name for name in os.listdir(tmp_path) if name[0] == "."] == [".other-00000.tmp"]


# --- What the text lacks --------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_warnings_about_the_text(folder, tmp_path, workers, capsys):
  def said(content):
    (tmp_path / "text").write_text(content)
    for file in tmp_path.glob("out*"):
      file.unlink()
    run(f"--input_file={tmp_path}/text", f"--vocab_file={folder}/vocab.txt",
        f"--output_file={tmp_path}/out", f"--num_workers={workers}", "--max_seq_length=32")
    return capsys.readouterr().out

  out = said("d0s0\nd0s1\n\nd1s0\nd1s1\n")
  assert "warning:" not in out and "4 tokens (0.0% [UNK])" in out
  assert "warning: the text is one document, which the random next sentences come from too" in said(
      "d0s0\nd0s1\nd0s2\n")
  assert "warning: every document is one sentence, so that all next_sentence_labels are 1" in said(
      "d0s0\n\nd1s0\n\nd2s0\n")
  assert "warning: 50.0% of the tokens are [UNK]" in said("d0s0\nno\n\nd1s0\nno\n")


# --- Messages -------------------------------------------------------------------------------


def test_an_earlier_run_is_found_whatever_the_folders_name(folder, tmp_path):
  base = tmp_path / "[1] \\*"
  base.mkdir()
  arguments = (f"--input_file={folder}/text.txt", f"--vocab_file={folder}/vocab.txt",
               f"--output_file={base}/o[u]t*", "--num_workers=1", "--dupe_factor=1")
  (base / "out-00000-of-00001").touch()  # which the name would match as a pattern
  run(*arguments)
  assert f"{base}/o[u]t*-00000-of-00001 is there from an earlier run" in complaint(*arguments)


def test_messages(folder, tmp_path):
  source, vocab = f"--input_file={folder}/text.txt", f"--vocab_file={folder}/vocab.txt"
  out = f"--output_file={tmp_path}/out"
  say = functools.partial(complaint, source, vocab, out)
  assert complaint(vocab, out) == "--input_file is missing"
  assert complaint(source, vocab) == "--output_file is missing"
  assert complaint(source, vocab, "--output_file= ,") == "--output_file is missing"
  either = "give either --vocab_file=/path/to/vocab.txt or --tokenizer=/path/to/dir"
  assert complaint(source, out) == either == say(f"--tokenizer={folder}")
  assert complaint("--input_file=/none/*.txt", vocab, out) == (
      "--input_file: no file matches '/none/*.txt'")
  assert say("--max_seq_length=4") == "--max_seq_length=4 must be 5 or more"
  assert say("--max_predictions_per_seq=0") == "--max_predictions_per_seq=0 must be 1 or more"
  assert say("--dupe_factor=0") == "--dupe_factor=0 must be 1 or more"
  assert say("--num_workers=-1") == "--num_workers=-1 must be 0 or more"
  assert say("--num_workers=1000000") == "--num_workers=1000000 must be at most 1024"
  assert say("--max_seq_length=9999999") == "--max_seq_length=9999999 must be at most 1048576"
  for share in ("0", "1.5", "nan"):
    assert "must be a share above 0, up to 1" in say(f"--masked_lm_prob={share}")
  for share in ("-0.1", "1.5", "nan"):
    assert "--short_seq_prob" in say(f"--short_seq_prob={share}")
  assert say("--shard_megabytes=0") == "--shard_megabytes=0.0 must be a number above 0"
  assert "input_format 'word' is not one of auto, " in say("--input_format=word")
  assert "vocab.txt, one entry a line" in complaint(source, out, "--vocab_file=/none/vocab.txt")
  assert "/text.txt lacks [CLS], [MASK]" in complaint(
      source, out, f"--vocab_file={folder}/text.txt")
  for output in (tmp_path, "/dev/null"):
    assert complaint(source, vocab, f"--output_file={output}") == (
        f"--output_file={output} is a folder or a device; name a file")
  assert complaint(source, vocab, f"--output_file={folder}/../{folder.name}/text.txt").endswith(
      "is one of the input files too")
  assert "names a file twice" in complaint(
      source, vocab, f"--output_file={tmp_path}/a,{tmp_path}/a")
  assert "names 2 files; with --num_workers give one" in complaint(
      source, vocab, f"--output_file={tmp_path}/a,{tmp_path}/b", "--num_workers=1")
  (tmp_path / "out-00000-of-00002").touch()
  assert "out-00000-of-00002 is there from an earlier run" in say("--num_workers=1")
  (tmp_path / "vocab.txt").write_text("\n".join((*SPECIAL, "a")))
  assert "--do_whole_word_mask needs a WordPiece vocabulary" in complaint(
      source, out, f"--vocab_file={tmp_path}/vocab.txt", "--do_whole_word_mask")
  assert sorted(os.listdir(tmp_path)) == ["out-00000-of-00002", "vocab.txt"]


@pytest.mark.parametrize("workers", [0, 1])
def test_messages_about_the_text(folder, tmp_path, workers):
  file = tmp_path / "text"

  def message(content, *arguments):
    file.write_bytes(content)
    return complaint(f"--input_file={file}", f"--vocab_file={folder}/vocab.txt",
                     f"--output_file={tmp_path}/out", f"--num_workers={workers}", *arguments)

  for nothing in (b"", b"\n \n", "\u200b\n".encode()):
    assert message(nothing) == f"no documents in {file}"
  bad = b"d0s0 d0s1\n\nd1s0\n\n\xff\n"
  assert f"{file}, line 5: byte 0xff is not UTF-8" in message(bad, "--shard_megabytes=0.000001")
  assert os.listdir(tmp_path) == ["text"]


# --- As a process ---------------------------------------------------------------------------


# A shell that puts pytest in the background makes it, and what it starts, deaf to Ctrl-C.
HEARING = ("import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
           "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])")


def start(*arguments, **options):
  return subprocess.Popen(
      [sys.executable, "-c", HEARING, str(ROOT / "create_pretraining_data.py"),
       *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      **options)


def test_the_command_line(folder, tmp_path):
  common = (f"--input_file={folder}/text.txt", f"--vocab_file={folder}/vocab.txt",
            f"--output_file={tmp_path}/out", "--max_seq_length=32", "--max_predictions_per_seq=5")
  process = start(*common)
  output, problem = process.communicate()
  assert (process.returncode, problem) == (0, "")
  assert output.startswith(
      "read 8 documents of 96 sentences\n746 tokens (0.0% [UNK])\nwrote ")
  command_line = (tmp_path / "out").read_bytes()
  made(folder, tmp_path / "out")
  assert (tmp_path / "out").read_bytes() == command_line
  for bad, message in (("--dupe_factor=0", "--dupe_factor=0 must be 1 or more"),
                       ("--dupe=2", "unknown flag --dupe; did you mean --dupe_factor?"),
                       ("more", "unexpected argument 'more'; flags start with --")):
    process = start(*common, bad)
    _, problem = process.communicate()
    assert process.returncode == 1
    assert problem.startswith(f"error: {message}") and problem.count("\n") == 1


def interrupted(folder, base, ready, *arguments):
  """Sends Ctrl-C once `ready` says so. -> what stderr says."""
  (base / "text").write_text((folder / "text.txt").read_text() * 1000)
  (base / "new").mkdir()
  process = start(f"--input_file={base}/text", f"--vocab_file={folder}/vocab.txt",
                  f"--output_file={base}/new/out", "--num_workers=2", "--shard_megabytes=0.05",
                  *arguments, start_new_session=True)
  deadline = time.monotonic() + 60
  while not ready(process) and time.monotonic() < deadline:
    time.sleep(0.01)
  os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the workers too
  try:
    _, problem = process.communicate(timeout=30)
  finally:
    process.kill()
  assert process.returncode == 130
  assert os.listdir(base / "new") == []
  return problem


def test_an_interrupted_run_leaves_nothing_behind(folder, tmp_path):
  problem = interrupted(folder, tmp_path, lambda _: len(os.listdir(tmp_path / "new")) > 2)
  assert problem == "interrupted; no output was left half-written\n"


def test_an_interrupt_does_not_wait_for_workers(folder, tmp_path):
  """Neither for one that is starting, which is silent, nor for one with hours of work."""
  def starting(process):
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
      process.kill()
      pytest.skip("needs Linux's list of a process's children")
    started = len(children.read_text().split()) >= 2  # a worker and Python's resource tracker
    time.sleep(0.15 if started else 0)
    return started

  problem = interrupted(folder, tmp_path, starting, "--dupe_factor=1000000")
  assert problem == "interrupted; no output was left half-written\n"
