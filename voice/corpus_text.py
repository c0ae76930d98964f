"""Sentences to be spoken by synthesisers: written for this project, and composed without end."""

from __future__ import annotations

from collections.abc import Iterator

import torch

SENTENCES = (
    "The morning train was late again, so we walked along the river instead.",
    "Could you bring the yellow jacket that hangs behind the kitchen door?",
    "She measured the garden twice and still bought too much fence.",
    "Nobody expected the choir to finish on such a quiet note.",
    "Every evening the lighthouse throws its beam across the harbour.",
    "Please turn the music down before the neighbours knock on the wall.",
    "A thousand paper boats were floating under the old stone bridge.",
    "I would rather catch an early bus than drive through the fog.",
    "The judge thanked both sides and asked for a short break.",
    "We found a tiny shop that sells nothing but buttons and thread.",
    "Why does the cat always choose the one chair that I need?",
    "Fresh bread, sharp cheese and a cold apple make a fine lunch.",
    "The visitors were shown through the vault by a cheerful young guide.",
    "My brother plays the drums so loudly that the windows shake.",
    "Keep your ticket, because they check it once more at the gate.",
    "The weather should improve by Thursday, or perhaps a little sooner.",
    "Zebras and giraffes were grazing near the edge of the pool.",
    "He just smiled, shrugged his shoulders and poured another cup of tea.",
    "It was a pleasure to measure the treasure at their leisure.",
    "The youngest player scored the goal that everybody remembers.",
    "Both of them thought that the path through the thicket was shorter.",
    "Good voices need good rest, warm water and plenty of patience.",
    "Watch how the dancers move when the rhythm suddenly changes.",
    "Our teacher drew a perfect circle with one sweep of her arm.",
    "The engine coughed, choked and finally chugged up the hill.",
    "What a beautiful evening to sit outside and count the stars!",
    "They shipped sixteen boxes of glass without a single scratch.",
    "I asked for directions, but the map was printed upside down.",
    "Rain fell on the tin roof like a handful of small coins.",
    "You may borrow the book if you promise to return it by March.",
    "The huge vase fell, yet somehow the flowers were unharmed.",
    "Three quick knocks on the wooden door woke up the whole house.",
    "Father bought a used boat and named it after his favourite soup.",
    "When the show is over, the stage crew works until midnight.",
    "Blue smoke rose above the valley as the farmers burned the leaves.",
    "Her new job begins on Monday, and she can hardly wait.",
    "Take a deep breath, open your mouth and sing the first line.",
    "The poor judge of cheese was chosen to judge the choicest cheese.",
    "Seven silver spoons lay shining on the freshly polished shelf.",
    "Do not forget that the museum is closed on public holidays.",
)
_WHO = (
    "the old captain",
    "my neighbour",
    "a curious child",
    "the whole orchestra",
    "our best singer",
    "a young engineer",
    "the baker's daughter",
    "everyone in the village",
    "the tall waiter",
    "a tired nurse",
    "your cousin",
    "the new director",
    "a group of students",
    "the quiet painter",
    "her grandfather",
    "the juggler",
    "some visitor",
    "the pilot",
)
_DID = (
    "watched",
    "carried",
    "forgot",
    "measured",
    "painted",
    "borrowed",
    "followed",
    "described",
    "repaired",
    "praised",
    "chose",
    "pushed",
    "collected",
    "recognised",
    "sketched",
    "avoided",
    "bought",
    "guarded",
    "unpacked",
    "shook",
)
_WHAT = (
    "the broken clock",
    "a heavy suitcase",
    "those yellow flowers",
    "the last page",
    "an unusual stone",
    "a bowl of cherries",
    "the garden gate",
    "two wooden chairs",
    "this strange machine",
    "the blue bicycle",
    "a pile of letters",
    "their favourite song",
    "the path to the lake",
    "nine thick blankets",
    "a jar of honey",
    "the church tower",
    "an empty stage",
    "the silver microphone",
)
_WHEN = (
    "before breakfast",
    "in the pouring rain",
    "without a word",
    "on the first day of May",
    "while the others slept",
    "as soon as the bell rang",
    "for the third time",
    "near the old mill",
    "at half past four",
    "with great care",
    "under a grey sky",
    "because nobody else would",
    "after the long journey",
    "just for fun",
    "through the open window",
    "although it was getting dark",
)


def sentences(count: int, *, generator: torch.Generator) -> Iterator[str]:
    """So many sentences: the written ones in random order, then random new ones."""
    order = torch.randperm(len(SENTENCES), generator=generator)
    for index in order[:count].tolist():
        yield SENTENCES[index]
    for _ in range(count - len(SENTENCES)):
        who, did, what, when = (
            words[int(torch.randint(len(words), (1,), generator=generator))]
            for words in (_WHO, _DID, _WHAT, _WHEN)
        )
        line = f"{who} {did} {what} {when}"
        yield line[0].upper() + line[1:] + "."
