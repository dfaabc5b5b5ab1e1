"""Whatever is written after the name of a command, or of one of its keys, is taken or refused in one line."""

from __future__ import annotations

import random
import sys
from types import SimpleNamespace, UnionType

import pytest

from embodied_liftwm import cli
from embodied_liftwm.commands import bench, check_belonging, load_config, priors, read_value
from embodied_liftwm.commands.schema import own_keys
from embodied_liftwm.config import COMMANDS
from embodied_liftwm.errors import UserError

NASTY = [
    "", " ", "0", "-0", "-1", "1", "+7", "1_000", "1__0", "0.5", "1e3", "1e400", "-1e400", "nan", "-nan", "inf",
    "-inf", "0x10", "1:30",
    "999999999999999999999", 5000 * "9", 5000 * "x", "true", "TRUE", "no", "maybe", "null", "None", "~", "[]", "[",
    "]", "[1", "1]",
    "[1,2]", "[[1]]", "{}", "{a: 1}", "a,b", "a,a", "a,,b", ",", "'a'", '"', "''", "a: b", "- a", "&a [*a]",
    "!!python/name:os.system",
    "${oc.env:HOME}", "${seed}", "???", "a\0b", "a\nb", "\x1b[31m", "\udcff", "\u2028", "−1", "１２", "é", "🙂",
    "[/x]", "[red]x[/red]",
    "../..", "/dev/null", "~/x", "C:\\x", "%s", "{0}", "a=b", "=", "2026-11-29", "cuda:99",
]  # fmt: skip
"""Values that some parser trips over."""


def refusal(error: UserError) -> str:
    """The line of a refusal, which is one, printable and short."""
    line = str(error)
    assert line.isprintable() and 0 < len(line) < 400, line
    return line


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_value_of_every_key_is_taken_or_refused(command: str) -> None:
    for key in own_keys(COMMANDS[command]):
        for text in NASTY:
            try:
                value = read_value(key, text)
            except UserError as error:
                assert key.name in refusal(error)
            else:
                kind = key.type if isinstance(key.type, UnionType) else type(key.default)
                assert isinstance(value, kind), (key.name, text, value)


ODD_SIZES = ["64x", "x64", "1x64", "64x64x3", "-64x64", "64x9999", "64 x 48", "9" * 50 + "x64", "64,48"]


@pytest.mark.parametrize("text", [*NASTY, *ODD_SIZES])
def test_image_sizes_are_sides_or_refused(text: str) -> None:
    try:
        options = load_config(COMMANDS["collect"], None, [f"env_options.image_size={text}"]).env_options
    except UserError as error:
        assert "env_options.image_size" in refusal(error)
    else:
        assert all(16 <= side <= 2048 for side in options.sides)


def test_whole_configurations_of_odd_words_are_taken_or_refused() -> None:
    rng = random.Random(18)
    refused = 0
    for _ in range(40):
        schema = COMMANDS[rng.choice(sorted(COMMANDS))]
        keys = [key.name for key in own_keys(schema)]
        words = [f"{rng.choice(keys)}={rng.choice(NASTY)}" for _ in range(rng.randint(1, 2))]
        try:
            assert isinstance(load_config(schema, None, words), schema)
        except UserError as error:
            refusal(error)
            refused += 1
    assert 10 < refused < 40


