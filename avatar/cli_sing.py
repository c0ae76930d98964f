"""The command `avatar sing`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from voice.sing_line import Vibrato


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(sing)


def sing(
    score: Annotated[
        Path, typer.Argument(help="MIDI with lyrics, MusicXML, a text score, or a sung take.")
    ],
    out: Annotated[Path, typer.Option(help="The WAV file to write.")] = Path("out/song.wav"),
    voice: Annotated[
        str | None,
        typer.Option(help="A name of `avatar voices`; else the engine's, or the take's."),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="A clip of the wanted voice, in place of a name.")
    ] = None,
    backing: Annotated[Path | None, typer.Option(help="A track to sing over.")] = None,
    transpose: Annotated[float, typer.Option(help="Semitones up, or down below 0.")] = 0.0,
    tempo: Annotated[float, typer.Option(help="2 is twice as fast.")] = 1.0,
    vibrato: Annotated[
        str, typer.Option(help="RATE,DEPTH,DELAY in Hz, semitones and s; 0 for none.")
    ] = "5.5,0.35,0.3",
    formant: Annotated[float, typer.Option(help="Semitones; higher is a smaller singer.")] = 0.0,
    language: Annotated[str, typer.Option(help="Of the lyrics: en-us, de, cmn, ...")] = "en-us",
    engine: Annotated[str, typer.Option(help="auto, hibari or espeak-ng.")] = "auto",
    variant: Annotated[str, typer.Option(help="Of eSpeak NG's voice: f3, Marco, ...")] = "",
    voice_db: Annotated[float, typer.Option(help="Level of the voice in the mix.")] = 0.0,
    backing_db: Annotated[float, typer.Option(help="Level of the backing track.")] = -3.0,
    gate: Annotated[
        float | None, typer.Option(help="Silence what is quieter than so many dB, such as -50.")
    ] = None,
    converter: Annotated[
        Path | None, typer.Option(help="A StarGANv2-VC file or folder; else the shipped one.")
    ] = None,
    vocoder: Annotated[
        Path | None, typer.Option(help="A vocoder for it, if it brings none.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same song.")] = 0,
) -> None:
    """Sing a score, or a take, in a voice of your choice, also over a backing track."""
    import torch

    from avatar.progress import Progress
    from avatar.sing import SingSettings, sing_file
    from avatar.voicing import VoiceSettings
    from voice.revoice import RevoiceConfig
    from voice.sing import SingConfig
    from voice.speak import SpeakConfig

    config = SingConfig(
        SpeakConfig(language=language, engine=engine, variant=variant),
        transpose=transpose,
        tempo=tempo,
        vibrato=parse_vibrato(vibrato),
        formant_semitones=formant,
    )
    settings = SingSettings(config, voice_db, backing_db)
    voices = VoiceSettings(
        voice, reference, converter, vocoder, RevoiceConfig(gate_db=gate), seed=seed
    )
    progress = Progress(sys.stderr)
    generator = torch.Generator().manual_seed(seed)
    written = sing_file(
        score,
        out,
        backing=backing,
        settings=settings,
        voices=voices,
        generator=generator,
        progress=progress,
    )
    progress.note("the sound is synthetic: say so where you publish it")
    if reference is not None:
        progress.note("a reference is a person's voice: have the consent of who is heard in it")
    typer.echo(written)


def parse_vibrato(text: str) -> Vibrato:
    """RATE,DEPTH,DELAY, of which later ones may be left out; 0 alone is no vibrato."""
    from voice.sing_line import Vibrato

    try:
        numbers = [float(part) for part in text.split(",")]
        if not 1 <= len(numbers) <= 3:
            raise ValueError
    except ValueError as error:
        raise ValueError(
            f"--vibrato {text!r} is not RATE,DEPTH,DELAY; write 5.5,0.35,0.3 or 0 for none"
        ) from error
    if numbers == [0.0]:
        return Vibrato(depth_semitones=0.0)
    return Vibrato(*numbers)
