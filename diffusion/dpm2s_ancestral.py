"""DPM++ 2S a: the ancestral, single-step, second-order sampler that diffusers does not have."""

from __future__ import annotations

import math

import numpy as np
import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

_RHO = 7.0  # Karras et al. 2022, equation 5


class DPM2SAncestralScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """DPM-Solver++(2S) (Lu et al. 2022, algorithm 1, r = 1/2) down to a lower noise, then noise.

    With x in the scale where the noise has standard deviation sigma, alpha is 1 and
    exp(-lambda) = sigma, so that a step from sigma to s through m is
    u = (m / sigma) x + (1 - m / sigma) D(x, sigma), x' = (s / sigma) x + (1 - s / sigma) D(u, m).
    Of the next noise level the share `eta` is drawn anew; with 0 the sampler is deterministic.
    Every step but the last evaluates the model twice, so n steps have 2 n - 1 timesteps.
    """

    _compatibles = [kind.name for kind in KarrasDiffusionSchedulers]  # noqa: RUF012
    order = 2

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        trained_betas: list[float] | None = None,
        use_karras_sigmas: bool | None = False,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        eta: float = 1.0,
    ) -> None:
        if trained_betas is not None:
            betas = torch.tensor(trained_betas, dtype=torch.float64)
        elif beta_schedule == "scaled_linear":
            ends = (beta_start**0.5, beta_end**0.5)
            betas = torch.linspace(*ends, num_train_timesteps, dtype=torch.float64) ** 2
        elif beta_schedule == "linear":
            betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64)
        else:
            raise ValueError(
                f"beta_schedule={beta_schedule!r} is not known to DPM++ 2S a; "
                "use scaled_linear, linear or trained_betas"
            )
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        variances = (1 - self.alphas_cumprod) / self.alphas_cumprod
        self._log_sigmas: np.ndarray[tuple[int], np.dtype[np.float64]]
        self._log_sigmas = (0.5 * variances.log()).numpy()
        self._start: Tensor | None = None
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self.set_timesteps(num_train_timesteps)

    @property
    def init_noise_sigma(self) -> Tensor:
        """Standard deviation of the noise that sampling starts from."""
        first = self.sigmas.max()
        return first if self.config.timestep_spacing != "leading" else (first**2 + 1) ** 0.5

    @property
    def step_index(self) -> int | None:
        """Which evaluation of the model comes next; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Where the pipeline starts; None where it did not say."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at this evaluation: pictures that are painted over start late."""
        self._begin_index = begin_index

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Lay out the noise levels of so many steps."""
        self.num_inference_steps = num_inference_steps
        sigmas = self._levels(num_inference_steps)
        following = np.append(sigmas[1:], 0.0)
        fresh = following * np.sqrt(1 - (following / sigmas) ** 2)
        self._up = np.minimum(following, self.config.eta * fresh)
        self._down = np.sqrt(following**2 - self._up**2)
        middle = np.sqrt(sigmas * self._down)  # half way in lambda
        evaluated = np.stack([sigmas, middle], axis=1).reshape(-1)[:-1]
        times = np.interp(np.log(evaluated), self._log_sigmas, np.arange(len(self._log_sigmas)))
        self.timesteps = torch.from_numpy(times).to(device, dtype=torch.float32)
        self.sigmas = torch.from_numpy(np.append(evaluated, 0.0)).float()
        self._start = None
        self._step_index = None
        self._begin_index = None

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        """The sample in the scale of the model, whose inputs keep their variance."""
        if self._step_index is None:
            self._step_index = self._index_of(timestep)
        return sample / math.sqrt(float(self.sigmas[self._step_index]) ** 2 + 1)

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """The sample at which the model is asked next."""
        if self._step_index is None:
            self._step_index = self._index_of(timestep)
        here = self._step_index
        at = here // 2
        first = float(self.sigmas[2 * at])
        x = sample.float()
        clean = self._clean(model_output.float(), x, float(self.sigmas[here]))
        if here % 2 == 0:
            self._start = x
            level = float(self.sigmas[here + 1])  # the middle, or 0 after the last
        else:
            assert self._start is not None, "the second half of a step needs its first"
            x, self._start = self._start, None
            level = float(self._down[at])
        x = level / first * x + (1 - level / first) * clean
        if here % 2 == 1 and self._up[at] > 0:
            noise = randn_tensor(
                sample.shape, generator=generator, device=sample.device, dtype=sample.dtype
            )
            x = x + float(self._up[at]) * noise.float()
        self._step_index = here + 1
        result = x.to(sample.dtype)
        return SchedulerOutput(prev_sample=result) if return_dict else (result,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Clean samples with the noise of these timesteps."""
        if self._begin_index is None:
            places = [self._index_of(time) for time in timesteps]
        else:
            place = self._begin_index if self._step_index is None else self._step_index
            places = [place] * len(timesteps)
        sigma = self.sigmas[places].to(original_samples)
        return original_samples + sigma.reshape(-1, *[1] * (noise.ndim - 1)) * noise

    def _levels(self, steps: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        count = len(self._log_sigmas)
        if self.config.timestep_spacing == "linspace":
            times = np.linspace(count - 1, 0, steps)
        elif self.config.timestep_spacing == "leading":
            times = np.arange(steps)[::-1] * (count // steps) + self.config.steps_offset
        else:
            times = np.arange(count, 0, -count / steps)[:steps].round() - 1
        sigmas = np.exp(np.interp(times, np.arange(count), self._log_sigmas))
        if self.config.use_karras_sigmas:
            ends = sigmas[[0, -1]] ** (1 / _RHO)
            sigmas = np.linspace(ends[0], ends[1], steps) ** _RHO
        return sigmas

    def _index_of(self, timestep: float | Tensor) -> int:
        if self._begin_index is not None:
            return self._begin_index
        return int((self.timesteps.cpu() - float(timestep)).abs().argmin())

    def _clean(self, output: Tensor, x: Tensor, sigma: float) -> Tensor:
        kind = self.config.prediction_type
        if kind == "epsilon":
            return x - output * sigma
        if kind == "v_prediction":
            return x / (sigma**2 + 1) - output * (sigma / math.sqrt(sigma**2 + 1))
        if kind == "sample":
            return output
        raise ValueError(f"prediction_type={kind!r} is none of epsilon, v_prediction and sample")

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)
