"""The quickstart's corpus and task out of the docstrings of installed libraries."""

import hashlib
import re
import sys
import textwrap
import warnings

import pytest

from bert_jax.data import docstrings
from bert_jax.data.docstrings import CLASSES, NAMES, STDLIB, ModuleText, clean, held_out, library_task, mask, read


def write_package(folder, files):
    """A package of the given {relative path: source}; nothing in it may run."""
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source) + "\nraise RuntimeError('imported')\n", encoding="utf-8")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `leafy` of three modules with docstrings, and several files that have none to give."""
    write_package(
        tmp_path,
        {
            "leafy/__init__.py": '"""Everything about leaves and their colours."""',
            "leafy/tree.py": '''
                """Trees that carry leaves."""
                class Tree:
                    """A tree with branches and leaves."""
                    if True:
                        def grow(self):
                            """Add one branch to the tree."""
                async def fell():
                    """Cut the tree down at its root."""
                x = """This string is no docstring at all."""
                ''',
            "leafy/copy.py": '''
                """Trees that carry leaves."""
                def grow():
                    """Add one branch to the tree.

                    Only this paragraph is not in another module."""
                ''',
            "leafy/escape.py": '"""Wrong escapes \\d do not warn here."""',
            "leafy/other_python.py": 'print "The syntax of another version."',
            "leafy/tests/test_tree.py": '"""The tests have nothing to say."""',
            "leafy/_test_tree.py": '"""The tests have nothing to say."""',
            "leafy/_vendor/copied.py": '"""A vendored copy of something else."""',
        },
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "leafy"


def test_one_document_a_module_in_order_without_importing(package):
    """Modules are parsed, not run; docstrings come in source order; tests and vendored copies are left out."""
    documents = read([package], processes=1)
    assert [d.module for d in documents] == ["leafy", "leafy.copy", "leafy.tree"]
    assert documents[2] == ModuleText(
        "leafy", "leafy.tree", (("A tree with branches and leaves.",), ("Cut the tree down at its root.",))
    )
    assert documents[1].paragraphs == [
        "Trees that carry leaves.",
        "Add one branch to the tree.",
        "Only this paragraph is not in another module.",
    ]
    assert "leafy" not in sys.modules


def test_no_paragraph_is_in_two_documents(package):
    """Repeated docstrings are kept once, or a held-out module would have been read in training."""
    paragraphs = [p for d in read([package], processes=1) for p in d.paragraphs]
    assert len(paragraphs) == len(set(paragraphs))


def test_processes_do_not_change_the_result(package):
    """The corpus depends on the installed libraries only."""
    assert read([package], processes=2) == read([package], processes=1)


def test_warnings_about_foreign_source_stay_inside(tmp_path):
    """Other people's wrong escapes raise no warning here, and the caller's filters are left as they were."""
    path = tmp_path / "m.py"
    path.write_text('"""Three plain words."""\nx = "\\d"\n')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert docstrings._docstrings(path) == [["Three plain words."]]
    assert not caught


def test_namespace_packages_are_found(tmp_path, monkeypatch):
    """orbax and google have no __init__.py."""
    write_package(tmp_path, {"spaced/part/leaf.py": '"""A leaf in a namespace."""'})
    monkeypatch.syspath_prepend(tmp_path)
    assert [d.module for d in read(["spaced"], processes=1)] == ["spaced.part.leaf"]


def test_missing_library_is_named():
    """A library that is not installed is an error, not a smaller corpus."""
    with pytest.raises(FileNotFoundError, match="'no_such_library'"):
        read(["no_such_library"], processes=1)


def test_installed_libraries_have_prose():
    """A library of the requirements, installed as it is, gives many documents of clean text."""
    documents = read(["optax"], processes=1)
    paragraphs = [p for d in documents for p in d.paragraphs]
    assert len(documents) > 30 and sum(map(len, paragraphs)) > 100_000
    assert not [p for p in paragraphs if ">>>" in p or "\n" in p or "``" in p or "http" in p]


NUMPYDOC = """
    Return the sum of `x` along an axis.

    A longer story that goes over
    two lines [1]_.

    Parameters
    ----------
    x : array_like, shape (n,)
        The values to be summed.
    axis : int, optional
        The axis along which to sum, see :func:`~numpy.take`.

        .. versionadded:: 1.7
           It was not there before.

    Returns
    -------
    ndarray
        The sum of the values.

    Notes
    -----
    .. math:: y = \\sum_i x_i

    .. note:: A hint that stays
       with its second line.

    Use it like this::

        y = total(x)
        more code here

    References
    ----------
    .. [1] Somebody, "A book", 1999.

    Examples
    --------
    >>> total([1, 2])
    3 is the answer given

    After the example comes text.
    """
GOOGLE = """Load a leaf.

    Args:
      path: where the leaf is,
        on more than one line.
      colour (`str`, *optional*):
        What **colour** it has, as in [the guide](https://example.org/a_b).

    Returns:
      The leaf that was found.

    - first thing of the list
    - second thing of the list

    ```python
    leaf = load("x")
    ```
    ====== =======
    table  of code
    ====== =======
    """
SPHINX = """Fell a tree.

    :param axe: the tool to be used
    :returns: what is left of it

    :class:`Tree` says more about it.
    """


@pytest.mark.parametrize(
    "docstring, paragraphs",
    [
        (
            NUMPYDOC,
            [
                "Return the sum of x along an axis.",
                "A longer story that goes over two lines.",
                "The values to be summed.",
                "The axis along which to sum, see numpy.take.",
                "The sum of the values.",
                "A hint that stays with its second line.",
                "Use it like this:",
                "After the example comes text.",
            ],
        ),
        (
            GOOGLE,
            [
                "Load a leaf.",
                "where the leaf is, on more than one line.",
                "What colour it has, as in the guide.",
                "The leaf that was found.",
                "first thing of the list",
                "second thing of the list",
            ],
        ),
        (SPHINX, ["Fell a tree.", "the tool to be used", "what is left of it", "Tree says more about it."]),
        ("", []),
        ("x = {1: [2, 3], 4: [5, 6]} + f(7)", []),
    ],
    ids=["numpydoc", "google", "sphinx", "empty", "code"],
)
def test_cleaning(docstring, paragraphs):
    """Code, headings, references and the markup of parameter lists go, the prose stays, a paragraph each."""
    assert clean(docstring) == paragraphs


@pytest.mark.parametrize(
    "text, masked",
    [
        ("NumPy arrays, or np.array of a jaxpr.", "name arrays, or name of a name."),
        ("scikit-learn and TFRecord with HfApi", "name and name with name"),
        ("Solvers of sparse systems, e.g. x.shape of linalg.norm", "Solvers of name systems, e.g. x.shape of name"),
        ("a _private_part and private_part", "a name and name"),
        ("spline next input", "spline next input"),
    ],
)
def test_masking(text, masked):
    """Names of libraries, their aliases, the own module's path and dotted references give nothing away."""
    assert mask(text, "scipy.sparse._private_part") == masked


def made_up_documents(modules=60):
    """`modules` modules of each class, with five docstrings of random words each."""

    def words(key):
        return " ".join("w" + hashlib.sha256(f"{key}/{i}".encode()).hexdigest()[:6] for i in range(20))

    return [
        ModuleText(library, f"{library}.m{m}", tuple((f"{library} {words((library, m, d))}",) for d in range(5)))
        for library in CLASSES
        for m in range(modules)
    ]


def test_split_is_by_module():
    """No module has docstrings in both splits, and the held-out modules are those of `held_out`."""
    documents = made_up_documents()
    task = library_task(documents)
    of_text = {mask(docstring[0], d.module): d for d in documents for docstring in d.docstrings}
    assert {of_text[text].module for text, _ in task.valid} == {d.module for d in documents if held_out(d)}
    assert {of_text[text].module for text, _ in task.train} == {d.module for d in documents if not held_out(d)}
    assert all(task.classes[label] == of_text[text].library for text, label in task.train + task.valid)
    assert 0.05 < len(task.valid) / len(of_text) < 0.15


def test_near_duplicates_of_training_text_are_not_valid():
    """A held-out docstring that mostly stands in a module trained on, even in one of no class, is dropped."""
    documents = made_up_documents()
    first = next(d for d in documents if held_out(d))
    text = first.docstrings[0][0]
    assert mask(text, first.module) in dict(library_task(documents).valid)
    for library in ("numpy", "other"):
        near = ModuleText(library, f"{library}.m61", ((text + " with another end",),))
        assert not held_out(near)
        assert mask(text, first.module) not in dict(library_task([*documents, near]).valid)


def test_names_hide_no_duplicate():
    """Two docstrings that differ in masked names only are the same text to the classifier."""
    documents = made_up_documents()
    first = next(d for d in documents if held_out(d) and d.library == "jax")
    twin = first.docstrings[0][0].replace("jax", "numpy").replace(" w", " numpy w", 1)
    near = ModuleText("numpy", "numpy.m61", ((twin,),))
    assert not held_out(near)
    assert mask(first.docstrings[0][0], first.module) not in dict(library_task([*documents, near]).valid)


def test_task_is_drawn_by_the_seed():
    """The same documents give the same examples in the same order; another seed holds out other modules."""
    documents = made_up_documents()
    assert library_task(documents) == library_task(documents[::-1])
    assert {t for t, _ in library_task(documents).valid} != {t for t, _ in library_task(documents, seed=1).valid}
    labels = [label for _, label in library_task(documents).train]
    assert len(set(labels[:100])) == len(CLASSES), "the first examples, a small label budget, have every class"


def test_a_class_without_examples_is_an_error():
    """A library that was not read is named instead of giving a class that cannot be learned."""
    with pytest.raises(ValueError, match=f"train split of .*{STDLIB}"):
        library_task([d for d in made_up_documents() if d.library != STDLIB])


def test_short_docstrings_are_no_examples():
    """A text of few words besides masked names says too little."""
    documents = made_up_documents()
    short = ModuleText("jax", "jax.short", (("jax " * 30 + "does it",),))
    assert not [text for text, _ in library_task([*documents, short]).train if text.endswith("does it")]


def test_no_name_is_left_in_installed_text():
    """Real docstrings, after masking, hold no name of a library as a word of its own."""
    for document in read(["flax"], processes=1):
        for docstring in document.docstrings:
            words = re.findall("[a-z]+", mask(" ".join(docstring), document.module).lower())
            assert not NAMES.intersection(words), document.module
