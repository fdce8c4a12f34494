"""English text that is already on the machine: the docstrings of the installed libraries, and a task made of them.

The quickstart needs no download: its corpus is the documentation that came with the project's own requirements, one
document a module, and its classification task is to tell which library a docstring describes. Modules are read as text
and parsed, never imported. The same installed versions always give the same documents in the same order.
"""

import ast
import functools
import hashlib
import importlib.util
import inspect
import itertools
import multiprocessing
import os
import re
import sysconfig
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

STDLIB = "python"  # the name given here to the standard library

# What the requirements install that has 50 kB of prose or more. Packages of the `dev` extra are left out, so that the
# corpus does not depend on whether the tests were set up.
LIBRARIES = (
    *(STDLIB, "numpy", "scipy", "jax", "jaxlib", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "sklearn"),
    *("matplotlib", "huggingface_hub", "treescope", "rich", "fontTools", "PIL", "pyparsing"),
)

# Folders without documentation of their own: tests, vendored copies, generated data.
SKIPPED_FOLDERS = frozenset(
    "test tests testing idle_test site-packages dist-packages _vendor vendor externals extern lib2to3 idlelib "
    "turtledemo ensurepip pydoc_data encodings __pycache__".split()
)


@dataclass(frozen=True)
class ModuleText:
    """The docstrings of one module, cleaned to prose."""

    library: str
    module: str  # dotted, "scipy.stats._qmc"
    docstrings: tuple[tuple[str, ...], ...]  # of each docstring, in source order, its paragraphs

    @property
    def paragraphs(self) -> list[str]:
        """All paragraphs of the module, in source order."""
        return [paragraph for docstring in self.docstrings for paragraph in docstring]


# ---------------------------------------------------------------------------------------------------------------------
# From a docstring to prose

UNDERLINE = re.compile(r"""([-=~^"'`*#+_.])\1{2,}""")
TABLE = re.compile("=+( +=+)+")  # the upper border of a simple table
DIRECTIVE = re.compile(r"\.\.(?: +(?:([\w:-]+?) ?::)?(.*))?")
ADMONITIONS = frozenset("note warning tip important caution attention hint danger admonition seealso topic".split())
SECTION = re.compile(
    r"(?:(?:other |keyword |keyword-only )?(?:parameters|arguments|args)|attributes|returns?|yields?|raises|"
    r"examples?(?: usage)?|usage|notes?|references|see also|inputs?|outputs?):*",
    re.IGNORECASE,
)
# A line that begins an entry of a list and so a new paragraph; what stays of it is the last group.
ENTRIES = (
    re.compile(r"(?:[-*+•]|\(?\d+[.)]) +(.*)"),  # bullets and numbers
    re.compile(r":\w[^:`]*:(?!`) *(.*)"),  # ":param x: text"
    re.compile(r"\*{0,2}`{0,2}\w+`{0,2}(?: ?\([^)]*\))?:(?: +(.*))?"),  # "x (int): text"
    re.compile(r"[^:]{1,60} : .*()"),  # "x : int", the text follows
)
INLINE = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r":[\w:]+:`[~!.]?([^`<]+?)(?: *<[^`>]*>)?`", r"\1"),  # :func:`text <target>`
        (r"`+[~!.]*([^`]+?)(?: *<[^`>]*>)?`+_{0,2}", r"\1"),  # ``x``, `~.x`, `text <target>`_
        (r"\[([^][]+)\]\([^)\s]*\)", r"\1"),  # [text](target)
        (r" ?\[[\w*#-]+\]_", ""),  # [1]_
        ("`", ""),  # left over where the markup is wrong
        (r"<?\bhttps?://[^\s>)]*>?", ""),
        (r"\*\*([^*]+)\*\*", r"\1"),
        (r"(?<!\w)\*(\w[^*]*)\*(?!\w)", r"\1"),
        (r"\s+", " "),
    )
)


def clean(docstring: str) -> list[str]:
    """The paragraphs of prose in a docstring.

    Left out are code (doctests, literal blocks, fences), headings, tables, references, and the markup of parameter
    lists, whose descriptions stay, a paragraph each. reStructuredText, Markdown and the numpydoc and Google layouts
    are understood as far as libraries use them; a paragraph that still does not look like prose is dropped.
    """
    paragraphs: list[list[str]] = [[]]
    lines = [*_without_code(inspect.cleandoc(docstring).expandtabs().splitlines()), ""]
    for line, following in itertools.pairwise(lines):
        text = line.strip()
        if UNDERLINE.fullmatch(text):  # the line above was a heading
            paragraphs[-1] = paragraphs[-1][:-1]
            paragraphs.append([])
            continue
        is_term = _indent(following) > _indent(line) and len(text.split()) <= 3 and text[-1:] not in tuple(".,;")
        if not text or is_term or SECTION.fullmatch(text) or text[0] in "|#" or not re.search("[A-Za-z]", text):
            paragraphs.append([])
            continue
        entry = next((match for pattern in ENTRIES if (match := pattern.fullmatch(text))), None)
        if entry:
            paragraphs.append([entry[1] or ""])
        else:
            paragraphs[-1].append(text)
    return [text for lines in paragraphs if _is_prose(text := _plain(" ".join(lines)))]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _without_code(lines: Sequence[str]) -> Iterator[str]:
    """The lines, blank where they belong to doctests, tables, code blocks, or directives other than admonitions."""
    fenced = verbatim = False
    block_indent = None  # the indentation of the line that opened the block being skipped
    for line in lines:
        text, indent = line.strip(), _indent(line)
        if text.startswith("```") and not text.endswith("```", 3):
            fenced = not fenced
            text = ""
        # A doctest and its output, and a simple table, end with a blank line.
        verbatim = bool(text) and (verbatim or text.startswith(">>>") or bool(TABLE.fullmatch(text)))
        if block_indent is not None and text and indent <= block_indent:
            block_indent = None
        if fenced or verbatim or block_indent is not None or not text:
            yield ""
        elif directive := DIRECTIVE.fullmatch(text):
            if directive[1] in ADMONITIONS:
                yield directive[2]
            else:
                block_indent = indent
                yield ""
        elif text.endswith("::"):
            block_indent = indent
            yield line.rstrip()[:-1]
        else:
            yield line


