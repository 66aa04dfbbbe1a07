"""The pytest plugin: a harness and a clock as fixtures, and the seed of a failure on the screen.

Imports nothing of the engine until a test asks for it: pytest loads this module in every run.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Protocol

import pytest

from pipeflow.testing.seeds import seeds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from pipeflow.app import App
    from pipeflow.clock import VirtualClock
    from pipeflow.testing.chaos import Chaos
    from pipeflow.testing.running import Harness


class OpenHarness(Protocol):
    """What the fixture `pipeflow_harness` is: `harness` on the clock of the fixture `clock`."""

    def __call__(
        self,
        app: App,
        *,
        store: str = "memory://",
        seed: int | None = None,
        provide: Mapping[type, object] | None = None,
        chaos: Chaos | None = None,
    ) -> AbstractAsyncContextManager[Harness]: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--pipeflow-seed N`: run every harness that names no seed on this one."""
    parser.getgroup("pipeflow").addoption(
        "--pipeflow-seed",
        type=int,
        default=None,
        metavar="N",
        help="the seed of every harness that names none; a failed test prints the one it ran on",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Take the seed from the command line; without it one is chosen when the first harness opens."""
    seeds.run = config.getoption("--pipeflow-seed")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A new test has used no seed yet."""
    seeds.begin_test()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Print the seed of a test that failed, with the option that repeats it."""
    report = yield
    if report.failed and seeds.used:
        lines = [f"--pipeflow-seed={seed} repeats this failure" for seed in dict.fromkeys(seeds.used)]
        report.sections.append(("pipeflow", "\n".join(lines)))
    return report


@pytest.fixture
def clock() -> VirtualClock:
    """Time that stands still until the test lets it pass; the clock of `pipeflow_harness` in the same test."""
    from pipeflow.clock import VirtualClock

    return VirtualClock()


@pytest.fixture
def pipeflow_harness(clock: VirtualClock) -> OpenHarness:
    """`async with pipeflow_harness(app) as h:` is the app in the real engine, in memory, under virtual time."""
    from functools import partial

    from pipeflow.testing.running import harness

    return partial(harness, clock=clock)