ODD_NAMES = ["", " ", ".", "..", "model.", ".steps", "model..budget", "\0", "[/x]", "🙂", 5000 * "k", "steps ", "__class__"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_keys_are_refused(name: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(COMMANDS["train"], None, [f"{name}=1"])
    refusal(caught.value)


BAD_LINES = {
    "": "the following arguments are required: COMMAND",
    "-v": "-v: the command comes first",
    "--preset small train": "--preset: the command comes first, as in liftwm train --preset small",
    "TRAIN": "unknown word 'TRAIN': did you mean 'train'?",
    "evalute model=base": "unknown word 'evalute': did you mean 'evaluate'?",
    "train --preset": "argument --preset: which one? There are debug, gpu, paper, small",
    "train --preset smal": "unknown preset 'smal'",
    "train --presets small": "unrecognized arguments: --presets: did you mean --preset?",
    "train --seed=1": "unrecognized arguments: --seed=1: keys are written without dashes, seed=VALUE",
    "train -x": "unrecognized arguments: -x",
    "train —preset small": "'—preset' is not of the form key=value: a dash pasted from a page",
    "train seed = 1": "'seed' is not of the form key=value: write seed=VALUE, without spaces",
    "train steps:3": "'steps:3' is not of the form key=value: write steps=VALUE, without spaces",
    "train =x": "'=x' is not of the form key=value",
    "train seed==1": "seed==1: expected integer, 0 to 1073741823",
    "train -1": "'-1' is not of the form key=value",
    "train STEPS=3": "unknown key 'STEPS': did you mean 'steps'?",
    "train threads=100000": "threads=100000: must be at most 256",
    "train threads=200": "threads=200: must be at most ",
    "reproduce liftwm train.terms=frames": "train.terms=['frames']: expected distinct names out of ['continuation', ",
    "demo train.terms=": "train.terms=[]: expected distinct names out of ",
    "demo evaluate.suite=views": "evaluate.suite=['views']: the demo shows figures of views, persistence, navigation",
    "demo collect.steps=40": "evaluate.context=48: must be below collect.steps=40",
    "demo collect.env=mine:make": "collect.env=mine:make: the demo plans, in tasks of liftwm_envs",
    "reproduce liftwm results=/dev/null": "cannot write /dev/null: a file stands where a folder should be",
    "bench rasterize out=/dev/null/x": "cannot write /dev/null/x: ",
    "reproduce agents train.model=nowhere results=/tmp": "no model at nowhere",
    "reproduce agents tasks=Foo-S results=/tmp": "unknown env 'Foo-S'",
    "train geometry_first=7": "geometry_first=7.0: must be at most 1",
    "train minutes=nan": "minutes=nan: must be a finite number, 0 to 525600",
    "train device=meta": "device=meta: not usable here",
    "train device=cuda:77": "device=cuda:77: not usable here",
    "train data=${oc.env:HOME}": "data=${oc.env:HOME}: is taken as it stands",
    "collect episodes=1000000000000": "episodes=1000000000000: must be at most 1000000",
    "collect policy=support-1e9": "policy=support-1e9: expected explore | walk",
    "collect policy=support-100000": "policy=support-100000: expected explore | walk",
    "generate fov_deg=inf": "fov_deg=inf: must be a finite number, 1 to 170",
    "train-agent num_envs=1 rollout_steps=1": "rollout_steps=1: must be at least 2 where num_envs=1",
    "bench": "the following arguments are required: NAME (",
    "bench colect": "no benchmark 'colect': did you mean collect?",
    "reproduce frames=3": "no experiment 'frames=3'",
    "reproduce liftwm seeds=1 supports_m=1": "supports_m: belongs to liftwm reproduce gap, not to liftwm reproduce liftwm",
    "reproduce agents context=5": "context: belongs to liftwm reproduce checkpoint | gap | liftwm | memories | priors, not to",
    "reproduce gap tasks=Revisit-S": "tasks: belongs to liftwm reproduce agents | planner, not to liftwm reproduce gap",
    "reproduce gap suports_m=1": "unknown key 'suports_m': did you mean 'supports_m'?",
    "reproduce agents agents.train.steps=5": "unknown key 'agents.train.steps': it is train.steps",
    "reproduce priors prior_episodes=5": "unknown key 'prior_episodes': it is collect.episodes",
    "bench collect checkpoint=base": "checkpoint: belongs to liftwm bench state, not to liftwm bench collect",
    "priors list data=x": "data: belongs to liftwm priors run, not to liftwm priors list",
    "priors lst": "priors lst: did you mean list?",
    "data": "the following arguments are required: action, DIR (",
    "data plya x": "unknown word 'plya': did you mean 'play'?",
    "data check a\x1bb": "data check=a\\x1bb: must not hold the control character '\\x1b'",
    "data info x fps=3": "unknown option 'fps' of data info: it takes none",
    "data play x episodes=1": "unknown option 'episodes' of data play: did you mean 'episode'?",
    "doctor now": "unrecognized arguments: now",
}  # fmt: skip


@pytest.mark.parametrize("line", BAD_LINES)
def test_bad_lines_end_with_2_and_one_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(line.split())
    except SystemExit as left:
        code = left.code
    out, error = capsys.readouterr()
    assert code == 2 and out == ""
    assert error.startswith(f"liftwm: error: {BAD_LINES[line]}") and error.count("\n") == 1 and len(error) < 400, error


NAMES = {"bench": bench.BENCHES, "priors": priors.ACTIONS}


@pytest.mark.parametrize(("command", "names"), NAMES.items())
def test_keys_belong_to_names_that_exist(command: str, names: dict[str, object]) -> None:
    taken: dict[str, set[str]] = {}
    for key in own_keys(COMMANDS[command]):
        for name in names:
            try:
                check_belonging(COMMANDS[command], command, name, [f"{key.name}=1"])
                taken.setdefault(key.name, set()).add(name)
            except UserError as error:
                belongs = refusal(error).partition(f" liftwm {command} ")[2].partition(",")[0].split(" | ")
                assert set(belongs) <= set(names) - {name}
        assert taken[key.name], key.name


def failing_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli.importlib, "import_module", lambda _: SimpleNamespace(run=run))


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
     RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")],
)  # fmt: skip
def test_memory_that_is_not_there_is_one_line(error: Exception, monkeypatch, capsys) -> None:
    failing_with(error, monkeypatch)
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == f"liftwm: error: {cli.user_message(error)}\n"


def test_a_message_holds_no_control_characters(monkeypatch, capsys) -> None:
    failing_with(UserError("no model at a\x1b[31m\udcffb\u202e"), monkeypatch)
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == "liftwm: error: no model at a\\x1b[31m\\udcffb\\u202e\n"


def test_the_words_of_the_process_are_those_of_the_shell(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["liftwm", "--preset", "small"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "the command comes first" in capsys.readouterr().err
