"""The web UI's names of samplers, and the diffusers schedulers that do the same."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Scheduler: TypeAlias = Any  # diffusers' schedulers share no type that has `step`


@dataclass(frozen=True)
class Sampler:
    """One sampler: the scheduler's class, its settings, and where it differs from the name's."""

    name: str
    scheduler: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    random: bool = False  # draws noise in every step
    note: str = ""

    def with_sigmas(self, kind: str) -> Sampler:
        """The same sampler on Karras' or exponential noise levels."""
        settings = {**self.settings, f"use_{kind.lower()}_sigmas": True}
        return Sampler(f"{self.name} {kind}", self.scheduler, settings, self.random, self.note)


_SPACED = {"timestep_spacing": "linspace"}  # k-diffusion's, whose names these are
_SDE_NOTE = (
    "solved by single-step SDE-DPM-Solver++ with independent noise, not by a Brownian tree: "
    "the same distribution, not the web UI's picture of the same seed"
)
_MULTISTEP, _SDE = "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}

_WITH_KARRAS = (
    Sampler("Euler", "EulerDiscreteScheduler", _SPACED),
    Sampler("LMS", "LMSDiscreteScheduler", _SPACED),
    Sampler("Heun", "HeunDiscreteScheduler", _SPACED),
    Sampler("DPM2", "KDPM2DiscreteScheduler", _SPACED),
    Sampler("DPM2 a", "KDPM2AncestralDiscreteScheduler", _SPACED, random=True),
    Sampler("DPM++ 2S a", "DPM2SAncestralScheduler", _SPACED, random=True),
    Sampler("DPM++ 2M", _MULTISTEP, {**_SPACED, "algorithm_type": "dpmsolver++"}),
    Sampler(
        "DPM++ SDE",
        "DPMSolverSinglestepScheduler",
        {**_SDE, "solver_order": 2, "lower_order_final": True},
        random=True,
        note=_SDE_NOTE,
    ),
    Sampler("DPM++ 2M SDE", _MULTISTEP, {**_SPACED, **_SDE}, random=True),
    Sampler("DPM++ 2M SDE Heun", _MULTISTEP, {**_SPACED, **_SDE, "solver_type": "heun"}, True),
    Sampler("DPM++ 3M SDE", _MULTISTEP, {**_SPACED, **_SDE, "solver_order": 3}, random=True),
    Sampler("UniPC", "UniPCMultistepScheduler", _SPACED),
    Sampler("DEIS", "DEISMultistepScheduler", _SPACED),
)
_PLAIN = (
    Sampler("Euler a", "EulerAncestralDiscreteScheduler", _SPACED, random=True),
    Sampler("DDIM", "DDIMScheduler"),
    Sampler("PLMS", "PNDMScheduler", {"skip_prk_steps": True}),
    Sampler("LCM", "LCMScheduler", random=True),
    Sampler("DDPM", "DDPMScheduler", random=True),
)
_EXPONENTIAL = ("DPM++ 2M", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE")

SAMPLERS: dict[str, Sampler] = {
    sampler.name: sampler
    for base in (*_WITH_KARRAS, *_PLAIN)
    for sampler in (
        base,
        *([base.with_sigmas("Karras")] if base in _WITH_KARRAS else []),
        *([base.with_sigmas("Exponential")] if base.name in _EXPONENTIAL else []),
    )
}
# Samplers of the web UI that diffusers has no like of, and the nearest that it has.
UNSUPPORTED = {
    "DPM fast": "DPM++ 2S a",
    "DPM adaptive": "DPM++ 2M Karras",
    "Restart": "Heun Karras",
}
_TRAINED = {
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
}


def find_sampler(name: str) -> Sampler:
    """The sampler of a name of the web UI; case, spaces and `dpmpp_2m` for `DPM++ 2M` are forgiven.

    A name that is not known, or that diffusers cannot do, is a ValueError naming the nearest.
    """
    wanted = _plain(name)
    for known, nearest in UNSUPPORTED.items():
        if wanted == _plain(known):
            raise ValueError(
                f"the sampler {known!r} is not in diffusers; the nearest is {nearest!r}"
            )
    by_plain = {_plain(known): sampler for known, sampler in SAMPLERS.items()}
    if wanted not in by_plain:
        near = difflib.get_close_matches(wanted, by_plain, n=3, cutoff=0.5)
        names = ", ".join(by_plain[one].name for one in near) or ", ".join(SAMPLERS)
        raise ValueError(f"no sampler is called {name!r}; did you mean one of: {names}?")
    return by_plain[wanted]


def scheduler_for(
    name: str, config: Mapping[str, Any], *, threshold: float | None = None
) -> Scheduler:
    """A fresh scheduler for a sampler's name, trained as `config`, the model's own scheduler's.

    `threshold` is dynamic thresholding's percentile, 0..1 (Saharia et al. 2022, section 2.3), for
    models of pixels: latents leave -1..1 by nature.
    """
    # diffusers takes seconds to load; names are looked up without it
    import diffusers

    from diffusion.dpm2s_ancestral import DPM2SAncestralScheduler

    sampler = find_sampler(name)
    own = sampler.scheduler == DPM2SAncestralScheduler.__name__
    kind = DPM2SAncestralScheduler if own else getattr(diffusers, sampler.scheduler)
    known = set(inspect.signature(kind.__init__).parameters)
    settings = dict(sampler.settings)
    # a model distilled for trailing timesteps works on no others
    if config.get("timestep_spacing") == "trailing":
        settings.pop("timestep_spacing", None)
    if threshold is not None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold={threshold} must be above 0 and at most 1; 0.995 is usual")
        if "thresholding" not in known:
            raise ValueError(
                f"the sampler {sampler.name!r} has no dynamic thresholding; use DDIM, DDPM, "
                "DPM++ 2M, UniPC, DEIS or LCM"
            )
        settings |= {"thresholding": True, "dynamic_thresholding_ratio": threshold}
    # other noise levels, left from the model's own sampler, would contradict the ones asked for;
    # what that class had as its default says nothing about the model, but for how it was trained
    unsaid = set(config.get("_use_default_values", ())) - _TRAINED
    left_out = {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"} | unsaid
    kept = {key: config[key] for key in config if key in known and key not in left_out}
    return kind(**{**kept, **settings})


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]+", "", name.lower().replace("++", "pp").removeprefix("k_"))
