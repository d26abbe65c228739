"""What jaxtyping's import hook does to the modules under test: it checks what names a shape, and a
check that held is not made again."""

import ast
import functools
import importlib
import inspect
import re
import threading
from collections.abc import Callable, Hashable
from importlib.machinery import SourceFileLoader
from types import FunctionType
from typing import Any
from unittest.mock import patch

import jaxtyping

CHECKED: Any = jaxtyping.jaxtyped
MOST_ITEMS = 64
"""Calls with longer lists than this are checked every time."""
LONGEST_NAME = 40
_SHAPE = re.compile(r"\b(Bool|Float|Int|UInt)\d*\[")


def set_up() -> None:
    read_bytecode_of_others()
    check_shapes_alone()
    remember_what_held()


def read_bytecode_of_others() -> None:
    """jaxtyping names its own bytecode while a module runs, and with it that of all that the module
    imports: torch and the rest would be compiled from source (8 s) where no bytecode may be
    written. Here the name holds while the module itself is read."""
    hook: Any = importlib.import_module("jaxtyping._import_hook")

    def get_code(self: Any, name: str) -> Any:
        tag = f"{self._typechecker.get_hash()}shapes"
        with patch(
            "importlib._bootstrap_external.cache_from_source",
            lambda path, *words, **said: hook._optimized_cache_from_source(
                tag, path, *words, **said
            ),
        ):
            return SourceFileLoader.get_code(self, name)

    hook._JaxtypingLoader.exec_module = SourceFileLoader.exec_module
    hook._JaxtypingLoader.get_code = get_code


def check_shapes_alone() -> None:
    """jaxtyping wraps every function, which doubles the time of the tests. Here it wraps what names
    a shape in its signature or fields:
    of all other types pyright knows as much."""
    transformer: Any = importlib.import_module("jaxtyping._import_hook").JaxtypingTransformer
    for kind in ("visit_FunctionDef", "visit_ClassDef"):
        whole = getattr(transformer, kind)

        def visit(self: Any, node: Any, wrap: Any = whole) -> Any:
            if _SHAPE.search(_annotations(node)):
                return wrap(self, node)
            self._parents.append(node)
            self.generic_visit(node)
            self._parents.pop()
            return node

        setattr(transformer, kind, visit)


def _annotations(node: ast.FunctionDef | ast.ClassDef) -> str:
    """Of a function's parameters and result, or of a class's fields, as they are written."""
    if isinstance(node, ast.ClassDef):
        noted = [each.annotation for each in node.body if isinstance(each, ast.AnnAssign)]
    else:
        given = node.args
        every = (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
        noted = [each.annotation for each in every if each] + [node.returns]
    return " ".join(ast.unparse(each) for each in noted if each)


def remember_what_held() -> None:
    """A check takes longer than most of the functions that it guards, and its outcome depends on
    types, dtypes and shapes alone: each combination of them is checked once for a function."""

    def jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
        check = CHECKED(typechecker=typechecker)

        def decorate(what: Any) -> Any:
            if not inspect.isclass(what):
                return remembering(what, check)
            plain: Any = what.__init__
            if check(what).__init__ is not plain:
                what.__init__ = remembering(plain, check)
            return what

        return decorate

    jaxtyping.jaxtyped = jaxtyped


def remembering(function: FunctionType, check: Callable[[Any], Any]) -> Callable[..., Any]:
    """The function; arguments and results are checked whose like was not seen before. A check is
    built when it is first needed: most processes call few of the functions."""
    checked = functools.cache(lambda: check(function))
    after = functools.cache(lambda: _checked_afterwards(function, check))
    held = dict[Hashable, set[Hashable]]()

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        given = like((args, kwargs))
        results = held.get(given) if given else None
        if results is None:
            result = checked()(*args, **kwargs)
            if given:
                held[given] = {like(result)}
            return result
        result = function(*args, **kwargs)
        if (found := like(result)) is None or found not in results:
            after()(result, args, kwargs)
            results.add(found)
        return result

    return call


def _checked_afterwards(
    function: FunctionType, check: Callable[[Any], Any]
) -> Callable[[Any, Any, Any], None]:
    """Checks a result that is there already, with the arguments that it came from."""
    there = threading.local()

    def again(*_args: Any, **_kwargs: Any) -> Any:
        return there.result

    # jaxtyping reads quoted annotations among the globals of the function.
    echo = FunctionType(again.__code__, function.__globals__, closure=again.__closure__)
    checked = check(functools.update_wrapper(echo, function))

    def after(result: Any, args: Any, kwargs: Any) -> None:
        there.result = result
        checked(*args, **kwargs)

    return after


def like(value: Any) -> Hashable:
    """All that a check can see of a value; None for what it may see more of."""
    kind: Any = type(value)
    see = _seeing(kind)
    return see(value) if see else kind


@functools.cache
def _seeing(kind: Any) -> Callable[[Any], Hashable] | None:
    """What a check can see of a value of this class beside the class, if anything."""
    if issubclass(kind, dict):
        return lambda value: _parts(kind, value.items())
    if issubclass(kind, (tuple, list, set, frozenset)):
        return lambda value: _parts(kind, value)
    if issubclass(kind, (bool, str)):  # a Literal may name it
        return lambda value: None if len(repr(value)) > LONGEST_NAME else (kind, value)
    if issubclass(kind, type):
        return lambda value: (kind, value)
    if hasattr(kind, "dtype"):
        return lambda value: (kind, value.dtype, tuple(getattr(value, "shape", ())))
    return None


def _parts(kind: Any, items: Any) -> Hashable:
    if len(items) > MOST_ITEMS:
        return None
    parts = tuple(map(like, items))
    return None if None in parts else (kind, parts)
