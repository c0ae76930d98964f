"""What the UNet is told in each step: prompts that change, prompts that mix, rescaled guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion.prompt import read_prompt, schedule
from diffusion.prompt_embeds import Embeds, embed, lengthen
from diffusion.record import Pipeline

OnStep: TypeAlias = Callable[[int, int, Tensor], None]  # step from 1, of how many, latents


@dataclass(frozen=True, eq=False)
class Voice:
    """One prompt of a step; its share of the picture is a weight, or a map of them."""

    embeds: Embeds
    weight: float = 1.0
    where: Float[Tensor, "1 1 h w"] | None = None  # 0..1, latent pixels; None is everywhere


@dataclass(frozen=True, eq=False)
class Cue:
    """What is said up to and including a step."""

    last: int
    voices: tuple[Voice, ...]
    negative: Embeds


Score: TypeAlias = tuple[Cue, ...]  # in the order of their steps


def write_score(
    pipeline: Pipeline,
    prompts: Sequence[tuple[str, float, Tensor | None]],
    negative: str,
    *,
    steps: int,
    clip_skip: int = 1,
    done: int = 0,
) -> Score:
    """The cues of prompts (words, weight, where) and of a negative one, all of one length."""
    plans = [schedule(words, steps, done=done) for words, _, _ in prompts]
    plans.append(schedule(negative, steps, done=done))
    lasts = sorted({last for plan in plans for last, _ in plan})
    known: dict[tuple[str, bool], Embeds] = {}

    def heard(words: str, as_negative: bool) -> Embeds:
        key = (words, as_negative)
        if key not in known:
            known[key] = embed(pipeline, words, clip_skip=clip_skip, as_negative=as_negative)
        return known[key]

    said = [[next(words for end, words in plan if last <= end) for plan in plans] for last in lasts]
    for *positives, unwanted in said:
        for words in positives:
            heard(words, False)
        heard(unwanted, True)
    longest = max(embeds.tokens.shape[1] for embeds in known.values())
    known = {
        key: lengthen(pipeline, embeds, longest, clip_skip=clip_skip)
        for key, embeds in known.items()
    }
    return tuple(
        Cue(
            last,
            tuple(
                Voice(known[words, False], weight, where)
                for words, (_, weight, where) in zip(positives, prompts, strict=True)
            ),
            known[unwanted, True],
        )
        for last, (*positives, unwanted) in zip(lasts, said, strict=True)
    )


def parts_of(prompt: str) -> list[tuple[str, float, Tensor | None]]:
    """The prompts that `AND` joins, each everywhere."""
    return [(part.text, part.weight, None) for part in read_prompt(prompt).parts]


class Conductor:
    """Hands a pipeline its score: the first cue as arguments, later ones after each step."""

    def __init__(
        self, score: Score, *, cfg: float, rescale: float = 0.0, on_step: OnStep | None = None
    ) -> None:
        self._score = score
        self._cfg = cfg
        self._rescale = rescale
        self._on_step = on_step
        self._cue = score[0]

    @property
    def arguments(self) -> dict[str, Any]:
        """The pipeline's arguments in place of its prompt."""
        voice = self._score[0].voices[0].embeds
        negative = self._score[0].negative
        given: dict[str, Any] = {
            "prompt_embeds": voice.tokens,
            "negative_prompt_embeds": negative.tokens,
        }
        if voice.pooled is not None:
            given |= {
                "pooled_prompt_embeds": voice.pooled,
                "negative_pooled_prompt_embeds": negative.pooled,
            }
        return given

    def after_step(
        self, pipeline: Pipeline, index: int, timestep: Any, values: dict[str, Any]
    ) -> dict[str, Any]:
        """diffusers' callback at the end of each evaluation, with the next one's embeddings."""
        order = getattr(pipeline.scheduler, "order", 1)
        total = self._score[-1].last
        ends = (index + 1) % order == 0 or index + 1 == pipeline.num_timesteps
        if self._on_step is not None and ends:
            self._on_step(min(index // order + 1, total), total, values["latents"])
        step = min((index + 1) // order + 1, total)
        cue = next(cue for cue in self._score if step <= cue.last)
        if cue is self._cue:
            return {}
        self._cue = cue
        said = {"prompt_embeds": self._as_batch(values["prompt_embeds"], "tokens")}
        if cue.negative.pooled is not None and "add_text_embeds" in values:
            said["add_text_embeds"] = self._as_batch(values["add_text_embeds"], "pooled")
        return said

    def after_old_step(self, index: int, timestep: Any, latents: Tensor) -> None:
        """diffusers' older callback, which hands nothing on: the UNet itself is told what is next.

        It counts whole steps.
        """
        total = self._score[-1].last
        if self._on_step is not None:
            self._on_step(min(index + 1, total), total, latents)
        step = min(index + 2, total)
        self._cue = next(cue for cue in self._score if step <= cue.last)

    def _as_batch(self, old: Tensor, name: str) -> Tensor:
        """The cue's embeddings in the batch that the pipeline made of the first one's."""
        voice = getattr(self._cue.voices[0].embeds, name)
        negative = getattr(self._cue.negative, name)
        guided = self._cfg > 1
        rows = old.shape[0] // (2 if guided else 1)
        new = voice.expand(rows, *voice.shape[1:])
        if guided:
            new = torch.cat([negative.expand(rows, *negative.shape[1:]), new])
        batch: Tensor = new.to(old)
        return batch

    @contextmanager
    def at(self, unet: torch.nn.Module, *, tells: bool = True) -> Iterator[None]:
        """While it lasts, the UNet mixes the voices of each cue, and rescales guidance.

        `tells` is whether the pipeline hands later cues on to the UNet, else that is done here.
        """
        alone = (tells or len(self._score) == 1) and all(
            len(cue.voices) == 1 and cue.voices[0].where is None and cue.voices[0].weight == 1
            for cue in self._score
        )
        if alone and not self._rescale:
            yield
            return
        before = unet.__dict__.get("forward")
        plain = unet.forward

        def forward(
            sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, *args: Any, **more: Any
        ) -> tuple[Tensor]:
            return (self._mixed(plain, sample, timestep, encoder_hidden_states, args, more),)

        # an instance's own attribute: hooks that move the network between devices stay in place
        unet.__dict__["forward"] = forward
        try:
            yield
        finally:
            if before is None:
                del unet.__dict__["forward"]
            else:
                unet.__dict__["forward"] = before

    def _mixed(
        self,
        plain: Callable[..., Any],
        sample: Tensor,
        timestep: Any,
        states: Tensor,
        args: tuple[Any, ...],
        more: dict[str, Any],
    ) -> Tensor:
        """The negative's and the mix's noise where guidance is on, else the mix's alone."""
        guided = self._cfg > 1
        batch = sample.shape[0] // (2 if guided else 1)
        full = sample.shape[0]

        def ask(rows: slice, tokens: Tensor, pooled: Tensor | None) -> Tensor:
            given = _rows(more, rows, full)
            if pooled is not None and given.get("added_cond_kwargs"):
                old = given["added_cond_kwargs"]
                new = pooled.expand(batch, -1).to(old["text_embeds"])
                given["added_cond_kwargs"] = {**old, "text_embeds": new}
            time = (
                timestep[rows]
                if getattr(timestep, "ndim", 0) and len(timestep) == full
                else (timestep)
            )
            given["return_dict"] = False
            heard = tokens.expand(batch, -1, -1).to(states)
            found: Tensor = plain(sample[rows], time, heard, *args, **given)[0]
            return found

        positive = slice(full - batch, full)
        voices = self._cue.voices
        said = [ask(positive, voice.embeds.tokens, voice.embeds.pooled) for voice in voices]
        shares = [
            voice.weight * (1 if voice.where is None else voice.where.to(said[0]))
            for voice in voices
        ]
        pairs = list(zip(shares, said, strict=True))
        if not guided:
            heard = sum((share * one for share, one in pairs), torch.zeros_like(said[0]))
            mixed: Tensor = heard / sum(shares)
            return mixed
        negative = self._cue.negative
        nothing = ask(slice(0, batch), negative.tokens, negative.pooled)
        toward = sum((share * (one - nothing) for share, one in pairs), torch.zeros_like(nothing))
        mixed = nothing + toward
        if self._rescale:
            # Lin et al. 2023, section 3.4, solved for what the pipeline's own guidance then makes
            led = nothing + self._cfg * toward
            axes = tuple(range(1, led.ndim))
            ratio = mixed.std(axes, keepdim=True) / led.std(axes, keepdim=True)
            led = led * (self._rescale * ratio + 1 - self._rescale)
            mixed = nothing + (led - nothing) / self._cfg
        return torch.cat([nothing, mixed])


def _rows(value: Any, rows: slice, full: int) -> Any:
    """The rows of every tensor of the whole batch inside, also those in lists and dicts."""
    if isinstance(value, Tensor):
        return value[rows] if value.ndim and value.shape[0] == full else value
    if isinstance(value, (list, tuple)):
        return type(value)(_rows(one, rows, full) for one in value)
    if isinstance(value, dict):
        return {key: _rows(one, rows, full) for key, one in value.items()}
    return value
