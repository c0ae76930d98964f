"""Speech with a known sound at every frame: rendered in many voices and languages, as mels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from assets.weights import read_metadata, read_tensors, write_tensors
from voice import espeak
from voice.align import align
from voice.corpus_engines import EngineVoice, Spoken, scaled
from voice.corpus_real import manifest_takes
from voice.corpus_synth import AWB, KAL, RMS, SLT
from voice.corpus_text import sentences
from voice.loudness import normalized
from voice.phoneme_net import FRAME_S, PhonemeNet, padded_mel
from voice.phonemes import without_stress
from voice.speech import Phoneme
from voice.visemes import FIRST_PART, SOUNDS, sounds_of

HELD_OUT_LANGUAGES = ("it", "tr", "pl")
HELD_OUT_VARIANTS = ("f4", "m7", "Mario", "belinda", "Alicia", "michel")
VARIANTS = (
    "", "f1", "f2", "f3", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m8", "Andrea", "Annie",
    "Denis", "Diogo", "Gene", "Hugo", "Jacky", "Lee", "Marco", "Michael", "Mike", "adam", "anika",
    "aunty", "boris", "david", "ed", "edward", "grandma", "grandpa", "iven", "john", "linda", "max",
    "miguel", "norbert", "pablo", "paul", "quincy", "rob", "sandro", "shelby", "steph", "travis",
    "victor", "zac", "klatt2", "klatt4", "whisper", "Storm",
)  # fmt: skip
_TRAINED_SIZES, _MEASURED_SIZES = (0.84, 0.92, 1.0, 1.09, 1.18, 1.28), (0.9, 1.0, 1.14)
_LUFS = -20.0
_CLIP_S = 60.0  # normalised in one piece
# Words are drawn at random: what a network must not learn is which sound follows which.
WORDS = {
    "en-us": "maybe people before family summer number happy the big apple moved above my problem "
    "five very voice coffee laugh thought mother weather should measure chair jump yellow water "
    "wish world girl bird boy how now pay home bubble public member empty simple",
    "en-gb": "perhaps nobody remembers poor father's lovely village bath thirty three brothers "
    "choose a large orange boat but every morning bomb lamb temple probably film half path "
    "beautiful impossible umbrella pavement favourite shop jam measure year",
    "de": "morgen beim Abendbrot aber immer viele Bäume pflanzen Pferd Apfel Wolf vielleicht schön "
    "über Mutter kommen Sommer Straße zwischen Buch ich nicht machen Vogel fünf Krümel bleiben "
    "Problem Lampe Gebäude Leute Pause jetzt möchte Kopf auf Hummel",
    "fr-fr": "bonjour madame la petite pomme rouge tombe sous un beau pont vous avez beaucoup "
    "d'amis parfois peut-être une feuille verte jamais chanson pain blanc homme bleu fleuve vin "
    "samedi septembre impossible boire famille jour yeux cheveux appeler mur",
    "es": "buenos días mi hermano siempre compra pan blanco vamos a la playa mañana hombre pueblo "
    "nombre jabón lluvia fuego verde familia problema sombra campo tiempo bien muy feliz cabeza "
    "perro zapato once pequeño mucho gente febrero avión",
    "pt-br": "bom dia minha mãe sempre compra um bolo bonito vamos falar com o homem amanhã "
    "família problema livro verde chuva filho gente avião pão não muito obrigado sombra tempo "
    "cabeça viagem palavra número bem feliz",
    "nl": "mijn moeder bakt brood voor het ontbijt vijf bomen boven water misschien morgen paard "
    "appel fiets vrouw schoon zomer lamp probleem hebben blauw huis deur goed kamer jongen "
    "geven bijna plein vogel ruimte op een berg",
    "ru": "мама мыла большую раму папа любит белый хлеб поэтому мой брат пришёл вечером в дом "
    "форма вода яблоко бумага человек пять женщина музыка добрый утро жизнь правда зима "
    "проблема бабушка хорошо фильм город имя",
    "cmn": "妈妈 买 苹果 朋友 们 明天 爬 山 不 怕 风 房子 飞机 非常 漂亮 面包 白 马 跑步 八 "
    "门 没有 我 喜欢 音乐 中国 学生 老师 吃饭 日本 月亮 女儿 绿 车 名字 问题 方法 苹果 帮忙 平",
    "hi": "मेरा भाई बाज़ार में आम और पपीता बेचता है माँ बहुत प्यार फूल बच्चा पानी पीता मुंबई "
    "नमस्ते किताब अभी फिर वह लोग भारत महीना बिल्ली कमरा परिवार समय बात शुभ",
    "ja": "まいばん ははは やまの ふもとで ぶどう を たべる ともだち みんな ほん パン ぼうし "
    "ふゆ むし ぺん びょうき ひま むずかしい すばらしい じかん かぜ うみ えいが べんり しんぶん",
    "sv": "min mamma bakar bröd på morgonen fem blå bilar över bron kanske sommar öppna fönster "
    "pojke höst värld vacker problem lampa barn själv mycket äpple flicka kök vatten bok hjälp",
    "ar": "بيت باب ماما مدينة كتاب جميل صباح مطر فيل شمس قمر بحر مفتاح بنت ولد خبز لبن موز "
    "فاكهة سمك غرفة طعام يوم أب أم مدرسة ملعب حب",
    "it": "buongiorno mia mamma prepara sempre il pane bianco vengo con la famiglia domani "
    "problema libro verde uomo figlio campo bambino febbraio ombra gamba zampa pioggia voce "
    "bello piccolo giovane scuola chiave amore tempo",
    "tr": "annem bana bir elma verdi babam çok güzel kitap okuyor sabah evde beyaz peynir ve ekmek "
    "pembe araba vapur müzik bebek mavi şeker yumurta problem köprü film çiçek büyük ben sen",
    "pl": "mama kupiła białe pieczywo i pomidory mój brat bardzo lubi wiosnę babcia pamięta film "
    "jabłko pies wieża chleb powoli ziemia książka prawda zamek bomba woda muzyka",
}  # fmt: skip
_NEURAL_VOICE = EngineVoice("hibari", "heart", top_hz=12_000)


@dataclass(frozen=True, eq=False)
class Labelled:
    """One clip: its mel and which of SOUNDS is heard at each frame."""

    mel: Float[Tensor, "80 T"]  # natural log, one frame each FRAME_S
    sounds: Int[Tensor, " T"]
    kind: str  # whence it comes, such as espeak/de/f3


def labels(phonemes: Sequence[Phoneme], count: int) -> Int[Tensor, " T"]:
    """Index into SOUNDS at each of so many frames, diphthongs in two; silence elsewhere."""
    found = torch.zeros(count, dtype=torch.long)
    for phoneme in phonemes:
        parts = sounds_of(without_stress(phoneme.symbol))
        middle_s = phoneme.start_s + FIRST_PART * (phoneme.end_s - phoneme.start_s)
        edges = [phoneme.start_s, *([middle_s] if len(parts) == 2 else []), phoneme.end_s]
        for sound, start_s, end_s in zip(parts, edges[:-1], edges[1:], strict=True):
            first, last = (round(edge / FRAME_S + 0.499) for edge in (start_s, end_s))
            found[first:last] = SOUNDS.index(sound)
    return found


def labelled(spoken: Spoken, kind: str) -> Labelled:
    """The mel of rendered speech at an even loudness, with its sounds."""
    audio, phonemes = spoken
    mel = padded_mel(normalized(audio, _LUFS).samples)[0]
    return Labelled(mel, labels(phonemes, mel.shape[1]), kind)


def espeak_clips(
    count: int,
    languages: Sequence[str],
    variants: Sequence[str],
    *,
    generator: torch.Generator,
) -> Iterator[Labelled]:
    """Random words of each language in turn, in random voices, sizes, melodies and paces."""
    for number in range(count):
        language = languages[number % len(languages)]
        words = WORDS[language].split()
        drawn = [words[_pick(len(words), generator)] for _ in range(14 + _pick(5, generator))]
        drawn[6] += ","
        text = " ".join(drawn) + "."
        variant = variants[_pick(len(variants), generator)]
        size = 0.85 + 0.4 * _share(generator)
        spoken = espeak.synthesize(
            text,
            language=language,
            variant=variant,
            speed=0.75 + 0.6 * _share(generator),
            pitch_semitones=-7.0 + 14.0 * _share(generator),
        )
        if spoken[1]:
            yield labelled(scaled(spoken, size), f"espeak/{language}/{variant or 'plain'}")


def english_clips(
    voice: EngineVoice, texts: Sequence[str], sizes: Sequence[float], *, generator: torch.Generator
) -> Iterator[Labelled]:
    """Sentences in one voice at various paces, each in two of the sizes."""
    for text in texts:
        speed = 0.8 + 0.45 * _share(generator)
        spoken = voice.speak(text, -4.0 + 8.0 * _share(generator), speed, generator=generator)
        for size in {sizes[_pick(len(sizes), generator)] for _ in range(2)}:
            yield labelled(scaled(spoken, size), f"{voice.engine}/en-us/{voice.name}")


def render(out: Path, espeak_count: int, english_count: int, *, seed: int = 0) -> None:
    """Write the training shards and those of held-out voices, languages and sentences to a folder.

    Shards that are there already are kept, so that a stopped run goes on.
    """
    trained = [name for name in WORDS if name not in HELD_OUT_LANGUAGES]
    texts = list(sentences(english_count + 24, generator=torch.Generator().manual_seed(seed)))
    unseen, texts = texts[-24:], texts[:-24]

    def job(name: str, number: int) -> Iterator[Labelled]:
        generator = torch.Generator().manual_seed(seed * 1000 + number)
        if name.startswith("train-espeak"):
            return espeak_clips(40, trained, VARIANTS, generator=generator)
        if name == "held-variants":
            return espeak_clips(30, trained, HELD_OUT_VARIANTS, generator=generator)
        if name == "held-languages":
            return espeak_clips(30, HELD_OUT_LANGUAGES, VARIANTS, generator=generator)
        voice = {"slt": SLT, "rms": RMS, "awb": AWB, "kal": KAL, "neural": _NEURAL_VOICE}[
            name.split("-")[1]
        ]
        if name.startswith("held"):
            return english_clips(voice, unseen, _MEASURED_SIZES, generator=generator)
        return english_clips(voice, texts, _TRAINED_SIZES, generator=generator)

    names = ["held-neural", "held-kal", "held-variants", "held-languages"]
    rest = [f"train-espeak-{k:02d}" for k in range(espeak_count // 40)]
    rest[4:4] = ["train-neural", "train-slt", "train-rms", "train-awb"]
    for number, name in enumerate([*names, *rest]):
        path = out / f"{name}.safetensors"
        if not path.is_file():
            write_shard(list(job(name, number)), path)


def write_shard(clips: Sequence[Labelled], path: Path) -> None:
    """Clips in one file, mels at half precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lengths = [clip.mel.shape[1] for clip in clips]
    tensors = {
        "mel": torch.cat([clip.mel for clip in clips], dim=1).half(),
        "sounds": torch.cat([clip.sounds for clip in clips]).to(torch.uint8),
        "lengths": torch.tensor(lengths),
    }
    write_tensors(tensors, path, {"kinds": json.dumps([clip.kind for clip in clips])})


