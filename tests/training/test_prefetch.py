"""Prefetching changes no result, passes errors on as they are, and leaves no thread behind."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from embodied_liftwm.training.prefetch import Prefetcher
from embodied_liftwm.training.trainer import Trainer
from tests.training.small import config, same, weights


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("liftwm-prefetch")]


def test_steps_are_prepared_ahead_in_order_and_once() -> None:
    prepared, third = [], threading.Event()

    def prepare(step: int) -> int:
        prepared.append(step)
        if step == 7:
            third.set()
        return step * step

    with Prefetcher(prepare, ahead=2) as batches:
        assert batches.take(5) == 25
        assert third.wait(30), "nothing was prepared ahead"
        assert prepared == [5, 6, 7]
        assert [batches.take(step) for step in (6, 7, 8)] == [36, 49, 64]
    assert prepared[:4] == [5, 6, 7, 8] and len(set(prepared)) == len(prepared)


def test_an_error_appears_at_its_step_as_it_is() -> None:
    broken = OSError(28, "No space left on device", "frames")

    def prepare(step: int) -> int:
        if step == 2:
            raise broken
        return step

    with Prefetcher(prepare) as batches:
        assert [batches.take(0), batches.take(1)] == [0, 1]
        with pytest.raises(OSError) as caught:
            batches.take(2)
    assert caught.value is broken


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_thread_ends_with_the_block(error: type[BaseException] | None) -> None:
    def use() -> None:
        with Prefetcher(lambda step: step) as batches:
            batches.take(0)
            assert len(threads()) == 1
            if error:
                raise error

    if error is None:
        use()
    else:
        with pytest.raises(error):
            use()
    assert not threads()


def test_training_with_prefetched_batches_gives_bit_identical_weights(data: Path, tmp_path: Path) -> None:
    Trainer(config(data, tmp_path / "ahead")).fit()
    settings = config(data, tmp_path / "each")
    trainer = Trainer(settings)
    while trainer.progress < 1.0:
        trainer.advance()  # loads each batch when it is due
    trainer.save()
    assert same(weights(tmp_path / "ahead"), weights(tmp_path / "each"))


def test_an_interrupted_training_leaves_no_thread(data: Path, tmp_path: Path) -> None:
    def interrupt(row: dict[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(config(data, tmp_path / "run")).fit(interrupt)
    assert not threads()


def test_a_dataset_that_becomes_unreadable_ends_the_training_with_its_error(data: Path, tmp_path: Path, monkeypatch) -> None:
    trainer = Trainer(config(data, tmp_path / "run", steps=50))
    reader, rows = trainer.mixture.datasets[0].reader, []
    read = reader.read

    def fail(episode: int, name: str):
        if len(rows) > 1:
            raise OSError(5, "Input/output error", "rgb.npy")
        return read(episode, name)

    monkeypatch.setattr(reader, "read", fail)
    with pytest.raises(OSError, match="Input/output error"):
        trainer.fit(rows.append)
    assert 2 <= len(rows) < 50
    assert not threads()
