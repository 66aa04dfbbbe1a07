"""The pytest plugin: fixtures, the seed of a failure, and what is not loaded until it is used."""

import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import pipeflow
from pipeflow.testing.seeds import Seeds

pytest_plugins = ["pytester"]

INSTALLED = any(entry.value == "pipeflow.testing.plugin" for entry in entry_points(group="pytest11"))
PLUGINS = ("-p", "no:anyio") if INSTALLED else ("-p", "no:anyio", "-p", "pipeflow.testing.plugin")

APP = """
import msgspec
import pytest
from pipeflow import App

class Order(msgspec.Struct, frozen=True):
    id: str

@pytest.fixture
def app():
    app = App("shop", broker="sqlite:///never.db")
    app.orders = app.topic("orders", Order)
    app.billing = app.queue("billing", Order, app.orders)
    return app
"""

PASSING = """
import pytest
from conftest import Order

{mark}
async def test_the_harness_runs_on_the_clock_of_the_test(app, pipeflow_harness, clock):
    async with pipeflow_harness(app) as h:
        assert h.clock is clock
        await app.orders.publish(Order("1"))
        await h.advance(5)
        assert clock.now() == 5
        assert h.queued(app.billing) == [Order("1")]
"""

FAILING = """
async def test_fails(app, pipeflow_harness):
    async with pipeflow_harness(app) as h:
        print("ran on", h.seed)
        assert h.seed == -1

def test_fails_without_a_harness():
    assert False
"""


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(pipeflow.__file__).parents[1]))


def run(pytester: pytest.Pytester, program: str, *options: str, mode: str = "auto") -> pytest.RunResult:
    pytester.makeconftest(APP)
    pytester.makepyfile(program)
    ini = ("-o", f"asyncio_mode={mode}", "-o", "asyncio_default_fixture_loop_scope=function")
    return pytester.runpytest_subprocess(*PLUGINS, *ini, "-W", "error", *options)


@pytest.mark.parametrize(("mode", "mark"), [("auto", ""), ("strict", "@pytest.mark.asyncio")])
def test_the_fixtures_work_with_pytest_asyncio(pytester: pytest.Pytester, mode: str, mark: str) -> None:
    run(pytester, PASSING.format(mark=mark), mode=mode).assert_outcomes(passed=1)
    assert not (pytester.path / "never.db").exists()


def test_a_failure_prints_the_seed_that_repeats_it(pytester: pytest.Pytester) -> None:
    text = run(pytester, FAILING).stdout.str()
    (ran_on,) = re.findall(r"ran on (\d+)", text)
    assert re.findall(r"--pipeflow-seed=(\d+) repeats this failure", text) == [ran_on]


def test_the_seed_of_the_command_line_is_the_seed_of_every_harness(pytester: pytest.Pytester) -> None:
    result = run(pytester, FAILING, "--pipeflow-seed=7")
    result.stdout.fnmatch_lines(["*ran on 7*"])
    result.stdout.fnmatch_lines(["*--pipeflow-seed=7 repeats this failure*"])
    result.assert_outcomes(failed=2)


def test_the_plugin_loads_nothing_of_the_test_kit_until_it_is_used() -> None:
    code = (
        "import sys, pipeflow.testing.plugin\n"
        "loaded = [name for name in sys.modules if name.startswith('pipeflow.testing.')]\n"
        "assert sorted(loaded) == ['pipeflow.testing.plugin', 'pipeflow.testing.seeds'], loaded\n"
        "assert not any(name.startswith(('pipeflow.embedded.sqlite', 'pipeflow.cli')) for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_of_tests_has_one_seed_and_remembers_what_a_test_used() -> None:
    seeds = Seeds()
    chosen = seeds.choose(None)
    assert seeds.choose(None) == chosen
    assert seeds.choose(7) == 7
    assert seeds.used == [chosen, chosen, 7]
    seeds.begin_test()
    assert seeds.used == []
    assert Seeds(run=42).choose(None) == 42


def test_an_unknown_name_of_the_test_kit_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        import_module("pipeflow.testing").nonsense  # noqa: B018  # asking is the act
