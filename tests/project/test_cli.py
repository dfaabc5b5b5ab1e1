"""The program's exit codes and its one-line errors."""

from __future__ import annotations

import errno
import subprocess
import sys
from types import SimpleNamespace

import pytest

from embodied_liftwm import __version__, cli
from embodied_liftwm.commands.schema import own_keys
from embodied_liftwm.config import COMMANDS, CollectConfig
from embodied_liftwm.errors import UserError


def run_program(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "embodied_liftwm.cli", *words], capture_output=True, text=True, timeout=60)


def test_help_and_version_succeed_in_a_process_of_their_own() -> None:
    shown = run_program("--help")
    assert shown.returncode == 0 and all(name in shown.stdout for name in cli.SUMMARIES)
    assert run_program("--version").stdout.strip() == f"liftwm {__version__}"


def test_a_bad_key_ends_the_process_with_2_and_one_line() -> None:
    failed = run_program("collect", "episode=3")
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr == "liftwm: error: unknown key 'episode': did you mean 'episodes'?\n"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_command_help_lists_every_key(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([*command.split(), "--help"])
    assert left.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for key in own_keys(COMMANDS[command]):
        assert f"{key.name}={key.default_text}" in shown
        assert f"{key.meaning} ({key.type_text})" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "COMMAND"),
        (["collct"], "unknown word 'collct': did you mean 'collect'?"),
        (["collect", "--presets", "debug"], "unrecognized arguments: --presets"),
        (["collect", "--preset", "huge"], "unknown preset 'huge'"),
        (["collect", "steps=0"], "steps=0: must be at least 1"),
        (["train", "device=abacus"], "device=abacus: not usable here"),
        (["demo", "train.device=abacus"], "train.device=abacus: not usable here"),
        (["bench"], "NAME"),
        (["data", "inf", "x"], "unknown word 'inf': did you mean 'info'?"),
        (["data", "info"], "DIR"),
        (["doctor", "now"], "unrecognized arguments: now"),
    ],
)
def test_bad_words_give_2_and_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(words)
    except SystemExit as left:
        code = left.code
    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith("liftwm: error: ") and error.count("\n") == 1 and message in error


def fake_command(monkeypatch: pytest.MonkeyPatch, body) -> None:
    """Let `liftwm collect` run `body`, which is not the user's."""
    monkeypatch.setattr(cli, "users_fault", lambda _: None)
    monkeypatch.setattr(cli.importlib, "import_module", lambda _: SimpleNamespace(run=body))


def raiser(error: BaseException):
    def body(*_):
        raise error

    return body


def test_a_command_gets_its_typed_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    fake_command(monkeypatch, lambda *words: seen.append(words))
    assert cli.main(["collect", "seed=1", "--preset", "debug", "seed=5", "env=Revisit-M"]) == 0
    assert cli.main(["bench", "collect", "frames=3"]) == 0
    assert cli.main(["data", "play", "some/dir", "episode=2"]) == 0
    (config,), (name, bench), (words,) = seen
    assert isinstance(config, CollectConfig)
    assert (config.seed, config.env, config.episodes) == (5, "Revisit-M", 2)
    assert (name, bench.frames) == ("collect", 3)
    assert words == ["play", "some/dir", "episode=2"]


def test_the_command_s_exit_code_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_command(monkeypatch, lambda *_: 1)
    assert cli.main(["doctor"]) == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("the dataset\n  is missing"), "the dataset is missing"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), "runs/x: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), "runs/x: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "/ro"), "/ro: Read-only file system"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "data"), "data: No such file or directory"),
        (
            OSError("Unable to open file (name = 'a.h5', errno = 28, error message = 'No space left on device')"),
            "a.h5: No space left on device",
        ),
    ],
)
def test_what_users_can_cause_is_one_line_and_2(monkeypatch, capsys, error: Exception, line: str) -> None:
    fake_command(monkeypatch, raiser(error))
    assert cli.main(["collect"]) == 2
    assert capsys.readouterr().err == f"liftwm: error: {line}\n"


def test_an_error_of_the_environments_is_treated_alike(monkeypatch, capsys) -> None:
    from liftwm_envs.errors import EnvError

    fake_command(monkeypatch, raiser(EnvError("no GL on this machine")))
    assert cli.main(["collect"]) == 2
    assert capsys.readouterr().err == "liftwm: error: no GL on this machine\n"


@pytest.mark.parametrize("bug", [ValueError("ours"), OSError(errno.EPIPE + 1000, "odd"), KeyError("x")])
def test_bugs_of_ours_keep_their_traceback(monkeypatch: pytest.MonkeyPatch, bug: Exception) -> None:
    fake_command(monkeypatch, raiser(bug))
    with pytest.raises(type(bug)):
        cli.main(["collect"])


def test_tracebacks_on_request(monkeypatch, capsys) -> None:
    monkeypatch.setenv("LIFTWM_TRACEBACK", "1")
    fake_command(monkeypatch, raiser(UserError("why")))
    assert cli.main(["collect"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error and error.endswith("liftwm: error: why\n")


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys) -> None:
    fake_command(monkeypatch, raiser(KeyboardInterrupt("step 7 is kept")))
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "\nliftwm: interrupted; step 7 is kept\n"


def test_compiled_code_of_a_library_is_not_blamed_as_the_users() -> None:
    code = compile("raise OSError(28, 'No space left on device')", "h5py/h5f.pyx", "exec")
    with pytest.raises(OSError, match="No space") as caught:
        exec(code, {})
    caught.value.__traceback__ = caught.value.__traceback__.tb_next  # type: ignore[union-attr]
    assert "pyx" not in (cli.user_message(caught.value) or "")
