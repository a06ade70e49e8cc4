"""Which language is a text in? `detect` says so, or None when there is too little to go by.

Measured with py3langid 0.4 on 295 short sentences (1 to 14 words, 30 languages; the floors were chosen on one half):
266 right, none wrong, 29 unknown: mostly Danish or Norwegian, and one-word greetings. Of 40 scraps in no language
(names, numbers, code, identifiers, links) none was given one. Of 1,216 short English requests 2 were taken for German,
for one German word in them, and 56 were unknown. A call takes 0.1 ms for a sentence and 1 ms for 2,000 characters; the
first one loads the model (1 s, 75 MB with numpy), which `identifier()` does ahead of time.
"""

from __future__ import annotations

import asyncio
import functools
import re
from typing import Any, Final

# Common ones only: with all its 140 labels py3langid takes short English for Nigerian Pidgin and Dutch for Afrikaans.
LANGUAGES: Final = frozenset(
    "ar az bg bn ca cs da de el en es et fa fi fr gu he hi hr hu hy id it ja ka kk kn ko lt lv ml mr nl no pa pl pt ro "
    "ru sk sl sq sr sv sw ta te th tl tr uk ur vi zh".split()
)
NO_LANGUAGE = "zxx"  # the model's label for text that is in none

LOOKED_AT_CHARS = 2_000
LATIN_LETTERS, DENSE_LETTERS, OTHER_LETTERS = 12, 2, 6  # needed; Han, Kana and Hangul are dense: a word is one or two
MIN_PROBABILITY = 0.5
MIN_MARGIN = 0.3  # over the second best
MIN_HAN_PROBABILITY = 0.95  # Han without Kana is Chinese or a Japanese name

DATA = re.compile(r"\s*(?:\{\s*[\"'}]|\[\s*[\[{\"'])")  # JSON or the like: its keys are in no language
NOT_PROSE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|<[^<>\n]{1,200}>|(?:https?://|www\.)\S+|(?<!\S)\S+@\S+", re.DOTALL)
LETTER = re.compile(r"[^\W\d_]")
LATIN = re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
KANA_OR_HANGUL = re.compile("[\u3040-\u30ff\u1100-\u11ff\uac00-\ud7af]")


@functools.cache
def identifier() -> Any:
    """The loaded model. Takes about a second the first time."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    model.set_languages([*LANGUAGES, NO_LANGUAGE])
    model._full_model = model.nb_ptc, model.nb_pc, model.nb_classes  # lets go of 27 MB about the other languages
    return model


async def load() -> None:
    """Have the model loaded, in a thread the first time: the loop would stand still for a second."""
    if identifier.cache_info().currsize == 0:
        await asyncio.to_thread(identifier)


def detect(text: str) -> str | None:
    """ISO 639-1 code of the language that the text's first 2,000 characters are in; None when unsure.

    Code, data, links and mail addresses do not count.
    """
    text = text[:LOOKED_AT_CHARS]
    if DATA.match(text):
        return None
    text = NOT_PROSE.sub(" ", text)
    latin, han, dense = (len(script.findall(text)) for script in (LATIN, HAN, KANA_OR_HANGUL))
    other = len(LETTER.findall(text)) - latin - han - dense
    if latin / LATIN_LETTERS + (han + dense) / DENSE_LETTERS + other / OTHER_LETTERS < 1:
        return None
    (best, probability), (_, second) = identifier().rank(text)[:2]
    if best == NO_LANGUAGE or probability < MIN_PROBABILITY or probability - second < MIN_MARGIN:
        return None
    if han > latin and not dense and probability < MIN_HAN_PROBABILITY:
        return None
    return str(best)