def _plain(text: str) -> str:
    for pattern, replacement in INLINE:
        text = pattern.sub(replacement, text)
    return text.strip()


def _is_prose(text: str) -> bool:
    """At least three words, mostly made of letters, and no TeX."""
    letters = sum(c.isalpha() or c in " ,.'" for c in text)
    return len(text.split()) >= 3 and letters >= 0.9 * len(text) and "\\" not in text


# ---------------------------------------------------------------------------------------------------------------------
# From installed libraries to documents


def read(libraries: Sequence[str] = LIBRARIES, processes: int | None = None) -> list[ModuleText]:
    """The documentation of installed libraries, one document a module that has any.

    A paragraph is kept where it occurs first and dropped wherever it occurs again, since generated and inherited
    docstrings repeat: so no paragraph is in two documents, whatever split is made of them later.

    Args:
        libraries: import names; `STDLIB` stands for the standard library.
        processes: worker processes that parse: one a core, at most four, if None; 1 parses in this process.

    Returns:
        Documents in the order of `libraries`, then of module names.

    Raises:
        FileNotFoundError: a library is not installed.
    """
    modules = [(library, *module) for library in libraries for module in sorted(_modules(library))]
    paths = [path for _, _, path in modules]
    processes = processes or min(4, os.cpu_count() or 1)
    if processes == 1:
        parsed = list(map(_docstrings, paths))
    else:  # spawned, not forked: the caller may already run the threads of jax
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            parsed = list(pool.map(_docstrings, paths, chunksize=16))
    seen: set[str] = set()
    documents = []
    for (library, module, _), docstrings in zip(modules, parsed, strict=True):
        new = [tuple(dict.fromkeys(p for p in paragraphs if p not in seen)) for paragraphs in docstrings]
        seen.update(p for paragraphs in new for p in paragraphs)
        if any(new):
            documents.append(ModuleText(library, module, tuple(filter(None, new))))
    return documents


def _modules(library: str) -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module of a library."""
    if library == STDLIB:
        prefix, folders = (), [sysconfig.get_path("stdlib")]
    else:
        spec = importlib.util.find_spec(library)  # of a top-level name this imports nothing
        if spec is None or spec.submodule_search_locations is None:
            raise FileNotFoundError(
                f"the library {library!r}, whose docstrings were asked for, is not an installed package: "
                "install requirements.txt into this environment, or leave the library out"
            )
        prefix, folders = (library,), list(spec.submodule_search_locations)
    for folder in map(Path, folders):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if SKIPPED_FOLDERS.isdisjoint(parts[:-1]) and not re.search("(^|_)(test|conftest)(_|$)", parts[-1]):
                yield ".".join(prefix + (parts[:-1] if parts[-1] == "__init__" else parts)), path


def _docstrings(path: Path) -> list[list[str]]:
    """The cleaned docstrings of a module in source order; none if it is not written for this version of Python."""
    source = path.read_bytes()
    with warnings.catch_warnings():  # about other people's escape sequences
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.11
        warnings.simplefilter("ignore", SyntaxWarning)  # Python 3.12
        try:
            tree = ast.parse(source)
        except SyntaxError:
            return []
    docstrings = (ast.get_docstring(node, clean=False) for node in _documented(tree))
    return [paragraphs for docstring in docstrings if docstring and (paragraphs := clean(docstring))]


def _documented(node: ast.AST) -> Iterator[ast.AST]:
    """`node` and the classes and functions in it, in source order; expressions are not searched."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield from _documented(child)


# ---------------------------------------------------------------------------------------------------------------------
# The task: which library is this docstring from?

