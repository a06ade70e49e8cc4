"""LoRA by torch, transformers and peft, over the model of a GGUF file. Imported in the training child alone."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging as transformers_logging

from gateway.engines.child import Say, Unfit
from gateway.sources.gguf import read_header
from gateway.training.adapter_file import NoPlace, write_adapter
from gateway.training.pairs import Pair
from gateway.training.rows import IGNORED, Row, Sample, batches, chunks
from gateway.training.settings import Settings

WARM_UP, LAST_RATE = 0.03, 0.1  # of the steps, and of the learning rate
CLIP = 1.0  # norm of a gradient
TELL_EVERY_S = 2.0
TRY_EVERY = 16  # steps: with how many threads it goes fastest is found out again
MOST_CHECKED, MOST_APART = 64, 0.02  # samples, and share of the loss
KEPT = ("step", "tokens", "in_vain", "first_loss", "best_loss", "best")  # in a checkpoint


class Model:
    """A base with an adapter that does nothing yet."""

    def __init__(self, net: Any, tokenizer: Any, architecture: str, settings: Settings, device: str) -> None:
        self.net, self.tokenizer, self.device = net, tokenizer, device
        self.settings, self._architecture = settings, architecture
        self.packs = False
        self.computed = 0  # tokens

    def samples(self, pairs: Sequence[Pair]) -> tuple[list[Sample], int, list[str]]:
        """(those that are of use, how many are too long, why the chat template cannot write each of the others)."""
        found, why = [], []
        for pair in pairs:
            try:
                found.append(self.sample(pair))
            except Unfit as exc:
                why.append(str(exc))
        short = [one for one in found if len(one.ids) <= self.settings.max_tokens]
        return short, len(found) - len(short), why

    def sample(self, pair: Pair) -> Sample:
        """As the chat template of the model writes it. Raises: Unfit where that cannot write such a chat."""
        messages = [{name: value for name, value in one.items() if name != "weight"} for one in pair.messages]
        whole = self._written(messages, pair)
        spans = []
        for place in pair.learned:
            before = self._written(messages[:place], pair, add_generation_prompt=True)
            through = self._written(messages[: place + 1], pair)
            if not (through.startswith(before) and whole.startswith(through.rstrip())):
                raise Unfit("its chat template writes earlier turns otherwise once there are later ones")
            calls = [call["function"]["name"] for call in messages[place].get("tool_calls") or ()]
            if any(name not in through[len(before) :] for name in calls):
                raise Unfit("its chat template does not write calls of tools")
            spans.append((len(before), len(through)))
        coded = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        labels = [
            id if any(start <= begin < end for start, end in spans) else IGNORED
            for id, (begin, _) in zip(coded["input_ids"], coded["offset_mapping"], strict=True)
        ]
        return Sample(list(coded["input_ids"]), labels)

    def _written(self, messages: list[dict[str, Any]], pair: Pair, **how: Any) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(messages, tools=list(pair.tools) or None, tokenize=False, **how)
            )
        except Exception as exc:  # whatever a template raises
            raise Unfit(f"its chat template cannot write an example: {exc}") from None

    def loss(self, batch: Sequence[Sample], *, learns: bool = False) -> tuple[float, int]:
        """(summed cross entropy, tokens that were counted). What several begin with is computed once.

        Args: `learns`: gradients of the mean are added to the weights', row by row: what is remembered of one for that
            is let go before the next."""
        rows = [Row.of(some) for some in (chunks(batch) if self.packs else [[one] for one in batch])]
        count, total = sum(len(row.targets) for row in rows), 0.0
        for row in rows:
            self.computed += len(row.ids)
            part = self._loss_of_row(row)
            if learns:
                (part / max(1, count)).backward()
            total += part.item()
        return total, count

    def check_packing(self, samples: Sequence[Sample]) -> None:
        """Not every architecture takes a mask of ours: where it makes a difference, nothing is packed."""
        some = next((one for one in chunks(samples[:MOST_CHECKED]) if len(one) > 1), None)
        if some is None:
            return
        with torch.no_grad():
            plain = sum(self._loss_of_row(Row.of([one])).item() for one in some)
            try:
                packed = self._loss_of_row(Row.of(some)).item()
            except (RuntimeError, ValueError, TypeError):
                return
        self.packs = abs(packed - plain) <= MOST_APART * max(1.0, abs(plain))

    def _loss_of_row(self, row: Row) -> torch.Tensor:
        ids = torch.tensor([row.ids], device=self.device)
        mask: dict[str, torch.Tensor] = {}
        if len(set(row.segments)) > 1:
            segments = torch.tensor(row.segments, device=self.device)
            places = torch.arange(len(row.ids), device=self.device)
            sees = (segments[None, :] == segments[:, None]) | (segments[None, :] == 0)
            sees &= places[None, :] <= places[:, None]
            mask["attention_mask"] = sees[None, None]
            mask["position_ids"] = torch.tensor([row.positions], device=self.device)
        kept = torch.tensor(row.sources, device=self.device)
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.net.dtype == torch.bfloat16):
            logits = self.net(input_ids=ids, logits_to_keep=kept, **mask).logits[0]
        wanted = torch.tensor(row.targets, device=self.device)
        return torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="sum")

    def weights(self) -> dict[str, torch.Tensor]:
        """Of the adapter alone, by their names in the net."""
        return {name: one.detach() for name, one in self.net.named_parameters() if one.requires_grad}

    def restore(self, weights: dict[str, torch.Tensor]) -> None:
        own = dict(self.net.named_parameters())
        with torch.no_grad():
            for name, value in weights.items():
                own[name].copy_(value)

    def write(self, path: Path) -> int:
        """For llama.cpp. Returns: bytes. Raises: Unfit."""
        config = self.net.config
        halves: dict[str, dict[str, Any]] = {}
        for name, value in self.weights().items():
            layer, _, rest = name.removeprefix("base_model.model.").partition(".lora_")
            halves.setdefault(layer, {})[rest[0]] = value.float().cpu().numpy()
        try:
            return write_adapter(
                path,
                {layer: (both["A"], both["B"]) for layer, both in halves.items()},
                architecture=self._architecture,
                layers=config.num_hidden_layers,
                heads=config.num_attention_heads,
                kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
                alpha=self.settings.alpha,
            )
        except NoPlace as exc:
            raise Unfit(str(exc)) from None

    def write_peft(self, folder: Path) -> None:
        """For vLLM, and all that reads peft's format."""
        self.net.save_pretrained(folder)


