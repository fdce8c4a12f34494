"""How many cores steps of tiny BERT keep busy: python busy_cores.py SEEDS STEPS TEXT TOKENIZER, from the top folder.

The work is that of the benchmark's row five-seeds-tiny-128.
"""

import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor

sys.path.insert(0, ".")

from tools.benchmarks.ours import Training
from tools.benchmarks.preparation import pretraining


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    seeds, steps, text, tokenizer = sys.argv[1:]
    work = ("runs/busy", [text], 2000, tokenizer, "tiny", 128, 64, "float32", int(seeds))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:  # the devices of this process depend on the seeds
        given = pool.submit(pretraining, *work).result()
    training = Training(**given["ours"])
    training.warm_up()
    training.run(5)
    busy, began = processor_seconds(), time.perf_counter()
    work = training.run(int(steps))["work"]
    seconds = time.perf_counter() - began
    print(f"{work / seconds:,.0f} tokens/s, {(processor_seconds() - busy) / seconds:.2f} cores busy")
