"""Short texts in thirty languages are known or left open, and what is in no language is left open."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.language import LANGUAGES, detect

SENTENCES = {
    "en": "Where is the nearest train station?|I don't think that's a good idea.|How many planets are there?|"
    "Write a short poem about autumn leaves.|My laptop won't turn on anymore.|it was her birthday yesterday",
    "de": "Wo ist der nächste Bahnhof?|Ich glaube nicht, dass das eine gute Idee ist.|Wie viele Planeten gibt es?|"
    "Schreibe ein kurzes Gedicht über Herbstblätter.|Mein Laptop geht nicht mehr an.|Guten Morgen zusammen",
    "fr": "Où est la gare la plus proche ?|Je ne pense pas que ce soit une bonne idée.|Combien de planètes y a-t-il ?|"
    "Écris un court poème sur les feuilles d'automne.|Mon ordinateur ne s'allume plus.|Bonjour tout le monde",
    "es": "¿Dónde está la estación de tren más cercana?|No creo que sea una buena idea.|¿Cuántos planetas hay?|"
    "Escribe un poema corto sobre las hojas de otoño.|Mi portátil ya no se enciende.|Buenos días a todos",
    "it": "Dov'è la stazione più vicina?|Non credo che sia una buona idea.|Quanti pianeti ci sono?|"
    "Scrivi una breve poesia sulle foglie d'autunno.|Il mio portatile non si accende più.|Buongiorno a tutti",
    "pt": "Onde fica a estação de trem mais próxima?|Não acho que seja uma boa ideia.|Quantos planetas existem?|"
    "Escreva um poema curto sobre as folhas de outono.|Meu notebook não liga mais.|Bom dia a todos",
    "nl": "Waar is het dichtstbijzijnde treinstation?|Ik denk niet dat dat een goed idee is.|Leg uit hoe dat werkt.|"
    "Schrijf een kort gedicht over herfstbladeren.|Mijn laptop gaat niet meer aan.|Goedemorgen allemaal",
    "sv": "Var ligger närmaste tågstation?|Jag tror inte att det är en bra idé.|Tack så mycket för hjälpen!",
    "da": "Hvor er den nærmeste togstation?|Skriv et kort digt om efterårsblade.|Mange tak for hjælpen!",
    "no": "Hvor er nærmeste togstasjon?|Været har vært forferdelig hele uken.|Tusen takk for hjelpen!",
    "pl": "Gdzie jest najbliższy dworzec kolejowy?|Nie sądzę, żeby to był dobry pomysł.|Ile jest planet?",
    "cs": "Kde je nejbližší vlakové nádraží?|Počasí bylo celý týden hrozné.|Moc děkuji za pomoc!",
    "tr": "En yakın tren istasyonu nerede?|Bunun iyi bir fikir olduğunu sanmıyorum.|Kaç tane gezegen var?",
    "fi": "Missä on lähin rautatieasema?|En usko, että se on hyvä idea.|Kuinka monta planeettaa on?",
    "hu": "Hol van a legközelebbi vasútállomás?|Nem hiszem, hogy ez jó ötlet.|Nagyon köszönöm a segítséget!",
    "ro": "Unde este cea mai apropiată gară?|Nu cred că este o idee bună.|Laptopul meu nu mai pornește.",
    "id": "Di mana stasiun kereta terdekat?|Saya rasa itu bukan ide yang bagus.|Ada berapa planet?",
    "vi": "Ga tàu gần nhất ở đâu?|Tôi không nghĩ đó là ý kiến hay.|Có bao nhiêu hành tinh?",
    "ca": "On és l'estació de tren més propera?|No crec que sigui una bona idea.|El meu portàtil ja no s'engega.",
    "ru": "Где ближайший вокзал?|Я не думаю, что это хорошая идея.|Сколько существует планет?|Который час?",
    "uk": "Де найближчий вокзал?|Я не думаю, що це гарна ідея.|Скільки існує планет?|Поясни, як працює фотосинтез.",
    "bg": "Къде е най-близката гара?|Не мисля, че това е добра идея.|Лаптопът ми вече не се включва.",
    "el": "Πού είναι ο πλησιέστερος σταθμός;|Πόσοι πλανήτες υπάρχουν;|Καλημέρα",
    "ar": "أين أقرب محطة قطار؟|لا أعتقد أن هذه فكرة جيدة.|كم عدد الكواكب؟",
    "fa": "نزدیک‌ترین ایستگاه قطار کجاست؟|فکر نمی‌کنم ایده خوبی باشد.|چند سیاره وجود دارد؟",
    "he": "איפה תחנת הרכבת הקרובה?|אני לא חושב שזה רעיון טוב.|מה השעה?",
    "hi": "सबसे नज़दीकी रेलवे स्टेशन कहाँ है?|मुझे नहीं लगता कि यह अच्छा विचार है।|कितने ग्रह हैं?",
    "th": "สถานีรถไฟที่ใกล้ที่สุดอยู่ที่ไหน|สรุปบทความต่อไปนี้ในสามประโยค|ขอบคุณมาก",
    "zh": "最近的火车站在哪里？|我觉得这不是个好主意。|有多少颗行星？|你好|最近的火車站在哪裡？|现在几点？",
    "ja": "一番近い駅はどこですか？|それは良い考えだと思いません。|惑星はいくつありますか？|こんにちは",
    "ko": "가장 가까운 기차역이 어디예요?|좋은 생각이 아닌 것 같아요.|행성은 몇 개인가요?|안녕하세요",
}
PAIRS = [(language, text) for language, texts in SENTENCES.items() for text in texts.split("|")]

SCRAPS = """12345|3.14159 2.71828|OK|hi|1. 2. 3.|---|???|Yes|John Smith|Paris|2024-03-15|x = y + 1|😀😀😀|N/A|true|lol
https://example.com/where/is/the/nearest/train-station|a1b2c3d4-e5f6-7890|SELECT * FROM t;|+49 170 1234567|a@b.de
where.is.the.station@nearest-trains.example.com|const x = () => { return 1; }|Johann Sebastian Bach|Ouagadougou
E = mc^2|asdf|card_arrival|SKU-99812-XL|0x7fff5fbff8c0|def f(x): return x+1|for i in range(10): print(i)|Max Müller
Lionel Messi|東京|日本語|東京大学|Да|Привет|getting_virtual_card|GET /v1/models HTTP/1.1
{"name": "Ann", "city": "the nearest station"}|["where is the nearest station"]|<where is="the nearest train station">
`where is the nearest train station`| |
""".replace("\n", "|").split("|")


@pytest.mark.parametrize(("language", "text"), PAIRS)
def test_no_sentence_is_taken_for_another_language(language: str, text: str) -> None:
    assert detect(text) in (language, None)


def test_few_sentences_are_left_open() -> None:
    unknown = [text for _, text in PAIRS if detect(text) is None]
    assert len(PAIRS) > 110
    assert len(unknown) <= 5, unknown


@pytest.mark.parametrize("scrap", SCRAPS)
def test_what_is_in_no_language_is_left_open(scrap: str) -> None:
    assert detect(scrap) is None


def test_code_and_links_in_a_text_do_not_count() -> None:
    code = "```python\ndef add_the_numbers(first, second):\n    return first + second  # and that is all\n```"
    assert detect(f"Was macht dieser Code?\n{code}") == "de"
    assert detect(code) is None
    assert detect("```\nWas macht dieser Code, der hier steht und nie endet?") is None
    assert (
        detect("Was steht denn auf der Seite https://example.com/the/quick/brown/fox/jumps/over/the/lazy/dog ?") == "de"
    )


def test_other_words_in_a_text_do_not_change_its_language() -> None:
    assert detect("What does the word 你好 mean, and when do people say it?") == "en"
    assert detect("WHERE IS THE NEAREST TRAIN STATION?") == "en"


def test_only_the_start_counts() -> None:
    english, german = "The quick brown fox jumps over the lazy dog. ", "Der schnelle Fuchs springt über den Hund. "
    assert detect(english * 50 + german * 200) == "en"
    start = time.perf_counter()
    detect(english * 100_000)
    assert time.perf_counter() - start < 0.1  # it takes 1 to 2 ms


def test_the_languages_are_codes() -> None:
    assert all(len(code) == 2 and code.islower() for code in LANGUAGES)
    assert set(SENTENCES) <= LANGUAGES


@settings(max_examples=50)
@given(st.text())
def test_any_text_is_in_a_known_language_or_left_open(text: str) -> None:
    assert detect(text) in {None, *LANGUAGES}


@pytest.mark.parametrize("text", ["<", "<a", "`", "`a", "@", "a@", "```", "http://", "[", "{ ", "a", "\ud800"])
def test_it_is_quick(text: str) -> None:
    long = text * 2_000
    detect(long)
    start = time.perf_counter()
    detect(long)
    assert time.perf_counter() - start < 0.1
