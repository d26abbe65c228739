"""One call at a time on a model, whatever happens to the calls."""

import re
import threading
import time
from typing import Any

import anyio
import pytest

from saescope.cancel import stop_if_cancelled
from saescope.errors import ResourceError
from saescope_mcp.jobs import CURRENT, Current
from saescope_mcp.settings import Settings
from saescope_mcp.state.slots import ModelSlot
from saescope_mcp.state.threads import Workers

NO_MODEL: Any = None


def slot(**changed: Any) -> ModelSlot:
    settings = Settings(**changed)
    return ModelSlot(
        "m", NO_MODEL, set(), settings, Workers(settings.threads, settings.cancel_grace_s)
    )


class Busy:
    """Work that notices when two of it run at once."""

    def __init__(self) -> None:
        self.running, self.most, self.ended = 0, 0, 0

    def __call__(self, seconds: float, *, deaf: bool = False) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(0.005)
                if not deaf:
                    stop_if_cancelled()
        finally:
            self.running -= 1
            self.ended += 1


async def use(model: ModelSlot, work: Busy, seconds: float, *, deaf: bool = False) -> None:
    async with model.turn():
        await model.run(work, seconds, deaf=deaf)


async def test_calls_on_one_model_never_overlap() -> None:
    model, work = slot(), Busy()
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(use, model, work, 0.02)
    assert (work.most, work.ended) == (1, 5)


async def test_a_cancelled_call_stops_its_work_at_once() -> None:
    model, work = slot(), Busy()
    started = time.monotonic()
    with anyio.move_on_after(0.05):
        await use(model, work, 10)
    assert (work.running, work.ended) == (0, 1)
    assert time.monotonic() - started < 1


async def test_work_that_does_not_stop_keeps_the_next_call_waiting() -> None:
    model, work = slot(cancel_grace_s=0.05), Busy()
    with anyio.move_on_after(0.05):
        await use(model, work, 0.4, deaf=True)
    assert work.running == 1
    await use(model, work, 0.01)
    assert (work.most, work.ended) == (1, 2)


async def test_a_call_that_waits_too_long_is_told_when_to_come_back() -> None:
    model, work = slot(lock_wait_s=0.05), Busy()
    async with anyio.create_task_group() as group:
        group.start_soon(use, model, work, 0.3)
        await anyio.sleep(0.02)
        with pytest.raises(ResourceError, match="busy") as caught:
            await use(model, work, 0.01)
        assert caught.value.code == "BUSY" and "again in" in caught.value.hint
    await use(model, work, 0.01)


async def test_a_full_queue_refuses_at_once() -> None:
    model, work = slot(max_queue=1), Busy()
    async with anyio.create_task_group() as group:
        group.start_soon(use, model, work, 0.2)
        group.start_soon(use, model, work, 0.01)
        await anyio.sleep(0.05)
        with pytest.raises(ResourceError, match="wait already"):
            await use(model, work, 0.01)


async def test_an_error_in_a_call_frees_the_model() -> None:
    model = slot()
    with pytest.raises(ZeroDivisionError):
        async with model.turn():
            await model.run(lambda: 1 // 0)
    async with model.turn():
        assert await model.run(threading.active_count)


async def test_where_the_work_ahead_is_known_to_last_a_call_is_told_at_once() -> None:
    model, work = slot(), Busy()  # which would wait for half a minute

    async def evaluate() -> None:
        CURRENT.set(Current("evaluate_sae", "evaluate-1a2b3c"))
        with anyio.move_on_after(3):
            await use(model, work, 60)

    async with anyio.create_task_group() as group:
        group.start_soon(evaluate)
        await anyio.sleep(1.2)
        model.done(0.01)
        began = time.monotonic()
        with pytest.raises(ResourceError, match=r"evaluate_sae \(evaluate-1a2b3c\)") as caught:
            await use(model, work, 0.01)
        assert time.monotonic() - began < 1
        assert re.search(r"about 1[12]\d s to go", caught.value.message)
        assert 'job_status(job_id="evaluate-1a2b3c"' in caught.value.hint
        model.done(0.99)  # nearly over: it is worth waiting
        await use(model, work, 0.01)
    assert work.most == 1


async def test_one_that_is_patient_waits_beyond_the_time_and_the_queue_of_calls() -> None:
    model, work = slot(lock_wait_s=0.05, max_queue=0), Busy()

    async def job() -> None:
        async with model.turn(patient=True):
            await model.run(work, 0.01)

    async with anyio.create_task_group() as group:
        group.start_soon(use, model, work, 0.4)
        await anyio.sleep(0.02)
        group.start_soon(job)
    assert (work.most, work.ended) == (1, 2)