def load(path: Path, settings: Settings) -> Model:
    """Raises: Unfit."""
    transformers_logging.disable_progress_bar()
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        net = AutoModelForCausalLM.from_pretrained(
            **where, dtype=dtype_on(device), quantization_config=GgufConfig(dequantize=True)
        )
    except (OSError, ValueError, KeyError, NotImplementedError) as exc:
        raise Unfit(f"transformers cannot read its model: {exc}") from None
    if not tokenizer.chat_template:
        raise Unfit("its model has no chat template")
    net.config.use_cache = False
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(net, config, autocast_adapter_dtype=True).to(device)
    return Model(adapted, tokenizer, str(read_header(path).architecture), settings, device)


def dtype_on(device: str) -> torch.dtype:
    """What is computed fastest: processors without an instruction for bfloat16 take longer with it than with float32,
    half as long again where it was measured; those with one a third of the time."""
    has_bfloat16 = device != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def train(
    model: Model, samples: Sequence[Sample], tests: Sequence[Sample], folder: Path, say: Say, checkpoint_every_s: float
) -> dict[str, Any]:
    """The model ends with the weights that did best on `tests`; without those, with the last ones. Returns a report."""
    settings = model.settings
    model.check_packing(samples)
    optimizer = torch.optim.AdamW(
        [one for one in model.net.parameters() if one.requires_grad], lr=settings.learning_rate, weight_decay=0.0
    )
    per_epoch = math.ceil(len(samples) / settings.batch)
    total = per_epoch * settings.epochs
    state = _State(folder / "checkpoint.pt", model, optimizer)
    state.resume()
    if tests and state.first_loss is None:
        state.first_loss = _mean_loss(model, tests)
    began, tokens, told, kept = time.monotonic(), 0, 0.0, time.monotonic()
    first, threads = state.step, _Threads(settings, model.device)
    model.net.train()
    while state.step < total and state.in_vain < settings.patience:
        epoch, place = divmod(state.step, per_epoch)
        batch = batches(samples, settings.batch, settings.seed, epoch)[place]
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _rate(state.step, total)
        with threads.timed(state.step, model):
            loss, counted = model.loss(batch, learns=True)
        torch.nn.utils.clip_grad_norm_(model.net.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.step += 1
        count = sum(len(one.ids) for one in batch)
        tokens, state.tokens = tokens + count, state.tokens + count
        spent = time.monotonic() - began
        if spent - told >= TELL_EVERY_S or state.step == total:
            told = spent
            left_s = spent / (state.step - first) * (total - state.step)
            at = {"step": state.step, "steps": total, "epoch": epoch + 1}
            mean, speed = round(loss / max(1, counted), 4), round(tokens / max(spent, 1e-9), 1)
            say({"event": "step", **at, "loss": mean, "tokens_per_s": speed, "left_s": round(left_s)})
        if place == per_epoch - 1:
            held_out = _mean_loss(model, tests) if tests else None
            state.note(held_out)
            say({"event": "epoch", "epoch": epoch + 1, "step": state.step, "held_out_loss": held_out})
        if place == per_epoch - 1 or time.monotonic() - kept >= checkpoint_every_s:
            kept = time.monotonic()
            state.keep()
    if state.best is not None:
        model.restore(state.best)
    return {
        "steps": state.step,
        "trained_tokens": state.tokens,
        "epochs": state.step / per_epoch,
        "stopped_early": state.step < total,
        "held_out_loss_before": state.first_loss,
        "held_out_loss": state.best_loss,
        "tokens_per_s": round(tokens / max(time.monotonic() - began, 1e-9), 1),
    }


class _Threads:
    """How many compute: all of them, or one, whichever gets further. Where others take a part of the processor's cores,
    several that wait for each other get less done than one that is never waited for."""

    def __init__(self, settings: Settings, device: str) -> None:
        self._most = settings.threads or len(os.sched_getaffinity(0))
        self._is_fixed = bool(settings.threads) or device != "cpu" or self._most == 1
        self._speeds: dict[int, float] = {}

    @contextmanager
    def timed(self, step: int, model: Model) -> Iterator[None]:
        if self._is_fixed:
            yield
            return
        place = step % TRY_EVERY
        count = (
            self._most
            if place == 0
            else 1
            if place == 1
            else max(self._speeds, key=self._speeds.__getitem__, default=self._most)
        )
        torch.set_num_threads(count)
        began, computed = time.monotonic(), model.computed
        yield
        self._speeds[count] = (model.computed - computed) / max(1e-9, time.monotonic() - began)


class _State:
    """Where training is, in a file that is always whole."""

    def __init__(self, path: Path, model: Model, optimizer: torch.optim.Optimizer) -> None:
        self._path, self._model, self._optimizer = path, model, optimizer
        self.step = self.tokens = self.in_vain = 0
        self.first_loss: float | None = None
        self.best_loss: float | None = None
        self.best: dict[str, torch.Tensor] | None = None

    def note(self, held_out: float | None) -> None:
        if held_out is None:
            return
        if self.best_loss is None or held_out < self.best_loss:
            self.best_loss, self.in_vain = held_out, 0
            self.best = {name: value.clone() for name, value in self._model.weights().items()}
        else:
            self.in_vain += 1

    def keep(self) -> None:
        unfinished = self._path.with_suffix(".part")
        kept = {name: getattr(self, name) for name in KEPT}
        kept |= {"weights": self._model.weights(), "optimizer": self._optimizer.state_dict()}
        torch.save(kept, unfinished)
        os.replace(unfinished, self._path)

    def resume(self) -> None:
        """Raises: Unfit for a checkpoint of something else."""
        if not self._path.exists():
            return
        kept = torch.load(self._path, weights_only=True, map_location=self._model.device)
        own = self._model.weights()
        if {name: value.shape for name, value in kept["weights"].items()} != {
            name: value.shape for name, value in own.items()
        }:
            raise Unfit("its checkpoint is of another model, or of other settings")
        self._model.restore(kept["weights"])
        self._optimizer.load_state_dict(kept["optimizer"])
        for name in KEPT:
            setattr(self, name, kept[name])


def _rate(step: int, total: int) -> float:
    warm = max(1, round(total * WARM_UP))
    if step < warm:
        return (step + 1) / warm
    return 1 - (1 - LAST_RATE) * (step - warm) / max(1, total - warm)


def _mean_loss(model: Model, tests: Sequence[Sample]) -> float:
    model.net.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for n in range(0, len(tests), model.settings.batch):
            loss, counted = model.loss(tests[n : n + model.settings.batch])
            total, count = total + loss, count + counted
    model.net.train()
    return round(total / max(1, count), 5)
