"""The stub and the extension agree: names, parameters, defaults, docstrings, both ways.

SPDX-License-Identifier: MIT
"""

import ast
import inspect
import os
from pathlib import Path

import pytest

from kdmp import _kdmp

STUB = ast.parse((Path(__file__).parent.parent / "kdmp" / "_kdmp.pyi").read_text("utf-8"))
CLASSES = {n.name: n for n in STUB.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")}
FUNCTIONS = {n.name: n for n in STUB.body if isinstance(n, ast.FunctionDef)}
EXCEPTIONS = {n for n in CLASSES if issubclass(getattr(_kdmp, n), BaseException)}
# What named tuples bring along.
STRUCTSEQ = set(dir(os.terminal_size))


def decorators(node):
    return {ast.unparse(d) for d in node.decorator_list}


def members(name):
    """Public methods and properties of a class of the stub."""
    functions = (n for n in CLASSES[name].body if isinstance(n, ast.FunctionDef))
    return {
        n.name: n for n in functions if not n.name.startswith("_") and n.name + ".setter" not in decorators(n)
    }


METHODS = [(c, m) for c in CLASSES for m, node in members(c).items() if "property" not in decorators(node)]
PROPERTIES = [(c, m) for c in CLASSES for m, node in members(c).items() if "property" in decorators(node)]


def parameters(node):
    """Name, kind and default (or nothing) of each parameter, without the first of a method."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    found = []
    padding = [None] * (len(positional) - len(arguments.defaults))
    for argument, default in zip(positional, [*padding, *arguments.defaults], strict=True):
        kind = "POSITIONAL_ONLY" if argument in arguments.posonlyargs else "POSITIONAL_OR_KEYWORD"
        found.append((argument.arg, kind, default))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append((argument.arg, "KEYWORD_ONLY", default))
    found = [f for f in found if f[0] not in ("self", "cls")]
    return [(n, k, () if d is None else (ast.literal_eval(d),)) for n, k, d in found]


def runtime_parameters(function):
    return [
        (p.name, p.kind.name, () if p.default is p.empty else (p.default,))
        for p in inspect.signature(function).parameters.values()
        if p.name != "self"
    ]


def test_module_names():
    public = {n for n in vars(_kdmp) if not n.startswith("_")}
    assert public == set(CLASSES) | {n for n in FUNCTIONS if not n.startswith("_")}


@pytest.mark.parametrize("name", CLASSES)
def test_class_members(name):
    cls = getattr(_kdmp, name)
    want = {n for n in vars(cls) if not n.startswith("_")}
    if issubclass(cls, tuple):
        want -= STRUCTSEQ - set(members(name))
    annotated = {n.target.id for n in CLASSES[name].body if isinstance(n, ast.AnnAssign)}
    assert want == set(members(name)) | annotated


@pytest.mark.parametrize("name", CLASSES)
def test_class_docstring(name):
    cls = getattr(_kdmp, name)
    assert cls.__doc__ == ast.get_docstring(CLASSES[name])
    assert cls.__doc__[0].isupper()


@pytest.mark.parametrize("name", sorted(EXCEPTIONS))
def test_exception(name):
    cls = getattr(_kdmp, name)
    assert [b.__name__ for b in cls.__bases__] == [b.id for b in CLASSES[name].bases]
    assert cls.__module__ == "kdmp"


@pytest.mark.parametrize("name", sorted(set(CLASSES) - EXCEPTIONS))
def test_final_classes(name):
    cls = getattr(_kdmp, name)
    if "final" in decorators(CLASSES[name]):
        with pytest.raises(TypeError, match="not an acceptable base"):
            type("Sub", (cls,), {})
    else:
        assert type("Sub", (cls,), {}).__base__ is cls


@pytest.mark.parametrize(("name", "member"), METHODS)
def test_method(name, member):
    method = getattr(getattr(_kdmp, name), member)
    node = members(name)[member]
    assert runtime_parameters(method) == parameters(node)
    assert inspect.getdoc(method) == ast.get_docstring(node)


@pytest.mark.parametrize(("name", "member"), PROPERTIES)
def test_property(name, member):
    node = members(name)[member]
    descriptor = inspect.getattr_static(getattr(_kdmp, name), member)
    assert inspect.isdatadescriptor(descriptor)
    assert inspect.getdoc(descriptor) == ast.get_docstring(node)
    assert inspect.getdoc(descriptor)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name):
    function = getattr(_kdmp, name)
    assert runtime_parameters(function) == parameters(FUNCTIONS[name])
    assert inspect.getdoc(function) == ast.get_docstring(FUNCTIONS[name])


@pytest.mark.parametrize("name", ["AccessContext", "DumpBase", "OverlayBase", "ReaderBase"])
def test_constructor(name):
    body = {n.name: n for n in CLASSES[name].body if isinstance(n, ast.FunctionDef)}
    assert runtime_parameters(getattr(_kdmp, name)) == parameters(body.get("__new__") or body["__init__"])


@pytest.mark.parametrize("name", ["Translation", "Pages"])
def test_not_to_be_constructed(name):
    with pytest.raises(TypeError, match="cannot create"):
        getattr(_kdmp, name)()
