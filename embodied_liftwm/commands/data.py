"""`liftwm data info|check|play|import|export DIR`: look at a dataset, make one of data of others, or hand one on."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from embodied_liftwm.config.checks import check_text
from embodied_liftwm.data.gate import TRUTH_ARRAYS
from embodied_liftwm.data.integrity import DatasetSummary, check, summarize
from embodied_liftwm.data.reader import EvaluationReader
from embodied_liftwm.errors import UserError
from embodied_liftwm.terminal import plain_console

OPTIONS = {
    "play": ("episode", "out", "fps"),
    "import": ("out", "format", "size", "poses", "intrinsics", "rgb", "pose"),
    "export": ("out", "format", "truth"),
}
REALESTATE_SIZE = 64
"""Pixels a side of its frames where size= is not given; those of other formats stay as they are."""


def run(words: list[str]) -> int:
    """Run one action on a dataset.

    Args:
        words: the action, the dataset folder, then `key=value` options of the action.

    Returns:
        Exit code: 1 if `check` found problems, else 0.
    """
    action, *rest = words
    for word in rest:
        check_text(f"data {action}", word, may_be_empty=True)
    known = OPTIONS.get(action, ())
    folders = [word for place, word in enumerate(rest) if _is_folder(word, place == 0, known)]
    if len(folders) != 1:
        raise UserError(f"data {action} takes one dataset folder, got {len(folders)}: liftwm data {action} DIR")
    options = dict(word.split("=", 1) for word in rest if word not in folders)
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}" if known else "it takes none"
            raise UserError(f"unknown option '{key}' of data {action}: {hint}")
    return {"info": _info, "check": _check, "play": _play, "import": _import, "export": _export}[action](folders[0], options)


def _is_folder(word: str, first: bool, known: tuple[str, ...]) -> bool:
    """Whether a word is the folder, in whose path "=" may stand, and no option.

    It is where no name stands before "=", or a folder of that path is there; and the first word is, unless it begins as a known
    option does. Where a folder's path reads as a known option, the option it is, but for the first word.
    """
    key, equals, _ = word.partition("=")
    if not equals or not key.isidentifier():
        return True
    if key in known:
        return first and Path(word).is_dir()
    return first or Path(word).is_dir()


def _info(folder: str, options: dict[str, str]) -> int:
    found = summarize(folder)
    table = Table(title=folder, show_header=False, title_justify="left")
    for key, value in _rows(found).items():
        table.add_row(key, value)
    plain_console().print(table)
    return 0


def _rows(found: DatasetSummary) -> dict[str, str]:
    info, (height, width), (least, median, most) = found.info, found.image_size, found.lengths
    return {
        "env": str(info.get("env")),
        "env options": ", ".join(f"{key}={value}" for key, value in info.get("env_options", {}).items()),
        "policy": f"{info.get('policy')}, split {info.get('split')}, seed {info.get('seed')}",
        "episodes": str(found.episodes),
        "frames": f"{found.frames} of {height} x {width}",
        "actions an episode": f"{least} to {most}, median {median:g}",
        "size": f"{found.bytes / 1e6:.1f} MB, {found.bytes / found.frames / 1e3:.1f} kB a frame",
        "truth": "yes" if set(TRUTH_ARRAYS) <= set(found.truth) else ", ".join(found.truth) or "no",
        "success": "not recorded" if found.success_share is None else f"{100 * found.success_share:.0f} %",
        "mean return": f"{found.mean_return:.3f}",
        "renderer": "; ".join(found.renderers) or "not recorded",
        "versions": ", ".join(f"{name} {version}" for name, version in info.get("versions", {}).items()),
    }


def _check(folder: str, options: dict[str, str]) -> int:
    console = plain_console()
    with console.status("checking") as status:
        problems = check(folder, lambda done, total: status.update(f"checking episode {done} of {total}"))
    for problem in problems:
        console.print(problem, style="red", soft_wrap=True)
    if problems:
        console.print(f"{folder}: {len(problems)} problem{'s'[: len(problems) > 1]}", soft_wrap=True)
        return 1
    found = summarize(folder)
    console.print(f"{folder}: {found.episodes} episodes, {found.frames} frames, no problems", soft_wrap=True)
    if found.checksums < found.episodes or "episodes" not in found.info:
        listed = "a" if "episodes" in found.info else "no"
        carry = f"{found.checksums} of {found.episodes} episodes carry a checksum, and {listed} list says which there are"
        console.print(f"{folder}: {carry}: what another version wrote can be checked the less", soft_wrap=True)
    return 0


def _play(folder: str, options: dict[str, str]) -> int:
    from embodied_liftwm.data.video import write_mp4

    reader = EvaluationReader(folder)
    number, fps = _whole(options, "episode", 0), _whole(options, "fps", 8)
    if not 0 <= number < len(reader):
        raise UserError(f"episode={number}: {folder} holds {len(reader)}, counted from 0")
    if not 1 <= fps <= 240:
        raise UserError(f"fps={fps}: must be 1 to 240")
    out = options.get("out", f"{folder.rstrip('/')}-episode-{number}.mp4")
    if not out.endswith(".mp4"):
        raise UserError(f"out={out}: must end in .mp4")
    episode = reader[number]
    height, width = write_mp4(out, episode.rgb, fps)
    plain_console().print(f"wrote {len(episode.rgb)} frames, {height} x {width}: {out}", soft_wrap=True)
    return 0


def _import(folder: str, options: dict[str, str]) -> int:
    from embodied_liftwm.data.importers import FORMATS, Settings, find_format, import_dataset

    given = {key: value for key, value in options.items() if key not in ("out", "format")}
    format = _choice(options, "format", list(FORMATS)) or find_format(Path(folder))
    for key in given:
        if key != "size" and key not in FORMATS[format].options:
            takes = ", ".join(("size", *FORMATS[format].options))
            raise UserError(f"{key}={given[key]}: format={format} has no use for it, it takes {takes}")
    words: dict[str, Any] = {**given, "size": _size(options, REALESTATE_SIZE if format == "realestate" else None)}
    if "intrinsics" in given:
        words["intrinsics"] = _four(given["intrinsics"])
    out = options.get("out", f"{folder.rstrip('/')}-episodes")
    console = plain_console()
    with _bar(f"importing {format}") as tell:
        held, left_out = import_dataset(folder, out, format, Settings(**words), tell)
    for line in left_out:
        console.print(f"left out: {line}", style="yellow", soft_wrap=True)
    told = "" if words["size"] is None else " of {} x {}".format(*words["size"])
    console.print(f"{held} episodes{told}, {len(left_out)} clips left out: {out}", soft_wrap=True)
    return 2 if left_out and format != "realestate" else 0  # its videos disappear: a clip without frames is no fault


def _export(folder: str, options: dict[str, str]) -> int:
    from embodied_liftwm.data.exporters import FORMATS, export_dataset

    format = _choice(options, "format", list(FORMATS))
    if not format:
        raise UserError(f"data export: which format? Give format= one of {', '.join(FORMATS)}")
    truth = _choice(options, "truth", ["true", "false"]) == "true"
    out = options.get("out", f"{folder.rstrip('/')}-{format}{'-v0' if format == 'minari' else ''}")
    with _bar(f"exporting {format}") as tell:
        count = export_dataset(folder, out, format, truth, tell)
    plain_console().print(f"{count} episodes {'with' if truth else 'without'} truth: {out}", soft_wrap=True)
    return 0


@contextmanager
def _bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of progress, which learns at the first call how many there are."""
    from embodied_liftwm.evaluation.progress import progress

    with ExitStack() as stack:
        advance: Callable[[int], None] | None = None

        def tell(done: int, total: int) -> None:
            nonlocal advance
            advance = advance or stack.enter_context(progress(description, total))
            advance(1)

        yield tell


