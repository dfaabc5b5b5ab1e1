"""What a command starts: who can reach it, and what is left when the command is killed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from embodied_liftwm.workers.watcher import LOOK_S, Watcher, descendants

TOY = Path(__file__).parents[1] / "agents" / "toy_camera_env.py"
LISTENING = "0A"
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")  # as /proc/net writes them

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs the processes and sockets of Linux's /proc")


@pytest.fixture(params=["local", "ray"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A collection that has finished its first episode, and would go on for minutes. A stray file lies beside it."""
    if request.param == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    shutil.copy(TOY, tmp_path / "slow_env.py")
    (tmp_path / "h5py.py").write_text("raise SystemExit('a stray file ran in place of an installed module')\n")
    words = ["env=slow_env:make_env", "policy=random", "episodes=10000", "steps=100", "workers=2", "out=data"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "embodied_liftwm.cli", "collect", f"engine={request.param}", *words],
        cwd=tmp_path, env=environment | {"TOY_PAUSE_S": "0.05"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 90
    while not list(tmp_path.glob("data/episode-*")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    assert process.poll() is None
    yield process
    if process.poll() is None:
        process.terminate()
        process.wait()


def listening(pids: list[int]) -> list[str]:
    """Addresses of the sockets that processes listen on."""
    held = set()
    for pid in pids:
        for path in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                held.add(os.readlink(path))
    tables = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [row[1].partition(":")[0] for row in tables if row[3] == LISTENING and f"socket:[{row[9]}]" in held]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_listens_on_loopback_alone_and_leaves_nothing_when_killed(command: subprocess.Popen[bytes]) -> None:
    started = descendants(command.pid)
    assert len(started) >= 2
    assert set(listening([command.pid, *started])) <= set(LOOPBACK)
    servers = [pid for pid in started if b"gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]]
    assert bool(servers) == ("engine=ray" in command.args)  # type: ignore[operator]
    for pid in servers:
        assert b"RAY_AUTH_MODE=token" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    command.send_signal(signal.SIGKILL)
    command.wait()
    until = time.monotonic() + 5
    while (left := [pid for pid in started if running(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]


def test_a_watcher_ends_grandchildren_of_the_killed() -> None:
    code = """
import os, subprocess, sys, time
from embodied_liftwm.workers.watcher import LOOK_S, Watcher, descendants
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
with Watcher().following():
    subprocess.Popen([sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {deaf!r}])"])
    while len(descendants(os.getpid())) < 3:
        time.sleep(0.01)
    print(*descendants(os.getpid()), flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    started = [int(word) for word in process.stdout.readline().split()]
    assert len(started) == 3
    time.sleep(5 * LOOK_S)
    process.kill()
    process.wait()
    until = time.monotonic() + 5
    while any(running(pid) for pid in started) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(running(pid) for pid in started)


def test_a_watcher_spares_a_process_that_took_a_number_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embodied_liftwm.workers.watcher._begun", lambda pid: "1")
    watcher = Watcher()
    with watcher.following():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    watcher.close()
    assert child.poll() is None
    child.kill()
    child.wait()
