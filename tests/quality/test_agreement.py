"""Does a draft tell what another model's answer tells?"""

import pytest

from gateway.quality.agreement import agrees


@pytest.mark.parametrize(
    ("draft", "reference"),
    [
        ("The user booked a table at La Marsa for March 12th.", "2019-03-12"),
        ("You fly to Sydney on March 13th.", "13th of this month"),
        ("Your table is at 7 pm.", "19:00"),
        ("For 2 people, I booked a table for 2 people.", "2"),
        ("It was designed by Pittard Sullivan in 1998.", "Pittard Sullivan"),
        ('{"city": "Rome", "day": ""}', '{"city": "rome"}'),
        ("card_arrival", "card_arrival"),
        ("From New York.", "NYC"),
        ("From Los Angeles.", "LAX"),
        ("WHO", "World Health Organization"),
    ],
)
def test_the_same_in_other_words(draft: str, reference: str) -> None:
    assert agrees(draft, reference)


@pytest.mark.parametrize(
    ("draft", "reference"),
    [
        ("You fly on March 14th.", "2019-03-13"),
        ("You fly on March 12th or on March 13th.", "2019-03-13"),
        ("Your table is at 7 am.", "19:00"),
        ("Of 711,988 people 56.2 % were Catholics.", "711,988"),
        ("It was not designed by Joseph Shea.", "Pittard Sullivan"),
        ("", "2"),
        ("two " * 60 + "Pittard Sullivan", "Pittard Sullivan"),
        ("card_arrival", "card_lost"),
        ("From New Orleans.", "NYC"),
        ("From Newark.", "NYC"),
    ],
)
def test_something_else(draft: str, reference: str) -> None:
    assert not agrees(draft, reference)
