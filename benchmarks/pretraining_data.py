"""How fast create_pretraining_data.py is, as a whole process, in both of its modes.

    python3 -m benchmarks.pretraining_data --input_file='/data/wiki_*' --vocab_file=vocab.txt

Writes the text with one sentence a line into a temporary folder, once for the faithful mode and
--copies times for the fast one, and runs the script on it --runs times each, dupe_factor 1.
Prints a table of medians and writes it as JSON (--output).

The ratio is to the original's script, which was measured to need 16 s of one core for 4.1 MB of
Wikipedia text with dupe_factor 1: 0.25 MB/s.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import corpus

ORIGINAL_MEGABYTES_PER_SECOND = 0.25
ROOT = pathlib.Path(__file__).parent.parent


def write_lines(patterns: str, files: dict[pathlib.Path, int]) -> None:
  """Writes the documents, one sentence a line, so many times to each file."""
  sources = corpus.find_sources(patterns)
  text = "".join("".join(f"{' '.join(sentence.split())}\n" for sentence in document) + "\n"
                 for document in corpus.documents(sources))
  for file, copies in files.items():
    file.write_text(text * copies, "utf-8")


def run(text: pathlib.Path, vocab_file: str, *arguments: str) -> dict[str, float]:
  """Runs the script once. -> wall_seconds, cpu_seconds (its workers' too)."""
  with tempfile.TemporaryDirectory(dir=text.parent) as folder:
    command = [sys.executable, str(ROOT / "create_pretraining_data.py"), f"--input_file={text}",
               f"--vocab_file={vocab_file}", f"--output_file={folder}/out", "--dupe_factor=1",
               *arguments]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
      sys.exit("error: the script failed")
  return {"wall_seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime}


def measure(name: str, text: pathlib.Path, cores: int, runs: int, vocab_file: str,
            *arguments: str) -> dict[str, str | float | list[float]]:
  """The medians of several runs of one mode."""
  results = [run(text, vocab_file, *arguments) for _ in range(runs)]
  medians = {key: statistics.median(result[key] for result in results) for key in results[0]}
  megabytes = text.stat().st_size / 1e6
  speed = megabytes / medians["wall_seconds"]
  return {"mode": name, "cores": cores, "megabytes": megabytes, **medians,
          "megabytes_per_second": speed,
          "ratio_to_the_original_per_core": speed / cores / ORIGINAL_MEGABYTES_PER_SECOND,
          "ratio_to_the_original": speed / ORIGINAL_MEGABYTES_PER_SECOND,
          "all_wall_seconds": [result["wall_seconds"] for result in results]}


def print_table(rows: list[dict]) -> None:
  """Prints the medians, one mode a line."""
  columns = {"mode": "mode", "cores": "cores", "megabytes": "MB", "wall_seconds": "s",
             "cpu_seconds": "CPU s", "megabytes_per_second": "MB/s",
             "ratio_to_the_original_per_core": "x original, per core",
             "ratio_to_the_original": "x original"}
  lines = [list(columns.values())]
  for row in rows:
    lines.append([f"{row[key]:.2f}" if isinstance(row[key], float) else str(row[key])
                  for key in columns])
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  for line in lines:
    print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--input_file", required=True, help="text in any format of corpus.py")
  parser.add_argument("--vocab_file", required=True)
  parser.add_argument("--copies", type=int, default=5, help="of the text, for the fast mode")
  parser.add_argument("--num_workers", type=int, default=2)
  parser.add_argument("--shard_megabytes", type=float, default=4.0)
  parser.add_argument("--runs", type=int, default=3)
  parser.add_argument("--output", default="", help="the JSON file")
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    once, copies = pathlib.Path(folder, "once.txt"), pathlib.Path(folder, "copies.txt")
    write_lines(args.input_file, {once: 1, copies: args.copies})
    rows = [measure("faithful", once, 1, args.runs, args.vocab_file),
            measure(f"fast, {args.num_workers} workers", copies, args.num_workers, args.runs,
                    args.vocab_file, f"--num_workers={args.num_workers}",
                    f"--shard_megabytes={args.shard_megabytes}")]
  print_table(rows)
  print(f"the original: {ORIGINAL_MEGABYTES_PER_SECOND} MB/s on one core (4.1 MB of Wikipedia "
        "text, dupe_factor 1, 16 s)")
  if args.output:
    machine = {"processor": platform.processor() or platform.machine(), "cpus": os.cpu_count(),
               "python": platform.python_version()}
    pathlib.Path(args.output).write_text(
        json.dumps({"machine": machine, "results": rows}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
  main()
