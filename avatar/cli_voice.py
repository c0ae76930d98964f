"""The commands `avatar say`, `convert`, `voices` and `voice`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from voice.profiles import Profile
    from voice.voices import Voice

_Converter = Annotated[
    Path | None, typer.Option(help="A StarGANv2-VC file or folder; else the shipped one.")
]
_Vocoder = Annotated[Path | None, typer.Option(help="A vocoder for it, if it brings none.")]
_Pitch = Annotated[float, typer.Option(help="Semitones from the voice's register.")]
_Formant = Annotated[float, typer.Option(help="Semitones; higher is a smaller speaker.")]
_Speed = Annotated[float, typer.Option(help="2 is twice as fast.")]
_Loudness = Annotated[float, typer.Option(help="Of the result, LUFS.")]
_Gate = Annotated[
    float | None, typer.Option(help="Silence what is quieter than so many dB, such as -50.")
]
_Seed = Annotated[int, typer.Option(help="The same seed gives the same sound.")]

voice_app = typer.Typer(
    help="Add, show and remove voices of your own.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(say)
    app.command()(convert)
    app.command()(voices)
    app.add_typer(voice_app, name="voice")


def say(
    text: Annotated[str | None, typer.Argument(help="What to say.")] = None,
    text_file: Annotated[Path | None, typer.Option(help="A text file to read out.")] = None,
    voice: Annotated[
        str | None, typer.Option(help="A name of `avatar voices`; else the engine's own voice.")
    ] = None,
    out: Annotated[Path, typer.Option(help="WAV, FLAC, OGG or MP3.")] = Path("out/speech.wav"),
    language: Annotated[str, typer.Option(help="en-us, en-gb, de, fr-fr, cmn, ...")] = "en-us",
    engine: Annotated[str, typer.Option(help="auto, hibari or espeak-ng.")] = "auto",
    pitch: _Pitch = 0.0,
    formant: _Formant = 0.0,
    speed: _Speed = 1.0,
    loudness: _Loudness = -16.0,
    gate: _Gate = None,
    converter: _Converter = None,
    vocoder: _Vocoder = None,
    seed: _Seed = 0,
) -> None:
    """Speak a text into a sound file, in a voice of your choice."""
    from avatar.progress import Progress
    from avatar.voicing import VoiceSettings, say_file
    from voice.revoice import RevoiceConfig
    from voice.speak import SpeakConfig

    if (text is None) == (text_file is None):
        raise ValueError("give one text: as an argument in quotes, or a file with --text-file")
    words = text if text_file is None else read_text(text_file)
    settings = VoiceSettings(
        voice=voice,
        converter=converter,
        vocoder=vocoder,
        effects=RevoiceConfig(pitch, formant, lufs=loudness, gate_db=gate),
        # the engine itself speaks faster or slower: that sounds better than stretching its sound
        speaking=SpeakConfig(language=language, engine=engine, speed=speed),
        seed=seed,
    )
    progress = Progress(sys.stderr)
    typer.echo(say_file(words or "", out, settings, progress=progress))
    progress.note("the sound is synthetic: say so where you publish it")


def convert(
    recordings: Annotated[list[Path], typer.Argument(help="Recordings, or folders of them.")],
    out: Annotated[Path, typer.Option(help="A sound file; for several a folder.")],
    voice: Annotated[str | None, typer.Option(help="A name of `avatar voices`.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="A clip of the wanted voice, in place of a name.")
    ] = None,
    pitch: _Pitch = 0.0,
    formant: _Formant = 0.0,
    speed: _Speed = 1.0,
    loudness: _Loudness = -16.0,
    gate: _Gate = None,
    keep_melody: Annotated[
        bool, typer.Option("--keep-melody", help="For songs: stay in their key.")
    ] = False,
    suffix: Annotated[str, typer.Option("--format", help="In a folder: wav, flac, ...")] = "wav",
    converter: _Converter = None,
    vocoder: _Vocoder = None,
    seed: _Seed = 0,
) -> None:
    """Give recordings another voice; the words and their timing stay."""
    from avatar.convert import convert_files
    from avatar.progress import Progress
    from avatar.voicing import VoiceSettings
    from voice.revoice import RevoiceConfig

    if (voice is None) == (reference is None):
        raise ValueError("name one voice: --voice NAME, or --reference CLIP of the wanted voice")
    effects = RevoiceConfig(pitch, formant, speed, loudness, gate, keep_melody)
    settings = VoiceSettings(voice, reference, converter, vocoder, effects, seed=seed)
    progress = Progress(sys.stderr)
    outcomes = convert_files(
        recordings, out, settings, suffix=f".{suffix.lower().lstrip('.')}", progress=progress
    )
    for outcome in outcomes:
        if outcome.path is not None:
            typer.echo(outcome.path)
    if reference is not None:
        progress.note("a reference is a person's voice: have the consent of who is heard in it")
    failed = [outcome for outcome in outcomes if outcome.path is None]
    if failed:
        names = ", ".join(outcome.source.name for outcome in failed)
        raise ValueError(f"{len(failed)} of {len(outcomes)} recordings were not converted: {names}")


def voices(
    sheet: Annotated[
        Path | None, typer.Option(help="Write a picture (.png), or a folder, with their sounds.")
    ] = None,
    converter: _Converter = None,
    vocoder: _Vocoder = None,
    seed: _Seed = 0,
) -> None:
    """List the voices, or have each say a sentence."""
    from avatar.progress import Progress
    from voice.voices import open_book

    book = open_book(converter, vocoder=vocoder, seed=seed)
    if sheet is None:
        for line in table(book.voices):
            typer.echo(line)
        if book.others:
            typer.echo(f"added for another converter: {', '.join(book.others)}", err=True)
        return
    from avatar.voice_sheet import sheet as write_sheet

    for path in write_sheet(book, sheet, seed=seed, progress=Progress(sys.stderr)):
        typer.echo(path)


@voice_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Letters, digits, - and _.")],
    clips: Annotated[list[Path], typer.Argument(help="Clips of one person, or folders.")],
    consent: Annotated[
        str, typer.Option(help="Who attests that it may be used, for what, when: 'A B, ..., DATE'")
    ] = "",
    description: Annotated[str, typer.Option(help="A line for the table.")] = "",
    gender: Annotated[str, typer.Option(help="female, male or neutral.")] = "",
    converter: _Converter = None,
) -> None:
    """Keep a voice that is heard in clips, with the consent of the person, under a name."""
    from avatar.convert import expanded
    from avatar.progress import Progress
    from voice.profiles import ENOUGH_S, Consent, add_profile, voice_name
    from voice.shipped import GENDERS
    from voice.voices import ADDED, open_book

    if not consent.strip():
        raise ValueError(
            "a voice is a person's: say with --consent 'who, scope, date' who attests that it may "
            "be used, for what, and when they did"
        )
    agreed = Consent.parse(consent)
    name = voice_name(name)
    if gender not in ("", *GENDERS):
        raise ValueError(f"--gender {gender!r} is unknown; use {', '.join(GENDERS)}")
    files = expanded(clips)
    progress = Progress(sys.stderr)
    with progress.stage("load the converter"):
        book = open_book(converter)
    with progress.stage("listen"):
        profile = add_profile(
            name,
            files,
            agreed,
            converter=book.converter,
            fingerprint=book.fingerprint,
            taken=[voice.name for voice in book.voices if voice.kind != ADDED],
            description=description,
            gender=gender,
        )
    if profile.seconds < ENOUGH_S:
        progress.note(
            f"warning: {profile.seconds:.1f} s of speech are few; {ENOUGH_S:g} s or more give a "
            "better likeness"
        )
    for line in told(profile):
        typer.echo(line)


@voice_app.command("show")
def show(name: Annotated[str, typer.Argument(help="A voice that was added.")]) -> None:
    """Tell what is known of an added voice, and who consented."""
    from voice.profiles import find_profile

    for line in told(find_profile(name)):
        typer.echo(line)


@voice_app.command("remove")
def remove(name: Annotated[str, typer.Argument(help="A voice that was added.")]) -> None:
    """Delete an added voice: its style, and the note of consent."""
    from voice.profiles import remove_profile

    for path in remove_profile(name):
        typer.echo(f"removed {path}")


def table(voices: tuple[Voice, ...]) -> list[str]:
    """The voices, a line each, under a line of titles."""
    rows = [("name", "gender", "pitch", "kind", "description", "source")]
    rows += [
        (
            voice.name,
            voice.gender or "-",
            f"{voice.f0_hz:.0f} Hz" if voice.f0_hz else "-",
            voice.kind,
            voice.description or "-",
            voice.source,
        )
        for voice in voices
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows]  # fmt: skip


def told(profile: Profile) -> list[str]:
    """An added voice in lines."""
    pitch = f"{profile.f0_hz:.0f} Hz" if profile.f0_hz else "not heard"
    odd = f", {profile.outliers} unlike the rest left out" if profile.outliers else ""
    return [
        f"voice        {profile.name}",
        f"description  {profile.description or '-'}",
        f"gender       {profile.gender or '-'}",
        f"pitch        {pitch}",
        f"heard        {profile.seconds:.1f} s of speech, {profile.pieces} pieces{odd}",
        f"clips        {', '.join(profile.clips)}",
        f"consent      {profile.consent.who}",
        f"for          {profile.consent.scope}",
        f"on           {profile.consent.date}",
        f"kept in      {profile.path}",
    ]


def read_text(path: Path) -> str:
    """The text of a file in UTF-8."""
    from assets.errors import AssetError

    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise AssetError(f"{path} is not text in UTF-8; save it as such") from error
    except OSError as error:
        raise AssetError(f"{path} cannot be read ({error.strerror}); check the path") from error
