"""The shape of the code base: who may import whom, and what a file may not be called."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from jaxtyping import TypeCheckError

from bert_jax.data import docstrings

ROOT = Path(__file__).resolve().parents[1]

# From the bottom up. A part imports from lower layers only, and from its own layer as long as no circle comes of it.
LAYERS = (
    {"nn", "text"},
    {"data", "models", "objectives", "learners"},
    {"tasks", "interop", "inference", "training"},
    {
        "handover",
        "experiment",
        "resolve",
        "batch_size",
        "pretrained",
        "vocabulary",
        "evaluate",
        "predict",
        "members",
        "train",
        "matrix",
        "phases",
        "report",
    },
    {"experiments", "tools", "tests"},
)
LAYER = {part: number for number, parts in enumerate(LAYERS) for part in parts}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
# What a part may not import besides, of this package and of others.
FORBIDDEN = {
    "text": {*JAX, "nn"},
    "data": {*JAX, "nn", "models", "objectives", "learners"},
    "training": {"models", "objectives", "learners", "tasks", "interop", "inference", "data", "text"},
}
# All that a part may import besides the standard library and itself.
ONLY = {"nn": {"jax", "flax", "numpy", "jaxtyping"}}
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "misc"}


def part_of(module: str) -> str:
    """The part of the code base, or the foreign library, that a dotted name belongs to."""
    names = module.split(".")
    return names[1] if names[0] == "bert_jax" and len(names) > 1 else names[0]


def imports(path: Path, module: str) -> Iterator[tuple[int, str, bool]]:
    """(line, dotted name, whether it waits for a call) of all that a file imports: `from a import b` gives a.b."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    waiting = {node for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
            origin = package[: len(package) - node.level + 1] if node.level else []
            origin += node.module.split(".") if node.module else []
            names = [".".join([*origin, alias.name]) for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name, node in waiting) for name in names)


def violations(root: Path) -> list[str]:
    """What in the tree below `root` breaks the rules, each with its file and line; empty if nothing does."""
    found = []
    files = {}  # dotted name -> file
    for folder in ("bert_jax", "experiments", "tools", "tests"):
        for path in sorted((root / folder).rglob("*.py")):
            names = path.relative_to(root).with_suffix("").parts
            files[".".join(names[:-1] if names[-1] == "__init__" else names)] = path
    edges = {module: set() for module in files}  # between files, when they are loaded
    sideways = {part: set() for part in LAYER}  # between parts of one layer
    for module, path in files.items():
        part = part_of(module)
        for name in VAGUE & {piece.strip("_") for piece in module.split(".")}:
            found.append(f"{path}: a name like {name!r} says nothing about what is inside")
        if part not in LAYER and module != "bert_jax":
            found.append(f"{path}: {part!r} is in no layer")
            continue
        for line, imported, waits in imports(path, module):
            target = part_of(imported)
            where = f"{path}:{line}: {module} imports {imported}"
            if module == "bert_jax" and imported.startswith("bert_jax"):
                found.append(f"{where}, and with it every module would")
            elif target in FORBIDDEN.get(part, ()):
                found.append(f"{where}, which {part} must not")
            elif part in ONLY and target not in ONLY[part] | {part} | sys.stdlib_module_names:
                found.append(f"{where}, but {part} may import {sorted(ONLY[part])} only")
            elif LAYER.get(target, -1) > LAYER.get(part, -1):
                found.append(f"{where}, which is above it")
            elif target != part and LAYER.get(target, -1) == LAYER.get(part, -2):
                sideways[part].add(target)
            owner = imported if imported in files else imported.rpartition(".")[0]
            if owner in files and owner != module and not waits:
                edges[module].add(owner)
    for graph in (edges, sideways):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            found.append("a circle of imports: " + " -> ".join(reversed(error.args[1])))
    return found


def test_imports_go_down():
    """The layers hold, nothing is circular, data workers stay without jax, and every name says what is inside."""
    assert not violations(ROOT)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"bert_jax/nn/a.py": "import scipy"}, "nn may import"),
        ({"bert_jax/nn/a.py": "from bert_jax.text.b import c"}, "nn may import"),
        ({"bert_jax/text/a.py": "import jax.numpy as jnp"}, "text must not"),
        ({"bert_jax/data/a.py": "def f():\n    from flax import linen"}, "a.py:2: .*data must not"),
        ({"bert_jax/data/a.py": "from ..nn.b import c"}, "data must not"),
        ({"bert_jax/training/a.py": "from bert_jax.models.bert import Bert"}, "training must not"),
        ({"bert_jax/training/a.py": "from bert_jax import tasks"}, "training must not"),
        ({"bert_jax/models/a.py": "import bert_jax.training.step"}, "above it"),
        ({"bert_jax/models/a.py": "from tools import b"}, "above it"),
        ({"bert_jax/train.py": "from experiments.quickstart import config"}, "above it"),
        ({"bert_jax/__init__.py": "from bert_jax.train import main"}, "every module would"),
        (
            {"bert_jax/models/a.py": "import bert_jax.models.b", "bert_jax/models/b.py": "from . import a"},
            "circle of imports: bert_jax.models",
        ),
        (
            {
                "bert_jax/objectives/a.py": "import bert_jax.models.b",
                "bert_jax/models/c.py": "import bert_jax.objectives.d",
            },
            "circle of imports: (objectives|models)",
        ),
        ({"bert_jax/kernels/a.py": ""}, "in no layer"),
        ({"bert_jax/data/utils.py": ""}, "'utils' says nothing"),
        ({"tools/_common.py": ""}, "'common' says nothing"),
    ],
)
def test_the_check_finds(tmp_path, files, message):
    """Each rule, broken in a made-up tree, is reported."""
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    with pytest.raises(AssertionError, match=message):
        assert not violations(tmp_path)


def test_the_check_accepts(tmp_path):
    """Imports that go down, within a part, or sideways without a circle are fine."""
    files = {
        "bert_jax/__init__.py": "import os",
        "bert_jax/nn/a.py": "import math\nimport numpy as np\nfrom flax import linen as nn\nfrom . import b",
        "bert_jax/nn/b.py": "from jaxtyping import Array",
        "bert_jax/text/a.py": "import tokenizers",
        "bert_jax/data/a.py": "import bert_jax\nfrom bert_jax.text.a import Tokenizer",
        "bert_jax/objectives/a.py": "from bert_jax.models.a import Encoded",
        "bert_jax/models/a.py": "from bert_jax.nn import a",
        "bert_jax/train.py": "from bert_jax.experiment import Experiment\nfrom bert_jax.training import step",
        "bert_jax/experiment.py": "from .training import optim",
        "tools/a.py": "from bert_jax.train import main",
    }
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    assert violations(tmp_path) == []


def test_a_start_waits_for_nothing_it_does_not_need():
    """What takes a second or more to import comes when it is used: a run's first step and a model's first answer come
    before curves, TensorBoard (which imports torch), scores and downloads."""
    slow = {"torch", "tensorflow", "tensorflow_datasets", "tensorboardX", "matplotlib", "sklearn", "huggingface_hub"}
    slow |= {"scipy.stats", "scipy.special"}
    modules = "bert_jax.train, bert_jax.evaluate, bert_jax.predict, bert_jax.tasks.pretraining, bert_jax.tasks.glue"
    program = f"import sys, {modules}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not slow & set(run.stdout.split())


def test_annotations_are_checked():
    """The hook that checks types and shapes is on in this run: pyproject.toml asks for it."""
    with pytest.raises(TypeCheckError):
        docstrings.clean(3)
