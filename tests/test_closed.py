"""Which requests want one of some stated options, and which only look like it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.chat import ChatRequest
from gateway.closed import Closed, closed_answer


def asked(user: str, system: str | None = None, **fields: Any) -> Closed | None:
    told = [{"role": "system", "content": system}] if system is not None else []
    return closed_answer(ChatRequest({"messages": [*told, {"role": "user", "content": user}], **fields}))


def options(user: str, system: str | None = None, **fields: Any) -> tuple[str, ...]:
    found = asked(user, system, **fields)
    return found.options if found is not None else ()


TOLD = {
    "Classify each message into one of the following categories: billing, technical support, sales. "
    "Reply with the category only.": ("billing", "technical support", "sales"),
    "You are a triage bot.\nCategories:\n- billing: questions about invoices\n- technical: bugs, outages\n- other\n\n"
    "Respond with exactly one category name.": ("billing", "technical", "other"),
    "Labels: spam, ham\nAnswer with the label.": ("spam", "ham"),
    "Decide whether the tweet is about sports. Answer yes or no.": ("yes", "no"),
    "Reply with TRUE or FALSE only.": ("TRUE", "FALSE"),
    "Detect the language. Output one of: en, de, fr, es.": ("en", "de", "fr", "es"),
    "Your job is to pick the department for each email. Departments: HR, Legal, Finance, IT. "
    "Output only the department.": ("HR", "Legal", "Finance", "IT"),
    "Assign a priority (low, medium, high) to the ticket. Return only the priority.": ("low", "medium", "high"),
    "Determine the emotion in the text. Possible answers: joy, sadness, anger. Do not explain.": (
        "joy",
        "sadness",
        "anger",
    ),
    'Answer with one of these options: ["refund", "exchange", "complaint"]': ("refund", "exchange", "complaint"),
    "Given a premise and a hypothesis, answer entailment, contradiction or neutral.": (
        "entailment",
        "contradiction",
        "neutral",
    ),
    "Route the request to one of the teams: payments; accounts; fraud. Say only the team.": (
        "payments",
        "accounts",
        "fraud",
    ),
    "Return exactly one intent from this list:\n1. book_flight\n2. cancel_flight\n3. baggage\n": (
        "book_flight",
        "cancel_flight",
        "baggage",
    ),
    "You must choose exactly one of the following intents: greet, bye, thanks.": ("greet", "bye", "thanks"),
    "What topic is the headline about? Choose from: World, Sports, Business, Sci/Tech. Give the topic alone.": (
        "World",
        "Sports",
        "Business",
        "Sci/Tech",
    ),
    "Answer only with YES, NO or UNSURE.": ("YES", "NO", "UNSURE"),
    "Tell whether the review is positive or negative. One word only.": ("positive", "negative"),
    "Pick the best matching label.\n\nLabels:\nalarm_set\nalarm_query\nweather\n\nOutput the label and nothing else.": (
        "alarm_set",
        "alarm_query",
        "weather",
    ),
    "Classify the ticket as one of (open, pending, closed). If nothing fits, answer pending.": (
        "open",
        "pending",
        "closed",
    ),
    "You route messages. Answer with exactly one of these labels and nothing else: translate, explain, out_of_scope.": (
        "translate",
        "explain",
        "out_of_scope",
    ),
    "Sort each message. Allowed labels (pick one):\n* `refund` - wants money back\n* `order` - wants to buy\n"
    "Never write anything else.": ("refund", "order"),
    "Classify the sentiment. Answer with 'positive', 'negative', or 'neutral'.": ("positive", "negative", "neutral"),
}


@pytest.mark.parametrize("system", TOLD, ids=range(len(TOLD)))
def test_labels_that_an_operator_states(system: str) -> None:
    found = asked("I was charged twice, why?", system)
    assert found == Closed(TOLD[system])


SAID = {
    "Classify the sentiment of the review as positive, negative or neutral.\n\nReview: I loved it": (
        "positive",
        "negative",
        "neutral",
    ),
    "Is the following statement correct? Answer with 'true' or 'false'.\nThe sun is cold.": ("true", "false"),
    "Is 7 prime? Answer yes or no.": ("yes", "no"),
    "Label this email as spam or not spam: 'You won!'": ("spam", "not spam"),
    "True or false: whales are fish.": ("True", "False"),
    "Classify the text into exactly one of these topics: sports, politics, science.\n\nText: The vote was close, and "
    "the minister explained why. Tell me more.": ("sports", "politics", "science"),
}


@pytest.mark.parametrize("text", SAID, ids=range(len(SAID)))
def test_labels_that_a_user_states(text: str) -> None:
    found = asked(text)
    assert found == Closed(SAID[text], stands_apart=False)
    assert options(text, "You are a helpful assistant.") == SAID[text]


OPEN = (
    (None, "I like apples, bananas and cherries. Which should I plant?"),
    (None, "Write a story about one of: dragons, pirates, robots."),
    (None, "Explain the categories: mammals, birds, reptiles."),
    (None, "Is it true or false that cats sleep a lot? Explain why."),
    (None, "I can't say yes or no to his offer. Help me."),
    (None, "Compare these options: bus, train, car."),
    (None, "What is the capital of France?"),
    (None, "Translate into one of these languages: French, German."),
    (None, "Give me three options: cheap, fast, good, and tell me which to pick"),
    (None, "Choose one of these for dinner: pizza, sushi, tacos"),
    (None, "Please answer: who wrote Faust and in which year?"),
    (None, "I don't know whether it is right or wrong to lie. Give me your thoughts."),
    (None, "My dog ate one of the following: grapes, chocolate, onions. What should I do?"),
    (None, "A) is it raining\nB) is it cold\nwhat do you think?"),
    (None, "Fix my essay.\nA. Introduction\nB. Main part\nC. Conclusion"),
    ("You are a helpful assistant.", "Which of the options do you recommend: Rome, Paris, or Berlin?"),
    ("Answer yes or no, then explain your reasoning.", "x"),
    ("Classify the text into one or more of these labels: a, b, c.", "x"),
    ("Tag the article with all that apply: news, sports, tech.", "x"),
    ("Classify the text. Labels: a, b, c. Give the label and a short reason.", "x"),
    ("Extract these fields from the message: name; email; phone. Answer with one JSON object.", "x"),
    ("Use one of the following tools: search, calculator.", "x"),
    ("Answer in one of these styles: formal, casual.", "x"),
    ("You are an expert on topics: history, science, art. Answer the user's questions.", "x"),
    ("You can help with the following topics: billing, shipping, returns. Answer politely.", "Where is my parcel?"),
    ("Our support hours are: Monday, Tuesday, Friday. Answer the user's questions.", "when?"),
    ("Classify the text as one of: positive, negative. If unsure, say I do not know.", "x"),
    ("Return a JSON object with label one of: a, b.", "x"),
    ("Rate the essay and give a short explanation. Ratings: poor, fair, good.", "x"),
    ("Answer with one of the labels such as billing, sales etc.", "x"),
    ("For each line answer yes or no.", "x\ny"),
    ("You work for one of the following companies: Acme, Initech. Answer questions about products.", "hi"),
    ("Answer the question in as few words as possible.", "what did one of the beatles: John, Paul say?"),
    ("You are a shop assistant. We sell these types: shirts, shoes, hats. Answer briefly.", "do you sell socks?"),
    ("You are a bank assistant. Account types: checking, savings, business. Answer customers' questions.", "hi"),
    ("You help users choose a plan. Available options: Basic, Pro, Enterprise. Respond in a friendly tone.", "hi"),
    ("Respond with either a poem or a haiku.", "spring"),
    ("Never answer yes or no. Always ask a question back.", "is it raining?"),
    ("Do not answer with yes or no only.", "is it raining?"),
    ("Answer with the number alone.", "twenty one fifths"),
    ("Answer the multiple choice question and explain your choice.", "Which?\nA. Mars\nB. Jupiter"),
    ("Answer with the letter and the text of the right option.", "Which?\n(A) Mars\n(B) Jupiter"),
)


@pytest.mark.parametrize(("system", "user"), OPEN, ids=range(len(OPEN)))
def test_requests_that_only_list_things_are_open(system: str | None, user: str) -> None:
    assert asked(user, system) is None


# Wordings put together from parts

WORD = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=3, max_size=12).filter(lambda word: word.strip("_") == word)
LABELS = st.lists(WORD.map(lambda word: f"{word}_x"), min_size=2, max_size=30, unique=True)
ROWS = st.sampled_from(
    [
        lambda labels: f" {', '.join(labels)}.",
        lambda labels: f" {', '.join(labels[:-1])} or {labels[-1]}.",
        lambda labels: f" [{', '.join(labels)}]",
        lambda labels: f" {'; '.join(labels)}.",
        lambda labels: " " + ", ".join(f'"{label}"' for label in labels) + ".",
        lambda labels: " " + ", ".join(f"`{label}`" for label in labels) + ".",
        lambda labels: "\n" + "\n".join(f"- {label}" for label in labels) + "\n\n",
        lambda labels: "\n" + "\n".join(f"{n}. {label}" for n, label in enumerate(labels, 1)) + "\n\n",
        lambda labels: "\n" + "\n".join(f"* {label}: what people write about {label}" for label in labels) + "\n\n",
    ]
)
INTROS = st.sampled_from(
    [
        "Answer with exactly one of these labels and nothing else:",
        "Classify the message into one of the following categories:",
        "Reply only with one of these intents:",
        "Output exactly one of the allowed values:",
        "Return one of the following labels:",
        "Assign one of these topics:",
        "Choose exactly one of the following options:",
        "Label the text with one of the following classes:",
        "Classify the text. Labels:",
        "Identify the intent. The possible intents are:",
    ]
)
OPENINGS = st.sampled_from(["", "You are a support agent of an app bank. ", "You route messages to a travel desk.\n\n"])
CLOSINGS = st.sampled_from(["", " Do not explain.", "\nAnswer with the label only.", " No other text."])


@given(OPENINGS, INTROS, ROWS, LABELS, CLOSINGS)
def test_labels_are_found_however_they_are_written(
    opening: str, intro: str, row: Any, labels: list[str], closing: str
) -> None:
    assert options("hello there", opening + intro + row(labels) + closing) == tuple(labels)


@given(OPENINGS, INTROS, ROWS, LABELS, st.sampled_from([" Then explain why.", " Give a reason.", "\nAnswer in JSON."]))
def test_who_wants_more_than_a_label_is_not_given_one(
    opening: str, intro: str, row: Any, labels: list[str], more: str
) -> None:
    assert asked("hello there", opening + intro + row(labels) + more) is None


@given(st.text(max_size=400), st.text(max_size=200) | st.none())
def test_whatever_is_said_it_is_read_without_fault(user: str, system: str | None) -> None:
    found = asked(user, system)
    assert found is None or (len(set(found.options)) == len(found.options) >= 2)


SLOW_IF_CARELESS = (
    "one of ", "classify ", "labels: a, ", "yes ", "yes, ", "(A) x ", "the label ", "answer with ", "if say ", "\n- a",
    "label \n", "((", "[", "*", "\"", "a, ", "a or ", "without ", "A) b\n", ". ", "\n \t", "yes or no ", "whether is ",
)  # fmt: skip


@pytest.mark.parametrize("piece", SLOW_IF_CARELESS)
def test_no_text_takes_long_to_read(piece: str) -> None:
    began = time.process_time()
    for start in ("", "Classify into one of these labels: "):
        text = (start + piece * (20_000 // len(piece)))[:19_999]
        asked(text, None)
        asked("x", text + "y")
        asked(start + piece[:1] + " " * 19_900 + "x", None)
    assert time.process_time() - began < 2


# Letters


MARKS = st.sampled_from(["({})", "{})", "{}.", "{}:"])


@given(MARKS, st.integers(2, 10), st.sampled_from(["\n", "\n\n"]))
def test_letters_of_options_below_a_question(mark: str, count: int, gap: str) -> None:
    letters = [chr(ord("A") + n) for n in range(count)]
    block = gap.join(f"{mark.format(letter)} option number {n}" for n, letter in enumerate(letters))
    found = asked(f"Which one is it, and why not another?\n{block}", "Answer with the letter of the right option.")
    assert found == Closed(tuple(letters), "letter", stands_apart=False)


def test_letters_on_one_line_and_numbers() -> None:
    told = "Answer with the letter of the right option."
    assert options("What is the largest city? (A) Geneva (B) Zurich (C) Bern", told) == ("A", "B", "C")
    told = "Answer with the number of the right option."
    assert options("What is the largest city?\n1) Geneva\n2) Zurich", told) == ("1", "2")


def test_letters_are_written_as_they_were_before() -> None:
    question = "Largest city?\n(A) Geneva\n(B) Zurich"
    turns = [
        {"role": "system", "content": "Answer with the letter of the right option."},
        {"role": "user", "content": question},
        {"role": "assistant", "content": "(B)"},
        {"role": "user", "content": question},
    ]
    found = closed_answer(ChatRequest({"messages": turns}))
    assert found is not None and found.options == ("(A)", "(B)")


# JSON


def schema(inner: Any, **more: Any) -> Any:
    body = {"type": "object", "properties": {"label": inner}, "required": ["label"], **more}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": body}}


@pytest.mark.parametrize(
    ("inner", "more", "expected"),
    [
        ({"type": "string", "enum": ["a", "b"]}, {}, ('{"label": "a"}', '{"label": "b"}')),
        ({"enum": ["a", 1, None]}, {}, ('{"label": "a"}', '{"label": 1}', '{"label": null}')),
        ({"type": "boolean"}, {"additionalProperties": False}, ('{"label": true}', '{"label": false}')),
        ({"type": "integer", "enum": [1, 2]}, {}, ('{"label": 1}', '{"label": 2}')),
        ({"$ref": "#/$defs/L"}, {"$defs": {"L": {"enum": ["a", "b"]}}}, ('{"label": "a"}', '{"label": "b"}')),
        ({"anyOf": [{"const": "a"}, {"type": "null"}]}, {}, ('{"label": "a"}', '{"label": null}')),
    ],
)
def test_schemas_of_a_few_values(inner: Any, more: Any, expected: tuple[str, ...]) -> None:
    assert asked("x", response_format=schema(inner, **more)) == Closed(expected, "json")


@pytest.mark.parametrize(
    "format",
    [
        schema({"type": "string"}),
        schema({"enum": ["a"]}),
        schema({"enum": ["a", "b"]}, required=[]),
        schema({"enum": ["a", "b"]}, additionalProperties=True),
        schema({"enum": ["a", {"b": 1}]}),
        schema({"enum": ["a", "b"], "minLength": 1}),
        schema({"$ref": "#/$defs/L"}, **{"$defs": {"L": {"$ref": "#/$defs/L"}}}),
        schema({"$ref": "http://x/y"}),
        schema({"enum": ["a", "b"]}, properties={"label": {"enum": ["a", "b"]}, "why": {"type": "string"}}),
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": True}},
    ],
)
def test_other_schemas_are_open(format: Any) -> None:
    assert asked("x", "Answer yes or no.", response_format=format) is None


def test_what_is_no_question_in_text_is_open() -> None:
    told = "Answer yes or no."
    assert asked("x", told, tools=[{"type": "function", "function": {"name": "f"}}]) is None
    assert asked("x", told, tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="none") is not None
    assert closed_answer(ChatRequest({"prompt": "Answer yes or no."})) is None
    assert closed_answer(ChatRequest({"messages": []})) is None
    prefilled = [{"role": "user", "content": "Answer yes or no."}, {"role": "assistant", "content": "y"}]
    assert closed_answer(ChatRequest({"messages": prefilled})) is None
