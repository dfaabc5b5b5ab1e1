"""Kill a running command again and again with `kill -9`, and compare what it leaves with an undisturbed run.

    python tests/killing.py collect|collect_ray|train [kills=20] [seed=0] [out=results]

Every kill hits, at a random time after a random amount of progress (none, now and then: start-up is hit too), the command's
process or one of its workers. After each, everything on disk must be
readable, and nothing that was finished before may be gone; at the end the result must equal the undisturbed one byte for byte.
Exit code 1 if it does not. Rows go to `<out>/kill_test_<target>.csv`.
"""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol


class Target(Protocol):
    """A command that can be killed and continued."""

    command_share: float  # how many of the kills shall hit the command itself, not a worker

    def prepare(self, scratch: Path) -> None:
        """Make in `scratch` what the command needs beside its own folder."""
        ...

    def command(self, folder: Path) -> list[str]:
        """The command line that begins or continues the work in `folder`, a folder in `scratch`."""
        ...

    def finished(self, folder: Path) -> int:
        """How much work is safe on disk; raises if anything there cannot be read."""
        ...

    def progress(self, folder: Path) -> int:
        """The same, counted quickly and without reading."""
        ...

    def difference(self, one: Path, other: Path) -> str:
        """What differs between two finished results; "" if nothing does."""
        ...


class Collect:
    """`liftwm collect` of small real episodes; progress is episodes."""

    command_share = 0.6
    engine = "local"

    def prepare(self, scratch: Path) -> None:
        return

    def command(self, folder: Path) -> list[str]:
        words = ["episodes=4000", "steps=24", "env_options.image_size=32", "workers=2", "episodes_per_shard=8"]
        return [sys.executable, "-m", "embodied_liftwm.cli", "collect", *words, f"engine={self.engine}", f"out={folder}"]

    def finished(self, folder: Path) -> int:
        from embodied_liftwm.data import EvaluationReader
        from embodied_liftwm.data.storage import INFO, scan

        if not (folder / INFO).exists() or not scan(folder):
            return 0
        return sum(len(episode) > 0 for episode in EvaluationReader(folder))

    def progress(self, folder: Path) -> int:
        from embodied_liftwm.data.storage import scan

        return len(scan(folder)) if folder.is_dir() else 0

    def difference(self, one: Path, other: Path) -> str:
        from embodied_liftwm.data import EvaluationReader

        first, second = EvaluationReader(one), EvaluationReader(other)
        if first.indices != second.indices:
            return f"episodes {len(first)} and {len(second)}"
        for index, mine, theirs in zip(first.indices, first, second, strict=True):
            if mine.meta != theirs.meta:
                return f"meta of episode {index}"
            for name, array in (mine.arrays() | mine.truth_arrays()).items():
                if array.tobytes() != (theirs.arrays() | theirs.truth_arrays())[name].tobytes():
                    return f"{name} of episode {index}"
        return ""


class CollectRay(Collect):
    """The same with Ray's workers, who are mostly the ones to be killed: a command that is killed takes its Ray with it."""

    command_share = 0.2
    engine = "ray"

    def prepare(self, scratch: Path) -> None:
        subprocess.run(Collect().command(scratch / "local"), check=True, stdout=subprocess.DEVNULL)

    def difference(self, one: Path, other: Path) -> str:
        """What differs, also from an undisturbed run of local processes."""
        return super().difference(one, other) or super().difference(one.with_name("local"), other)


