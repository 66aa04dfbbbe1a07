"""Finding the app: what is named, what is usual, and errors in the user's own words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipeflow.cli.loading import load_app
from pipeflow.errors import ConfigurationError

Call = Callable[..., Result]


def test_an_app_is_found_by_name_by_module_and_where_it_usually_is(shop: Path) -> None:
    assert load_app("app:app").name == "shop"
    assert load_app("app").name == "shop"
    assert load_app(None).name == "shop"


def test_main_is_usual_too(shop: Path) -> None:
    (shop / "app.py").rename(shop / "main.py")
    assert load_app(None).name == "shop"


def test_a_factory_is_called(here: Path) -> None:
    (here / "made.py").write_text("from pipeflow import App\ndef make() -> App:\n    return App('made')\n")
    assert load_app("made:make", factory=True).name == "made"
    with pytest.raises(ConfigurationError, match="add --factory"):
        load_app("made:make")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (None, "neither app.py nor main.py"),
        ("shopp:app", "no module 'shopp' .*did you mean 'shop2'"),
        ("shop2:ap", "did you mean 'app'"),
        ("shop2:number", "is no App but a int; it has app"),
        ("shop2.py", "name the module, not its file: shop2:app"),
        ("empty", "it has no app: name its factory"),
    ],
)
def test_what_cannot_be_found_is_named_with_the_remedy(here: Path, target: str | None, told: str) -> None:
    (here / "shop2.py").write_text("from pipeflow import App\napp = App('two')\nnumber = 3\n")
    (here / "empty.py").write_text("")
    with pytest.raises(ConfigurationError, match=told):
        load_app(target)


def test_an_error_while_importing_shows_the_users_traceback_and_no_other(call: Call, here: Path) -> None:
    (here / "broken.py").write_text("def inner():\n    return 1 / 0\n\ninner()\n")
    shown = call("graph", "broken:app")
    assert shown.exit_code == 4
    assert 'broken.py", line 2, in inner' in shown.stderr
    assert "importlib" not in shown.stderr
    assert "cli/loading.py" not in shown.stderr
    assert shown.stderr.splitlines()[-1] == "error: broken: importing it failed: ZeroDivisionError: division by zero"


def test_a_module_that_the_app_misses_is_told_as_the_users_error(call: Call, here: Path) -> None:
    (here / "broken.py").write_text("import not_installed_anywhere\n")
    shown = call("graph", "broken:app")
    assert shown.exit_code == 4
    assert 'broken.py", line 1' in shown.stderr
    assert "No module named 'not_installed_anywhere'" in shown.stderr


def test_what_pipeflow_refuses_while_importing_is_one_line_with_the_place(call: Call, here: Path) -> None:
    (here / "broken.py").write_text("from pipeflow import App\napp = App('x')\n\napp.queue('a queue', int)\n")
    shown = call("graph", "broken:app")
    assert shown.exit_code == 4
    assert "Traceback" not in shown.stderr
    assert "a queue" in shown.stderr
    assert "broken.py:4" in shown.stderr
