"""A corpus build on many machines, by Apache Beam: an extra, `pip install 'bert_jax[beam]'`.

Beam runs the functions that the worker processes of one machine run, on the same tasks, so that the bytes are the same.
Tasks are small: they name documents and token stores instead of carrying them. So all machines must see the text files
and the folder in which the corpus is made under the same paths (a shared file system), and have bert_jax installed.
"""

import os
import pickle
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from bert_jax.data.workers import InOrder

# What bad input raises: it is the same on every machine, so it is no use to try again.
BAD_INPUT = (ValueError, FileNotFoundError)


def on_beam(options: Sequence[str] = ()) -> Callable[[Path], InOrder]:
    """What `build_corpus` takes as `distribute`.

    Args:
      options: of the pipeline, as Beam's own command line has them: `--runner=FlinkRunner`. Beam's default is the
        DirectRunner, which runs on this machine.
    """

    def distribute(work: Path) -> InOrder:
        def in_order(function: Callable, tasks: Iterable) -> Iterator:
            # A pipeline returns nothing: each result is a file, which the next stage reads from here.
            results = work / f"results-{uuid.uuid4().hex}"
            results.mkdir()
            numbered = list(enumerate(tasks))
            with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
                elements = pipeline | beam.Create(numbered, reshuffle=True)
                elements | beam.Map(_keep, function, str(results))
            for number, _ in numbered:
                error, result = pickle.loads((results / str(number)).read_bytes())
                if error is not None:
                    raise error
                yield result

        return in_order

    return distribute


def _keep(numbered: tuple[int, Any], function: Callable, results: str) -> None:
    number, task = numbered
    error = result = None
    try:
        result = function(task)
    except BAD_INPUT as found:
        error = found
    path = Path(results) / str(number)
    partial = path.with_name(f"{number}.{uuid.uuid4().hex}")  # Beam may run a task twice, also at the same time
    partial.write_bytes(pickle.dumps((error, result)))
    os.replace(partial, path)