def read_shard(path: Path) -> list[Labelled]:
    """The clips of a file that `write_shard` wrote."""
    tensors = read_tensors(path)
    kinds = json.loads(read_metadata(path)["kinds"])
    lengths = tensors["lengths"].tolist()
    mels = torch.split(tensors["mel"], lengths, dim=1)
    sounds = torch.split(tensors["sounds"].long(), lengths)
    return [Labelled(*parts) for parts in zip(mels, sounds, kinds, strict=True)]


def real_clips(folder: Path, net: PhonemeNet) -> tuple[list[Labelled], list[Labelled]]:
    """Recordings with text of a folder with a manifest, aligned by the network: held out, others.

    Held out are every sixth clip, and whoever has a single one.
    """
    takes = [take for take in manifest_takes(folder) if take.text]
    speakers = [take.speaker for take in takes]
    held_out: list[Labelled] = []
    others: list[Labelled] = []
    for number, take in enumerate(takes):
        audio = normalized(take.audio, _LUFS)
        _, read = espeak.synthesize(
            take.text, language="en-us", variant="", speed=1.0, pitch_semitones=0.0
        )
        phonemes = align(audio, [phoneme.symbol for phoneme in read], net)
        clip = labelled((audio, phonemes), f"real/{take.corpus}/{take.speaker}")
        is_held_out = speakers.count(take.speaker) == 1 or number % 6 == 5
        (held_out if is_held_out else others).append(clip)
    return held_out, others


def _pick(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))


def _share(generator: torch.Generator) -> float:
    return float(torch.rand(1, generator=generator))