def _choice(options: dict[str, str], key: str, known: list[str]) -> str:
    """The word given, or "" where there is none."""
    word = options.get(key, "")
    if word and word not in known:
        near = difflib.get_close_matches(word, known, 1)
        raise UserError(f"{key}={word}: {f'did you mean {near[0]}?' if near else 'expected one of ' + ', '.join(known)}")
    return word


def _size(options: dict[str, str], default: int | None) -> tuple[int, int] | None:
    """Height and width of frames, from `size=64` or `size=48x64`."""
    if "size" not in options:
        return None if default is None else (default, default)
    sides = options["size"].split("x")
    if not 1 <= len(sides) <= 2 or not all(side.isdecimal() and 16 <= int(side) <= 2048 for side in sides):
        raise UserError(f"size={options['size']}: expected 16 to 2048 pixels a side, or height and width, as in 48x64")
    return int(sides[0]), int(sides[-1])


def _four(text: str) -> tuple[float, ...]:
    try:
        fx, fy, cx, cy = map(float, text.split(","))
    except ValueError:
        raise UserError(f"intrinsics={text}: expected four numbers fx,fy,cx,cy, in pixels") from None
    return fx, fy, cx, cy


def _whole(options: dict[str, str], key: str, default: int) -> int:
    try:
        return int(options.get(key, default))
    except ValueError:
        raise UserError(f"{key}={options[key]}: expected a whole number") from None
