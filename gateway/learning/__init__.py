"""From the journal and feedback to learned numbers: `$GATEWAY_HOME/learned/*.yaml`. Fitting is a pure function.

For programs that train by themselves:

    from gateway.learning import adopt, curate, put, read_pairs, settings_for, train

    pairs = read_pairs(Path("chats.jsonl").read_bytes())
    settings = settings_for(len(pairs), {"epochs": 4})
    learned, held_out = parted(pairs, settings)
    put(folder, learned, held_out)
    report = await train(base, folder, settings, print)     # base: the model's GGUF file
    entry = adopt(home, folder, model="core", name="dates", base=base, data={}, settings=settings, report=report)
"""

from gateway.training.adopting import adopt
from gateway.training.curate import Curated, Rules, curate
from gateway.training.jobs import parted
from gateway.training.merge import merge
from gateway.training.pairs import Pair, read_pairs, written
from gateway.training.process import TrainingFailed, put, train
from gateway.training.registry import Entry, read_registry
from gateway.training.settings import Settings, settings_for

__all__ = [
    "Curated",
    "Entry",
    "Pair",
    "Rules",
    "Settings",
    "TrainingFailed",
    "adopt",
    "curate",
    "merge",
    "parted",
    "put",
    "read_pairs",
    "read_registry",
    "settings_for",
    "train",
    "written",
]
