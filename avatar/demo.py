"""`make demo`: a speaking avatar of scikit-image's public-domain portrait of Eileen Collins."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

PROMPT = "a cheerful woman with silver hair, anime style"
SENTENCE = "Hello. I was a photograph a minute ago, and now I can speak."


def main() -> None:
    """Run `avatar create` on the portrait, with the arguments given, then on a prompt."""
    from skimage import data, io

    arguments = sys.argv[1:] or ["--out", "out/demo"]
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "astronaut.png"
        io.imsave(photo, data.astronaut(), check_contrast=False)
        _create("--photo", str(photo), "--say", SENTENCE, *arguments)
    if "--help" not in arguments:
        # the prompt route beside it, without a video
        place = arguments[arguments.index("--out") + 1] if "--out" in arguments else "out/avatar"
        _create(PROMPT, "--out", str(Path(place) / "prompt"))


def _create(*arguments: str) -> None:
    from avatar.cli import main as avatar

    sys.argv = ["avatar", "create", *arguments]
    try:
        avatar()
    except SystemExit as ended:  # so every command ends, also a good one
        if ended.code:
            raise


if __name__ == "__main__":
    main()
