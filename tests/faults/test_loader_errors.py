"""A record that cannot be read: one clear error through the whole loop, and never a hang."""

import pytest

from tests.faults.tiny_run import assert_the_same_run, finish, run, start

FAULT = """
from bert_jax.data.loader import TrainingBatches
whole = TrainingBatches.__getitem__
def damaged(self, step):
    if step == 9:
        raise {error}("corpus/train-00003: record 17: not an instance")
    return whole(self, step)
TrainingBatches.__getitem__ = damaged
"""


@pytest.mark.parametrize("error", ["ValueError", pytest.param("OSError", marks=pytest.mark.faults)])
def test_a_record_that_cannot_be_read(program, straight, tmp_path, error):
    """The reader's words are the last line, and the exit status is 1; steps that were saved are not lost."""
    code, said = finish(start(program, tmp_path / "run", fault=FAULT.format(error=error)))
    assert code == 1, said
    assert said.splitlines()[-1].startswith("error: corpus/train-00003: record 17: not an instance"), said
    assert "Traceback" not in said
    assert "continues after step 8\n" in run(program, tmp_path / "run")
    assert_the_same_run(tmp_path / "run", straight)
