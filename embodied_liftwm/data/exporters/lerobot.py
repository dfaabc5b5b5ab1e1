"""LeRobot's dataset format v3.0: Parquet and JSON, as `LeRobotDataset(repo_id, root=FOLDER)` reads them.

    meta/info.json meta/stats.json meta/tasks.parquet meta/episodes/chunk-000/file-000.parquet    as LeRobot writes them
    data/chunk-000/file-000.parquet    a row a frame; frames are PNG in it (dtype image), so that they come back bit for bit:
                                       videos of the format are yuv420p, which keeps a quarter of the colours
    meta/liftwm.json                   what all episodes share; `liftwm` of meta/episodes: what each says in words

An episode has T + 1 rows, one more than actions: the last row's action and reward are 0, nothing was done there. Timestamps are
nominal, at `FPS`: steps of ours have no fixed duration.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.exporters import TRUTH_ROWS, Export, words_of
from embodied_liftwm.data.exporters.lerobot_stats import Stats
from embodied_liftwm.data.importers.lerobot import CAMERA, EPISODES, INFO, KEYS, LIFTWM, OURS, library
from embodied_liftwm.errors import UserError

FPS = 10
FILE_MB, CHUNK_FILES = 100, 1000
"""DEFAULT_DATA_FILE_SIZE_IN_MB and DEFAULT_CHUNK_SIZE of lerobot/datasets/utils.py."""
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
STORED = {"float16": "float32", "uint16": "int32"}
"""Types that its readers do not know, in ones that hold all their values."""
COUNTERS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}


def write(out: Path, export: Export) -> None:
    """Write all episodes.

    Raises:
        UserError: pyarrow is not installed.
    """
    pa, pq = library()
    features: dict[str, Any] = {}
    stats, outlines, frames, file = Stats(), [], 0, 0
    writer: Any = None
    for index, episode in enumerate(export.episodes):
        columns = columns_of(episode)
        count = len(episode) + 1
        number = np.arange(count)
        counters = (number / FPS, number, np.full(count, index), frames + number, np.zeros(count, int))
        columns |= {name: rows.astype(dtype)[:, None] for (name, dtype), rows in zip(COUNTERS.items(), counters, strict=True)}
        kinds = {name: _feature(rows, name) for name, rows in columns.items()}
        features = features or kinds
        if unlike := next((name for name in kinds | features if kinds.get(name) != features.get(name)), ""):
            found, before = (list(kind.get(unlike, {}).get("shape", ["missing"])) for kind in (kinds, features))
            raise UserError(f"episode {index}: {unlike}: {found}, expected {before} as in those before it")
        table = pa.table({name: _column(pa, rows, name) for name, rows in columns.items()})
        path = out / DATA.format(chunk_index=file // CHUNK_FILES, file_index=file % CHUNK_FILES)
        if writer is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
        outlines.append(_outline(episode, index, frames, file, str(export.info.get("env"))))
        stats.add(columns)
        frames += count
        if path.stat().st_size > FILE_MB * 2**20:
            writer, file = writer.close(), file + 1
    if writer is not None:
        writer.close()
    _write_meta(out, export, features, outlines, frames)
    (out / "meta/stats.json").write_text(json.dumps(stats.finish(), indent=4))


def columns_of(episode: Episode) -> dict[str, np.ndarray]:
    """What a row holds, [T + 1, ...] by its name in the format."""
    count = len(episode) + 1
    found = {"rgb": episode.rgb, "world_from_camera": episode.world_from_camera.reshape(count, 16), "goal": episode.goal}
    found["intrinsics"] = np.tile(episode.intrinsics.reshape(9), (count, 1))
    for name in ("action", "reward", "terminated", "truncated"):
        rows = getattr(episode, name).reshape(count - 1, -1)
        found[name] = np.concatenate([rows, np.zeros((1, rows.shape[1]), rows.dtype)])
    columns = {KEYS[name]: rows for name, rows in found.items()}
    columns["next.done"] = columns[KEYS["terminated"]] | columns[KEYS["truncated"]]
    columns["next.done"][-1] = True
    for name, rows in episode.truth_arrays().items():
        if name in TRUTH_ROWS:
            columns[f"truth.{name}"] = rows.astype(STORED.get(rows.dtype.name, rows.dtype))
    return {name: rows for name, rows in columns.items() if rows.size}


def _feature(rows: np.ndarray, name: str) -> dict[str, Any]:
    if name == CAMERA:
        return {"dtype": "image", "shape": list(rows.shape[1:]), "names": ["height", "width", "channels"]}
    return {"dtype": rows.dtype.name, "shape": list(rows.shape[1:]), "names": None}


def _column(pa: Any, rows: np.ndarray, name: str) -> Any:
    """An Arrow column: pictures as PNG, single numbers as such, others as lists."""
    if name == CAMERA:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # of a picture, in the library `datasets`
        return pa.array([{"bytes": _png(frame), "path": None} for frame in rows], kind)
    if rows.shape[1:] == (1,):
        return pa.array(rows[:, 0])
    found = pa.array(rows.reshape(-1))
    if rows.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(found, rows.shape[1])
    for side in reversed(rows.shape[1:]):
        found = pa.ListArray.from_arrays(np.arange(0, len(found) + 1, side, dtype=np.int32), found)
    return found


def _png(frame: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(frame).save(file, "PNG", compress_level=1)
        return file.getvalue()


def _outline(episode: Episode, index: int, first: int, file: int, task: str) -> dict[str, Any]:
    count = len(episode) + 1
    return {
        "episode_index": index, "tasks": [task], "length": count,
        "dataset_from_index": first, "dataset_to_index": first + count,
        "data/chunk_index": file // CHUNK_FILES, "data/file_index": file % CHUNK_FILES,
        "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0, OURS: json.dumps(words_of(episode)),
    }  # fmt: skip


def _write_meta(out: Path, export: Export, features: dict[str, Any], outlines: list[dict[str, Any]], frames: int) -> None:
    pa, pq = library()
    info = {
        "codebase_version": "v3.0", "robot_type": None,
        "total_episodes": len(outlines), "total_frames": frames, "total_tasks": 1,
        "chunks_size": CHUNK_FILES, "data_files_size_in_mb": FILE_MB, "video_files_size_in_mb": 200, "fps": FPS,
        "splits": {"train": f"0:{len(outlines)}"}, "data_path": DATA, "video_path": None, "features": features,
    }  # fmt: skip
    path = out / EPISODES / "chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(outlines), path)
    tasks = pa.table({"task_index": [0], "task": [str(export.info.get("env"))]})
    kinds = [{"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
             for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))]  # fmt: skip
    index = {"index_columns": ["task"], "column_indexes": [], "columns": kinds, "pandas_version": "2.0.0"}
    pq.write_table(tasks.replace_schema_metadata({"pandas": json.dumps(index)}), out / "meta/tasks.parquet")
    (out / INFO).write_text(json.dumps(info, indent=4))
    (out / LIFTWM).write_text(json.dumps(export.info, indent=4))
