"""AdamW whose learning rate falls along half a cosine, as GPT and its successors are trained."""

import dataclasses

import optax

from bert_jax.training.optim import AdamW, warmup_steps, whole_schedule


@dataclasses.dataclass(frozen=True)
class CosineAdamW(AdamW):
    """AdamW with the settings of Radford et al. 2018 (section 4.1): linear warm-up, cosine to 0, no decay of biases and
    gains; clipping as in its code (openai/finetune-transformer-lm `train.py`)."""

    learning_rate: float = 2.5e-4
    """Peak of the schedule."""
    warmup: int | float = 2000
    """An integer is a number of steps; a fraction below 1 is a share of all steps."""
    decay_all: bool = False
    """Decay every parameter; False spares norms and biases."""
    floor: float = 0.0
    """What the learning rate ends at, as a share of its peak."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.floor <= 1:
            raise ValueError(f"CosineAdamW.floor must be from 0 to 1, got {self.floor}")

    def schedule(self, total_steps: int) -> optax.Schedule:
        """Learning rate by step, counted from 0: up to the peak, down to the floor. ValueError if the warm-up fills
        `total_steps`."""
        steps = whole_schedule(self, total_steps)
        warmup = warmup_steps(self.warmup, steps)
        down = optax.cosine_decay_schedule(self.learning_rate, steps - warmup, self.floor)
        both = optax.join_schedules([optax.linear_schedule(0.0, self.learning_rate, warmup), down], [warmup])
        return lambda step: both(step + self.schedule_start)
