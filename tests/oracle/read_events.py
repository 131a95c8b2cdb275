"""Prints the scalars of a directory of TensorBoard events as JSON: {tag: [[step, value], ...]}."""
import json
import logging
import sys

logging.disable(logging.WARNING)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
events.Reload()
json.dump({tag: [[event.step, event.value] for event in events.Scalars(tag)]
           for tag in events.Tags()["scalars"]}, sys.stdout)
