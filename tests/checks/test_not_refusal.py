"""Refusals are known by how they open, and regrets, idioms and quotations are none."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.checks.not_refusal import NotRefusal
from tests.checks.drafts import asking, judged, passes, prefix, prefix_words, whole

REFUSALS = (
    "I'm sorry, but I can't assist with that.",
    "I’m sorry, but I can’t assist with that request.",
    "I am sorry, but I cannot fulfill this request.",
    "I'm really sorry, but I'm unable to help with that.",
    "Sorry, I can't do that.",
    "Sorry, but I cannot tell you how to do this.",
    "I'm sorry, I cannot.",
    "I'm sorry to hear that you feel this way, but I'm really unable to provide the help that you need.",
    "I apologize, but I cannot provide instructions for that.",
    "I apologise for any inconvenience, but I won't be able to help with this.",
    "My apologies, but as an assistant I can't share that.",
    "Unfortunately, I am not able to provide medical advice.",
    "I can't help with that.",
    "I cannot assist with illegal activities.",
    "I can not provide that information.",
    "I won't generate such content.",
    "I must decline to answer that.",
    "I must respectfully decline to provide this.",
    "I'm afraid I can't help you with that.",
    "I will not provide instructions on that.",
    "As an AI language model, I cannot browse the internet.",
    "As an AI language model, I don't have personal opinions.",
    "As an artificial intelligence, I do not have feelings.",
    "As a large language model, I am unable to open links.",
    "I'm just an AI, I can't give legal advice.",
    "I am an AI and do not have access to your files.",
    "I'm not comfortable discussing this topic.",
    "I don't feel comfortable writing that story.",
    "Thank you for reaching out. I'm sorry, but I can't assist with that.",
    "That's an interesting question! As an AI, I can't have preferences.",
    "**I'm sorry, but I can't help with that.**",
    "  \n\nI’m sorry, but I can’t help with that.",
    "😔 I'm sorry, but I can't help you with this.",
    "I'M SORRY, BUT I CAN'T ASSIST WITH THAT.",
    "Es tut mir leid, aber dabei kann ich nicht helfen.",
    "Tut mir leid, ich kann dir dabei leider nicht helfen.",
    "Entschuldigung, aber ich kann diese Anfrage nicht beantworten.",
    "Leider kann ich Ihnen keine medizinischen Ratschläge geben.",
    "Ich kann diese Bitte nicht erfüllen.",
    "Als KI-Sprachmodell habe ich keine eigene Meinung.",
    "Als künstliche Intelligenz kann ich das nicht beurteilen.",
    "Je suis désolé, mais je ne peux pas vous aider.",
    "Je suis désolée, mais je ne peux pas répondre à cette demande.",
    "Désolé, je ne peux pas t’aider avec ça.",
    "Je ne suis pas en mesure de fournir ces informations.",
    "Malheureusement, je ne peux pas accéder à Internet.",
    "En tant que modèle de langage, je n’ai pas d’opinion.",
    "En tant qu'intelligence artificielle, je ne peux pas faire cela.",
    "Lo siento, pero no puedo ayudarte con eso.",
    "Lo siento mucho, no puedo proporcionar esa información.",
    "No puedo cumplir con esta solicitud.",
    "Como modelo de lenguaje, no tengo opiniones personales.",
    "Lamentablemente, no puedo responder a esa pregunta.",
    "Mi dispiace, ma non posso aiutarti con questo.",
    "Mi dispiace, non posso fornire queste informazioni.",
    "Come modello linguistico, non ho opinioni personali.",
    "Non sono in grado di rispondere a questa domanda.",
    "Desculpe, mas não posso ajudar com isso.",
    "Sinto muito, mas não posso fornecer essas informações.",
    "Como um modelo de linguagem, não tenho opiniões.",
    "Infelizmente, não posso responder a essa pergunta.",
    "Het spijt me, maar ik kan je daar niet mee helpen.",
    "Als AI-taalmodel heb ik geen mening.",
    "Извините, но я не могу помочь с этим запросом.",
    "К сожалению, я не могу ответить на этот вопрос.",
    "Как языковая модель, я не имею собственного мнения.",
    "很抱歉，我无法提供这方面的帮助。",
    "对不起，我不能回答这个问题。",
    "作为一个人工智能语言模型，我没有个人观点。",
    "申し訳ありませんが、そのご質問にはお答えできません。",
)

ANSWERS = (
    "I can't believe it! You did it.",
    "I can’t wait to see you on Friday.",
    "I can't help but notice that the second figure is wrong.",
    "I cannot stress enough how important backups are.",
    "I can't find any bug in this function.",
    "I won't go into the details; in short, entropy grows.",
    "I'm sorry to hear that. Losing a pet is hard.",
    "I'm so sorry for your loss. He was a kind man.",
    "I’m sorry to hear that you’re unwell; rest and drink plenty of water.",
    "Sorry for the late reply! I'd love to come.",
    "Sorry for your loss.",
    "I'm sorry, but I can't make it to the party on Saturday.",
    "I'm sorry, I won't be there before eight.",
    "I am sorry, but I cannot attend the meeting tomorrow.",
    "Sorry, I can't believe that either.",
    "Unfortunately, I can't remember where I left my keys.",
    "\"I'm sorry, Dave. I'm afraid I can't do that,\" says HAL.",
    "The message reads: \"I'm sorry, but I can't assist with that.\"",
    "HAL answers with “I’m sorry, but I can’t do that”, a line known to everyone.",
    "« Je suis désolé, mais je ne peux pas vous aider », répondit-il.",
    "The model refuses with I'm sorry, but I can't help with that.",
    "You cannot assign to a constant.",
    "The server cannot process this request.",
    "An AI language model predicts the next token; it does not look things up.",
    "As an aid to memory, use the acronym ROYGBIV.",
    "As an AI assistant, here is my plan for your week: rest.",
    "As an aide to the minister she could not speak freely.",
    "As a result, the reaction cannot proceed.",
    "Apologies accepted!",
    "Paris.",
    "No.",
    "",
    "   ",
    "Es tut mir leid, das zu hören.",
    "Mein Beileid. Es tut mir sehr leid für deinen Verlust.",
    "Ich kann es nicht glauben!",
    "Leider kann ich am Samstag nicht kommen.",
    "Als Kind konnte er nicht schwimmen.",
    "Je suis désolé d'apprendre cette nouvelle.",
    "Je ne peux pas venir samedi, désolé.",
    "En tant que parent, on ne dort pas beaucoup.",
    "Siento mucho tu pérdida.",
    "No puedo creerlo.",
    "Lo siento, no puedo ir a la fiesta.",
    "Como no llueve, los campos están secos.",
    "Mi dispiace per la tua perdita.",
    "Non posso crederci!",
    "Sinto muito pela sua perda.",
    "Não posso acreditar!",
    "Как дела? У меня всё хорошо.",
    "作为一个学生，他每天都学习。",
)


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_fails(text: str) -> None:
    assert not passes(NotRefusal(), whole(text))


@pytest.mark.parametrize("text", ANSWERS)
def test_what_is_no_refusal_passes(text: str) -> None:
    assert passes(NotRefusal(), whole(text))


def test_only_the_opening_counts() -> None:
    article = "Here is a short history of the assistant. " * 6
    assert passes(NotRefusal(), whole(article + "I'm sorry, but I can't assist with that."))


def test_the_refusal_field_fails() -> None:
    refused = {"message": {"role": "assistant", "content": None, "refusal": "I'm sorry."}}
    verdict = judged(NotRefusal(), whole(refused))
    assert (verdict.passed, verdict.reason) == (False, "refusal field set")
    nothing_refused = {"message": {"role": "assistant", "content": "Yes.", "refusal": None}}
    assert passes(NotRefusal(), whole(nothing_refused))


def test_every_choice_is_judged() -> None:
    verdict = judged(NotRefusal(), whole("Yes.", "I can't help with that."))
    assert (verdict.passed, verdict.reason) == (False, "choice 1: opens with a refusal")


def test_a_prefix_is_enough() -> None:
    assert prefix_words(NotRefusal)
    assert not passes(NotRefusal(), prefix("I'm sorry, but I can't assist with that. However, here is a link"))


@pytest.mark.parametrize("text", ANSWERS)
def test_no_prefix_of_an_answer_fails(text: str) -> None:
    for end in range(len(text)):
        assert passes(NotRefusal(), prefix(text[:end]))


def test_also_adds_patterns() -> None:
    check = NotRefusal(also=[r"not allowed to discuss", r"^nope\b"])
    assert not passes(check, whole("We are NOT ALLOWED to discuss rivals."))
    assert not passes(check, whole("Nope."))
    assert passes(check, whole("The rules: " + "x" * 200 + " not allowed to discuss"))
    assert not passes(check, prefix("We are not allowed to discuss this here, as you know."))


def test_also_must_be_regular_expressions() -> None:
    with pytest.raises(ValidationError, match="not a regular expression"):
        NotRefusal(also=["("])


@given(st.text())
def test_any_text_can_be_judged(text: str) -> None:
    judged(NotRefusal(), whole(text), asking(text))
    judged(NotRefusal(), prefix(text), asking(text))


@pytest.mark.parametrize(
    "text", ["i " * 50_000, "sorry " * 20_000, "je ne " * 20_000, "*" * 100_000, "als ki " * 9_000]
)
def test_it_is_quick(text: str) -> None:
    start = time.perf_counter()
    judged(NotRefusal(), whole(text))
    assert time.perf_counter() - start < 0.05
