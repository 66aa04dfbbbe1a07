"""Find the app that `module:app` names, or the one in app.py or main.py here; its errors are told in their words."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType

from pipeflow.app import App
from pipeflow.cli.main import suggestion
from pipeflow.errors import ConfigurationError, PipeflowError

USUAL = ("app", "main")
"""Modules that are looked at when none is named."""

_OURS = str(Path(__file__).resolve().parents[1])
_COMPILED = f"{Path(_OURS).name}/"
"""What compiled modules call their files begins so."""


def load_app(target: str | None, *, factory: bool = False) -> App:
    """The app of `module:attribute`, of `module` alone when it has one, or of app.py or main.py.

    The current directory is on sys.path. ConfigurationError when there is none; a traceback that is the user's own is
    shown before.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    if target is None:
        target = usual_target()
        if target is None:
            raise ConfigurationError(
                f"{here}: neither app.py nor main.py is here; name the app: pipeflow run module:app"
            )
    name, _, attribute = target.partition(":")
    if name.endswith(".py") or "/" in name:
        written = name.removesuffix(".py").replace("/", ".").lstrip(".")
        raise ConfigurationError(f"{name}: name the module, not its file: {written}:{attribute or 'app'}")
    return _app_of(_imported(name), attribute, factory)


def usual_target() -> str | None:
    """`app` or `main`, when such a file is in the current directory."""
    return next((name for name in USUAL if Path(f"{name}.py").is_file()), None)


def _imported(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            modules = [path.stem for path in Path().glob("*.py")]
            raise ConfigurationError(f"no module {name!r} in {os.getcwd()}{suggestion(name, modules)}") from None
        _show_users_part(error)
        raise ConfigurationError(f"{name}: importing it failed: {_told(error)}") from error
    except PipeflowError as error:
        raise ConfigurationError(f"{_place(error) or name}: {error}") from error
    except Exception as error:
        _show_users_part(error)
        raise ConfigurationError(f"{name}: importing it failed: {_told(error)}") from error


def _app_of(module: ModuleType, attribute: str, factory: bool) -> App:
    apps = {name: value for name, value in vars(module).items() if isinstance(value, App)}
    if not attribute:
        if len({id(value) for value in apps.values()}) == 1:
            return next(iter(apps.values()))
        several = f"several apps ({', '.join(apps)}): name one" if apps else "no app: name its factory with --factory"
        raise ConfigurationError(f"{module.__name__}: it has {several}, such as {module.__name__}:app")
    if not hasattr(module, attribute):
        hint = suggestion(attribute, [*apps, *vars(module)])
        raise ConfigurationError(f"{module.__name__}: it has no {attribute!r}{hint}")
    value = getattr(module, attribute)
    if factory:
        value = _made(value, f"{module.__name__}:{attribute}")
    if isinstance(value, App):
        return value
    hint = "; add --factory to call it" if inspect.isfunction(value) else f"; it has {', '.join(apps) or 'no app'}"
    raise ConfigurationError(f"{module.__name__}:{attribute} is no App but a {type(value).__name__}{hint}")


def _made(make: object, target: str) -> object:
    if not callable(make):
        raise ConfigurationError(f"{target} cannot be called; leave --factory off")
    try:
        return make()
    except PipeflowError as error:
        raise ConfigurationError(f"{_place(error) or target}: {error}") from error
    except Exception as error:
        _show_users_part(error)
        raise ConfigurationError(f"{target}: calling it failed: {_told(error)}") from error


def _told(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]


def _users_frames(error: BaseException) -> list[traceback.FrameSummary]:
    return [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_OURS, _COMPILED, "<frozen"))
        and f"{os.sep}importlib{os.sep}" not in frame.filename
    ]


def _show_users_part(error: BaseException) -> None:
    """The traceback without the loader's frames: where it went wrong is in the user's files."""
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(_users_frames(error))]
    sys.stderr.write("".join([*lines, *traceback.format_exception_only(error)]))


def _place(error: BaseException) -> str:
    frames = _users_frames(error)
    return f"{os.path.relpath(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