# The classes, with the names by which a text would give its library away.
CLASSES = {
    STDLIB: ("python",),
    "numpy": ("numpy", "np"),
    "scipy": ("scipy", "sp"),
    "jax": ("jax", "jnp", "lax"),
    "flax": ("flax", "linen", "nnx", "nn"),
    "orbax": ("orbax", "ocp"),
    "tensorflow_datasets": ("tensorflow", "tfds", "tf"),
    "sklearn": ("sklearn", "scikit"),
    "matplotlib": ("matplotlib", "pyplot", "mpl", "plt"),
    "huggingface_hub": ("huggingface", "hugging", "hub", "hf"),
}
NAMES = frozenset(name for names in CLASSES.values() for name in names)
INSIDE = re.compile("|".join(sorted(name for name in NAMES if len(name) > 3 or name == "jax")))  # "jaxpr"
MASKED = "name"  # what stands for a masked name
WORD = re.compile(r"[^\W\d]\w*(?:[.-]\w+)*")  # an identifier, dotted or hyphenated
WORD_PIECE = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")  # HfApi.hub_id -> Hf Api hub id
MIN_WORDS = 12  # of an example, masked names not counted; a shorter text says too little
RUN = 5  # words in a row by which near-duplicates are found


@dataclass(frozen=True)
class LibraryTask:
    """Masked docstrings and their libraries, split by module, each split in an order drawn by the seed."""

    classes: tuple[str, ...]
    train: list[tuple[str, int]]  # text, index into `classes`
    valid: list[tuple[str, int]]


def held_out(document: ModuleText, share: float = 0.1, seed: int = 0) -> bool:
    """Whether a module is kept from all training, of the encoder and of the classifier alike.

    Drawn by a hash of its name, so that it does not depend on which other modules there are.
    """
    return _draw(seed, document.module) < share


def library_task(documents: Sequence[ModuleText], share: float = 0.1, seed: int = 0) -> LibraryTask:
    """Docstrings with the library they are from as the label, for the libraries of `CLASSES`.

    Names of libraries and modules are masked. `valid` has the docstrings of the held-out modules, without those of
    which half or more, in runs of five words of the masked text, also stands in a module that is trained on.

    Args:
        documents: from `read`, of all libraries that the encoder is pre-trained on.
        share, seed: of `held_out`.

    Raises:
        ValueError: a class has no example in one of the splits.
    """
    texts = {True: [], False: []}  # whether held out: (library, masked text) of every docstring
    for d in documents:
        texts[held_out(d, share, seed)] += [
            (d.library, mask(" ".join(docstring), d.module)) for docstring in d.docstrings
        ]
    candidates = {run for _, text in texts[True] for run in _runs(text)}
    trained_on = {run for _, text in texts[False] for run in _runs(text) if run in candidates}
    train = _labelled(texts[False])
    valid = _labelled((library, text) for library, text in texts[True] if not _is_known(text, trained_on))
    for name, examples in (("train", train), ("valid", valid)):
        missing = [library for label, library in enumerate(CLASSES) if label not in examples.values()]
        if missing:
            raise ValueError(f"no docstring for the {name} split of {missing}: were these libraries read?")
    train, valid = (sorted(split.items(), key=lambda example: _draw(seed, example[0])) for split in (train, valid))
    return LibraryTask(tuple(CLASSES), train, valid)


def _labelled(texts: Iterable[tuple[str, str]]) -> dict[str, int]:
    """The label of each text, once, that is of a class and long enough."""
    labels = {library: label for label, library in enumerate(CLASSES)}
    examples = {}
    for library, text in texts:
        if library in labels and sum(word != MASKED for word in text.split()) >= MIN_WORDS:
            examples.setdefault(text, labels[library])
    return examples


def _is_known(text: str, trained_on: Set[int]) -> bool:
    """Whether half or more of the runs of a text are among those trained on."""
    runs = list(_runs(text))
    return bool(runs) and 2 * sum(run in trained_on for run in runs) >= len(runs)


def mask(text: str, module: str) -> str:
    """`text` with the names of libraries, of the path of its own `module`, and dotted references made "name"."""
    own = {part.strip("_").lower() for part in module.split(".")}
    return WORD.sub(lambda word: MASKED if _names_library(word[0]) or own & _parts(word[0]) else word[0], text)


@functools.lru_cache(100_000)
def _names_library(word: str) -> bool:
    """Whether a word has the name of a library in it, or refers to something in a module, as "linalg.norm" does."""
    lower = word.lower()
    pieces = {piece.lower() for piece in WORD_PIECE.findall(word)}
    dotted = lower.split(".")
    is_reference = len(dotted) > 1 and all(len(part) > 1 for part in dotted)  # unlike "e.g" and "x.shape"
    return bool(is_reference or pieces & NAMES or INSIDE.search(lower))


@functools.lru_cache(100_000)
def _parts(word: str) -> frozenset[str]:
    """The dotted and hyphenated parts of a word, in lower case and without the underscores around them."""
    return frozenset(part.strip("_") for part in re.split("[.-]", word.lower()))


def _runs(text: str) -> Iterator[int]:
    """Hashes of the runs of `RUN` words in a text."""
    words = re.findall(r"\w+", text.lower())
    return (zlib.crc32(" ".join(words[i : i + RUN]).encode()) for i in range(len(words) - RUN + 1))


def _draw(seed: int, key: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:8], "big") / 2**64