class Train:
    """`liftwm train` of a tiny model on a few real episodes, with many checkpoints; progress is steps."""

    command_share = 0.6
    STEPS = 400

    def prepare(self, scratch: Path) -> None:
        words = ["episodes=4", "steps=24", "env_options.image_size=32", "workers=1", f"out={scratch / 'data'}"]
        subprocess.run([sys.executable, "-m", "embodied_liftwm.cli", "collect", *words], check=True, stdout=subprocess.DEVNULL)

    def command(self, folder: Path) -> list[str]:
        words = [f"data={folder.parent / 'data'}", f"run={folder}", f"steps={self.STEPS}", "save_every=2", "threads=1"]
        words += ["model.patches.budget=256", "model.latent_dim=4", "model.stride=4", "model.width=8", "model.planes=8"]
        words += ["batch_size=1", "context=3", "targets=2", "span=12", "log_every=1"]
        return [sys.executable, "-m", "embodied_liftwm.cli", "train", *words]

    def finished(self, folder: Path) -> int:
        import embodied_liftwm
        from embodied_liftwm.training.checkpoint import checkpoints, read_resume

        found = checkpoints(folder)
        if not found:
            return 0
        for checkpoint in found:
            embodied_liftwm.load(str(checkpoint))
        return int(read_resume(found[-1])[1]["step"])

    def progress(self, folder: Path) -> int:
        return max((int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*")), default=0)

    def difference(self, one: Path, other: Path) -> str:
        for name in ("model.safetensors", "model.json", "optimizer.safetensors"):
            mine, theirs = (sorted((run / "checkpoints").iterdir())[-1] / name for run in (one, other))
            if mine.parent.name != theirs.parent.name or mine.read_bytes() != theirs.read_bytes():
                return f"{name} of {mine.parent.name} and {theirs.parent.name}"
        steps = [[row.split(",")[0] for row in (run / "metrics.csv").read_text().splitlines()] for run in (one, other)]
        return "" if steps[0] == steps[1] else "the steps in metrics.csv"


TARGETS: dict[str, Target] = {"collect": Collect(), "collect_ray": CollectRay(), "train": Train()}


def main(words: list[str]) -> int:
    """Run the test of one target."""
    name, options = words[0], dict(word.split("=", 1) for word in words[1:])
    target, kills, rng = TARGETS[name], int(options.get("kills", 20)), random.Random(int(options.get("seed", 0)))
    with tempfile.TemporaryDirectory() as scratch:
        whole, folder = Path(scratch) / "whole", Path(scratch) / "killed"
        target.prepare(Path(scratch))
        begin = time.monotonic()
        subprocess.run(target.command(whole), check=True, stdout=subprocess.DEVNULL)
        total = target.finished(whole)
        print(f"undisturbed: {total} in {time.monotonic() - begin:.0f} s", flush=True)
        rows = []
        while len(rows) < kills:
            rows += _killed_run(target, folder, kills - len(rows), total // (2 * kills), rng)
        done = target.finished(folder)
        subprocess.run(target.command(folder), check=True, stdout=subprocess.DEVNULL)
        lost = [row for row in rows if row["after"] < row["before"]]
        difference = target.difference(whole, folder)
    _write(Path(options.get("out", "results")) / f"kill_test_{name}.csv", rows)
    print(f"{kills} kills, {len(lost)} of them lost finished work; {done} finished before the last run")
    print(f"result differs in {difference}" if difference else "result equals the undisturbed one byte for byte")
    return int(bool(lost or difference))


def _killed_run(target: Target, folder: Path, kills: int, advance: int, rng: random.Random) -> list[dict[str, object]]:
    """Run until the command itself is killed, or ends; workers that are killed on the way are replaced by the command."""
    rows: list[dict[str, object]] = []
    process = subprocess.Popen(target.command(folder), stdout=subprocess.DEVNULL, start_new_session=True)
    while len(rows) < kills:
        goal = target.progress(folder) + rng.randint(0, 2 * advance)
        while target.progress(folder) < goal and process.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        if process.poll() is not None:
            break  # it came to its end
        before = target.progress(folder)
        workers = _workers(process.pid)
        victim = process.pid if not workers or rng.random() < target.command_share else rng.choice(workers)
        _send({victim}, signal.SIGKILL)
        time.sleep(0.5)  # local workers whose command is gone end by themselves; Ray's take some seconds
        whom = "command" if victim == process.pid else "worker"
        with _paused({process.pid, *workers, *_workers(process.pid)}):  # reading takes longer than collecting
            rows.append({"kill": whom, "before": before, "after": target.finished(folder)})
        print(rows[-1], flush=True)
        if whom == "command":
            break
    if process.poll() is None:
        process.kill()
    process.wait()
    if not rows:
        raise SystemExit("the command ended before it could be killed: give it more to do")
    return rows


def _workers(pid: int) -> list[int]:
    """Worker processes of a command, whichever engine runs them."""
    found: list[int] = []
    with suppress(OSError):  # it has just ended
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, children.read_text().split()):
                name = Path(f"/proc/{child}/cmdline").read_bytes()
                found += [child] if b"spawn_main" in name or name.startswith(b"ray::LiftwmWorker") else _workers(child)
    return found


@contextmanager
def _paused(pids: set[int]) -> Iterator[None]:
    """Hold those processes that are left."""
    _send(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _send(pids, signal.SIGCONT)


def _send(pids: set[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: killing.py {'|'.join(TARGETS)} [kills=20] [seed=0] [out=results]")
    sys.exit(main(sys.argv[1:]))
